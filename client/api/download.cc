#include "client/api/download.h"

#include <zlib.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"
#include "common/rpc/channel.h"

namespace sab::client {
namespace {

namespace fs = std::filesystem;

// Names the checkpoint that an unfinished folder belongs to.
constexpr char kMarker[] = ".download";
// Chunks in a row that may arrive damaged before the download is given up.
constexpr int kDamagedChunks = 3;

absl::Status SystemError(std::string_view what, const std::string& path, const std::error_code& error) {
  return absl::UnknownError(absl::StrCat(std::string(what), " ", path, ": ", error.message()));
}

class Download {
 public:
  Download(Client& client, const v1::Checkpoint& checkpoint, const DownloadOptions& options, CheckpointName name)
      : client_(client), checkpoint_(checkpoint), options_(options), name_(std::move(name)), folder_(options.to) {
    for (const v1::CheckpointFile& file : checkpoint.files()) bytes_total_ += file.size_bytes();
  }

  absl::Status Run() {
    SAB_RETURN_IF_ERROR(CheckFiles());
    SAB_ASSIGN_OR_RETURN(const bool complete, PrepareFolder());
    if (complete) return absl::OkStatus();
    for (const v1::CheckpointFile& file : checkpoint_.files()) {
      if (file.path() != kManifestFile) SAB_RETURN_IF_ERROR(FetchVerified(file));
    }
    for (const v1::CheckpointFile& file : checkpoint_.files()) {
      if (file.path() == kManifestFile) SAB_RETURN_IF_ERROR(FetchVerified(file));
    }
    SAB_RETURN_IF_ERROR(VerifyWhole());
    std::error_code ignored;
    fs::remove(folder_ / kMarker, ignored);
    return absl::OkStatus();
  }

 private:
  // A coordinator must not make us write outside the folder, or leave out the manifest.
  absl::Status CheckFiles() const {
    bool has_manifest = false;
    for (const v1::CheckpointFile& file : checkpoint_.files()) {
      if (file.path().empty() || file.path()[0] == '.' || file.path().find('/') != std::string::npos) {
        return absl::DataLossError(absl::StrCat(checkpoint_.name(), ": a file is named \"", file.path(),
                                                "\"; only plain names are accepted, nothing was written"));
      }
      has_manifest = has_manifest || file.path() == kManifestFile;
    }
    if (has_manifest) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(checkpoint_.name(), ": it has no manifest.json and cannot be verified"));
  }

  std::string MarkerText() const { return absl::StrCat(checkpoint_.name(), " ", checkpoint_.manifest_sha256(), "\n"); }

  // True when the folder already holds this checkpoint, complete and sound.
  absl::StatusOr<bool> PrepareFolder() {
    std::error_code error;
    fs::create_directories(folder_, error);
    if (error) return SystemError("cannot create", folder_.string(), error);
    const bool ours = ReadFile((folder_ / kMarker).string()).value_or("") == MarkerText();
    if (!ours && !options_.force) {
      if (HoldsThis()) {
        options_.on_progress(bytes_total_, bytes_total_);
        return true;
      }
      const bool empty = fs::is_empty(folder_, error);
      if (error) return SystemError("cannot read", folder_.string(), error);
      if (!empty) {
        return absl::FailedPreconditionError(absl::StrCat(
            folder_.string(),
            " is not empty and is no part of this checkpoint: name another folder, or replace with --force"));
      }
    }
    if (!ours) RemoveFiles();
    SAB_RETURN_IF_ERROR(WriteFileDurably((folder_ / kMarker).string(), MarkerText()));
    return false;
  }

  bool HoldsThis() const {
    const absl::StatusOr<std::string> digest = Sha256OfFile((folder_ / std::string(kManifestFile)).string());
    return digest.ok() && *digest == checkpoint_.manifest_sha256() && VerifyCheckpoint(folder_.string()).ok();
  }

  void RemoveFiles() {
    std::error_code ignored;
    for (const v1::CheckpointFile& file : checkpoint_.files()) {
      fs::remove(folder_ / file.path(), ignored);
      fs::remove(Part(file), ignored);
    }
  }

  fs::path Part(const v1::CheckpointFile& file) const { return folder_ / (file.path() + ".part"); }

  // Fetches a file until its digest fits: a second time from the start when bytes kept from an earlier run spoiled it.
  absl::Status FetchVerified(const v1::CheckpointFile& file) {
    const fs::path final_path = folder_ / file.path();
    if (Fits(final_path.string(), file)) {
      Advance(file.size_bytes());
      return absl::OkStatus();
    }
    for (int round = 0; round < 2; ++round) {
      const int64_t before = bytes_done_;
      SAB_RETURN_IF_ERROR(Fetch(file));
      std::error_code error;
      if (Fits(Part(file).string(), file)) {
        fs::rename(Part(file), final_path, error);
        return error ? SystemError("cannot rename", Part(file).string(), error) : absl::OkStatus();
      }
      fs::remove(Part(file), error);
      bytes_done_ = before;
    }
    return absl::DataLossError(absl::StrCat(checkpoint_.name(), ": ", file.path(),
                                            " does not fit its SHA-256 though it was fetched twice; it was not kept. "
                                            "Take another step (`sabctl checkpoint list`)"));
  }

