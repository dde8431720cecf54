#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/checkpoint/safetensors.h"
#include "sab/v1/checkpoint_service.pb.h"

// A checkpoint on disk is a folder `{checkpoint}` (its id, see MakeCheckpointId) under
// CHECKPOINT_DIR/jobs/{job}/checkpoints:
//   model.safetensors      parameters, names of model/parameters.h
//   optimizer.safetensors  the optimiser's state
//   state.json             step, data cursor, random counters, curriculum, vocabulary, attempt, resolved spec
//   manifest.json          {"format": 1, "job", "step", "attempt", "eval_loss", "files": [{"path", "size_bytes",
//   "sha256"}]}, written last
// It is written as `.{checkpoint}.tmp-{pid}`, every file and the folder synced, then renamed, then the parent synced: a
// folder with its final name is complete. Writing and verifying never depend on the process's locale or umask.
namespace sab {

inline constexpr std::string_view kModelFile = "model.safetensors";
inline constexpr std::string_view kOptimizerFile = "optimizer.safetensors";
inline constexpr std::string_view kStateFile = "state.json";
inline constexpr std::string_view kManifestFile = "manifest.json";
// A result of a job that does not train is stored in the same way, with one of these and the manifest.
inline constexpr std::string_view kPredictionFile = "result.safetensors";
inline constexpr std::string_view kSampleFile = "result.txt";

// Writes one checkpoint. Add files, then Commit; destroyed before Commit it removes what it wrote.
class CheckpointWriter {
 public:
  // `parent` is created if missing. `name` is the full resource name. An unfinished folder of the same process is
  // replaced.
  static absl::StatusOr<CheckpointWriter> Create(const std::string& parent, const v1::Checkpoint& header);
  CheckpointWriter(CheckpointWriter&&) noexcept;
  CheckpointWriter& operator=(CheckpointWriter&&) noexcept;
  ~CheckpointWriter();

  // ResourceExhausted when the disk is full: the text names the folder and the bytes needed.
  absl::Status AddFile(std::string_view path, std::string_view content);
  absl::Status AddSafetensors(std::string_view path, absl::Span<const TensorView> tensors,
                              const std::map<std::string, std::string>& metadata = {});

  // Writes the manifest, syncs and renames. The message has files, size_bytes and manifest_sha256 filled in. If a
  // complete, valid checkpoint of that name is already there it is kept and returned: the same attempt and step hold
  // the same content.
  absl::StatusOr<v1::Checkpoint> Commit();

 private:
  CheckpointWriter() = default;
  std::string parent_;
  std::string folder_;  // the temporary one; empty after Commit or a move
  v1::Checkpoint checkpoint_;
};

// Reads the manifest of a checkpoint's folder and checks every file's size and digest (`digests` false: sizes alone).
// NotFound: no folder. DataLoss: names the file and what is wrong with it.
absl::StatusOr<v1::Checkpoint> VerifyCheckpoint(const std::string& folder, bool digests = true);

// SHA-256 in hex.
std::string Sha256(std::string_view data);
absl::StatusOr<std::string> Sha256OfFile(const std::string& path);

// Whole file. NotFound, or the system's reason.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// Writes by temporary name, fsync, rename, fsync of the folder.
absl::Status WriteFileDurably(const std::string& path, std::string_view content);

// CHECKPOINT_DIR/jobs/{job}/checkpoints for "jobs/{job}".
std::string CheckpointParent(std::string_view checkpoint_dir, std::string_view job_name);

}  // namespace sab
