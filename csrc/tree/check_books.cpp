// The ledger, receipts, plans, locks and queues against what the nodes say; tree/integrity.py.
#include <algorithm>
#include <map>

#include "hicache/tree_check.h"

namespace hicache::radix {
namespace {

void check_ledger(Survey& survey, const Component& component, int tier) {
  Ids pages, twice, differ;
  for (const Place& place : survey.places) {
    const Ids& value = place.node->parts[component.idx].pages[tier];
    pages.insert(pages.end(), value.begin(), value.end());
  }
  std::sort(pages.begin(), pages.end());
  for (size_t i = 1; i < pages.size(); ++i)
    if (pages[i] == pages[i - 1] && (twice.empty() || twice.back() != pages[i]))
      twice.push_back(pages[i]);
  const std::string name = component.name + " " + upper_name(tier);
  if (!twice.empty()) survey.add(name, ": pages held twice: ", text_of(twice), " (I15)");
  pages.erase(std::unique(pages.begin(), pages.end()), pages.end());
  const Ids owned = survey.state.owned[component.idx][tier].sorted();
  std::set_symmetric_difference(pages.begin(), pages.end(), owned.begin(), owned.end(),
                                std::back_inserter(differ));
  if (!differ.empty())
    survey.add(name, ": nodes and ledger differ on pages ", text_of(differ), " (I15)");
}

// What may be evicted now, by what was found: the rule of tree/queue.py.
bool is_candidate(const Survey& survey, const Place& place, const Component& component, int tier) {
  const Part* parts = place.node->parts.get();
  if (!place.has(component.idx, tier)) return false;
  if (component.is_base) {
    if (parts[0].locks[tier] || place.children_on[tier]) return false;
    return tier == kDevice ? place.has(0, kHost) || !parts[0].locks[kHost]
                           : !place.has(0, kDevice) && !parts[0].locks[kDevice];
  }
  if (tier == kHost && place.has(component.idx, kDevice)) return false;
  return std::none_of(
      survey.state.components.begin(), survey.state.components.end(), [&](const auto& other) {
        const bool goes_along = other->idx == component.idx || other->rank < component.rank;
        return goes_along && parts[other->idx].locks[tier];
      });
}

void check_queue(Survey& survey, const Component& component, int tier) {
  const EvictQueue& queue = survey.state.queues[component.idx * kNumTiers + tier];
  const auto add = [&](const auto&... text) {
    const char* law = component.is_base ? " (I6)" : " (I7)";
    survey.add(component.name, " ", tier_name(tier), " queue: ", text..., law);
  };
  std::vector<NodeId> entries;
  for (const auto& entry : queue.entries())
    if (entry.is_alive()) entries.push_back(entry.id);
  std::sort(entries.begin(), entries.end());
  if (static_cast<int64_t>(entries.size()) != queue.num_live() ||
      std::adjacent_find(entries.begin(), entries.end()) != entries.end())
    add(entries.size(), " entries, ", queue.num_live(), " live");
  for (const Place& place : survey.places) {
    if (survey.is_root(place)) continue;
    const NodeId id = place.node->id;
    const bool is_queued = place.node->parts[component.idx].queued[tier];
    const bool is_entry = std::binary_search(entries.begin(), entries.end(), id);
    if (is_queued != is_entry)
      add("node ", id, " flag ", text_of(is_queued), ", entry ", text_of(is_entry));
    if (!is_queued && is_candidate(survey, place, component, tier))
      add("candidate ", id, " is not queued");
  }
}

std::string pairs_text(const std::vector<std::array<int64_t, kNumTiers>>& counts) {
  std::string text;
  for (const auto& count : counts)
    text += (text.empty() ? "" : ", ") + text_of(std::vector<int64_t>(count.begin(), count.end()));
  return "[" + text + "]";
}

}  // namespace

void check_ownership(Survey& survey) {
  for (const auto& component : survey.state.components)
    for (int tier = 0; tier < kNumTiers; ++tier) check_ledger(survey, *component, tier);
}

void check_receipts(Survey& survey) {
  for (const auto& [id, receipt] : survey.state.receipts) {
    const Place* end = survey.find(receipt.node);
    if (!end) {
      survey.add("receipt ", id, ": node ", receipt.node, " is gone (I13)");
      continue;
    }
    for (const int64_t num_pages : receipt.num_pages) {
      int64_t covered = 0;
      survey.for_suffix(*end, num_pages,
                        [&](size_t i) { covered += survey.num_pages(survey.places[i]); });
      if (covered != num_pages)
        survey.add("receipt ", id, ": ", num_pages, " pages do not end at a node border (I13)");
    }
  }
}

void check_plans(Survey& survey) {
  const auto& receipts = survey.state.receipts;
  for (const auto& [id, plan] : survey.state.plans) {
    if (!survey.find(plan.node)) survey.add("plan ", id, ": its node ", plan.node, " is gone (I9)");
    for (const int64_t pin : plan.receipts)
      if (!receipts.contains(pin)) survey.add("plan ", id, ": its pin ", pin, " is gone (I9)");
  }
}

void check_locks(Survey& survey) {
  using Counts = std::array<int32_t, kNumTiers>;
  const size_t num_components = survey.state.components.size();
  std::vector<Counts> expected(survey.places.size() * num_components, Counts{0, 0});
  for (const auto& [id, receipt] : survey.state.receipts) {
    const Place* end = survey.find(receipt.node);
    for (size_t idx = 0; end && idx < num_components; ++idx)
      survey.for_suffix(*end, receipt.num_pages[idx],
                        [&](size_t i) { ++expected[i * num_components + idx][receipt.tier]; });
  }
  std::vector<std::array<int64_t, kNumTiers>> num_protected(num_components, {0, 0});
  for (size_t i = 0; i < survey.places.size(); ++i) {
    const Node& node = *survey.places[i].node;
    for (size_t idx = 0; idx < num_components; ++idx)
      for (int tier = 0; tier < kNumTiers; ++tier) {
        const Part& part = node.parts[idx];
        const int32_t count = expected[i * num_components + idx][tier];
        if (part.locks[tier] != count)
          survey.add("node ", node.id, ": ", part.locks[tier], " ", upper_name(tier),
                     " locks, the receipts say ", count, " (I5)");
        if (part.locks[tier])
          num_protected[idx][tier] += static_cast<int64_t>(part.pages[tier].size());
      }
  }
  if (num_protected != survey.state.num_protected)
    survey.add("protected pages ", pairs_text(num_protected), ", counted as ",
               pairs_text(survey.state.num_protected), " (I8)");
}

void check_queues(Survey& survey) {
  for (const auto& component : survey.state.components)
    for (int tier = 0; tier < kNumTiers; ++tier) check_queue(survey, *component, tier);
}

}  // namespace hicache::radix
