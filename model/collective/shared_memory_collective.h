#pragma once

#include <functional>
#include <memory>
#include <string>

#include "model/collective/collective.h"

namespace sab::model {

// Where the ranks of a group leave each other words before they have met. Both may throw.
struct NoticeBoard {
  std::function<void(const std::string& key, const std::string& text)> set;
  std::function<std::string(const std::string& key)> get;  // waits until the key is set
};

// Collective calls over memory that the ranks share, for CPU tensors; sums are of float, double or int64. Every rank
// of the group calls this, with its options; all get a group, or all get nullptr: when they are not processes of one
// machine, PID namespace and user, when one of them cannot map the segment, or when options.shared_memory is off
// somewhere. The board is not used after the return. Throws CollectiveError, and what the board throws.
//
// Every sum is formed in pairs, as AllReduceSumInPairs says, so its bits do not depend on timing. The end of a peer's
// process is noticed within milliseconds, its leaving as well. Nothing is left in the system, however the processes
// end.
std::unique_ptr<Collective> MakeSharedMemoryCollective(const NoticeBoard& board, const CollectiveOptions& options);

}  // namespace sab::model
