// Fibres: stacks of their own within one host thread, which take turns by agreement.
//
// ucontext enters a fibre; afterwards _setjmp and _longjmp switch, because swapcontext makes two
// system calls a switch. The longjmp of _FORTIFY_SOURCE refuses to go to another stack, therefore
// -U_FORTIFY_SOURCE.
#pragma once

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <functional>
#include <new>
#include <utility>

#if defined(__USE_FORTIFY_LEVEL) && __USE_FORTIFY_LEVEL > 0
#error "Compile with -U_FORTIFY_SOURCE: its longjmp refuses to go to another stack."
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace onepass::emulation {

// Memory for a stack, above pages that must not be touched: a stack that is too small crashes at
// once and spoils nothing.
class Stack {
 public:
  Stack()
      : pages_(mmap(nullptr, kGuard + kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                    -1, 0)) {
    if (pages_ == MAP_FAILED) throw std::bad_alloc();
    mprotect(pages_, kGuard, PROT_NONE);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  ~Stack() { munmap(pages_, kGuard + kSize); }

  void* bottom() const { return static_cast<char*>(pages_) + kGuard; }
  static constexpr std::size_t size() { return kSize; }

 private:
  static constexpr std::size_t kGuard = 64 << 10;
  static constexpr std::size_t kSize = 256 << 10;
  void* pages_;
};

// What was going on when a stack was left, and what AddressSanitizer has to know of that stack.
struct Paused {
  jmp_buf place;
  const void* bottom = nullptr;
  std::size_t size = 0;
  void* fake_stack = nullptr;
};

// AddressSanitizer checks local variables against the bounds of the stack in use, so it is told
// before and after each switch.
inline void leave_for([[maybe_unused]] Paused& left, [[maybe_unused]] const Paused& next) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&left.fake_stack, next.bottom, next.size);
#endif
}

inline void arrive_from([[maybe_unused]] void* fake_stack, [[maybe_unused]] Paused& left) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_stack, &left.bottom, &left.size);
#endif
}

// Does one task after another on a stack of its own. A task must not let exceptions out: there is
// nobody below it on its stack.
class Fibre {
 public:
  explicit Fibre(std::function<void()> task) : task_(std::move(task)) {
    paused_.bottom = stack_.bottom();
    paused_.size = Stack::size();
    getcontext(&start_);
    start_.uc_stack.ss_sp = stack_.bottom();
    start_.uc_stack.ss_size = Stack::size();
    start_.uc_link = nullptr;
    makecontext(&start_, &Fibre::work, 0);
  }

  // Goes on with the task, or begins it anew where it had ended, until it suspends or ends. Called
  // from the host's stack only.
  void resume() {
    running = this;
    if (_setjmp(host.place) == 0) {
      leave_for(host, paused_);
      if (std::exchange(entered_, true)) _longjmp(paused_.place, 1);
      setcontext(&start_);
    }
    arrive_from(host.fake_stack, running->paused_);
    running = nullptr;
  }

  // Returns to the host until this fibre is resumed. Called on a fibre only.
  static void suspend() {
    if (_setjmp(running->paused_.place) == 0) {
      leave_for(running->paused_, host);
      _longjmp(host.place, 1);
    }
    arrive_from(running->paused_.fake_stack, host);
  }

  static inline Fibre* running = nullptr;  // none: the host's own stack is in use

 private:
  static inline Paused host;

  static void work() {
    arrive_from(nullptr, host);
    for (;;) {
      running->task_();
      suspend();
    }
  }

  Stack stack_;
  Paused paused_;
  std::function<void()> task_;
  // Not a local variable of resume, whose frame is left without AddressSanitizer's farewell.
  ucontext_t start_;
  bool entered_ = false;
};

}  // namespace onepass::emulation
