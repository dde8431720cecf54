#include "worker/trainer/save_points.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/ids.h"
#include "common/base/log.h"
#include "common/base/memory_sizes.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"

namespace sab::trainer {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using model::SavedPiece;

constexpr int kFormat = 1;
// Of the interval: what has been done since the last save point is kept when a pass is left.
constexpr double kWorthKeeping = 0.05;

void RemoveFile(const std::string& path) {
  std::error_code error;
  fs::remove(path, error);
}

std::vector<absl::Span<std::byte>> SpansOf(const std::vector<SavedPiece>& pieces) {
  std::vector<absl::Span<std::byte>> spans;
  for (const SavedPiece& piece : pieces) spans.emplace_back(static_cast<std::byte*>(piece.data), piece.bytes);
  return spans;
}

}  // namespace

FileSavePoints::FileSavePoints(Options options) : options_(std::move(options)), process_(RandomId(16)) {}

std::string FileSavePoints::StemOf(const Key& key) {
  return absl::StrFormat("%012d.row%d.block%s", key.step, key.part,
                         key.block == kSum ? "sum" : absl::StrCat(key.block));
}

std::optional<FileSavePoints::Key> FileSavePoints::KeyOfName(const std::string& name) {
  const std::vector<std::string> words = absl::StrSplit(name, '.');
  if (words.size() < 4) return std::nullopt;
  absl::string_view part = words[1], block = words[2];
  Key key;
  if (!absl::SimpleAtoi(words[0], &key.step) || !absl::ConsumePrefix(&part, "row") ||
      !absl::SimpleAtoi(part, &key.part) || !absl::ConsumePrefix(&block, "block"))
    return std::nullopt;
  key.block = kSum;
  if (block != "sum" && !absl::SimpleAtoi(block, &key.block)) return std::nullopt;
  return key;
}

// A digest, then what it is of.
std::string FileSavePoints::ToText(const Record& record) {
  const auto file = [](const DataFile& data) {
    return Json{{"name", data.name},
                {"to", data.to},
                {"memory_bytes", data.file.memory_bytes},
                {"size_bytes", data.file.size_bytes},
                {"sha256", data.file.sha256}};
  };
  Json grown = Json::array();
  for (const DataFile& data : record.grown) grown.push_back(file(data));
  const Json json = {{"format", kFormat},        {"identity", record.identity}, {"cursor", record.cursor},
                     {"done", record.done},      {"text", record.text},         {"grown", std::move(grown)},
                     {"rest", file(record.rest)}};
  const std::string body = json.dump(2) + "\n";
  return Sha256(body) + "\n" + body;
}

absl::StatusOr<FileSavePoints::Record> FileSavePoints::Parse(const std::string& text, const std::string& path) {
  const absl::Status damaged = absl::DataLossError(absl::StrCat(path, ": is damaged, or of another version"));
  const size_t line = text.find('\n');
  if (line == std::string::npos || Sha256(text.substr(line + 1)) != text.substr(0, line)) return damaged;
  const auto file = [](const Json& json) {
    return DataFile{
        json.at("name"), json.at("to"), {json.at("memory_bytes"), json.at("size_bytes"), json.at("sha256")}};
  };
  try {
    const Json json = Json::parse(text.substr(line + 1));
    if (json.at("format").get<int>() != kFormat) return damaged;
    Record record;
    record.identity = json.at("identity");
    record.cursor = json.at("cursor").get<Numbers>();
    record.done = json.at("done");
    record.text = json.at("text");
    for (const Json& data : json.at("grown")) record.grown.push_back(file(data));
    record.rest = file(json.at("rest"));
    if (record.identity.empty() || record.cursor.empty()) return damaged;
    return record;
  } catch (const Json::exception&) {
    return damaged;
  }
}

void FileSavePoints::SetContext(std::string context) {
  const MutexLock lock(&mutex_);
  context_ = std::move(context);
}

void FileSavePoints::Scan() {
  std::map<Key, Record> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(options_.folder, error)) {
    const std::string name = entry.path().filename();
    const std::optional<Key> key = KeyOfName(name);
    if (key && name == StemOf(*key) + ".json") found[*key] = {};
  }
  const MutexLock lock(&mutex_);
  records_ = std::move(found);
}

