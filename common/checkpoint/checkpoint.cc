#include "common/checkpoint/checkpoint.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/ids.h"
#include "common/base/status.h"
#include "common/checkpoint/file.h"

namespace sab {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kFormat = 1;

// A name within a checkpoint: no folder, nothing that leads out of it.
bool IsPlainName(const std::string& path) {
  return !path.empty() && path.size() <= 255 && path != "." && path != ".." && path.find('/') == std::string::npos &&
         path.find('\0') == std::string::npos;
}

absl::Status MakeFolder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return SystemError(error.value(), "create", folder);
  chmod(folder.c_str(), 0755);
  return absl::OkStatus();
}

std::string ManifestJson(const CheckpointName& name, const v1::Checkpoint& checkpoint) {
  Json files = Json::array();
  for (const v1::CheckpointFile& file : checkpoint.files()) {
    files.push_back({{"path", file.path()}, {"size_bytes", file.size_bytes()}, {"sha256", file.sha256()}});
  }
  Json manifest = {{"format", kFormat},
                   {"job", name.job.name()},
                   {"checkpoint", name.checkpoint},
                   {"step", checkpoint.step()},
                   {"attempt", checkpoint.attempt()},
                   {"eval_loss", checkpoint.has_eval_loss() ? Json(checkpoint.eval_loss()) : Json(nullptr)},
                   {"files", std::move(files)}};
  return manifest.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

bool ReadFiles(const Json& list, v1::Checkpoint* checkpoint) {
  if (!list.is_array()) return false;
  std::set<std::string> seen;
  for (const Json& entry : list) {
    if (!entry.is_object() || !entry.contains("path") || !entry["path"].is_string() || !entry.contains("size_bytes") ||
        !entry["size_bytes"].is_number_unsigned() || !entry.contains("sha256") || !entry["sha256"].is_string()) {
      return false;
    }
    v1::CheckpointFile* file = checkpoint->add_files();
    file->set_path(entry["path"].get<std::string>());
    file->set_size_bytes(entry["size_bytes"].get<int64_t>());
    file->set_sha256(entry["sha256"].get<std::string>());
    if (!IsPlainName(file->path()) || !seen.insert(file->path()).second) return false;
  }
  return true;
}

std::optional<v1::Checkpoint> ParseManifest(const std::string& text) {
  const Json manifest = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!manifest.is_object()) return std::nullopt;
  const auto number = [&](const char* key) {
    return manifest.contains(key) && manifest[key].is_number_unsigned() ? manifest[key].get<int64_t>() : -1;
  };
  const auto string = [&](const char* key) {
    return manifest.contains(key) && manifest[key].is_string() ? manifest[key].get<std::string>() : std::string();
  };
  v1::Checkpoint checkpoint;
  checkpoint.set_name(absl::StrCat(string("job"), "/checkpoints/", string("checkpoint")));
  checkpoint.set_step(number("step"));
  checkpoint.set_attempt(number("attempt"));
  if (number("format") != kFormat || checkpoint.step() < 0 || checkpoint.attempt() < 0 ||
      !ParseCheckpointName(checkpoint.name()).ok() || !manifest.contains("files") ||
      !ReadFiles(manifest["files"], &checkpoint)) {
    return std::nullopt;
  }
  if (manifest.contains("eval_loss") && manifest["eval_loss"].is_number()) {
    checkpoint.set_eval_loss(manifest["eval_loss"].get<double>());
  }
  return checkpoint;
}

absl::Status CheckFile(const std::string& folder, const v1::CheckpointFile& file, bool digests) {
  const std::string path = absl::StrCat(folder, "/", file.path());
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return absl::DataLossError(absl::StrCat(path, " is missing"));
  if (info.st_size != file.size_bytes()) {
    return absl::DataLossError(
        absl::StrCat(path, " has ", info.st_size, " bytes where its manifest says ", file.size_bytes()));
  }
  if (!digests) return absl::OkStatus();
  SAB_ASSIGN_OR_RETURN(const std::string digest, Sha256OfFile(path));
  if (digest != file.sha256())
    return absl::DataLossError(absl::StrCat(path, " is damaged: its SHA-256 is not the manifest's"));
  return absl::OkStatus();
}

void AddToCheckpoint(v1::Checkpoint* checkpoint, std::string_view path, int64_t size_bytes, std::string sha256) {
  v1::CheckpointFile* file = checkpoint->add_files();
  file->set_path(std::string(path));
  file->set_size_bytes(size_bytes);
  file->set_sha256(std::move(sha256));
  checkpoint->set_size_bytes(checkpoint->size_bytes() + size_bytes);
}

