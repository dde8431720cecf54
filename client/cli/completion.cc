#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"

namespace sab::client {
namespace {

// One command, for a shell: its words on the command line, its sub-commands and options.
struct Node {
  std::string path;  // "checkpoint download"; empty: sabctl itself
  std::string description;
  std::vector<std::pair<std::string, std::string>> commands;  // (name, description)
  std::vector<std::pair<std::string, std::string>> options;   // ("--to", description)
  bool takes_job = false;
};

void Collect(const CLI::App& app, const std::string& path, std::vector<Node>* nodes) {
  Node node{.path = path, .description = app.get_description()};
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames())
      node.options.emplace_back("--" + name, option->get_description());
    node.takes_job = node.takes_job || option->get_name() == "JOB";
  }
  const auto commands = app.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* command : commands) node.commands.emplace_back(command->get_name(), command->get_description());
  nodes->push_back(node);
  for (const CLI::App* command : commands) {
    Collect(*command, absl::StrCat(path, path.empty() ? "" : " ", command->get_name()), nodes);
  }
}

std::string Names(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::vector<std::string> names;
  for (const auto& [name, description] : entries) names.push_back(name);
  return absl::StrJoin(names, " ");
}

std::string Bash(const std::vector<Node>& nodes) {
  std::string cases;
  for (const Node& node : nodes) {
    absl::StrAppend(&cases, "    '", node.path, "') commands='", Names(node.commands), "' options='",
                    Names(node.options), "' job=", node.takes_job ? 1 : 0, " ;;\n");
  }
  return absl::StrCat(R"sh(# sabctl completion for bash: source <(sabctl completion bash)
_sabctl_words() {
  case "$1" in
)sh",
                      cases, R"sh(    *) return 1 ;;
  esac
}
_sabctl() {
  local current=${COMP_WORDS[COMP_CWORD]} path='' word commands options job global
  _sabctl_words ''
  global=$options
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in
      -*) ;;
      *) case " $commands " in *" $word "*) path="${path:+$path }$word"; _sabctl_words "$path" ;; esac ;;
    esac
  done
  if [[ $current == -* ]]; then
    [[ -n $path ]] && options+=" $global"
    COMPREPLY=($(compgen -W "$options" -- "$current"))
  elif [[ -n $commands ]]; then
    COMPREPLY=($(compgen -W "$commands" -- "$current"))
  elif [[ $job == 1 ]]; then
    COMPREPLY=($(compgen -W "$(sabctl list -o name --quiet --connect-timeout 1s 2>/dev/null)" -- "$current"))
  else
    COMPREPLY=($(compgen -f -- "$current"))
  fi
}
complete -o filenames -F _sabctl sabctl
)sh");
}

std::string Zsh(const std::vector<Node>& nodes) {
  return absl::StrCat(
      "#compdef sabctl\n# sabctl completion for zsh: source <(sabctl completion zsh)\nautoload -U +X bashcompinit && "
      "bashcompinit\n",
      Bash(nodes));
}

std::string FishQuoted(const std::string& text) {
  std::string quoted = "'";
  for (char c : text) {
    if (c == '\'' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "'";
}

std::string Fish(const std::vector<Node>& nodes) {
  std::string text = "# sabctl completion for fish: sabctl completion fish | source\n";
  for (const Node& node : nodes) {
    std::string condition =
        node.path.empty() ? "" : " -n '__fish_seen_subcommand_from " + node.path.substr(node.path.rfind(' ') + 1) + "'";
    const std::string first = node.path.empty() ? " -n __fish_use_subcommand" : condition;
    for (const auto& [name, description] : node.commands) {
      absl::StrAppend(&text, "complete -c sabctl -f", first, " -a ", name, " -d ", FishQuoted(description), "\n");
    }
    for (const auto& [name, description] : node.options) {
      absl::StrAppend(&text, "complete -c sabctl", condition, " -l ", name.substr(2), " -d ", FishQuoted(description),
                      "\n");
    }
    if (node.takes_job) {
      absl::StrAppend(&text, "complete -c sabctl -f", condition,
                      " -a '(sabctl list -o name --quiet --connect-timeout 1s 2>/dev/null)'\n");
    }
  }
  return text;
}

}  // namespace

void AddCompletion(CLI::App& app, Context* context) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("completion", "Print a completion script for a shell");
  command->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}).description(""))
      ->type_name(" ");
  command->footer(
      "Examples:\n  source <(sabctl completion bash)\n  sabctl completion fish > "
      "~/.config/fish/completions/sabctl.fish");
  command->callback([context, shell, &app] {
    context->action = [context, shell, &app] {
      std::vector<Node> nodes;
      Collect(app, "", &nodes);
      context->streams.out << (*shell == "bash" ? Bash(nodes) : *shell == "zsh" ? Zsh(nodes) : Fish(nodes));
      return static_cast<int>(kExitOk);
    };
  });
}

}  // namespace sab::client
