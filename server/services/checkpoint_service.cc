#include "server/services/checkpoint_service.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace sab::server {
namespace {

constexpr int64_t kChunkBytes = 256 << 10;

absl::Status Damaged(const std::string& what, absl::string_view why) {
  return WithReason(absl::DataLossError(absl::StrCat(what, ": ", why)), "CHECKPOINT_DAMAGED");
}

// One file, chunk by chunk, each read when the last one has gone.
class Download final : public WatchReactor<v1::DownloadCheckpointResponse> {
 public:
  Download(ServiceContext context, std::string what, int fd, int64_t offset, int64_t size)
      : WatchReactor(context, "DownloadCheckpoint"), what_(std::move(what)), fd_(fd), offset_(offset), size_(size) {}
  ~Download() override { close(fd_); }

 private:
  absl::StatusOr<Step> Next(v1::DownloadCheckpointResponse* response) override {
    if (offset_ == size_) return Step::kEnd;
    std::string& data = *response->mutable_data();
    data.resize(static_cast<size_t>(std::min(kChunkBytes, size_ - offset_)));
    for (size_t done = 0; done < data.size();) {
      const ssize_t got = pread(fd_, data.data() + done, data.size() - done, offset_ + static_cast<int64_t>(done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return Damaged(what_, strerror(errno));
      if (got == 0) return Damaged(what_, "the file has been cut short");
      done += static_cast<size_t>(got);
    }
    response->set_offset(offset_);
    response->set_crc32(
        static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(data.data()), static_cast<uInt>(data.size()))));
    offset_ += static_cast<int64_t>(data.size());
    return Step::kSend;
  }

  const std::string what_;
  const int fd_;
  int64_t offset_;
  const int64_t size_;
};

struct OpenFile {
  std::string what;
  int fd = -1;
  int64_t size = 0;
};

absl::StatusOr<OpenFile> OpenRecorded(Coordinator& coordinator, const v1::DownloadCheckpointRequest& request) {
  SAB_ASSIGN_OR_RETURN(const CheckpointName name, ParseCheckpointName(request.name()));
  SAB_ASSIGN_OR_RETURN(const v1::Checkpoint checkpoint, coordinator.GetCheckpoint(name));
  // Only names that were recorded are opened: a path cannot lead elsewhere.
  const auto& files = checkpoint.files();
  const auto file = std::find_if(files.begin(), files.end(), [&](const auto& f) { return f.path() == request.path(); });
  if (file == files.end()) {
    return WithReason(
        absl::NotFoundError(absl::StrCat(name.name(), " has no file \"", request.path().substr(0, 100), "\"")),
        "CHECKPOINT_FILE_NOT_FOUND");
  }
  if (request.offset() < 0 || request.offset() > file->size_bytes()) {
    return WithReason(absl::OutOfRangeError(absl::StrCat("offset: ", request.offset(), " is not within the ",
                                                         file->size_bytes(), " bytes of ", file->path())),
                      "OFFSET_OUT_OF_RANGE");
  }
  OpenFile opened{absl::StrCat(name.name(), "/", file->path())};
  opened.fd = open((coordinator.FolderOf(name) + "/" + file->path()).c_str(), O_RDONLY | O_CLOEXEC);
  if (opened.fd < 0) return Damaged(opened.what, strerror(errno));
  opened.size = file->size_bytes();
  struct stat found;
  if (fstat(opened.fd, &found) != 0 || found.st_size != opened.size) {
    close(opened.fd);
    return Damaged(opened.what, absl::StrCat("has ", found.st_size, " bytes and not ", opened.size));
  }
  return opened;
}

}  // namespace

grpc::Status CheckpointService::ListCheckpoints(grpc::ServerContext*, const v1::ListCheckpointsRequest* request,
                                                v1::ListCheckpointsResponse* response) {
  return Unary(context_.metrics, "ListCheckpoints", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(const JobId id, ParseJobName(request->job()));
    SAB_ASSIGN_OR_RETURN(const std::vector<v1::Checkpoint> checkpoints, coordinator_->ListCheckpoints(id));
    *response->mutable_checkpoints() = {checkpoints.begin(), checkpoints.end()};
    return absl::OkStatus();
  });
}

grpc::Status CheckpointService::GetCheckpoint(grpc::ServerContext*, const v1::GetCheckpointRequest* request,
                                              v1::GetCheckpointResponse* response) {
  return Unary(context_.metrics, "GetCheckpoint", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(const CheckpointName name, ParseCheckpointName(request->name()));
    SAB_ASSIGN_OR_RETURN(*response->mutable_checkpoint(), coordinator_->GetCheckpoint(name));
    return absl::OkStatus();
  });
}

grpc::Status CheckpointService::VerifyCheckpoint(grpc::ServerContext*, const v1::VerifyCheckpointRequest* request,
                                                 v1::VerifyCheckpointResponse* response) {
  return Unary(context_.metrics, "VerifyCheckpoint", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(const CheckpointName name, ParseCheckpointName(request->name()));
    SAB_ASSIGN_OR_RETURN(*response->mutable_checkpoint(), coordinator_->VerifyRecorded(name));
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::DownloadCheckpointResponse>* CheckpointService::DownloadCheckpoint(
    grpc::CallbackServerContext* rpc, const v1::DownloadCheckpointRequest* request) {
  absl::StatusOr<OpenFile> file = OpenRecorded(*coordinator_, *request);
  if (!file.ok()) {
    return new FailedStream<v1::DownloadCheckpointResponse>(
        RpcTimer(context_.metrics, "DownloadCheckpoint").Done(file.status()));
  }
  return Download::Begin(
      std::make_shared<Download>(context_, std::move(file->what), file->fd, request->offset(), file->size), rpc, {});
}

}  // namespace sab::server
