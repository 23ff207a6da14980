// csrc/sweep/crowding.h for tests/test_crowding.py, with the times that the test gives.
#include "sweep/crowding.h"

#include <new>

static onepass::Crowding crowding;

extern "C" void note(std::int64_t now, std::int64_t worked, std::int64_t waited) {
  crowding.note(now, worked, waited);
}

extern "C" void forget() {
  crowding.~Crowding();
  new (&crowding) onepass::Crowding();
}

extern "C" bool lasts(std::int64_t now) { return crowding.lasts(now); }
