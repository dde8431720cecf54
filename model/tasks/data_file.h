#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace sab::model {

// The bytes of a file, read-only: memory-mapped, or unpacked into memory when its name ends in ".gz".
class DataFile {
 public:
  // Throws std::invalid_argument "FIELD 'PATH': reason": it cannot be read, is empty, is not a regular file, is damaged
  // gzip, or is gzip in a build without zlib.
  static std::shared_ptr<const DataFile> Open(const std::string& field, const std::string& path);
  virtual ~DataFile() = default;

  const uint8_t* data() const { return data_; }
  int64_t size() const { return size_; }
  // Throws std::invalid_argument "FIELD 'PATH': `reason`".
  [[noreturn]] void Refuse(const std::string& reason) const;
  const std::string& path() const { return path_; }

 protected:
  DataFile(std::string field, std::string path) : field_(std::move(field)), path_(std::move(path)) {}
  const uint8_t* data_ = nullptr;
  int64_t size_ = 0;

 private:
  const std::string field_;  // of the job file: "task.path"
  const std::string path_;
};

}  // namespace sab::model
