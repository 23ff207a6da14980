// States of 8 bits outside of a step, as a checkpoint is loaded or read.
#pragma once

#include "../portable.h"
#include "../storage/blocks.h"

namespace onepass {

// The numbers of a run to codes of that type, rounded to nearest, and back.
ONEPASS_API void encode_numbers(const BlockRun<float>& run, Format type);
ONEPASS_API void decode_codes(const BlockRun<float>& run, Format type);

}  // namespace onepass
