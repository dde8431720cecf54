#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <istream>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/api/client.h"
#include "common/base/ids.h"

namespace sab::client {

// Exit codes, the same for every command. watch and wait end with the code of the job's final state.
enum ExitCode : int {
  kExitOk = 0,
  kExitFailed = 1,
  kExitUsage = 2,  // also: a refused job file
  kExitCancelled = 3,
  kExitTimedOut = 4,
  kExitUnreachable = 5,
};
int ExitCodeOf(const absl::Status& status);
// UNSPECIFIED and unfinished states count as failed.
int ExitCodeOf(v1::JobState state);

// Where a command reads and writes, and what it may assume of the terminal.
struct Streams {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  bool color = false;  // NO_COLOR is not set and the output is a terminal
  int width = 100;     // columns
};

// What all commands of one invocation share.
class Context {
 public:
  explicit Context(Streams streams) : streams(streams) {}

  // Made on first use, with the global options.
  Client& client();
  // Drops the connection; the next use makes another. An idle connection makes the coordinator's shutdown wait.
  void Disconnect() { client_.reset(); }

  // Writes "sabctl: …", one line for each line of the text, and gives the exit code that the error calls for.
  int Fail(const absl::Status& status);
  void PrintError(std::string_view text);

  Streams streams;
  std::string address = "127.0.0.1:7070";
  std::string connect_timeout = "10s";
  bool quiet = false;
  // Set by the command line: the command to run.
  std::function<int()> action;

 private:
  std::unique_ptr<Client> client_;
};

// Takes "jobs/{id}", a checkpoint's name or the bare id.
absl::StatusOr<JobId> ParseJobArgument(std::string_view text);

// Adds -o/--output with the given formats, the first being the default.
CLI::Option* AddOutputOption(CLI::App* command, std::string* output, const std::vector<std::string>& formats);

// Adds the positional JOB.
CLI::Option* AddJobArgument(CLI::App* command, std::string* job);

// Fails the parse (exit code 2) for anything but a duration.
CLI::Validator IsDuration();

// Runs one command line (without the program's name). Returns the exit code; never throws.
int RunSabctl(const std::vector<std::string>& arguments, Streams streams,
              const std::map<std::string, std::string>& environment);

}  // namespace sab::client
