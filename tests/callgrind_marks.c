/* Lets a Python program say which of its instructions valgrind counts. */
#include <valgrind/callgrind.h>

void instrument(void) { CALLGRIND_START_INSTRUMENTATION; }
void toggle(void) { CALLGRIND_TOGGLE_COLLECT; }
void dump(const char* name) { CALLGRIND_DUMP_STATS_AT(name); }
