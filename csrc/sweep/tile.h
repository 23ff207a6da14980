// Tiles: a few elements of an operand, decoded to the arithmetic type in the first-level cache.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "../storage/codec.h"
#include "instruction_sets.h"
#include "task.h"

namespace onepass {

inline constexpr std::int64_t kTileBytes = 4096;  // four to six tiles stay in the first-level cache

// How many elements the tile from `first` on has. It ends where the 32-bit element numbers of the
// hashes wrap around, unless a block crosses that place.
template <class Real>
std::int64_t tile_size(const Task& task, std::int64_t first, std::int64_t end) {
  constexpr std::int64_t kTile = kTileBytes / sizeof(Real), kAnew = std::int64_t{1} << 32;
  const std::int64_t size = std::min({kTile, end - first, kAnew - first % kAnew});
  if (task.blocks.row_size == 0 || first + size == end) return size;
  const std::int64_t whole_blocks = task.blocks.start_of(first + size) - first;
  return whole_blocks > 0 ? whole_blocks : std::min(task.blocks.end_of(first), end) - first;
}

// Where an operand with strides continues: the element's index in every dimension but the last,
// counted up from the last, so that a long run along it costs one addition.
class StridedCursor {
 public:
  StridedCursor(const Task& task, const Operand& operand, std::int64_t first)
      : sizes_(task.sizes), strides_(operand.strides), last_(task.dims - 1) {
    for (int dim = last_; dim >= 0; --dim) {
      index_[dim] = first % sizes_[dim];
      offset_ += index_[dim] * strides_[dim];
      first /= sizes_[dim];
    }
  }

  std::int64_t offset() const { return offset_; }
  std::int64_t stride() const { return strides_[last_]; }
  std::int64_t left_in_run() const { return sizes_[last_] - index_[last_]; }

  void advance(std::int64_t count) {
    index_[last_] += count;
    offset_ += count * strides_[last_];
    for (int dim = last_; dim > 0 && index_[dim] == sizes_[dim]; --dim) {
      offset_ += strides_[dim - 1] - index_[dim] * strides_[dim];
      index_[dim] = 0;
      ++index_[dim - 1];
    }
  }

