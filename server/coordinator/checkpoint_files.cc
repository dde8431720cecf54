#include "server/coordinator/checkpoint_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"

namespace sab::server {
namespace {

namespace fs = std::filesystem;

absl::Status SystemError(const std::string& path, int error) {
  const std::string text = absl::StrCat(path, ": ", strerror(error));
  if (error == ENOSPC || error == EDQUOT) {
    return WithReason(absl::ResourceExhaustedError(absl::StrCat(text, "; free disk space")), "DISK_FULL");
  }
  return WithReason(absl::UnavailableError(text), "STORE_UNAVAILABLE");
}

absl::Status SyncFolder(const std::string& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return SystemError(folder, errno);
  absl::Cleanup close_fd = [fd] { close(fd); };
  return fsync(fd) == 0 ? absl::OkStatus() : SystemError(folder, errno);
}

absl::Status Damaged(const absl::Status& status, const CheckpointName& name) {
  return WithReason(absl::DataLossError(absl::StrCat(name.name(), ": ", status.message())), "CHECKPOINT_DAMAGED");
}

}  // namespace

std::string CheckpointFiles::FolderOf(const CheckpointName& name) const {
  return CheckpointParent(checkpoint_dir_, name.job.name()) + "/" + name.checkpoint;
}

std::string CheckpointFiles::UploadFolderOf(const CheckpointName& name) const {
  return CheckpointParent(checkpoint_dir_, name.job.name()) + "/." + name.checkpoint + ".upload";
}

absl::StatusOr<v1::Checkpoint> CheckpointFiles::Complete(const CheckpointName& name) const {
  const std::string folder = FolderOf(name);
  const std::string uploaded = UploadFolderOf(name);
  std::error_code error;
  const bool in_place = fs::exists(folder, error) || !fs::exists(uploaded, error);
  absl::StatusOr<v1::Checkpoint> checkpoint = VerifyCheckpoint(in_place ? folder : uploaded);
  if (absl::IsDataLoss(checkpoint.status()) || absl::IsNotFound(checkpoint.status()))
    return Damaged(checkpoint.status(), name);
  if (!checkpoint.ok()) return checkpoint.status();
  if (!in_place) {
    SAB_RETURN_IF_ERROR(SyncFolder(uploaded));
    fs::rename(uploaded, folder, error);
    if (error) return SystemError(folder, error.value());
    SAB_RETURN_IF_ERROR(SyncFolder(fs::path(folder).parent_path()));
  }
  return checkpoint;
}

absl::Status CheckpointFiles::Verify(const v1::Checkpoint& recorded) const {
  SAB_ASSIGN_OR_RETURN(const CheckpointName name, ParseCheckpointName(recorded.name()));
  SAB_ASSIGN_OR_RETURN(const v1::Checkpoint found, VerifyCheckpoint(FolderOf(name)));
  if (found.manifest_sha256() == recorded.manifest_sha256()) return absl::OkStatus();
  return Damaged(absl::DataLossError("its manifest is not the one that was recorded"), name);
}

absl::Status CheckpointFiles::RemoveCheckpoint(const CheckpointName& name) const {
  std::error_code error;
  fs::remove_all(UploadFolderOf(name), error);
  fs::remove_all(FolderOf(name), error);
  return error ? SystemError(FolderOf(name), error.value()) : absl::OkStatus();
}

std::vector<std::string> CheckpointFiles::RemoveLeftovers(const JobId& job, const std::set<std::string>& recorded,
                                                          int64_t last_attempt) const {
  std::vector<std::string> removed;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(CheckpointParent(checkpoint_dir_, job.name()), error)) {
    // "000000000040-a3", ".000000000040-a3.tmp-77", ".000000000040-a3.upload"
    const std::string name = entry.path().filename();
    const size_t mark = name.find("-a");
    const int64_t attempt = mark == std::string::npos ? 0 : std::atoll(name.c_str() + mark + 2);
    if (attempt < 1 || attempt > last_attempt || recorded.contains(name)) continue;
    if (name[0] != '.' && !VerifyCheckpoint(entry.path()).ok()) continue;
    std::error_code failed;
    fs::remove_all(entry.path(), failed);
    if (!failed) removed.push_back(name);
  }
  return removed;
}

absl::Status CheckpointFiles::RemoveJob(const JobId& job) const {
  const std::string folder = absl::StrCat(checkpoint_dir_, "/", job.name());
  std::error_code error;
  fs::remove_all(folder, error);
  return error ? SystemError(folder, error.value()) : absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<CheckpointFiles::Upload>> CheckpointFiles::StartUpload(
    const CheckpointName& name, const v1::CheckpointFile& file) const {
  if (file.path() != kModelFile && file.path() != kOptimizerFile && file.path() != kStateFile &&
      file.path() != kManifestFile && file.path() != kPredictionFile && file.path() != kSampleFile) {
    return WithReason(absl::InvalidArgumentError(
                          absl::StrCat("file.path: \"", file.path().substr(0, 100), "\" is no file of a checkpoint")),
                      "BAD_CHECKPOINT_FILE");
  }
  const std::string folder = UploadFolderOf(name);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return SystemError(folder, error.value());
  std::unique_ptr<Upload> upload(new Upload());
  upload->file_ = file;
  upload->path_ = folder + "/" + file.path();
  // Each call writes its own file: one that was cut off may still be ending.
  std::string temporary = upload->path_ + ".XXXXXX";
  upload->fd_ = mkostemp(temporary.data(), O_CLOEXEC);
  if (upload->fd_ < 0) return SystemError(temporary, errno);
  upload->temporary_ = temporary;
  return upload;
}

CheckpointFiles::Upload::~Upload() {
  if (fd_ < 0) return;
  close(fd_);
  (void)unlink(temporary_.c_str());
}

absl::Status CheckpointFiles::Upload::Add(const std::string& data, uint32_t crc) {
  const auto actual = crc32(0, reinterpret_cast<const Bytef*>(data.data()), static_cast<uInt>(data.size()));
  if (actual != crc) {
    return WithReason(absl::DataLossError(absl::StrCat(file_.path(), ": the chunk at ", received_,
                                                       " was damaged on its way: send the "
                                                       "file again")),
                      "CHUNK_DAMAGED");
  }
  if (received_ + static_cast<int64_t>(data.size()) > file_.size_bytes()) {
    return WithReason(absl::InvalidArgumentError(
                          absl::StrCat(file_.path(), ": is longer than the ", file_.size_bytes(), " bytes announced")),
                      "BAD_CHECKPOINT_FILE");
  }
  for (size_t done = 0; done < data.size();) {
    const ssize_t wrote = write(fd_, data.data() + done, data.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return SystemError(temporary_, errno);
    done += static_cast<size_t>(wrote);
  }
  received_ += static_cast<int64_t>(data.size());
  return absl::OkStatus();
}

absl::Status CheckpointFiles::Upload::Finish() {
  if (fsync(fd_) != 0 || fchmod(fd_, 0644) != 0) return SystemError(temporary_, errno);
  SAB_ASSIGN_OR_RETURN(const std::string digest, Sha256OfFile(temporary_));
  if (received_ != file_.size_bytes() || digest != file_.sha256()) {
    return WithReason(absl::DataLossError(absl::StrCat(file_.path(), ": ", received_, " of ", file_.size_bytes(),
                                                       " bytes arrived, with digest ", digest, " and not ",
                                                       file_.sha256(), ": send the file again")),
                      "UPLOAD_DAMAGED");
  }
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return SystemError(path_, errno);
  close(fd_);
  fd_ = -1;
  return absl::OkStatus();
}

}  // namespace sab::server
