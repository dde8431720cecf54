#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "client/api/client.h"
#include "sab/v1/checkpoint_service.pb.h"

namespace sab::client {

struct DownloadOptions {
  std::string to;      // the folder that becomes the checkpoint; created if missing
  bool force = false;  // replace whatever files of the checkpoint's names lie there
  // Told after every chunk, on the calling thread: bytes that lie on disk, and all there are.
  std::function<void(int64_t bytes_done, int64_t bytes_total)> on_progress = [](int64_t, int64_t) {};
};

// Fetches `checkpoint` into a folder and verifies it: the CRC of every chunk, the size and SHA-256 of every file, and
// the manifest's digest against the one that the coordinator recorded. The manifest is put in place last: a folder that
// has one is complete.
//
// Files arrive as `{path}.part`. A folder left by an earlier, unfinished download of the same checkpoint (`.download`
// names it) is gone on with from the bytes it has; a complete one is verified and nothing is fetched. After a broken
// connection the rest is asked for, until nothing has come for the client's connect_timeout.
//
// FailedPrecondition: the folder holds something else, and not `force`. DataLoss: the coordinator's copy is damaged, or
// what arrived did not fit its digest even when fetched twice; nothing damaged is left under a final name. Unavailable:
// the coordinator went away; calling again goes on.
absl::Status DownloadCheckpoint(Client& client, const v1::Checkpoint& checkpoint, const DownloadOptions& options);

}  // namespace sab::client
