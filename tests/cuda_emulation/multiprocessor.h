// Runs the blocks of a kernel one after another, the threads of a block in turns.
//
// A turn of a thread lasts until it waits or ends. When nothing but waiting threads is left, those
// that have met whom they wait for are released together; when there are none, the kernel would
// hang or do what it likes on a GPU, and here it is an error that says who waits for whom.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "threads.h"

namespace onepass::emulation {

// The order in which blocks run and in which the threads of a block take turns. A GPU promises
// none: a kernel that needs one gives other values in another.
struct Order {
  enum class Kind : std::uint8_t { kAscending, kDescending, kShuffled };
  Kind kind = Kind::kAscending;
  std::uint64_t seed = 0;
};
inline constexpr Order kAscending{};
inline constexpr Order kDescending{Order::Kind::kDescending, 0};
inline constexpr Order shuffled(std::uint64_t seed) { return {Order::Kind::kShuffled, seed}; }
inline Order order = kAscending;

// What threadIdx, blockIdx, blockDim and gridDim show.
struct Place {
  uint3 thread{}, block{};
  dim3 block_size{}, grid_size{};
};
inline Place place;

// NOLINTNEXTLINE(bugprone-random-generator-seed): every launch seeds it.
class Multiprocessor {
 public:
  void run(const char* kernel, dim3 grid, dim3 block, const std::function<void()>& body) {
    if (current_ != nullptr) throw std::runtime_error("a kernel cannot launch a kernel");
    kernel_ = kernel;
    body_ = &body;
    place.grid_size = grid;
    place.block_size = block;
    random_.seed(order.seed);
    make_threads(block);
    std::vector<std::int64_t> blocks;
    arrange(blocks, std::int64_t{grid.x} * grid.y * grid.z);
    for (const std::int64_t number : blocks) {
      const std::int64_t row = number / grid.x;
      place.block = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(row % grid.y),
                     static_cast<unsigned>(row / grid.y)};
      run_block();
    }
  }

  void synchronize_block(const std::source_location& site) {
    wait(current("__syncthreads"), {.call = "__syncthreads", .site = site});
  }

  // Waits for all lanes of the mask, and returns the value of the source lane.
  template <class Value>
  Value exchange(Wait meeting, Value value) {
    static_assert(sizeof(Value) == 4 || sizeof(Value) == 8);
    static_assert(std::is_trivially_copyable_v<Value>);
    Thread& self = current(meeting.call);
    const auto exist = static_cast<unsigned>(group_of(self, true).size());
    if (exist < kWarpSize) meeting.mask &= (1U << exist) - 1;
    if ((meeting.mask >> self.lane() & 1) == 0)
      throw std::runtime_error(text_of(meeting) + ", which does not name the calling lane");
    if ((meeting.mask >> meeting.source & 1) == 0)
      throw std::runtime_error(text_of(meeting) + ", which does not name lane " +
                               std::to_string(meeting.source) + ", whose value is asked for");
    std::memcpy(self.sent.data(), &value, sizeof(Value));
    wait(self, meeting);
    std::memcpy(&value, self.received.data(), sizeof(Value));
    return value;
  }

  unsigned lane(const char* call) { return current(call).lane(); }

 private:
  // Thrown out of a wait whose kernel has failed elsewhere.
  struct Abandoned : std::exception {};

  void make_threads(dim3 block) {
    threads_.resize(std::size_t{block.x} * block.y * block.z);
    for (unsigned number = 0; Thread& thread : threads_) {
      thread.number = number;
      thread.index = {number % block.x, number / block.x % block.y, number / (block.x * block.y)};
      ++number;
    }
  }

  void arrange(std::vector<std::int64_t>& turns, std::int64_t count) {
    turns.resize(static_cast<std::size_t>(count));
    std::iota(turns.begin(), turns.end(), 0);
    if (order.kind == Order::Kind::kDescending) std::reverse(turns.begin(), turns.end());
    if (order.kind == Order::Kind::kShuffled) std::shuffle(turns.begin(), turns.end(), random_);
  }

  // ---- on the host's stack

  void run_block() {
    for (Thread& thread : threads_) thread.state = State::kNew;
    for (;;) {
      take_turns();
      if (!failure_.empty()) fail(std::exchange(failure_, {}));
      const auto exited = [](const Thread& thread) { return thread.state == State::kExited; };
      if (std::all_of(threads_.begin(), threads_.end(), exited)) return;
      if (!release_warps() && !release_block()) fail(why_nothing_moves());
    }
  }

  void take_turns() {
    arrange(turns_, static_cast<std::int64_t>(threads_.size()));
    for (turn_ = 0; turn_ < turns_.size() && failure_.empty(); ++turn_) {
      Thread& thread = thread_at(turn_);
      if (thread.state == State::kNew) thread.fibre = idle_fibre();
      if (thread.state == State::kNew || thread.state == State::kReady) resume(thread);
    }
  }

