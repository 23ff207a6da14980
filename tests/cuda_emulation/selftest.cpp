// The promises of the CUDA emulation; test_emulation.py runs them one by one.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda.h"

namespace {

using namespace onepass::emulation;

constexpr unsigned kFull = 0xffffffffU;

void require(bool holds, const std::string& promise) {
  if (!holds) throw std::runtime_error("broken: " + promise);
}

// A kernel that depends on the order of its blocks or threads fails in one of these.
template <class Check>
void in_every_order(const Check& check) {
  for (const Order& chosen : {kAscending, kDescending, shuffled(1), shuffled(2), shuffled(3)}) {
    order = chosen;
    check();
  }
  order = kAscending;
}

// The launch must throw, say all of `parts`, and leave the emulator usable.
template <class Body>
void require_error(unsigned threads, const Body& body, const std::vector<std::string>& parts) {
  std::string said = "nothing";
  try {
    launch("faulty", 2, threads, body);
  } catch (const std::runtime_error& error) {
    said = error.what();
  }
  for (const std::string& part : parts)
    require(said.find(part) != std::string::npos, "'" + part + "' is said; said was: " + said);
  std::vector<int> threads_run(64);
  launch("after", 1, 64, [&] {
    __syncthreads();
    ++threads_run[threadIdx.x];
  });
  require(threads_run == std::vector<int>(64, 1), "the emulator is usable after " + said);
}

std::string here(int line) { return "selftest.cpp:" + std::to_string(line); }

// ---- what kernels do

template <class Real>
__device__ __forceinline__ Real sum_of_warp(Real value) {
  for (unsigned delta = 16; delta > 0; delta /= 2)
    value += __shfl_down_sync(0xffffffffU, value, delta);
  return value;
}

template <class Real>
__global__ void __launch_bounds__(256) sum_of_block(const Real* values, Real* sums) {
  __shared__ Real of_warps[8];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Real sum = sum_of_warp(values[blockIdx.x * blockDim.x + threadIdx.x]);
  if (lane == 0) of_warps[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    const Real total = sum_of_warp(lane < 8 ? of_warps[lane] : Real(0));
    if (lane == 0) sums[blockIdx.x] = total;
  }
}

__global__ void reverse(const int* values, int* reversed, bool with_barrier) {
  __shared__ int all[64];
  all[threadIdx.x] = values[threadIdx.x];
  if (with_barrier) __syncthreads();
  reversed[threadIdx.x] = all[63 - threadIdx.x];
}

template <class Real>
void sum_blocks() {
  std::vector<Real> values(4 * 256), expected(4);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = Real(i * i % 101);
    expected[i / 256] += values[i];  // small integers: exact in any order
  }
  in_every_order([&] {
    std::vector<Real> sums(4);
    launch("sum_of_block", 4, 256, [&] { sum_of_block(values.data(), sums.data()); });
    require(sums == expected, "sums of blocks");
  });
}

void block_reduction() {
  sum_blocks<float>();
  sum_blocks<double>();
  sum_blocks<std::int64_t>();
}

void every_index_once() {
  const dim3 grid(3, 2, 4), block(5, 3, 2);
  in_every_order([&] {
    std::map<std::vector<unsigned>, int> seen;
    launch("indices", grid, block, [&] {
      require(gridDim.x == 3 && gridDim.y == 2 && gridDim.z == 4, "gridDim");
      require(blockDim.x == 5 && blockDim.y == 3 && blockDim.z == 2, "blockDim");
      require(threadIdx.x < 5 && threadIdx.y < 3 && threadIdx.z < 2, "threadIdx");
      require(blockIdx.x < 3 && blockIdx.y < 2 && blockIdx.z < 4, "blockIdx");
      const uint3 before = threadIdx;
      __syncthreads();
      require(before.x == threadIdx.x && before.y == threadIdx.y && before.z == threadIdx.z,
              "threadIdx is the thread's own after a wait");
      ++seen[{blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z}];
    });
    require(seen.size() == 24 * 30, "every thread runs");
    for (const auto& entry : seen) require(entry.second == 1, "every thread runs once");
  });
}

// ---- faults that are found

void missing_barrier() {
  std::vector<int> values(64), expected(64);
  for (int i = 0; i < 64; ++i) values[i] = i + 1, expected[i] = 64 - i;
  int wrong = 0;
  in_every_order([&] {
    for (const bool with_barrier : {true, false}) {
      std::vector<int> cleared(64), reversed(64);
      launch("clear", 1, 64, [&] { reverse(cleared.data(), reversed.data(), true); });
      launch("reverse", 1, 64, [&] { reverse(values.data(), reversed.data(), with_barrier); });
      if (with_barrier) require(reversed == expected, "with the barrier every order is right");
      wrong += reversed != expected;
    }
  });
  require(wrong > 0, "without the barrier some order is wrong");
}

