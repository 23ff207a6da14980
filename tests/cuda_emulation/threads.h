// The threads of a block, and what they may wait for.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <sstream>
#include <string>

#include "fibres.h"
#include "memory.h"
#include "types.h"

namespace onepass::emulation {

inline constexpr unsigned kWarpSize = 32;

enum class State : std::uint8_t { kNew, kReady, kWaiting, kExited };

// A barrier or a warp collective that a thread has arrived at.
struct Wait {
  const char* call = nullptr;
  std::source_location site;
  unsigned mask = 0;    // the lanes that are waited for; 0: all threads of the block
  unsigned source = 0;  // the lane whose value is taken

  bool same_as(const Wait& other) const {
    return mask == other.mask && site.line() == other.site.line() &&
           site.column() == other.site.column() &&
           std::strcmp(site.file_name(), other.site.file_name()) == 0;
  }
};

struct Thread {
  unsigned number = 0;  // in its block
  uint3 index{};
  State state = State::kExited;
  Fibre* fibre = nullptr;
  Wait wait{};
  std::array<std::byte, 8> sent{}, received{};

  unsigned lane() const { return number % kWarpSize; }
  bool awaits(const Thread& other) const { return wait.mask == 0 || wait.mask >> other.lane() & 1; }
  bool meets(const Thread& other) const {
    return other.state == State::kWaiting && wait.same_as(other.wait);
  }
};

inline std::string text_of(const uint3& index) {
  std::ostringstream text;
  text << '(' << index.x << ", " << index.y << ", " << index.z << ')';
  return text.str();
}

inline std::string text_of(const Wait& wait) {
  std::ostringstream text;
  text << wait.call << " at " << text_of(wait.site);
  if (wait.mask != 0) text << " with mask 0x" << std::hex << wait.mask;
  return text.str();
}

// Why `waiting` cannot go on before `other` has arrived, which never will.
inline std::string why_stuck(const Thread& waiting, const Thread& other) {
  return "thread " + text_of(waiting.index) + " waits in " + text_of(waiting.wait) +
         " for thread " + text_of(other.index) + ", which " +
         (other.state == State::kExited ? "has exited" : "waits in " + text_of(other.wait));
}

}  // namespace onepass::emulation