 private:
  const std::int64_t *sizes_, *strides_;
  int last_;
  std::int64_t offset_ = 0;
  std::int64_t index_[kMaxDims];
};

template <class Real>
using Codec = void (*)(const StridedRun<Real>&);

template <class Real>
Codec<Real> decoder(Format type) {
  static constexpr std::array<std::array<Codec<Real>, kInstructionSetCount>, kFloatFormats> table =
      {PerInstructionSet<&decode_run<Real, float>>::table,
       PerInstructionSet<&decode_run<Real, double>>::table,
       PerInstructionSet<&decode_run<Real, BFloat16>>::table,
       PerInstructionSet<&decode_run<Real, Half>>::table};
  return table[static_cast<int>(type)][instruction_set()];
}

template <class Real>
Codec<Real> nearest_encoder(Format type) {
  static constexpr std::array<std::array<Codec<Real>, kInstructionSetCount>, kFloatFormats> table =
      {PerInstructionSet<&encode_run<Real, float>>::table,
       PerInstructionSet<&encode_run<Real, double>>::table,
       PerInstructionSet<&encode_run<Real, BFloat16>>::table,
       PerInstructionSet<&encode_run<Real, Half>>::table};
  return table[static_cast<int>(type)][instruction_set()];
}

template <class Real, Rounding rounding>
Codec<Real> encoder_by(Format type) {
  if constexpr (rounding == Rounding::kNearest) {
    return nearest_encoder<Real>(type);
  } else {
    static constexpr auto brain =
        PerInstructionSet<&encode_run_randomly<Real, BFloat16, rounding>>::table;
    static constexpr auto half =
        PerInstructionSet<&encode_run_randomly<Real, Half, rounding>>::table;
    return (type == Format::kBFloat16 ? brain : half)[instruction_set()];
  }
}

// Calls choose<rounding>() for a rounding that is known when the step runs.
template <class Choose>
auto by_rounding(Rounding rounding, const Choose& choose) {
  switch (rounding) {
    case Rounding::kOfWeight:
      return choose.template operator()<Rounding::kOfWeight>();
    case Rounding::kOfState:
      return choose.template operator()<Rounding::kOfState>();
    case Rounding::kOfSecondState:
      return choose.template operator()<Rounding::kOfSecondState>();
    case Rounding::kOfThirdState:
      return choose.template operator()<Rounding::kOfThirdState>();
    case Rounding::kOfFourthState:
      return choose.template operator()<Rounding::kOfFourthState>();
    case Rounding::kNearest:
      break;
  }
  return choose.template operator()<Rounding::kNearest>();
}

template <class Real>
Codec<Real> encoder(const Operand& operand) {
  return by_rounding(operand.rounding,
                     [&]<Rounding rounding>() { return encoder_by<Real, rounding>(operand.type); });
}

template <class Real>
using BlockCodec = void (*)(const BlockRun<Real>&);

template <class Real>
BlockCodec<Real> block_decoder(Format type) {
  static constexpr auto of_signed = PerInstructionSet<&decode_blocks<Real, SignedCode>>::table;
  static constexpr auto of_unsigned = PerInstructionSet<&decode_blocks<Real, UnsignedCode>>::table;
  return (type == Format::kInt8 ? of_signed : of_unsigned)[instruction_set()];
}

template <class Real, Rounding rounding>
BlockCodec<Real> block_encoder_by(Format type) {
  static constexpr auto of_signed =
      PerInstructionSet<&encode_blocks<Real, SignedCode, rounding>>::table;
  static constexpr auto of_unsigned =
      PerInstructionSet<&encode_blocks<Real, UnsignedCode, rounding>>::table;
  return (type == Format::kInt8 ? of_signed : of_unsigned)[instruction_set()];
}

template <class Real>
BlockCodec<Real> block_encoder(const Operand& operand) {
  return by_rounding(operand.rounding, [&]<Rounding rounding>() {
    return block_encoder_by<Real, rounding>(operand.type);
  });
}

inline std::byte* element(const Operand& operand, std::int64_t offset) {
  return static_cast<std::byte*>(operand.data) + offset * bytes_of(operand.type);
}

// Moves `size` elements from `first` on between an operand and a tile, by `codec`.
template <class Real>
void move_run(Codec<Real> codec, const Task& task, const Operand& operand, std::int64_t first,
              StridedRun<Real> run) {
  if (operand.strides == nullptr) {
    run.memory = element(operand, first);
    run.stride = 1;
    codec(run);
    return;
  }
  StridedCursor cursor(task, operand, first);
  for (std::int64_t left = run.size; left > 0; left -= run.size) {
    run.memory = element(operand, cursor.offset());
    run.stride = cursor.stride();
    run.size = std::min(left, cursor.left_in_run());
    codec(run);
    run.tile += run.size;
    if (run.hashes != nullptr) run.hashes += run.size;
    cursor.advance(run.size);
  }
}

// The hashes of a tile's elements, which all of its operands that are rounded stochastically share.
template <class Real>
struct HashTile {
  alignas(64) std::uint32_t hashes[kTileBytes / sizeof(Real)];

  void fill(const Task& task, std::int64_t first, std::int64_t size) {
    if (!task.rounds_randomly()) return;
    static constexpr auto table = PerInstructionSet<&fill_hashes>::table;
    const auto high = static_cast<std::uint32_t>(first >> 32);
    table[instruction_set()](
        {hashes, size, static_cast<std::uint32_t>(first), task.rounding_key + mixed(high)});
  }
};

// A tile of one operand: a view of its memory where that holds the arithmetic type in order
// already, else a copy.
template <class Real>
struct Tile {
  alignas(64) Real buffer[kTileBytes / sizeof(Real)];
  Real* data;

  void load(const Task& task, const Operand& operand, std::int64_t first, std::int64_t size) {
    if (operand.strides == nullptr && operand.type == task.arithmetic) {
      data = reinterpret_cast<Real*>(element(operand, first));
      return;
    }
    data = buffer;
    if (has_blocks(operand.type))
      return block_decoder<Real>(operand.type)(
          {operand.data, operand.exponents, task.blocks, data, first, size});
    move_run<Real>(decoder<Real>(operand.type), task, operand, first, {nullptr, 1, data, size});
  }

  // `hashes` are those of the tile's elements.
  void store(const Task& task, const Operand& operand, std::int64_t first, std::int64_t size,
             const std::uint32_t* hashes) {
    if (data != buffer) return;
    if (has_blocks(operand.type))
      return block_encoder<Real>(operand)(
          {operand.data, operand.exponents, task.blocks, data, first, size, hashes});
    move_run<Real>(encoder<Real>(operand), task, operand, first, {nullptr, 1, data, size, hashes});
  }
};

}  // namespace onepass