template <class Choose>
void FileSavePoints::Remove(const Choose& choose) {
  {
    const MutexLock lock(&mutex_);
    std::erase_if(records_, [&](const auto& entry) { return choose(entry.first); });
  }
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(options_.folder, error)) {
    const std::optional<Key> key = KeyOfName(entry.path().filename());
    if (key && choose(*key)) RemoveFile(entry.path());
  }
}

void FileSavePoints::RemoveUpTo(int64_t step) {
  Remove([&](const Key& key) { return key.step <= step; });
}

void FileSavePoints::RemoveAll() {
  {
    const MutexLock lock(&mutex_);
    records_.clear();
  }
  std::error_code error;
  fs::remove_all(options_.folder, error);
}

void FileSavePoints::BeginUpdate(Update update) {
  stop_ = update.stop;
  {
    const MutexLock lock(&first_mutex_);
    before_first_ = std::move(update.before_first);
  }
  const MutexLock lock(&mutex_);
  step_ = update.step;
  parts_.clear();
  used_ = false;
  began_ = options_.clock->Monotonic();
  last_.clear();
}

void FileSavePoints::BeginPart(int64_t first_row) {
  const MutexLock lock(&mutex_);
  parts_.push_back(first_row);
}

void FileSavePoints::EndUpdate() {
  int64_t step = 0;
  std::vector<int64_t> parts;
  {
    const MutexLock lock(&mutex_);
    if (!used_) return;
    step = step_;
    parts = parts_;
  }
  Remove([&](const Key& key) {
    return key.step == step && std::find(parts.begin(), parts.end(), key.part) != parts.end();
  });
}

bool FileSavePoints::stopping() const {
  return stop_ != nullptr && *stop_;
}

bool FileSavePoints::Due(int member) {
  const absl::Duration now = options_.clock->Monotonic();
  const absl::Duration interval = stopping() ? kWorthKeeping * options_.interval : options_.interval;
  const MutexLock lock(&mutex_);
  const auto last = last_.find(member);
  return now - (last == last_.end() ? began_ : last->second) >= interval;
}

bool FileSavePoints::IsLong() {
  const absl::Duration now = options_.clock->Monotonic();
  const MutexLock lock(&mutex_);
  return now - began_ >= options_.interval;
}

FileSavePoints::Key FileSavePoints::KeyOf(int64_t block) const {
  return {step_, parts_.empty() ? 0 : parts_.back(), block};
}

std::string FileSavePoints::FullIdentity(const Block& block) const {
  const MutexLock lock(&mutex_);
  return absl::StrCat(context_, ",", block.identity);
}

// Under a lock of its own, so that no thread's save point is on the disk before.
void FileSavePoints::CallBeforeFirst() {
  const MutexLock lock(&first_mutex_);
  if (!before_first_) return;
  try {
    before_first_();
  } catch (const std::exception& error) {
    log::Warning(absl::StrCat("before the first save point of an update: ", error.what()));
  }
  before_first_ = nullptr;
}

absl::StatusOr<FileSavePoints::DataFile> FileSavePoints::Write(const Key& key, int64_t to,
                                                               const std::vector<SavedPiece>& pieces) {
  DataFile data;
  data.to = to;
  {
    const MutexLock lock(&mutex_);
    data.name = absl::StrCat(StemOf(key), ".", process_, "-", ++written_, ".data");
  }
  std::vector<absl::Span<const std::byte>> spans;
  for (const SavedPiece& piece : pieces) spans.emplace_back(static_cast<const std::byte*>(piece.data), piece.bytes);
  SAB_ASSIGN_OR_RETURN(data.file, WriteMemoryFile(PathOf(data.name), spans));
  return data;
}

// `record` with what has come since; on the disk on return.
absl::StatusOr<FileSavePoints::Record> FileSavePoints::Advance(const Key& key, Record record, const Block& block,
                                                               const Position& position) {
  const int64_t from = record.grown.empty() ? 0 : record.grown.back().to;
  if (block.grown && position.grown_to > from) {
    SAB_ASSIGN_OR_RETURN(DataFile more, Write(key, position.grown_to, block.grown(from, position.grown_to)));
    record.grown.push_back(std::move(more));
  }
  SAB_ASSIGN_OR_RETURN(record.rest, Write(key, position.grown_to, block.rest(position.cursor)));
  record.cursor = position.cursor;
  record.done = position.done;
  record.text = position.text;
  SAB_RETURN_IF_ERROR(WriteFileDurably(PathOf(StemOf(key) + ".json"), ToText(record)));
  return record;
}

