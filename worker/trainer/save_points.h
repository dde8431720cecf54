#pragma once

#include <atomic>
#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/checkpoint/memory_file.h"
#include "model/save_points.h"

namespace sab::trainer {

// The save points of one job, in a folder that its ranks may have in common:
//   {step}.row{first row}.block{block}.json                  where a block is, its data files with sizes and digests;
//                                                            replaced by renaming
//   {step}.row{first row}.block{block}.{process}-{n}.data    memory_file.h, never changed: a part of what only grows,
//                                                            or the rest at the last save point
// `block` is "sum" for the blocks that are done. Every process writes data files of its own, so that one of an attempt
// that is over harms nobody; whose record is the last one does not matter, for all would go on to the same bits.
// Thread-safe.
class FileSavePoints : public model::SavePoints {
 public:
  struct Options {
    std::string folder;  // made when the first save point is
    absl::Duration interval;
    const Clock* clock = &SystemClock();
  };
  explicit FileSavePoints(Options options);

  // What results depend on beside parameters and data: save points made under another text are not gone on from.
  void SetContext(std::string context) ABSL_LOCKS_EXCLUDED(mutex_);
  // Looks at what there is, also of other ranks. At the beginning of each attempt.
  void Scan() ABSL_LOCKS_EXCLUDED(mutex_);
  // Removes what is of steps up to this, or everything: nobody will go on from there.
  void RemoveUpTo(int64_t step) ABSL_LOCKS_EXCLUDED(mutex_);
  void RemoveAll() ABSL_LOCKS_EXCLUDED(mutex_);

  void BeginUpdate(Update update) override ABSL_LOCKS_EXCLUDED(mutex_);
  void BeginPart(int64_t first_row) override ABSL_LOCKS_EXCLUDED(mutex_);
  void EndUpdate() override ABSL_LOCKS_EXCLUDED(mutex_);

  bool stopping() const override;
  bool Due(int member) override ABSL_LOCKS_EXCLUDED(mutex_);
  bool IsLong() override ABSL_LOCKS_EXCLUDED(mutex_);
  void Save(int member, const Block& block, const Position& position) override ABSL_LOCKS_EXCLUDED(mutex_);
  bool Has(int64_t block) override ABSL_LOCKS_EXCLUDED(mutex_);
  Numbers Load(const Block& block) override ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct DataFile {
    std::string name;
    int64_t to = 0;  // of what grows; it begins where the one before ends
    MemoryFile file;
  };
  struct Record {
    std::string identity;
    Numbers cursor;
    double done = 0;
    std::string text;
    std::vector<DataFile> grown;
    DataFile rest;
  };
  struct Key {
    int64_t step = 0, part = 0, block = 0;
    auto operator<=>(const Key&) const = default;
  };

  static std::string StemOf(const Key& key);
  static std::optional<Key> KeyOfName(const std::string& name);
  static std::string NameOf(const Key& key);  // for people
  static std::string ToText(const Record& record);
  static absl::StatusOr<Record> Parse(const std::string& text, const std::string& path);
  Key KeyOf(int64_t block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string PathOf(const std::string& name) const { return options_.folder + "/" + name; }
  std::string FullIdentity(const Block& block) const ABSL_LOCKS_EXCLUDED(mutex_);
  void CallBeforeFirst() ABSL_LOCKS_EXCLUDED(first_mutex_, mutex_);
  absl::StatusOr<DataFile> Write(const Key& key, int64_t to, const std::vector<model::SavedPiece>& pieces)
      ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<Record> Advance(const Key& key, Record record, const Block& block, const Position& position)
      ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<Record> LoadRecord(const Key& key, const Block& block) ABSL_LOCKS_EXCLUDED(mutex_);
  // Removes the files that `choose` picks by their keys.
  template <class Choose>
  void Remove(const Choose& choose) ABSL_LOCKS_EXCLUDED(mutex_);

  const Options options_;
  const std::string process_;                // drawn once: no other process has it
  const std::atomic<bool>* stop_ = nullptr;  // set by the training thread while the engine rests
  Mutex first_mutex_;                        // held while before_first is at work: the others wait
  std::function<void()> before_first_ ABSL_GUARDED_BY(first_mutex_);  // empty: it has been called
  mutable Mutex mutex_;
  std::string context_ ABSL_GUARDED_BY(mutex_);
  int64_t step_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<int64_t> parts_ ABSL_GUARDED_BY(mutex_);  // of the update, so far; the last one is the present one
  bool used_ ABSL_GUARDED_BY(mutex_) = false;           // in this update
  absl::Duration began_ ABSL_GUARDED_BY(mutex_);
  std::map<int, absl::Duration> last_ ABSL_GUARDED_BY(mutex_);  // of each member in this update
  std::map<Key, Record> records_ ABSL_GUARDED_BY(mutex_);       // without identity: there, but not read yet
  int64_t written_ ABSL_GUARDED_BY(mutex_) = 0;                 // data files, for their names
};

}  // namespace sab::trainer
