#include "codes.h"

#include "tile.h"

namespace onepass {

void encode_numbers(const BlockRun<float>& run, Format type) {
  block_encoder_by<float, Rounding::kNearest>(type)(run);
}

void decode_codes(const BlockRun<float>& run, Format type) { block_decoder<float>(type)(run); }

}  // namespace onepass
