#include "overlap.h"

#include <algorithm>

namespace onepass {
namespace {

constexpr std::size_t kGradient = 1;  // among a parameter's operands

bool share_memory(const TaskOrigin& a, const TaskOrigin& b) {
  for (std::size_t i = 0; i < a.ranges.size(); ++i)
    for (std::size_t k = 0; k < b.ranges.size(); ++k)
      if ((i != kGradient || k != kGradient) && a.ranges[i].overlaps(b.ranges[k])) return true;
  return false;
}

}  // namespace

void Overlap::find(std::span<const TaskOrigin> origins, bool writes_gradients,
                   std::span<const ByteRange> numbers) {
  if (!written_changed_ && !gradients_changed_) return;
  const bool may_have_ended = is_found_ && !written_overlaps_;
  if (written_changed_) sort_written(origins, writes_gradients, numbers);
  if (written_changed_ || is_hit_ || may_have_ended) {
    gaps_.resize(origins.size());
    is_found_ = written_overlaps_;
    for (std::size_t k = 0; !is_found_ && !writes_gradients && k < origins.size(); ++k)
      is_found_ = lies_in_written(k, origins[k].ranges[kGradient]);
  }
  written_changed_ = gradients_changed_ = is_hit_ = false;
}

void Overlap::sort_written(std::span<const TaskOrigin> origins, bool writes_gradients,
                           std::span<const ByteRange> numbers) {
  written_.assign(numbers.begin(), numbers.end());
  for (const TaskOrigin& origin : origins)
    for (std::size_t operand = 0; operand < origin.ranges.size(); ++operand)
      if (const ByteRange& range = origin.ranges[operand];
          range.begin != range.end && (operand != kGradient || writes_gradients))
        written_.push_back(range);
  std::ranges::sort(written_, {}, &ByteRange::begin);
  const auto overlap = [](const ByteRange& a, const ByteRange& b) { return a.end > b.begin; };
  written_overlaps_ = std::ranges::adjacent_find(written_, overlap) != written_.end();
}

// Whether a gradient lies in memory that the step writes. The gap between two written ranges where
// it lay in the step before is nearly always where it lies again, which spares the search.
bool Overlap::lies_in_written(std::size_t k, const ByteRange& gradient) {
  const std::size_t count = written_.size();
  std::size_t& next = gaps_[k];
  const auto fits = [&] {
    return next <= count && (next == 0 || written_[next - 1].end <= gradient.begin) &&
           (next == count || written_[next].begin >= gradient.end);
  };
  if (gradient.begin == nullptr || fits()) return false;
  const auto after = std::ranges::lower_bound(written_, gradient.end, {}, &ByteRange::begin);
  next = static_cast<std::size_t>(after - written_.begin());
  return !fits();
}

bool share_memory(std::span<const TaskOrigin> a, std::span<const TaskOrigin> b) {
  return std::ranges::any_of(a, [b](const TaskOrigin& one) {
    return std::ranges::any_of(
        b, [&one](const TaskOrigin& other) { return share_memory(one, other); });
  });
}

}  // namespace onepass
