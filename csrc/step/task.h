// From the tensors of a parameter, once they are validated, to memory, layout and loops.
#pragma once

#include "../sweep/task.h"
#include "entry.h"
#include "group.h"

namespace onepass {

// In which order the elements of a parameter are swept. Usual: its operands are of one type and
// shape and contiguous, so that there is one order only. Rows of a sparse gradient lie in the order
// of the indices, and sums must not depend on the layout.
enum class SweepOrder { kUsual, kOfMemory, kOfIndices };

// The task of a parameter whose operands lie in `ranges`.
Task task_of(const Entry& entry, const Group& group, const ByteRanges& ranges, SweepOrder order,
             StepMemory& memory);

// Chooses the loops of a task. Nearly always it is of the kind of another one, `like`, whose loops
// are good for it too; null where it may not be.
void choose_loops(Task& task, const Group& group, bool on_device, const Task* like);

}  // namespace onepass
