// NVTX ranges of copies. The headers come with the CUDA toolkit, or with the nvidia-nvtx wheel.
#include "hicache/profile.h"

#if __has_include(<nvtx3/nvToolsExtPayload.h>)
#define NVTX_AS_SYSTEM_HEADER
#include <nvtx3/nvToolsExt.h>
#include <nvtx3/nvToolsExtPayload.h>

#include <cstddef>
#include <iterator>

namespace hicache {
namespace {

struct Payload {
  uint64_t num_bytes, num_runs;
};

struct Direction {
  const char* name;
  uint32_t argb;
};
constexpr Direction kDirections[] = {
    {"host to host", 0xff8a8f98},
    {"host to device", 0xff3a9d5d},
    {"device to host", 0xffd08a2c},
    {"device to device", 0xff4f7cc4},
};

struct Domain {
  nvtxDomainHandle_t handle = nvtxDomainCreateA("hicache");  // nullptr: no tool listens
  uint64_t schema = 0;                                       // 0: the tool knows no schemas

  Domain() {
    if (handle == nullptr) return;
    for (uint32_t i = 0; i < std::size(kDirections); ++i)
      nvtxDomainNameCategoryA(handle, i + 1, kDirections[i].name);
    nvtxPayloadSchemaEntry_t entries[2] = {};
    entries[0].type = entries[1].type = NVTX_PAYLOAD_ENTRY_TYPE_UINT64;
    entries[0].name = "bytes";
    entries[1].name = "runs";
    entries[1].offset = offsetof(Payload, num_runs);
    nvtxPayloadSchemaAttr_t attributes = {};
    attributes.fieldMask =
        NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_NAME | NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_TYPE |
        NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_ENTRIES | NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_NUM_ENTRIES |
        NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_STATIC_SIZE;
    attributes.name = "copy";
    attributes.type = NVTX_PAYLOAD_SCHEMA_TYPE_STATIC;
    attributes.entries = entries;
    attributes.numEntries = std::size(entries);
    attributes.payloadStaticSize = sizeof(Payload);
    schema = nvtxPayloadSchemaRegister(handle, &attributes);
  }
};

const Domain& domain() {
  static const Domain domain;
  return domain;
}

}  // namespace

bool with_nvtx() { return true; }

bool is_profiled() { return domain().handle != nullptr; }

uint64_t begin_copy(const CopyRange& range) {
  if (!is_profiled()) return 0;
  const auto direction = static_cast<uint32_t>(range.direction);
  const Payload payload{range.num_bytes, range.num_runs};
  const nvtxPayloadData_t data{domain().schema, sizeof(payload), &payload};
  nvtxEventAttributes_t attributes = {};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.category = direction + 1;  // 0 is none
  attributes.colorType = NVTX_COLOR_ARGB;
  attributes.color = kDirections[direction].argb;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = range.executor;
  if (domain().schema != 0) {
    attributes.payloadType = NVTX_PAYLOAD_TYPE_EXT;
    attributes.payload.ullValue = reinterpret_cast<uintptr_t>(&data);
    attributes.reserved0 = 1;  // so many payloads
  } else {
    attributes.payloadType = NVTX_PAYLOAD_TYPE_UNSIGNED_INT64;
    attributes.payload.ullValue = payload.num_bytes;
  }
  const uint64_t id = nvtxDomainRangeStartEx(domain().handle, &attributes);
  nvtxDomainRangePushEx(domain().handle, &attributes);
  return id;
}

void end_enqueue() {
  if (is_profiled()) nvtxDomainRangePop(domain().handle);
}

void end_copy(uint64_t id) {
  if (is_profiled()) nvtxDomainRangeEnd(domain().handle, id);
}

}  // namespace hicache

#else

namespace hicache {

bool with_nvtx() { return false; }
bool is_profiled() { return false; }
uint64_t begin_copy(const CopyRange&) { return 0; }
void end_enqueue() {}
void end_copy(uint64_t) {}

}  // namespace hicache

#endif
