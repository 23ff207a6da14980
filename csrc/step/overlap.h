// Whether parameters of one step share memory, so that they have to be stepped one after the other.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "entry.h"

namespace onepass {

// Between steps it keeps the written memory, sorted, and between which two ranges of it each
// gradient lay, where it nearly always lies again.
class Overlap {
 public:
  // Notes that the memory that is written has changed since the last find().
  void mark_written() { written_changed_ = true; }
  bool written_changed() const { return written_changed_; }

  // Notes that the gradient of parameter k has moved.
  void move_gradient(std::size_t k, const ByteRange& gradient) {
    gradients_changed_ = true;
    if (!written_changed_) is_hit_ |= lies_in_written(k, gradient);
  }

  // Compares all parameters, where anything has changed. `writes_gradients`: scaled gradients are
  // written too. `numbers`: other memory that is written.
  void find(std::span<const TaskOrigin> origins, bool writes_gradients,
            std::span<const ByteRange> numbers);
  bool is_found() const { return is_found_; }

 private:
  void sort_written(std::span<const TaskOrigin> origins, bool writes_gradients,
                    std::span<const ByteRange> numbers);
  bool lies_in_written(std::size_t k, const ByteRange& gradient);

  bool written_changed_ = true, gradients_changed_ = false;
  bool is_hit_ = false;  // by a gradient that has moved
  bool written_overlaps_ = false, is_found_ = false;
  std::vector<ByteRange> written_;  // sorted
  std::vector<std::size_t> gaps_;   // which of written_ comes after each gradient
};

// Whether one of two steps writes what the other reads or writes.
bool share_memory(std::span<const TaskOrigin> a, std::span<const TaskOrigin> b);

}  // namespace onepass
