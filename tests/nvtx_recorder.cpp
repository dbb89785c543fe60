// A tool that NVTX loads through NVTX_INJECTION64_PATH. Each call becomes a line of words, with
// tabs between them, in the file named by NVTX_RECORD. Without RECORD_SCHEMAS it knows no payload
// schemas.
#define NVTX_NO_IMPL
#include <nvtx3/nvToolsExt.h>
#include <nvtx3/nvToolsExtPayload.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

namespace {

constexpr uint64_t kSchema = 1000;
int domain_target = 0;
uint64_t num_started = 0;

std::ofstream& record() {
  static std::ofstream file(std::getenv("NVTX_RECORD"), std::ios::app);
  return file << std::unitbuf, file;
}

// thread, name, category, color, payload values
void write_range(const nvtxEventAttributes_t& range) {
  record() << '\t' << gettid() << '\t' << range.message.ascii << '\t' << range.category << '\t'
           << range.color;
  if (range.payloadType == NVTX_PAYLOAD_TYPE_UNSIGNED_INT64) {
    record() << '\t' << range.payload.ullValue;
  } else if (range.payloadType == NVTX_PAYLOAD_TYPE_EXT && range.reserved0 == 1) {
    const auto& data = *reinterpret_cast<const nvtxPayloadData_t*>(range.payload.ullValue);
    uint64_t values[2] = {};
    if (data.schemaId == kSchema && data.size == sizeof(values))
      std::memcpy(values, data.payload, sizeof(values));
    record() << '\t' << values[0] << '\t' << values[1];
  }
  record() << '\n';
}

nvtxDomainHandle_t create_domain(const char* name) {
  record() << "domain\t" << name << '\n';
  return reinterpret_cast<nvtxDomainHandle_t>(&domain_target);
}

void name_category(nvtxDomainHandle_t, uint32_t id, const char* name) {
  record() << "category\t" << id << '\t' << name << '\n';
}

nvtxRangeId_t start(nvtxDomainHandle_t, const nvtxEventAttributes_t* range) {
  record() << "start\t" << ++num_started;
  write_range(*range);
  return num_started;
}

void end(nvtxDomainHandle_t, nvtxRangeId_t id) { record() << "end\t" << id << '\n'; }

int push(nvtxDomainHandle_t, const nvtxEventAttributes_t* range) {
  record() << "push";
  write_range(*range);
  return 0;
}

int pop(nvtxDomainHandle_t) {
  record() << "pop\t" << gettid() << '\n';
  return 0;
}

uint64_t register_schema(nvtxDomainHandle_t, const nvtxPayloadSchemaAttr_t* schema) {
  record() << "schema\t" << schema->name << '\t' << schema->payloadStaticSize;
  for (size_t i = 0; i < schema->numEntries; ++i) {
    const nvtxPayloadSchemaEntry_t& entry = schema->entries[i];
    if (entry.type == NVTX_PAYLOAD_ENTRY_TYPE_UINT64)
      record() << '\t' << entry.name << '\t' << entry.offset;
  }
  record() << '\n';
  return kSchema;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjectionNvtx2(
    NvtxGetExportTableFunc_t get_table) {
  const auto* callbacks =
      static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable slots = nullptr;
  unsigned int num_slots = 0;
  if (!callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &slots, &num_slots)) return 0;
  const auto set = [slots](NvtxCallbackIdCore2 slot, auto* fn) {
    *slots[slot] = reinterpret_cast<NvtxFunctionPointer>(fn);
  };
  set(NVTX_CBID_CORE2_DomainCreateA, create_domain);
  set(NVTX_CBID_CORE2_DomainNameCategoryA, name_category);
  set(NVTX_CBID_CORE2_DomainRangeStartEx, start);
  set(NVTX_CBID_CORE2_DomainRangeEnd, end);
  set(NVTX_CBID_CORE2_DomainRangePushEx, push);
  set(NVTX_CBID_CORE2_DomainRangePop, pop);
  return 1;
}

extern "C" __attribute__((visibility("default"))) int InitializeInjectionNvtxExtension(
    [[maybe_unused]] nvtxExtModuleInfo_t* module) {
#ifdef RECORD_SCHEMAS
  module->segments->functionSlots[NVTX3EXT_CBID_nvtxPayloadSchemaRegister] =
      reinterpret_cast<intptr_t>(register_schema);
  return 1;
#else
  static_cast<void>(register_schema);
  return 0;
#endif
}