  bool Fits(const std::string& path, const v1::CheckpointFile& file) const {
    std::error_code error;
    const auto size = fs::file_size(path, error);
    if (error || static_cast<int64_t>(size) != file.size_bytes()) return false;
    const absl::StatusOr<std::string> digest = Sha256OfFile(path);
    return digest.ok() && *digest == (file.path() == kManifestFile ? checkpoint_.manifest_sha256() : file.sha256());
  }

  // Brings `{path}.part` to its full size, from the bytes it has, over as many calls as it takes.
  absl::Status Fetch(const v1::CheckpointFile& file) {
    std::error_code error;
    const auto present = fs::file_size(Part(file), error);
    int64_t offset = error ? 0 : static_cast<int64_t>(present);
    if (offset > file.size_bytes()) {
      fs::remove(Part(file), error);
      offset = 0;
    }
    std::ofstream out(Part(file), std::ios::binary | std::ios::app);
    if (!out) return SystemError("cannot write", Part(file).string(), {errno, std::generic_category()});
    Advance(offset);
    rpc::Backoff backoff;
    int damaged = 0;
    absl::Time give_up = absl::Now() + client_.options().connect_timeout;
    while (offset < file.size_bytes()) {
      const int64_t start = offset;
      const absl::Status status = client_.DownloadFile(
          name_, file.path(), offset, [&](const auto& chunk) { return WriteChunk(file, chunk, &offset, out); });
      if (offset > start) {
        backoff.Reset();
        damaged = 0;
        give_up = absl::Now() + client_.options().connect_timeout;
      }
      const bool retry = absl::IsUnavailable(status) || (status.ok() && offset < file.size_bytes()) ||
                         (absl::IsAborted(status) && ++damaged < kDamagedChunks);
      if (absl::IsAborted(status) && !retry) return absl::DataLossError(status.message());
      if (!status.ok() && !retry) return status;
      if (offset >= file.size_bytes()) break;
      const absl::Duration wait = backoff.Next();
      if (absl::Now() + wait >= give_up) return GaveUp(file, offset, status);
      absl::SleepFor(wait);
    }
    out.close();
    return out ? absl::OkStatus() : SystemError("cannot write", Part(file).string(), {errno, std::generic_category()});
  }

  static absl::Status GaveUp(const v1::CheckpointFile& file, int64_t offset, const absl::Status& status) {
    return absl::UnavailableError(absl::StrCat(file.path(), ": the connection broke at byte ", offset, " of ",
                                               file.size_bytes(), status.ok() ? "" : ": ", status.message(),
                                               "\nthe same command goes on from there"));
  }

  // Aborted: the chunk is damaged and worth asking for again.
  absl::Status WriteChunk(const v1::CheckpointFile& file, const v1::DownloadCheckpointResponse& chunk, int64_t* offset,
                          std::ofstream& out) {
    const auto crc = crc32(0, reinterpret_cast<const Bytef*>(chunk.data().data()), chunk.data().size());
    if (chunk.offset() != *offset || crc != chunk.crc32()) {
      return absl::AbortedError(
          absl::StrCat(checkpoint_.name(), ": ", file.path(), ": the chunk at byte ", *offset, " arrived damaged ",
                       kDamagedChunks, " times; what is on disk is sound and the same command goes on from there"));
    }
    if (*offset + static_cast<int64_t>(chunk.data().size()) > file.size_bytes()) {
      return absl::DataLossError(absl::StrCat(checkpoint_.name(), ": ", file.path(),
                                              ": the coordinator sends more than the ", file.size_bytes(),
                                              " bytes that it announced"));
    }
    out.write(chunk.data().data(), static_cast<std::streamsize>(chunk.data().size()));
    out.flush();
    if (!out) return SystemError("cannot write", Part(file).string(), {errno, std::generic_category()});
    *offset += static_cast<int64_t>(chunk.data().size());
    Advance(static_cast<int64_t>(chunk.data().size()));
    return absl::OkStatus();
  }

  absl::Status VerifyWhole() const {
    SAB_ASSIGN_OR_RETURN(const v1::Checkpoint found, VerifyCheckpoint(folder_.string()));
    SAB_ASSIGN_OR_RETURN(const std::string digest, Sha256OfFile((folder_ / std::string(kManifestFile)).string()));
    if (digest == checkpoint_.manifest_sha256()) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat(folder_.string(), ": manifest.json is not the one recorded for ", checkpoint_.name()));
  }

  void Advance(int64_t bytes) {
    bytes_done_ += bytes;
    options_.on_progress(bytes_done_, bytes_total_);
  }

  Client& client_;
  const v1::Checkpoint& checkpoint_;
  const DownloadOptions& options_;
  const CheckpointName name_;
  const fs::path folder_;
  int64_t bytes_total_ = 0;
  int64_t bytes_done_ = 0;
};

}  // namespace

absl::Status DownloadCheckpoint(Client& client, const v1::Checkpoint& checkpoint, const DownloadOptions& options) {
  SAB_ASSIGN_OR_RETURN(CheckpointName name, ParseCheckpointName(checkpoint.name()));
  return Download(client, checkpoint, options, std::move(name)).Run();
}

}  // namespace sab::client
