#pragma once

#include <string>
#include <string_view>

namespace sab::log {

enum class Level { kDebug, kInfo, kWarning, kError };

// Lines on standard error: "2026-01-31T12:00:00.123Z I coordinator: text". Call once, before threads start.
// `program` is a short name; SAB_LOG=debug|info|warning|error sets the least level shown (default info).
void Init(std::string_view program);

// Thread-safe, never throws. Build `text` with absl::StrCat; values that users gave are quoted by the caller.
void Write(Level level, std::string_view text);

inline void Debug(std::string_view text) {
  Write(Level::kDebug, text);
}
inline void Info(std::string_view text) {
  Write(Level::kInfo, text);
}
inline void Warning(std::string_view text) {
  Write(Level::kWarning, text);
}
inline void Error(std::string_view text) {
  Write(Level::kError, text);
}

}  // namespace sab::log