void FileSavePoints::Save(int member, const Block& block, const Position& position) {
  CallBeforeFirst();
  const absl::Duration start = options_.clock->Monotonic();
  const std::string identity = FullIdentity(block);
  Key key;
  Record before;
  {
    const MutexLock lock(&mutex_);
    used_ = true;
    key = KeyOf(block.block);
    if (const auto found = records_.find(key); found != records_.end() && found->second.identity == identity)
      before = found->second;
  }
  before.identity = identity;
  std::error_code error;
  fs::create_directories(options_.folder, error);
  const absl::StatusOr<Record> saved = Advance(key, before, block, position);
  const absl::Duration end = options_.clock->Monotonic();
  if (member >= 0) {
    const MutexLock lock(&mutex_);
    last_[member] = end;
  }
  if (!saved.ok()) {
    log::Warning(absl::StrCat("update ", key.step,
                              ": not saved in the middle, it goes on: ", std::string(saved.status().message())));
    return;
  }
  int64_t bytes = saved->rest.file.size_bytes;
  for (const DataFile& data : saved->grown) bytes += data.file.size_bytes;
  {
    const MutexLock lock(&mutex_);
    records_[key] = *saved;
  }
  if (!before.rest.name.empty()) RemoveFile(PathOf(before.rest.name));
  if (block.block == kSum) {
    Remove([&](const Key& other) {
      return other.step == key.step && other.part == key.part && other.block != kSum &&
             other.block < position.cursor.front();
    });
  }
  log::Info(absl::StrFormat("update %d: saved in the middle, %s, %.0f %% of it done (%s); %s in all, this took %.2f s",
                            key.step, NameOf(key), 100 * position.done, position.text, FormatBytes(bytes),
                            absl::ToDoubleSeconds(end - start)));
}

std::string FileSavePoints::NameOf(const Key& key) {
  return absl::StrCat("rows from ", key.part, ", ",
                      key.block == kSum ? std::string("their sum") : absl::StrCat("block ", key.block));
}

bool FileSavePoints::Has(int64_t block) {
  const MutexLock lock(&mutex_);
  const bool has = records_.contains(KeyOf(block));
  used_ = used_ || has;
  return has;
}

absl::StatusOr<FileSavePoints::Record> FileSavePoints::LoadRecord(const Key& key, const Block& block) {
  Record record;
  {
    const MutexLock lock(&mutex_);
    if (const auto found = records_.find(key); found != records_.end()) record = found->second;
  }
  const std::string path = PathOf(StemOf(key) + ".json");
  if (record.identity.empty()) {
    SAB_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
    SAB_ASSIGN_OR_RETURN(record, Parse(text, path));
  }
  if (record.identity != FullIdentity(block)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": is of other parameters, data, settings or another kind of processor"));
  }
  // What grows first: a pass that begins anew writes over it. The rest, in one file, is filled in whole or not at all.
  int64_t from = 0;
  for (const DataFile& data : record.grown) {
    if (!block.grown) return absl::DataLossError(absl::StrCat(path, ": does not fit"));
    SAB_RETURN_IF_ERROR(ReadMemoryFile(PathOf(data.name), data.file, SpansOf(block.grown(from, data.to))));
    from = data.to;
  }
  SAB_RETURN_IF_ERROR(ReadMemoryFile(PathOf(record.rest.name), record.rest.file, SpansOf(block.rest(record.cursor))));
  return record;
}

model::SavePoints::Numbers FileSavePoints::Load(const Block& block) {
  Key key;
  {
    const MutexLock lock(&mutex_);
    key = KeyOf(block.block);
  }
  const absl::StatusOr<Record> loaded = LoadRecord(key, block);
  const MutexLock lock(&mutex_);
  if (!loaded.ok()) {
    log::Warning(absl::StrCat(
        "update ", key.step, ", ", NameOf(key),
        ": does not go on from its save point, but from its beginning: ", std::string(loaded.status().message())));
    records_.erase(key);
    return {};
  }
  records_[key] = *loaded;
  log::Info(absl::StrFormat("update %d: goes on in the middle, %s, %.0f %% of it done (%s)", key.step, NameOf(key),
                            100 * loaded->done, loaded->text));
  return loaded->cursor;
}

}  // namespace sab::trainer