absl::Status CheckNewName(const v1::Checkpoint& checkpoint, std::string_view path) {
  if (!IsPlainName(std::string(path)) || path == kManifestFile) {
    return absl::InvalidArgumentError(
        absl::StrCat("checkpoint file \"", std::string(path), "\": not a plain file name, or reserved"));
  }
  for (const auto& file : checkpoint.files()) {
    if (file.path() == path)
      return absl::AlreadyExistsError(absl::StrCat("checkpoint file ", file.path(), " was added before"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CheckpointWriter> CheckpointWriter::Create(const std::string& parent, const v1::Checkpoint& header) {
  SAB_ASSIGN_OR_RETURN(const CheckpointName name, ParseCheckpointName(header.name()));
  SAB_RETURN_IF_ERROR(MakeFolder(parent));
  CheckpointWriter writer;
  writer.parent_ = parent;
  writer.checkpoint_ = header;
  writer.checkpoint_.clear_files();
  writer.checkpoint_.clear_size_bytes();
  writer.checkpoint_.clear_manifest_sha256();
  const std::string folder = absl::StrCat(parent, "/.", name.checkpoint, ".tmp-", getpid());
  std::error_code error;
  fs::remove_all(folder, error);
  SAB_RETURN_IF_ERROR(MakeFolder(folder));
  writer.folder_ = folder;
  return writer;
}

CheckpointWriter::CheckpointWriter(CheckpointWriter&& other) noexcept
    : parent_(std::move(other.parent_)),
      folder_(std::exchange(other.folder_, std::string())),
      checkpoint_(std::move(other.checkpoint_)) {}

CheckpointWriter& CheckpointWriter::operator=(CheckpointWriter&& other) noexcept {
  std::swap(parent_, other.parent_);
  std::swap(folder_, other.folder_);
  std::swap(checkpoint_, other.checkpoint_);
  return *this;
}

CheckpointWriter::~CheckpointWriter() {
  std::error_code error;
  if (!folder_.empty()) fs::remove_all(folder_, error);
}

absl::Status CheckpointWriter::AddFile(std::string_view path, std::string_view content) {
  SAB_RETURN_IF_ERROR(CheckNewName(checkpoint_, path));
  SAB_ASSIGN_OR_RETURN(HashedFile file, HashedFile::Create(absl::StrCat(folder_, "/", std::string(path))));
  SAB_RETURN_IF_ERROR(Annotate(file.Write(content), absl::StrCat("checkpoint needs ", content.size(), " bytes")));
  SAB_ASSIGN_OR_RETURN(std::string digest, file.Finish());
  AddToCheckpoint(&checkpoint_, path, file.size_bytes(), std::move(digest));
  return absl::OkStatus();
}

absl::Status CheckpointWriter::AddSafetensors(std::string_view path, absl::Span<const TensorView> tensors,
                                              const std::map<std::string, std::string>& metadata) {
  SAB_RETURN_IF_ERROR(CheckNewName(checkpoint_, path));
  SAB_ASSIGN_OR_RETURN(const std::string header, SafetensorsHeader(tensors, metadata));
  size_t needed = header.size();
  for (const TensorView& tensor : tensors) needed += tensor.data.size();
  const std::string context = absl::StrCat("checkpoint needs ", needed, " bytes");
  SAB_ASSIGN_OR_RETURN(HashedFile file, HashedFile::Create(absl::StrCat(folder_, "/", std::string(path))));
  SAB_RETURN_IF_ERROR(Annotate(file.Write(header), context));
  for (const TensorView& tensor : tensors) {
    SAB_RETURN_IF_ERROR(Annotate(
        file.Write(std::string_view(reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size())), context));
  }
  SAB_ASSIGN_OR_RETURN(std::string digest, file.Finish());
  AddToCheckpoint(&checkpoint_, path, file.size_bytes(), std::move(digest));
  return absl::OkStatus();
}

absl::StatusOr<v1::Checkpoint> CheckpointWriter::Commit() {
  SAB_ASSIGN_OR_RETURN(const CheckpointName name, ParseCheckpointName(checkpoint_.name()));
  const std::string manifest = ManifestJson(name, checkpoint_);
  SAB_ASSIGN_OR_RETURN(HashedFile file, HashedFile::Create(absl::StrCat(folder_, "/", std::string(kManifestFile))));
  SAB_RETURN_IF_ERROR(file.Write(manifest));
  SAB_ASSIGN_OR_RETURN(const std::string digest, file.Finish());
  SAB_RETURN_IF_ERROR(SyncFolder(folder_));
  const std::string final_folder = absl::StrCat(parent_, "/", name.checkpoint);
  if (rename(folder_.c_str(), final_folder.c_str()) != 0) {
    if (errno != ENOTEMPTY && errno != EEXIST) return SystemError(errno, "rename to", final_folder);
    if (auto existing = VerifyCheckpoint(final_folder); existing.ok())
      return existing;  // the temporary one goes with this object
    std::error_code error;
    fs::remove_all(final_folder, error);
    if (rename(folder_.c_str(), final_folder.c_str()) != 0) return SystemError(errno, "rename to", final_folder);
  }
  folder_.clear();
  SAB_RETURN_IF_ERROR(SyncFolder(parent_));
  AddToCheckpoint(&checkpoint_, kManifestFile, static_cast<int64_t>(manifest.size()), digest);
  checkpoint_.set_manifest_sha256(digest);
  return checkpoint_;
}

absl::StatusOr<v1::Checkpoint> VerifyCheckpoint(const std::string& folder, bool digests) {
  struct stat info {};
  if (stat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return absl::NotFoundError(absl::StrCat(folder, " is not a checkpoint: there is no such folder"));
  }
  const std::string path = absl::StrCat(folder, "/", std::string(kManifestFile));
  absl::StatusOr<std::string> text = ReadFile(path);
  if (absl::IsNotFound(text.status())) return absl::DataLossError(absl::StrCat(path, " is missing"));
  if (!text.ok()) return text.status();
  std::optional<v1::Checkpoint> checkpoint = ParseManifest(*text);
  if (!checkpoint.has_value())
    return absl::DataLossError(absl::StrCat(path, " is damaged: not a manifest of format ", kFormat));
  int64_t total = 0;
  for (const v1::CheckpointFile& file : checkpoint->files()) {
    SAB_RETURN_IF_ERROR(CheckFile(folder, file, digests));
    total += file.size_bytes();
  }
  checkpoint->set_size_bytes(total);
  const std::string digest = Sha256(*text);
  AddToCheckpoint(&*checkpoint, kManifestFile, static_cast<int64_t>(text->size()), digest);
  checkpoint->set_manifest_sha256(digest);
  return *checkpoint;
}

std::string CheckpointParent(std::string_view checkpoint_dir, std::string_view job_name) {
  return absl::StrCat(std::string(checkpoint_dir), "/", std::string(job_name), "/checkpoints");
}

}  // namespace sab
