#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sab::server {

// Bytes to bind as a BLOB (strings are bound as TEXT).
struct Blob {
  std::string_view bytes;
};

// One row of a result; valid during the callback it is passed to.
class Row {
 public:
  explicit Row(sqlite3_stmt* statement) : statement_(statement) {}
  int64_t Int(int column) const { return sqlite3_column_int64(statement_, column); }
  double Double(int column) const { return sqlite3_column_double(statement_, column); }
  bool IsNull(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }
  // TEXT or BLOB.
  std::string Bytes(int column) const;

 private:
  sqlite3_stmt* const statement_;
};

// One connection to a SQLite file in WAL mode, with its prepared statements. Thread-compatible: the owner locks.
// Errors: DataLoss: the file is damaged or no database. ResourceExhausted: disk full. Unavailable: locked or an I/O
// error. The text names the file.
class Database {
 public:
  enum class Sync {
    kFull,    // a committed transaction survives a power failure
    kNormal,  // survives the end of the process; a power failure may cost the last ones
  };
  // Creates the file if missing.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path, Sync sync);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // Statements without parameters and results.
  absl::Status Execute(const std::string& sql);

  // `sql` is prepared once; arguments are integers, doubles, strings or Blobs.
  template <typename... Args>
  absl::Status Run(std::string_view sql, const Args&... args) {
    return Query(
        sql, [](const Row&) {}, args...);
  }

  // Calls `each` for every row; it must not use this Database.
  template <typename... Args>
  absl::Status Query(std::string_view sql, const std::function<void(const Row&)>& each, const Args&... args) {
    absl::StatusOr<sqlite3_stmt*> statement = Prepare(sql);
    if (!statement.ok()) return statement.status();
    int index = 0;
    (Bind(*statement, ++index, args), ...);
    return Step(*statement, each);
  }

  // Calls `body` in one transaction; nothing of it remains unless both it and the commit succeed.
  absl::Status InTransaction(const std::function<absl::Status()>& body);

  int64_t changes() const { return sqlite3_changes64(handle_); }
  const std::string& path() const { return path_; }

 private:
  Database(std::string path, sqlite3* handle) : path_(std::move(path)), handle_(handle) {}
  absl::StatusOr<sqlite3_stmt*> Prepare(std::string_view sql);
  absl::Status Step(sqlite3_stmt* statement, const std::function<void(const Row&)>& each);
  absl::Status Error(std::string_view doing) const;
  static void Bind(sqlite3_stmt* s, int i, int64_t value) { sqlite3_bind_int64(s, i, value); }
  static void Bind(sqlite3_stmt* s, int i, int value) { sqlite3_bind_int64(s, i, value); }
  static void Bind(sqlite3_stmt* s, int i, double value) { sqlite3_bind_double(s, i, value); }
  static void Bind(sqlite3_stmt* s, int i, const std::string& value) {
    sqlite3_bind_text(s, i, value.data(), static_cast<int>(value.size()), SQLITE_TRANSIENT);
  }
  static void Bind(sqlite3_stmt* s, int i, const Blob& value) {
    sqlite3_bind_blob64(s, i, value.bytes.data(), value.bytes.size(), SQLITE_TRANSIENT);
  }

  const std::string path_;
  sqlite3* const handle_;
  std::unordered_map<std::string, sqlite3_stmt*> statements_;
};

// Brings the schema to `versions.size()`: runs the scripts above the stored PRAGMA user_version, each in a transaction.
// FailedPrecondition: the file was written by a newer program.
absl::Status Migrate(Database& database, const std::vector<std::string>& versions);

}  // namespace sab::server
