// Plan::lead: an average that is swept with the weights that it reads, in one pass over memory.
#include <unordered_map>

#include "plan.h"

namespace onepass {

// Whether task j of another plan reads the very elements that task k writes, in the same order.
bool Plan::leads(std::size_t k, const Plan& other, std::size_t j) const {
  const Task &task = tasks_[k], &follower = other.tasks_[j];
  return task.param.data == follower.grad.data && task.size == follower.size &&
         task.param.type == follower.grad.type && task.sizes == nullptr &&
         follower.sizes == nullptr && task.rows == nullptr && !entries_[k].on_device &&
         !other.entries_[j].on_device;
}

// Finds the task of another plan that leads each of this one.
void Plan::match(const Plan& other) {
  std::unordered_map<const void*, std::size_t> writers;
  for (std::size_t k = 0; k < other.tasks_.size(); ++k)
    if (other.tasks_[k].size > 0) writers.emplace(other.tasks_[k].param.data, k);
  leading_.leaders.assign(tasks_.size(), Leading::kNone);
  leading_.leader_count = other.tasks_.size();
  for (std::size_t j = 0; j < tasks_.size(); ++j) {
    const auto found = writers.find(tasks_[j].grad.data);
    if (found != writers.end() && other.leads(found->second, *this, j))
      leading_.leaders[j] = found->second;
  }
}

void Plan::lead(Plan& other) {
  Leading& led = other.leading_;
  for (Task& task : other.tasks_) task.follower = nullptr;  // of the step before
  const bool in_order = overlap_.is_found() || other.overlap_.is_found();
  if (in_order || entries_.empty() || other.entries_.empty()) return;
  const auto is_as_found = [&](std::size_t j) {
    const std::size_t k = led.leaders[j];
    return k == Leading::kNone || (k < tasks_.size() && leads(k, other, j));
  };
  bool is_known = led.leaders.size() == other.tasks_.size() && led.leader_count == tasks_.size();
  for (std::size_t j = 0; is_known && j < other.tasks_.size(); ++j) is_known = is_as_found(j);
  if (!is_known) other.match(*this);
  led.is_led.assign(other.tasks_.size(), false);
  led.rest.clear();
  led.rest.reserve(other.tasks_.size());
  led.rest_ends.reserve(other.tasks_.size());
  for (std::size_t j = 0; j < other.tasks_.size(); ++j) {
    if (led.leaders[j] == Leading::kNone) continue;
    Task* last = &tasks_[led.leaders[j]];
    while (last->follower != nullptr) last = last->follower;
    last->follower = &other.tasks_[j];
    led.is_led[j] = true;
  }
  leading_.has_followers = true;
  led.has_leader = true;
}

}  // namespace onepass
