#include "worker/agent/checkpoint_transfer.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <cerrno>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/ids.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/file.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"

namespace sab::agent {
namespace {

namespace fs = std::filesystem;

constexpr size_t kChunkBytes = 1 << 20;
constexpr absl::Duration kFileTimeout = absl::Minutes(30);

uint32_t Crc(const std::string& data) {
  return static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(data.data()), static_cast<uInt>(data.size())));
}

// A descriptor that is closed.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

absl::Status UploadFile(v1::AgentService::StubInterface* agents, const v1::UploadCheckpointHeader& header,
                        const std::string& path, Cancellation* cancellation, const std::function<void(int64_t)>& sent) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return SystemError(errno, "open", path);
  grpc::ClientContext context;
  rpc::SetDeadline(context, kFileTimeout);
  const Cancellation::Scope scope(cancellation, &context);
  v1::UploadCheckpointResponse response;
  auto stream = agents->UploadCheckpoint(&context, &response);
  v1::UploadCheckpointRequest message;
  *message.mutable_header() = header;
  bool open = stream->Write(message);
  std::string chunk;
  while (open) {
    chunk.resize(kChunkBytes);
    const ssize_t got = read(file.get(), chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      const int error_number = errno;
      context.TryCancel();
      (void)stream->Finish();
      return SystemError(error_number, "read", path);
    }
    if (got == 0) break;
    chunk.resize(static_cast<size_t>(got));
    message.Clear();
    message.set_crc32(Crc(chunk));
    message.set_data(chunk);
    open = stream->Write(message);
    if (open) sent(got);
  }
  stream->WritesDone();
  return rpc::FromGrpc(stream->Finish());
}

// Appends what the coordinator sends from the file's present end on.
absl::Status DownloadRest(v1::CheckpointService::StubInterface* checkpoints, const v1::Checkpoint& checkpoint,
                          const v1::CheckpointFile& file, const std::string& path, Cancellation* cancellation,
                          const std::function<void(int64_t)>& received) {
  const Descriptor target(open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (target.get() < 0) return SystemError(errno, "create", path);
  int64_t offset = lseek(target.get(), 0, SEEK_END);
  if (offset == file.size_bytes()) return absl::OkStatus();
  grpc::ClientContext context;
  rpc::SetDeadline(context, kFileTimeout);
  const Cancellation::Scope scope(cancellation, &context);
  v1::DownloadCheckpointRequest request;
  request.set_name(checkpoint.name());
  request.set_path(file.path());
  request.set_offset(offset);
  auto stream = checkpoints->DownloadCheckpoint(&context, request);
  v1::DownloadCheckpointResponse message;
  absl::Status broken;
  while (broken.ok() && stream->Read(&message)) {
    if (message.offset() != offset || Crc(message.data()) != message.crc32()) {
      broken = absl::UnavailableError(absl::StrCat("a chunk of ", file.path(), " arrived damaged"));
    } else if (write(target.get(), message.data().data(), message.data().size()) !=
               static_cast<ssize_t>(message.data().size())) {
      broken = SystemError(errno, "write", path);
    } else {
      offset += static_cast<int64_t>(message.data().size());
      received(static_cast<int64_t>(message.data().size()));
    }
  }
  if (!broken.ok()) context.TryCancel();
  const absl::Status finished = rpc::FromGrpc(stream->Finish());
  return broken.ok() ? finished : broken;
}

bool IsPassing(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsInternal(status) ||
         absl::IsUnknown(status);
}

// What lies in `folder`, if it is `checkpoint`.
absl::Status CheckSame(const std::string& folder, const v1::Checkpoint& checkpoint) {
  SAB_ASSIGN_OR_RETURN(const v1::Checkpoint found, VerifyCheckpoint(folder));
  if (!checkpoint.manifest_sha256().empty() && found.manifest_sha256() != checkpoint.manifest_sha256()) {
    return absl::DataLossError(absl::StrCat(folder, " is not the checkpoint that was recorded: its manifest differs"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status UploadFiles(v1::AgentService::StubInterface* agents, const v1::UploadCheckpointHeader& header,
                         const v1::Checkpoint& checkpoint, const std::string& folder, Cancellation* cancellation,
                         const std::function<void(int64_t)>& sent) {
  std::vector<v1::CheckpointFile> files;
  for (const auto& file : checkpoint.files()) {
    if (file.path() != kManifestFile) files.push_back(file);
  }
  for (const auto& file : checkpoint.files()) {
    if (file.path() == kManifestFile) files.push_back(file);
  }
  for (const v1::CheckpointFile& file : files) {
    v1::UploadCheckpointHeader file_header = header;
    file_header.set_checkpoint(checkpoint.name());
    *file_header.mutable_file() = file;
    SAB_RETURN_IF_ERROR(
        Annotate(UploadFile(agents, file_header, absl::StrCat(folder, "/", file.path()), cancellation, sent),
                 absl::StrCat("sending ", file.path())));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> FetchCheckpoint(v1::CheckpointService::StubInterface* checkpoints,
                                            const v1::Checkpoint& checkpoint, const std::string& parent,
                                            Cancellation* cancellation, const std::function<void(int64_t)>& received) {
  SAB_ASSIGN_OR_RETURN(const CheckpointName name, ParseCheckpointName(checkpoint.name()));
  const std::string folder = absl::StrCat(parent, "/", name.checkpoint);
  if (CheckSame(folder, checkpoint).ok()) return folder;
  const std::string partial = absl::StrCat(parent, "/.", name.checkpoint, ".download-", getpid());
  std::error_code error;
  fs::remove_all(partial, error);
  fs::create_directories(partial, error);
  if (error) return SystemError(error.value(), "create", partial);
  rpc::Backoff backoff;
  for (const v1::CheckpointFile& file : checkpoint.files()) {
    const std::string path = absl::StrCat(partial, "/", file.path());
    absl::Status status;
    do {
      status = DownloadRest(checkpoints, checkpoint, file, path, cancellation, received);
    } while (!status.ok() && IsPassing(status) && cancellation->Sleep(backoff.Next()));
    if (!status.ok()) {
      fs::remove_all(partial, error);
      return Annotate(status, absl::StrCat("fetching ", checkpoint.name(), " ", file.path()));
    }
  }
  if (absl::Status status = CheckSame(partial, checkpoint); !status.ok()) {
    fs::remove_all(partial, error);
    return Annotate(status, absl::StrCat("fetching ", checkpoint.name()));
  }
  fs::remove_all(folder, error);
  fs::rename(partial, folder, error);
  if (error) return SystemError(error.value(), "rename to", folder);
  return folder;
}

absl::StatusOr<std::string> FindSharedCheckpoint(const v1::Checkpoint& checkpoint, const std::string& parent) {
  SAB_ASSIGN_OR_RETURN(const CheckpointName name, ParseCheckpointName(checkpoint.name()));
  const std::string folder = absl::StrCat(parent, "/", name.checkpoint);
  SAB_RETURN_IF_ERROR(Annotate(CheckSame(folder, checkpoint), "the folder that the coordinator says is shared"));
  return folder;
}

}  // namespace sab::agent
