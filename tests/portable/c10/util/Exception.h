// Stands in for torch's header where csrc is compiled without torch. The program asks for nothing
// that is refused, so that the words of the message are of no use.
#pragma once

#include <stdexcept>

#define TORCH_CHECK_VALUE(condition, ...) \
  if (!(condition)) throw std::invalid_argument("refused: " #condition)
