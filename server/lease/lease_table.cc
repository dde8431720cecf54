#include "server/lease/lease_table.h"

#include <algorithm>

namespace sab::server {

void LeaseTable::Renew(const WorkerId& worker, absl::Duration now) {
  entries_[worker] = {.last = now};
}

void LeaseTable::Forgive(absl::Duration held_up, absl::Duration now) {
  for (auto& [worker, entry] : entries_) entry.last = std::min(now, entry.last + held_up);
}

bool LeaseTable::IsPrompt(const WorkerId& worker, absl::Duration now) const {
  auto it = entries_.find(worker);
  return it != entries_.end() && now < it->second.last + lease_ / 2;
}

absl::Duration LeaseTable::End(const WorkerId& worker) const {
  auto it = entries_.find(worker);
  return it == entries_.end() ? -absl::InfiniteDuration() : it->second.last + lease_;
}

LeaseTable::Due LeaseTable::TakeDue(absl::Duration now) {
  Due due;
  for (auto it = entries_.begin(); it != entries_.end();) {
    Entry& entry = it->second;
    if (now >= entry.last + lease_) {
      due.lost.push_back(it->first);
      it = entries_.erase(it);
      continue;
    }
    if (now >= entry.last + lease_ / 2 && !entry.told_late) {
      entry.told_late = true;
      due.late.push_back(it->first);
    }
    ++it;
  }
  return due;
}

absl::Duration LeaseTable::NextDeadline() const {
  absl::Duration next = absl::InfiniteDuration();
  for (const auto& [worker, entry] : entries_) {
    next = std::min(next, entry.last + (entry.told_late ? lease_ : lease_ / 2));
  }
  return next;
}

}  // namespace sab::server
