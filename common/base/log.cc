#include "common/base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdlib>
#include <memory>

namespace sab::log {
namespace {

spdlog::level::level_enum ToSpdlog(Level level) {
  switch (level) {
    case Level::kDebug:
      return spdlog::level::debug;
    case Level::kInfo:
      return spdlog::level::info;
    case Level::kWarning:
      return spdlog::level::warn;
    case Level::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

spdlog::level::level_enum LevelFromEnvironment() {
  const char* text = std::getenv("SAB_LOG");
  const std::string_view wanted = text != nullptr ? text : "info";
  if (wanted == "debug") return spdlog::level::debug;
  if (wanted == "warning") return spdlog::level::warn;
  if (wanted == "error") return spdlog::level::err;
  return spdlog::level::info;
}

}  // namespace

void Init(std::string_view program) {
  auto logger =
      std::make_shared<spdlog::logger>(std::string(program), std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %L %n: %v", spdlog::pattern_time_type::utc);
  logger->set_level(LevelFromEnvironment());
  logger->flush_on(spdlog::level::debug);
  spdlog::set_default_logger(std::move(logger));
}

void Write(Level level, std::string_view text) {
  spdlog::default_logger_raw()->log(ToSpdlog(level), text);
}

}  // namespace sab::log