void divergent_barrier() {
  const int line = __LINE__ + 5, other = __LINE__ + 7;
  in_every_order([=] {
    require_error(64,
                  [] {
                    if (threadIdx.x < 40)
                      __syncthreads();
                    else
                      __syncthreads();
                  },
                  {"faulty, block (", "__syncthreads at", here(line), here(other), "thread ("});
  });
}

void exited_lane() {
  const int line = __LINE__ + 3;
  const auto body = [] {
    if (threadIdx.x == 37) return;
    __shfl_down_sync(kFull, 1.0F, 1);
  };
  require_error(64, body,
                {"block (0, 0, 0): thread (32, 0, 0) waits in __shfl_down_sync", here(line),
                 "with mask 0xffffffff for thread (37, 0, 0), which has exited"});
}

void misaligned_words() {
  alignas(16) static const unsigned char bytes[48] = {};
  const int line = __LINE__ + 1;
  const auto body = [] { load<uint4>(bytes + (threadIdx.x == 3 ? 8 : 16)); };
  require_error(
      32, body,
      {"block (0, 0, 0), thread (3, 0, 0): load of 16 bytes", "no multiple of 16", here(line)});
  alignas(16) static unsigned char target[16];
  require_error(1, [] { store<std::uint16_t>(target + 1, 0); },
                {"store of 2 bytes", "no multiple of 2"});
  require_error(1, [] { __ldg(reinterpret_cast<const uint2*>(bytes + 4)); }, {"load of 8 bytes"});
}

void an_exception_leaves_the_emulator_usable() {
  static int alive = 0;
  struct Local {
    Local() { ++alive; }
    ~Local() { --alive; }
  };
  in_every_order([] {
    const auto body = [] {
      const Local local;
      __syncthreads();
      if (threadIdx.x == 9) throw std::logic_error("nine");
      __syncthreads();
    };
    require_error(64, body, {"faulty, block (", "thread (9, 0, 0): nine"});
    require(alive == 0, "what the abandoned threads held is destroyed");
    require_error(32, [] { throw 1; }, {"an unknown exception"});  // NOLINT
  });
}

// ---- what is counted

void counters_are_exact() {
  alignas(16) static unsigned char from[64 * 16], to[64 * 16];
  counters = {};
  launch("count", 1, 64, [] {
    const unsigned i = threadIdx.x;
    store(to + 16 * i, load<uint4>(from + 16 * i));
    if (i < 10) store(to + 8 * i, load<uint2>(from + 8 * i));
    if (i < 7) store(to + 4 * i, __ldg(reinterpret_cast<const float*>(from) + i));
    if (i < 3) store<std::uint16_t>(to + 2 * i, load<std::uint16_t>(from + 2 * i));
    if (i < 2) load<std::uint16_t>(from);
  });
  const auto& [loads, stores] = counters;
  require(loads.words[16] == 64 && loads.words[8] == 10 && loads.words[4] == 7, "loads by size");
  require(loads.words[2] == 5 && stores.words[2] == 3, "loads and stores are counted apart");
  require(loads.total() == 86 && stores.total() == 84, "number of accesses");
  require(loads.bytes() == 64 * 16 + 10 * 8 + 7 * 4 + 5 * 2, "bytes loaded");
  require(stores.bytes() == 64 * 16 + 10 * 8 + 7 * 4 + 3 * 2, "bytes stored");
  counters = {};
  require(loads.total() == 0 && stores.bytes() == 0, "counters can be reset");
}

// ---- for AddressSanitizer, which ends the program

// The thread waits first: the sanitizer must know the stacks apart.
void heap_overflow() {
  std::vector<float> values(64);
  launch("overflow", 1, 65, [&] {
    __syncthreads();
    store<float>(values.data() + threadIdx.x, 1);
  });
}

#define CHECK(name) {#name, name}
const std::map<std::string, void (*)()> kChecks = {CHECK(block_reduction),
                                                   CHECK(every_index_once),
                                                   CHECK(missing_barrier),
                                                   CHECK(divergent_barrier),
                                                   CHECK(exited_lane),
                                                   CHECK(misaligned_words),
                                                   CHECK(an_exception_leaves_the_emulator_usable),
                                                   CHECK(counters_are_exact),
                                                   CHECK(heap_overflow)};

}  // namespace

// `program NAME` runs one check and exits with 1 and a message where it fails; without a name all
// names are printed.
int main(int count, char** arguments) try {
  if (count > 1) {
    kChecks.at(arguments[1])();
  } else {
    for (const auto& check : kChecks) std::puts(check.first.c_str());
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
