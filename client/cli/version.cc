#include "client/cli/commands.h"

namespace sab::client {

void AddVersion(CLI::App& app, Context* context) {
  CLI::App* command = app.add_subcommand("version", "Print this program's version");
  command->footer("Examples:\n  sabctl version");
  command->callback([context] {
    context->action = [context] {
      context->streams.out << "sabctl " << SAB_VERSION << "\n";
      return static_cast<int>(kExitOk);
    };
  });
}

}  // namespace sab::client
