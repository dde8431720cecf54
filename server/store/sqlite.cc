#include "server/store/sqlite.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace sab::server {

std::string Row::Bytes(int column) const {
  const void* bytes = sqlite3_column_blob(statement_, column);
  return bytes == nullptr ? "" : std::string(static_cast<const char*>(bytes), sqlite3_column_bytes(statement_, column));
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path, Sync sync) {
  sqlite3* handle = nullptr;
  const int rc =
      sqlite3_open_v2(path.c_str(), &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<Database> database(new Database(path, handle));
  if (rc != SQLITE_OK) return database->Error("opening it");
  sqlite3_busy_timeout(handle, 5000);
  SAB_RETURN_IF_ERROR(database->Execute("PRAGMA journal_mode=WAL"));
  SAB_RETURN_IF_ERROR(database->Execute(sync == Sync::kFull ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL"));
  SAB_RETURN_IF_ERROR(database->Execute("PRAGMA cache_size=-1024"));
  return database;
}

Database::~Database() {
  for (auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close(handle_);
}

absl::Status Database::Error(std::string_view doing) const {
  const int rc = handle_ == nullptr ? SQLITE_NOMEM : sqlite3_errcode(handle_);
  const std::string text = absl::StrCat(path_, ": ", absl::string_view(doing.data(), doing.size()), ": ",
                                        handle_ == nullptr ? "out of memory" : sqlite3_errmsg(handle_));
  switch (rc & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return WithReason(absl::DataLossError(absl::StrCat(text,
                                                         "; restore the file from a backup or start with another "
                                                         "--state-dir")),
                        "STORE_DAMAGED");
    case SQLITE_FULL:
      return WithReason(absl::ResourceExhaustedError(absl::StrCat(text, "; free disk space")), "DISK_FULL");
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
      return WithReason(absl::UnavailableError(text), "STORE_UNAVAILABLE");
    default:
      return absl::InternalError(text);
  }
}

absl::Status Database::Execute(const std::string& sql) {
  if (sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) return Error(sql.substr(0, 60));
  return absl::OkStatus();
}

absl::StatusOr<sqlite3_stmt*> Database::Prepare(std::string_view sql) {
  auto [it, inserted] = statements_.try_emplace(std::string(sql), nullptr);
  if (inserted && sqlite3_prepare_v3(handle_, sql.data(), static_cast<int>(sql.size()), SQLITE_PREPARE_PERSISTENT,
                                     &it->second, nullptr) != SQLITE_OK) {
    absl::Status status = Error(sql.substr(0, 60));
    statements_.erase(it);
    return status;
  }
  return it->second;
}

absl::Status Database::Step(sqlite3_stmt* statement, const std::function<void(const Row&)>& each) {
  int rc;
  while ((rc = sqlite3_step(statement)) == SQLITE_ROW) each(Row(statement));
  absl::Status status = rc == SQLITE_DONE ? absl::OkStatus() : Error(sqlite3_sql(statement));
  sqlite3_reset(statement);
  sqlite3_clear_bindings(statement);
  return status;
}

absl::Status Database::InTransaction(const std::function<absl::Status()>& body) {
  SAB_RETURN_IF_ERROR(Run("BEGIN IMMEDIATE"));
  absl::Status status = body();
  if (status.ok()) status = Run("COMMIT");
  // Some errors have rolled back already; a second one would only say so.
  if (!status.ok() && sqlite3_get_autocommit(handle_) == 0) (void)Execute("ROLLBACK");
  return status;
}

absl::Status Migrate(Database& database, const std::vector<std::string>& versions) {
  int64_t stored = 0;
  SAB_RETURN_IF_ERROR(database.Query("PRAGMA user_version", [&](const Row& row) { stored = row.Int(0); }));
  const auto known = static_cast<int64_t>(versions.size());
  if (stored > known) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          database.path(), " was written by a newer version (schema ", stored, ", this program knows ",
                          known, "): start that version, or this one with another --state-dir")),
                      "STORE_TOO_NEW");
  }
  for (int64_t version = stored; version < known; ++version) {
    SAB_RETURN_IF_ERROR(database.InTransaction([&] {
      SAB_RETURN_IF_ERROR(database.Execute(versions[version]));
      return database.Execute(absl::StrCat("PRAGMA user_version=", version + 1));
    }));
  }
  return absl::OkStatus();
}

}  // namespace sab::server
