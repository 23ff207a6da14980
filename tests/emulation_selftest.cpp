// The promises of the CUDA emulation; test_emulation.py runs them one by one.
#include <algorithm>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "../csrc/emulation/cuda.h"
#include "emulated.h"
#include "emulation_kernels.cuh"

namespace {

using namespace onepass::emulation;

constexpr unsigned kFull = 0xffffffffU;

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

std::string here(int line) { return "emulation_selftest.cpp:" + std::to_string(line); }

// ---- what kernels do

void vector_add() {
  constexpr std::int64_t kSize = 1000;
  std::vector<float> a(kSize), b(kSize);
  for (std::int64_t i = 0; i < kSize; ++i) a[i] = float(i), b[i] = float(2 * i);
  in_every_order([&] {
    std::vector<float> sum(kSize, -1);
    launch("add", 8, 128, [&] { add(a.data(), b.data(), sum.data(), kSize); });
    for (std::int64_t i = 0; i < kSize; ++i) require(sum[i] == float(3 * i), "a + b");
  });
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

void orders() {
  const auto turns_in = [](const Order& chosen) {
    order = chosen;
    std::vector<unsigned> turns;
    launch("turns", 4, 64, [&] { turns.push_back(blockIdx.x * 64 + threadIdx.x); });
    order = kAscending;
    return turns;
  };
  std::vector<unsigned> sorted = turns_in(kAscending);
  require(sorted.size() == 256 && std::is_sorted(sorted.begin(), sorted.end()), "ascending");
  const std::vector<unsigned> descending = turns_in(kDescending);
  require(std::equal(sorted.begin(), sorted.end(), descending.rbegin()), "descending");
  std::vector<unsigned> mixed = turns_in(shuffled(1));
  require(mixed == turns_in(shuffled(1)), "a seed gives one order");
  require(mixed != sorted && mixed != turns_in(shuffled(2)), "seeds give different orders");
  std::sort(mixed.begin(), mixed.end());
  require(mixed == sorted, "a shuffled order leaves nothing out");
}

void shared_memory_keeps_what_the_last_block_left() {
  std::vector<int> found;
  launch("keep", 3, 1, [&] {
    __shared__ int kept;
    found.push_back(kept);
    kept = int(blockIdx.x) + 7;
  });
  require(found == std::vector<int>({0, 7, 8}), "shared memory is not cleared");
}

void shuffles() {
  in_every_order([] {
    std::vector<int> from(64), down(64), group(64);
    launch("shuffles", 1, 64, [&] {
      const int own = int(threadIdx.x);
      from[threadIdx.x] = __shfl_sync(kFull, own, 35);
      down[threadIdx.x] = __shfl_down_sync(kFull, own, 5);
      const bool upper = threadIdx.x % 32 >= 16;
      __syncwarp(upper ? 0xffff0000U : 0xffffU);
      group[threadIdx.x] = upper ? __shfl_sync(0xffff0000U, own, 20) : __shfl_sync(0xffffU, own, 2);
    });
    for (int i = 0; i < 64; ++i) {
      const int lane = i % 32, warp = i - lane;
      require(from[i] == warp + 3, "lanes are counted modulo 32, within the warp");
      require(down[i] == (lane + 5 < 32 ? i + 5 : i), "the last lanes keep their own");
      require(group[i] == warp + (lane < 16 ? 2 : 20), "halves of a warp do not wait for another");
    }
  });
}

void half_a_warp_goes_on_alone() {
  in_every_order([] {
    std::vector<int> sums(32);
    launch("halves", 1, 32, [&] {
      int sum = 0;
      if (threadIdx.x < 16)
        for (int round = 0; round < 3; ++round) sum += __shfl_sync(0xffffU, round, 7);
      sums[threadIdx.x] = sum;
      __syncthreads();
      if (threadIdx.x >= 16) sums[threadIdx.x] = sums[threadIdx.x - 16];
    });
    require(sums == std::vector<int>(32, 3), "the other half waits at the barrier meanwhile");
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

void exited_thread_at_a_barrier() {
  const int line = __LINE__ + 3;
  const auto body = [] {
    if (threadIdx.x == 5) return;
    __syncthreads();
  };
  require_error(64, body,
                {"faulty, block (0, 0, 0): thread (0, 0, 0) waits in __syncthreads", here(line),
                 "for thread (5, 0, 0), which has exited"});
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

void lanes_at_different_call_sites() {
  const int line = __LINE__ + 4, other = __LINE__ + 6;
  const auto body = [] {
    int value = 1;
    if (threadIdx.x < 16) {
      value = __shfl_sync(kFull, value, 0);
    } else {
      value = __shfl_sync(kFull, value, 0);
    }
  };
  require_error(32, body,
                {"thread (0, 0, 0) waits in __shfl_sync", here(line), "for thread (16, 0, 0)",
                 "which waits in __shfl_sync", here(other)});
}

void a_warp_collective_explains_a_barrier_that_is_not_reached() {
  const auto body = [] {
    if (threadIdx.x == 33) __syncthreads();
    if (threadIdx.x >= 32) __syncwarp();
    __syncthreads();
  };
  require_error(64, body,
                {"thread (32, 0, 0) waits in __syncwarp", "for thread (33, 0, 0)",
                 "which waits in __syncthreads"});
}

void masks_that_leave_out_a_lane() {
  require_error(32, [] { __syncwarp(0xfffeU); },
                {"thread (0, 0, 0): __syncwarp", "0xfffe", "does not name the calling lane"});
  require_error(32,
                [] {
                  if (threadIdx.x < 16) __shfl_sync(0xffffU, 1, 20);
                },
                {"__shfl_sync", "does not name lane 20, whose value is asked for"});
  require_error(16, [] { __shfl_down_sync(kFull, 1, 8); }, {"does not name lane 16"});
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

// ---- what is counted, and the runtime

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

void launches_are_named() {
  launches.clear();
  launch("first", 1, 1, [] {});
  launch("second", 2, 2, [] {});
  require(launches == std::vector<std::string>({"first", "second"}), "launches");
}

void impossible_launches_are_refused() {
  launches.clear();
  for (const auto& [grid, block] : std::vector<std::pair<dim3, dim3>>{
           {0, 32}, {1, 0}, {1, 1025}, {dim3(1, 65536), 32}, {1, dim3(1, 1, 65)}}) {
    launch("impossible", grid, block, [] { require(false, "it does not run"); });
    require(cudaGetLastError() == cudaErrorInvalidConfiguration, "the error is reported");
    require(cudaGetLastError() == cudaSuccess, "the error is reported once");
  }
  require(launches.empty(), "nothing was launched");
}

void runtime_calls() {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusInvalidated;
  const cudaStream_t stream = nullptr;
  require(cudaStreamIsCapturing(stream, &status) == cudaSuccess, "a stream can be asked");
  require(status == cudaStreamCaptureStatusNone, "no capture unless a test says so");
  runtime.capture_status = cudaStreamCaptureStatusActive;
  cudaStreamIsCapturing(stream, &status);
  require(status == cudaStreamCaptureStatusActive, "a test can switch capturing on");

  runtime.last_error = cudaErrorLaunchFailure;
  require(std::string(cudaGetErrorString(cudaGetLastError())) == "unspecified launch failure" &&
              cudaGetLastError() == cudaSuccess,
          "an error that a test sets is told once");
  require(cudaSetDevice(1) == cudaErrorInvalidDevice && runtime.device == 0, "one device");
  require(cudaGetLastError() == cudaErrorInvalidDevice, "a call that fails leaves its error");
  runtime.device_count = 2;
  require(cudaSetDevice(1) == cudaSuccess && runtime.device == 1, "as many devices as a test says");
  cudaFuncAttributes attributes;
  require(cudaFuncGetAttributes(&attributes, sum_of_block<float>) == cudaSuccess, "a kernel");
  require(attributes.maxThreadsPerBlock == 1024, "attributes");
  runtime.function_error = cudaErrorNoKernelImageForDevice;
  require(cudaFuncGetAttributes(&attributes, add) == cudaErrorNoKernelImageForDevice,
          "a test can say that a kernel is missing");
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

void shared_overflow() {
  launch("overflow", 1, 65, [] {
    __shared__ float shared[64];
    __syncthreads();
    store<float>(shared + threadIdx.x, 1);
  });
}

void local_overflow() {
  launch("overflow", 1, 65, [] {
    float local[64];
    store<float>(local + threadIdx.x, 1);
    __syncthreads();
  });
}

#define CHECK(name) {#name, name}
const Checks kChecks = {CHECK(vector_add),
                        CHECK(block_reduction),
                        CHECK(every_index_once),
                        CHECK(orders),
                        CHECK(shared_memory_keeps_what_the_last_block_left),
                        CHECK(shuffles),
                        CHECK(half_a_warp_goes_on_alone),
                        CHECK(missing_barrier),
                        CHECK(divergent_barrier),
                        CHECK(exited_thread_at_a_barrier),
                        CHECK(exited_lane),
                        CHECK(lanes_at_different_call_sites),
                        CHECK(a_warp_collective_explains_a_barrier_that_is_not_reached),
                        CHECK(masks_that_leave_out_a_lane),
                        CHECK(misaligned_words),
                        CHECK(an_exception_leaves_the_emulator_usable),
                        CHECK(counters_are_exact),
                        CHECK(launches_are_named),
                        CHECK(impossible_launches_are_refused),
                        CHECK(runtime_calls),
                        CHECK(heap_overflow),
                        CHECK(shared_overflow),
                        CHECK(local_overflow)};

}  // namespace

int main(int count, char** arguments) { return run_check(kChecks, count, arguments); }
