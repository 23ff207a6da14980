// Access to global memory, counted and checked as a GPU does it: word by word.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <source_location>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace onepass::emulation {

inline constexpr std::size_t kWidestWord = 16;

struct Accesses {
  std::array<std::int64_t, kWidestWord + 1> words{};  // words[16]: how many words of 16 bytes

  std::int64_t total() const { return std::accumulate(words.begin(), words.end(), std::int64_t{}); }
  std::int64_t bytes() const {
    std::int64_t sum = 0;
    for (std::size_t size = 1; size < words.size(); ++size)
      sum += words[size] * static_cast<std::int64_t>(size);
    return sum;
  }
};

struct Counters {
  Accesses loads, stores;
};

// What all threads of all kernels have moved since a test last wrote `counters = {}`.
inline Counters counters;

inline std::string text_of(const std::source_location& site) {
  return std::string(site.file_name()) + ":" + std::to_string(site.line());
}

// A GPU faults on a word that does not lie at a multiple of its size; x86-64 does not.
template <class Word>
void require_aligned(const char* access, std::uintptr_t address, const std::source_location& site) {
  static_assert(std::is_trivially_copyable_v<Word>);
  static_assert(sizeof(Word) == 1 || sizeof(Word) == 2 || sizeof(Word) == 4 || sizeof(Word) == 8 ||
                sizeof(Word) == 16);
  if (address % sizeof(Word) == 0) return;
  std::ostringstream message;
  message << access << " of " << sizeof(Word) << " bytes at 0x" << std::hex << address << std::dec
          << ", which is no multiple of " << sizeof(Word) << ", at " << text_of(site);
  throw std::runtime_error(message.str());
}

template <class Word>
Word load(const void* address, std::source_location site = std::source_location::current()) {
  require_aligned<Word>("load", reinterpret_cast<std::uintptr_t>(address), site);
  ++counters.loads.words[sizeof(Word)];
  Word word;
  std::memcpy(&word, address, sizeof(Word));
  return word;
}

template <class Word>
void store(void* address, Word word, std::source_location site = std::source_location::current()) {
  require_aligned<Word>("store", reinterpret_cast<std::uintptr_t>(address), site);
  ++counters.stores.words[sizeof(Word)];
  std::memcpy(address, &word, sizeof(Word));
}

}  // namespace onepass::emulation
