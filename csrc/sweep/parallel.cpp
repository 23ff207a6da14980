#include "parallel.h"

#include <pthread.h>

namespace onepass {
namespace {

bool forked = false;
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace

bool is_forked() { return forked; }

}  // namespace onepass
