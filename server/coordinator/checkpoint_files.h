#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "sab/v1/agent_service.pb.h"
#include "sab/v1/checkpoint_service.pb.h"

namespace sab::server {

// Where checkpoints lie on disk: CHECKPOINT_DIR/jobs/{job}/checkpoints/{checkpoint}, see common/checkpoint. Blocking;
// thread-safe.
class CheckpointFiles {
 public:
  explicit CheckpointFiles(std::string checkpoint_dir) : checkpoint_dir_(std::move(checkpoint_dir)) {}

  std::string FolderOf(const CheckpointName& name) const;

  // Puts uploaded files in place if that is how this checkpoint came, then checks it whole. DataLoss (reason
  // CHECKPOINT_DAMAGED): missing or damaged.
  absl::StatusOr<v1::Checkpoint> Complete(const CheckpointName& name) const;

  // Checks sizes and digests against what was recorded. DataLoss or NotFound: it is damaged or gone.
  absl::Status Verify(const v1::Checkpoint& recorded) const;

  absl::Status RemoveCheckpoint(const CheckpointName& name) const;
  // Removes what attempts up to `last_attempt` left in a job's folder: unfinished checkpoints, and finished ones that
  // are not among `recorded` (ids) and are sound. A damaged one was recorded once and stays to be looked at. Returns
  // the names.
  std::vector<std::string> RemoveLeftovers(const JobId& job, const std::set<std::string>& recorded,
                                           int64_t last_attempt) const;
  absl::Status RemoveJob(const JobId& job) const;

  // Receives one file of a checkpoint; what it wrote is removed unless Finish succeeds.
  class Upload {
   public:
    ~Upload();
    // DataLoss (reason CHUNK_DAMAGED): CRC. ResourceExhausted: disk full. InvalidArgument: longer than announced.
    absl::Status Add(const std::string& data, uint32_t crc32);
    // Syncs and gives the file its name. DataLoss: size or digest differ from what the header announced.
    absl::Status Finish();

   private:
    friend class CheckpointFiles;
    Upload() = default;
    std::string path_;       // its final one
    std::string temporary_;  // present until Finish
    v1::CheckpointFile file_;
    int fd_ = -1;
    int64_t received_ = 0;
  };
  // InvalidArgument: a name that no checkpoint has. Unavailable: the folder cannot be written.
  absl::StatusOr<std::unique_ptr<Upload>> StartUpload(const CheckpointName& name, const v1::CheckpointFile& file) const;

 private:
  std::string UploadFolderOf(const CheckpointName& name) const;

  const std::string checkpoint_dir_;
};

}  // namespace sab::server
