#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "client/cli/context.h"

int main(int argc, char** argv) {
  // gRPC's own log lines say nothing that our errors do not say better.
  setenv("GRPC_VERBOSITY", "NONE", 0);
  std::ios::sync_with_stdio(false);
  std::map<std::string, std::string> environment;
  for (const char* name : {"SAB_ADDRESS"}) {
    if (const char* value = std::getenv(name)) environment[name] = value;
  }
  sab::client::Streams streams{.in = std::cin, .out = std::cout, .err = std::cerr};
  streams.out_is_terminal = isatty(STDOUT_FILENO) != 0;
  streams.err_is_terminal = isatty(STDERR_FILENO) != 0;
  const char* no_color = std::getenv("NO_COLOR");
  streams.color = streams.out_is_terminal && (no_color == nullptr || *no_color == '\0');
  winsize size{};
  if (streams.out_is_terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
    streams.width = size.ws_col;
  const int code = sab::client::RunSabctl(std::vector<std::string>(argv + 1, argv + argc), streams, environment);
  std::cout.flush();
  return code;
}
