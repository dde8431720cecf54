#pragma once

#include <cstdint>
#include <string>

namespace sab::bench {

// Fills the store of a coordinator that is not running with `count` jobs: of five, four have SUCCEEDED after two
// attempts and with two checkpoints, one waits. Ends the process when the store refuses.
void StoreJobs(const std::string& state_dir, int64_t count);

// Seconds of one CreateJob; ends the process when it fails.
double TimeSubmit(const std::string& address);

}  // namespace sab::bench