  void resume(Thread& thread) {
    set_current(thread);
    thread.fibre->resume();
    current_ = nullptr;
  }

  Fibre* idle_fibre() {
    if (idle_.empty()) {
      fibres_.push_back(std::make_unique<Fibre>([this] { run_threads(); }));
      idle_.push_back(fibres_.back().get());
    }
    Fibre* const fibre = idle_.back();
    idle_.pop_back();
    return fibre;
  }

  bool release_warps() {
    bool released = false;
    for (const Thread& thread : threads_)
      if (thread.state == State::kWaiting && thread.wait.mask != 0)
        released |= release(group_of(thread, true), thread);
    return released;
  }

  bool release_block() {
    const Thread& first = threads_.front();
    return first.state == State::kWaiting && first.wait.mask == 0 && release(threads_, first);
  }

  bool release(std::span<Thread> group, const Thread& waiting) {
    for (const Thread& other : group)
      if (waiting.awaits(other) && !waiting.meets(other)) return false;
    for (Thread& other : group) {
      if (!waiting.awaits(other)) continue;
      if (waiting.wait.mask != 0) other.received = group[other.wait.source].sent;
      other.state = State::kReady;
    }
    return true;
  }

  // A warp that cannot go on explains a barrier that is not reached, not the other way round.
  std::string why_nothing_moves() {
    for (const bool in_warp : {true, false})
      for (const Thread& thread : threads_)
        if (thread.state == State::kWaiting && (thread.wait.mask != 0) == in_warp)
          for (const Thread& other : group_of(thread, in_warp))
            if (thread.awaits(other) && !thread.meets(other))
              return where() + ": " + why_stuck(thread, other);
    return where() + ": no thread can go on";
  }

  // Unwinds what still waits, so that every fibre is idle again.
  [[noreturn]] void fail(const std::string& message) {
    abandoning_ = true;
    for (Thread& thread : threads_)
      if (thread.state == State::kWaiting || thread.state == State::kReady) resume(thread);
    abandoning_ = false;
    failure_.clear();
    throw std::runtime_error(message);
  }

  // ---- on fibres

  // Goes on with the thread whose turn is next when that one has not begun either: a kernel that
  // never waits switches stacks twice a block.
  void run_threads() {
    Fibre* const fibre = current_->fibre;
    for (;;) {
      run_thread(*current_);
      if (abandoning_ || !failure_.empty() || turn_ + 1 == turns_.size()) break;
      Thread& next = thread_at(turn_ + 1);
      if (next.state != State::kNew) break;
      ++turn_;
      next.fibre = fibre;
      set_current(next);
    }
    idle_.push_back(fibre);
  }

  void run_thread(Thread& thread) {
    try {
      (*body_)();
    } catch (const std::exception& error) {
      if (!abandoning_) failure_ = place_of(thread) + ": " + error.what();
    } catch (...) {
      failure_ = place_of(thread) + ": an unknown exception";
    }
    thread.state = State::kExited;
  }

  void wait(Thread& self, const Wait& meeting) {
    self.wait = meeting;
    self.state = State::kWaiting;
    Fibre::suspend();
    if (abandoning_) throw Abandoned();
  }

  // ---- on either

  Thread& thread_at(std::size_t turn) { return threads_[static_cast<std::size_t>(turns_[turn])]; }

  void set_current(Thread& thread) {
    current_ = &thread;
    place.thread = thread.index;
  }

  Thread& current(const char* call) {
    if (current_ == nullptr) throw std::runtime_error(std::string(call) + " outside a kernel");
    return *current_;
  }

  std::span<Thread> group_of(const Thread& thread, bool in_warp) {
    const std::span<Thread> block(threads_);
    if (!in_warp) return block;
    const std::size_t first = thread.number - thread.lane();
    return block.subspan(first, std::min<std::size_t>(kWarpSize, block.size() - first));
  }

  std::string place_of(const Thread& thread) const {
    return where() + ", thread " + text_of(thread.index);
  }

  std::string where() const { return std::string(kernel_) + ", block " + text_of(place.block); }

  const char* kernel_ = "";
  const std::function<void()>* body_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<std::int64_t> turns_;  // the numbers of the threads, in the order of their turns
  std::size_t turn_ = 0;
  Thread* current_ = nullptr;  // none on the host
  std::vector<std::unique_ptr<Fibre>> fibres_;
  std::vector<Fibre*> idle_;
  std::mt19937_64 random_;
  std::string failure_;  // what the first thread that threw an exception said
  bool abandoning_ = false;
};

inline Multiprocessor& multiprocessor() {
  static Multiprocessor only;
  return only;
}

}  // namespace onepass::emulation
