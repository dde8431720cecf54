#include "model/tasks/data_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <vector>

#ifdef SAB_HAVE_ZLIB
#include <zlib.h>
#endif

namespace sab::model {
namespace {

class MappedFile : public DataFile {
 public:
  MappedFile(const std::string& field, const std::string& path) : DataFile(field, path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) Refuse(std::string("cannot be read: ") + std::strerror(errno));
    struct stat info {};
    const bool known = fstat(fd, &info) == 0;
    if (known && S_ISREG(info.st_mode) && info.st_size > 0) {
      size_ = info.st_size;
      mapping_ = mmap(nullptr, static_cast<size_t>(size_), PROT_READ, MAP_PRIVATE, fd, 0);
    }
    const int error = errno;
    close(fd);
    if (known && !S_ISREG(info.st_mode)) Refuse("is not a regular file");
    if (known && info.st_size == 0) Refuse("is empty");
    if (mapping_ == MAP_FAILED) Refuse(std::string("cannot be mapped: ") + std::strerror(error));
    data_ = static_cast<const uint8_t*>(mapping_);
  }
  ~MappedFile() override {
    if (mapping_ != MAP_FAILED) munmap(mapping_, static_cast<size_t>(size_));
  }

 private:
  void* mapping_ = MAP_FAILED;
};

class UnpackedFile : public DataFile {
 public:
  UnpackedFile(const std::string& field, const std::string& path) : DataFile(field, path) {
#ifdef SAB_HAVE_ZLIB
    const MappedFile readable(field, path);  // for its messages: gzopen gives no reason
    const std::unique_ptr<gzFile_s, decltype(&gzclose)> file(gzopen(path.c_str(), "rb"), &gzclose);
    if (file == nullptr) Refuse("cannot be opened");
    constexpr size_t kChunk = 1 << 20;
    for (;;) {
      const size_t have = bytes_.size();
      bytes_.resize(have + kChunk);
      const int got = gzread(file.get(), bytes_.data() + have, kChunk);
      int code = Z_OK;
      const char* message = gzerror(file.get(), &code);
      if (got < 0 || code < 0) Refuse("is damaged gzip after " + std::to_string(have) + " bytes: " + message);
      bytes_.resize(have + static_cast<size_t>(got));
      if (got == 0) break;
    }
    if (bytes_.empty()) Refuse("is empty");
    data_ = bytes_.data();
    size_ = static_cast<int64_t>(bytes_.size());
#else
    Refuse("is gzip, which this build cannot read (it was made without zlib); unpack it first");
#endif
  }

 private:
  std::vector<uint8_t> bytes_;
};

}  // namespace

std::shared_ptr<const DataFile> DataFile::Open(const std::string& field, const std::string& path) {
  if (path.ends_with(".gz")) return std::make_shared<UnpackedFile>(field, path);
  return std::make_shared<MappedFile>(field, path);
}

void DataFile::Refuse(const std::string& reason) const {
  throw std::invalid_argument(field_ + " '" + path_ + "': " + reason);
}

}  // namespace sab::model
