// What each node holds, and where a match may end; tree/integrity.py.
#include "hicache/tree_check.h"

namespace hicache::radix {
namespace {

void check_base(Survey& survey, const Place& place, int tier) {
  const Place& above = survey.places[place.above];
  const bool may_miss = tier == kHost && survey.state.host_paths == HostPaths::kGaps;
  if (place.has(0, tier) && !survey.is_root(above) && !may_miss && !above.has(0, tier))
    survey.add("node ", place.node->id, ": ", "base on ", upper_name(tier),
               ", but not at its parent ", above.node->id, tier == kDevice ? " (I1)" : " (I2)");
}

void check_parts(Survey& survey, const Place& place, int tier) {
  const int32_t most = place.node->parts[0].locks[tier];
  for (const auto& component : survey.state.components) {
    if (place.has(component->idx, tier) && !place.has(0, tier))
      survey.add("node ", place.node->id, ": ", component->name, " on ", upper_name(tier),
                 " without base pages (I4)");
    const int32_t locks = place.node->parts[component->idx].locks[tier];
    if (locks < 0 || locks > most)
      survey.add("node ", place.node->id, ": ", component->name, " ", upper_name(tier),
                 " lock count ", locks, " (I5)");
  }
}

void check_residency(Survey& survey, const Place& place) {
  for (int tier = 0; tier < kNumTiers; ++tier) {
    check_base(survey, place, tier);
    check_parts(survey, place, tier);
  }
  if (!place.has(0, kDevice) && !place.has(0, kHost))
    survey.add("node ", place.node->id, ": ", "no base pages on any tier (I3)");
  for (const auto& component : survey.state.components)
    for (int tier = 0; tier < kNumTiers; ++tier) {
      const Ids& value = place.node->parts[component->idx].pages[tier];
      const std::string text = component->misfit(value, survey.num_pages(place), tier);
      if (!text.empty()) survey.add("node ", place.node->id, ": ", text);
    }
}

// Whether the gates and what the nodes hold agree on where a match may end.
void check_ends(Survey& survey, const Place& place) {
  std::vector<const Node*> path;
  survey.for_suffix(place, place.node->end,
                    [&](size_t i) { path.push_back(survey.places[i].node); });
  int views = kViewAll;
  for (const auto& component : survey.state.components) {
    const std::unique_ptr<Gate> gate = component->gate();
    int its_views = kViewAll;
    for (size_t i = path.size(); i > 0; --i) its_views = gate->step(*path[i - 1]);
    if (its_views & kViewDevice && !(its_views & kViewAny))
      survey.add("node ", place.node->id, ": ", component->name,
                 " ends a match on the device alone (I14)");
    if (its_views & kViewAny && !component->can_end(*place.node))
      survey.add("node ", place.node->id, ": ", component->name,
                 " ends a match where it holds nothing (I14)");
    views &= its_views;
  }
  if (views & kViewDevice && !place.has(0, kDevice))
    survey.add("node ", place.node->id, ": ",
               "a match on the device may end here, without base pages (I14)");
}

}  // namespace

void check_nodes(Survey& survey) {
  for (const Place& place : survey.places) {
    if (survey.is_root(place)) continue;
    check_residency(survey, place);
    check_ends(survey, place);
  }
}

}  // namespace hicache::radix
