#include "common/spec/spec_file.h"

#include <google/protobuf/message.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <optional>
#include <set>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/spec/validate.h"
#include "common/spec/words.h"

namespace sab::spec {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr size_t kMaxFileBytes = 1 << 20;
constexpr int kMaxDepth = 16;
constexpr size_t kMaxViolations = 100;  // what fits into a reply's trailer and a user's patience
constexpr size_t kMaxListItems = 10'000;
// May be given as a range.
constexpr char kReplicas[] = "sab.v1.ResourceSpec.replicas";

int LineOf(const YAML::Mark& mark) {
  return mark.is_null() ? 0 : mark.line + 1;
}

// 0: valid; otherwise the line (from 1) of the first byte that is not UTF-8, or that no text holds (zero, control).
int LineOfBadText(std::string_view text) {
  int line = 1;
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte == '\n') ++line;
    if (byte < 0x80) {
      if (byte < 0x20 && byte != '\n' && byte != '\r' && byte != '\t') return line;
      ++i;
      continue;
    }
    const int more = byte >= 0xC2 && byte < 0xE0   ? 1
                     : byte >= 0xE0 && byte < 0xF0 ? 2
                     : byte >= 0xF0 && byte < 0xF5 ? 3
                                                   : 0;
    if (more == 0 || i + static_cast<size_t>(more) >= text.size()) return line;
    uint32_t code = byte & (0x3F >> more);
    for (int k = 1; k <= more; ++k) {
      const auto next = static_cast<unsigned char>(text[i + static_cast<size_t>(k)]);
      if ((next & 0xC0) != 0x80) return line;
      code = code << 6 | (next & 0x3F);
    }
    const bool overlong = (more == 2 && code < 0x800) || (more == 3 && code < 0x10000);
    if (overlong || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return line;
    i += static_cast<size_t>(more) + 1;
  }
  return 0;
}

// First pass over the events alone: what must not be built as a tree.
class Precheck : public YAML::EventHandler {
 public:
  std::optional<FieldViolation> violation;

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) Refuse(mark, "a second document; a job file holds one");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { Anchor(mark, anchor); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    Refuse(mark, "anchors and aliases are not supported; write the value out");
  }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor, const std::string&) override {
    Anchor(mark, anchor);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Open(mark, anchor);
  }
  void OnSequenceEnd() override { --depth_; }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Open(mark, anchor);
  }
  void OnMapEnd() override { --depth_; }

 private:
  void Refuse(const YAML::Mark& mark, const std::string& reason) {
    if (!violation.has_value()) violation = FieldViolation{"", reason, LineOf(mark)};
  }
  void Anchor(const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (anchor != 0) Refuse(mark, "anchors and aliases are not supported; write the value out");
  }
  void Open(const YAML::Mark& mark, YAML::anchor_t anchor) {
    Anchor(mark, anchor);
    if (++depth_ > kMaxDepth) Refuse(mark, absl::StrCat("nested deeper than ", kMaxDepth, " levels"));
  }
  int depth_ = 0;
  int documents_ = 0;
};

// The tree, or the violation. yaml-cpp's exceptions end here.
absl::StatusOr<YAML::Node> LoadYaml(std::string_view text) {
  if (text.size() > kMaxFileBytes) {
    return InvalidFields({{"", absl::StrCat("is larger than 1 MiB: ", text.size(), " bytes")}});
  }
  if (const int line = LineOfBadText(text); line != 0)
    return InvalidFields({{"", "holds bytes that are not UTF-8 text", line}});
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    Precheck precheck;
    while (parser.HandleNextDocument(precheck) && !precheck.violation.has_value()) {
    }
    if (precheck.violation.has_value()) return InvalidFields({*precheck.violation});
    return YAML::Load(std::string(text));
  } catch (const YAML::Exception& error) {
    return InvalidFields({{"", absl::StrCat("cannot be read as YAML or JSON: ", error.msg), LineOf(error.mark)}});
  }
}

// What a user sees of a wrong value.
std::string Show(const YAML::Node& node) {
  if (node.IsNull()) return "nothing";
  if (node.IsSequence()) return "a list";
  if (node.IsMap()) return "a section";
  const std::string& text = node.Scalar();
  return absl::StrCat("\"", text.substr(0, 60), text.size() > 60 ? "…" : "", "\"");
}

// A scalar without quotes: in quotes it is text, whatever it looks like.
bool IsPlain(const YAML::Node& node) {
  return node.IsScalar() && node.Tag() != "!";
}

bool IsInteger(const std::string& text) {
  const size_t sign = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  return text.size() > sign && std::all_of(text.begin() + static_cast<ptrdiff_t>(sign), text.end(),
                                           [](char c) { return c >= '0' && c <= '9'; });
}

std::vector<std::string> FieldNames(const Descriptor* type) {
  std::vector<std::string> names;
  for (int i = 0; i < type->field_count(); ++i) names.push_back(type->field(i)->name());
  return names;
}

// Reads a tree into a message along its descriptor and collects what is wrong.
class Reader {
 public:
  std::vector<FieldViolation> violations;
  std::map<std::string, int> lines;

  void ReadMessage(const YAML::Node& node, const std::string& path, Message* message) {
    if (node.IsNull()) return;  // `train:` with nothing below it
    if (!node.IsMap())
      return Add(path, node, absl::StrCat("must be a section of `key: value` lines, got ", Show(node)));
    std::set<std::string> seen;
    for (const auto& pair : node) {
      if (!pair.first.IsScalar()) {
        Add(path, pair.first, absl::StrCat("keys must be words, got ", Show(pair.first)));
        continue;
      }
      const std::string& key = pair.first.Scalar();
      const std::string field_path = path.empty() ? key : absl::StrCat(path, ".", key);
      const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(key);
      if (field == nullptr) {
        Add(field_path, pair.first, UnknownKey(key, path, message->GetDescriptor()));
      } else if (!seen.insert(key).second) {
        Add(field_path, pair.first, absl::StrCat("is given twice, first on line ", lines[field_path]));
      } else {
        lines[field_path] = LineOf(pair.first.Mark());
        ReadField(pair.second, field_path, field, message);
      }
    }
  }

  void ReadField(const YAML::Node& node, const std::string& path, const FieldDescriptor* field, Message* message) {
    if (field->full_name() == kReplicas && node.IsMap()) {
      return ReadRange(node, path, static_cast<v1::ResourceSpec*>(message));
    }
    if (field->is_map()) return ReadMap(node, path, field, message);
    if (field->is_repeated()) return ReadList(node, path, field, message);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (!node.IsNull()) ReadMessage(node, path, message->GetReflection()->MutableMessage(message, field));
      return;
    }
    ReadScalar(node, path, field, /*append=*/false, message);
  }

 private:
  void Add(const std::string& path, const YAML::Node& node, const std::string& reason) {
    if (violations.size() < kMaxViolations) violations.push_back({path, reason, LineOf(node.Mark())});
  }

  // `replicas: {min: 1, max: 4}`, both given.
  void ReadRange(const YAML::Node& node, const std::string& path, v1::ResourceSpec* resources) {
    int64_t least = 0, most = 0;
    if (node.size() != 2 || !node["min"].IsDefined() || !node["max"].IsDefined()) {
      return Add(path, node, "must be a number, or a range such as {min: 1, max: 4}");
    }
    if (!Integer(node["min"], absl::StrCat(path, ".min"), &least) ||
        !Integer(node["max"], absl::StrCat(path, ".max"), &most)) {
      return;
    }
    lines[absl::StrCat(path.substr(0, path.rfind('.') + 1), "min_replicas")] = LineOf(node["min"].Mark());
    resources->set_min_replicas(least);
    resources->set_replicas(most);
  }

  // Says where the key belongs if another section has it, else what may have been meant here.
  std::string UnknownKey(const std::string& key, const std::string& path, const Descriptor* type) {
    const std::string nearest = Nearest(key, FieldNames(type));
    const Descriptor* root = v1::JobSpec::descriptor();
    for (int i = 0; i < root->field_count(); ++i) {
      const FieldDescriptor* section = root->field(i);
      if (section->is_map() || section->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE ||
          section->message_type() == type)
        continue;
      if (section->message_type()->FindFieldByName(key) != nullptr && (nearest.empty() || nearest != key)) {
        return absl::StrCat("unknown key; did you mean ", section->name(), ".", key, "?");
      }
    }
    if (!nearest.empty()) return absl::StrCat("unknown key; did you mean ", nearest, "?");
    return absl::StrCat("unknown key; ", path.empty() ? "a job file" : path, " has ",
                        absl::StrJoin(FieldNames(type), ", "));
  }

  void ReadMap(const YAML::Node& node, const std::string& path, const FieldDescriptor* field, Message* message) {
    if (node.IsNull()) return;
    if (!node.IsMap())
      return Add(path, node, absl::StrCat("must be a section of `key: value` lines, got ", Show(node)));
    std::set<std::string> seen;
    for (const auto& pair : node) {
      if (!pair.first.IsScalar()) {
        Add(path, pair.first, absl::StrCat("keys must be words, got ", Show(pair.first)));
        continue;
      }
      const std::string& key = pair.first.Scalar();
      const std::string key_path = absl::StrCat(path, ".", key);
      if (!pair.second.IsScalar()) {
        Add(key_path, pair.second.IsNull() ? pair.first : pair.second,
            absl::StrCat("must be text, got ", Show(pair.second)));
      } else if (!seen.insert(key).second) {
        Add(key_path, pair.first, absl::StrCat("is given twice, first on line ", lines[key_path]));
      } else {
        lines[key_path] = LineOf(pair.first.Mark());
        Message* entry = message->GetReflection()->AddMessage(message, field);
        entry->GetReflection()->SetString(entry, field->message_type()->map_key(), key);
        entry->GetReflection()->SetString(entry, field->message_type()->map_value(), pair.second.Scalar());
      }
    }
  }

  void ReadList(const YAML::Node& node, const std::string& path, const FieldDescriptor* field, Message* message) {
    if (!node.IsSequence()) return Add(path, node, absl::StrCat("must be a list such as [100, 200], got ", Show(node)));
    if (node.size() > kMaxListItems)
      return Add(path, node, absl::StrCat("has ", node.size(), " items; at most ", kMaxListItems));
    size_t index = 0;
    for (const YAML::Node& item : node) {
      const std::string item_path = absl::StrCat(path, "[", index++, "]");
      lines[item_path] = LineOf(item.Mark());
      ReadScalar(item, item_path, field, /*append=*/true, message);
    }
  }

  void ReadScalar(const YAML::Node& node, const std::string& path, const FieldDescriptor* field, bool append,
                  Message* message) {
    const auto* reflection = message->GetReflection();
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT64:
        if (int64_t value = 0; Integer(node, path, &value)) {
          append ? reflection->AddInt64(message, field, value) : reflection->SetInt64(message, field, value);
        }
        return;
      case FieldDescriptor::CPPTYPE_DOUBLE:
        if (double value = 0; Number(node, path, &value)) reflection->SetDouble(message, field, value);
        return;
      case FieldDescriptor::CPPTYPE_BOOL:
        if (!IsPlain(node) || (node.Scalar() != "true" && node.Scalar() != "false")) {
          return Add(path, node, absl::StrCat("must be true or false, got ", Show(node)));
        }
        return reflection->SetBool(message, field, node.Scalar() == "true");
      case FieldDescriptor::CPPTYPE_STRING:
        if (!node.IsScalar()) return Add(path, node, absl::StrCat("must be text, got ", Show(node)));
        return reflection->SetString(message, field, node.Scalar());
      case FieldDescriptor::CPPTYPE_ENUM:
        return Enum(node, path, field, message);
      default:
        return Add(path, node, "cannot be set from a job file");
    }
  }

  bool Integer(const YAML::Node& node, const std::string& path, int64_t* value) {
    if (!IsPlain(node) || !IsInteger(node.Scalar())) {
      Add(path, node, absl::StrCat("must be an integer, got ", Show(node)));
      return false;
    }
    if (!absl::SimpleAtoi(node.Scalar(), value)) {
      Add(path, node, absl::StrCat("is too large a number: ", Show(node)));
      return false;
    }
    return true;
  }

  bool Number(const YAML::Node& node, const std::string& path, double* value) {
    const bool digits = IsPlain(node) && node.Scalar().find_first_of("0123456789") != std::string::npos &&
                        node.Scalar().find_first_of("xXpP") == std::string::npos;
    if (digits && absl::SimpleAtod(node.Scalar(), value) && std::isfinite(*value)) return true;
    Add(path, node, absl::StrCat("must be a finite number, got ", Show(node)));
    return false;
  }

  void Enum(const YAML::Node& node, const std::string& path, const FieldDescriptor* field, Message* message) {
    const auto* type = field->enum_type();
    for (int i = 0; node.IsScalar() && i < type->value_count(); ++i) {
      if (type->value(i)->number() == 0 || Word(*type->value(i)) != node.Scalar()) continue;
      return message->GetReflection()->SetEnum(message, field, type->value(i));
    }
    const std::vector<std::string> words = Words(*type);
    const std::string nearest = node.IsScalar() ? Nearest(node.Scalar(), words) : "";
    Add(path, node,
        absl::StrCat("must be one of ", absl::StrJoin(words, ", "), ", got ", Show(node),
                     nearest.empty() ? "" : absl::StrCat("; did you mean ", nearest, "?")));
  }
};

// The field that "model.memory.capacity" names, and the message that holds it.
struct Target {
  Message* message = nullptr;
  const FieldDescriptor* field = nullptr;
  std::string label;  // key of a label
};

absl::StatusOr<Target> FindTarget(const std::string& path, v1::JobSpec* spec) {
  Target target{spec, nullptr, ""};
  std::string done;
  std::string rest = path;
  while (true) {
    const size_t dot = rest.find('.');
    const std::string key = rest.substr(0, dot);
    target.field = target.message->GetDescriptor()->FindFieldByName(key);
    if (target.field == nullptr) {
      const std::string nearest = Nearest(key, FieldNames(target.message->GetDescriptor()));
      return absl::InvalidArgumentError(absl::StrCat(
          "unknown key ", done, key,
          nearest.empty()
              ? absl::StrCat("; there are ", absl::StrJoin(FieldNames(target.message->GetDescriptor()), ", "))
              : absl::StrCat("; did you mean ", done, nearest, "?")));
    }
    if (dot == std::string::npos) return target;
    if (target.field->is_map()) {
      target.label = rest.substr(dot + 1);
      return target;
    }
    if (target.field->is_repeated() || target.field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      return absl::InvalidArgumentError(absl::StrCat(done, key, " is a value, not a section"));
    }
    target.message = target.message->GetReflection()->MutableMessage(target.message, target.field);
    absl::StrAppend(&done, key, ".");
    rest = rest.substr(dot + 1);
  }
}

absl::Status Assign(const std::string& path, const std::string& value, v1::JobSpec* spec) {
  SAB_ASSIGN_OR_RETURN(const Target target, FindTarget(path, spec));
  if (!target.label.empty()) {
    (*spec->mutable_labels())[target.label] = value;
    return absl::OkStatus();
  }
  const bool quoted = !value.empty() && (value[0] == '"' || value[0] == '\'');
  if (target.field->cpp_type() == FieldDescriptor::CPPTYPE_STRING && !quoted) {  // a path with a colon is no map
    if (LineOfBadText(value) != 0) return absl::InvalidArgumentError("its value is not UTF-8 text");
    target.message->GetReflection()->SetString(target.message, target.field, value);
    return absl::OkStatus();
  }
  SAB_ASSIGN_OR_RETURN(const YAML::Node node, LoadYaml(value));
  target.message->GetReflection()->ClearField(target.message, target.field);
  // A number in the place of a range.
  if (target.field->full_name() == kReplicas) static_cast<v1::ResourceSpec*>(target.message)->clear_min_replicas();
  Reader reader;
  reader.ReadField(node, path, target.field, target.message);
  for (FieldViolation& violation : reader.violations) violation.line = 0;
  return reader.violations.empty() ? absl::OkStatus() : InvalidFields(reader.violations);
}

// Whether `field` is `other`, lies within it ("train.steps" in "train") or around it.
bool Overlap(const std::string& field, const std::string& other) {
  const std::string& longer = field.size() > other.size() ? field : other;
  const std::string& shorter = field.size() > other.size() ? other : field;
  return longer.compare(0, shorter.size(), shorter) == 0 &&
         (longer.size() == shorter.size() || shorter.empty() || longer[shorter.size()] == '.' ||
          longer[shorter.size()] == '[');
}

// Whether a violation of `field` may only follow from `unread`, a field that could not be read. What a kind allows is
// unknown without it.
bool FollowsFrom(const std::string& field, const std::string& unread) {
  const size_t dot = unread.rfind(".kind");
  const bool is_kind = dot != std::string::npos && dot + 5 == unread.size();
  return Overlap(field, is_kind ? unread.substr(0, dot) : unread);
}

// Adds what is wrong with the values of a file whose form is wrong elsewhere, so that all its problems are told at
// once; in order of line.
void AddValueViolations(const SpecFile& file, const std::map<std::string, int>& lines,
                        std::vector<FieldViolation>* violations) {
  const std::vector<FieldViolation> unread = *violations;
  for (FieldViolation& violation : Validate(file.spec)) {
    const bool follows = std::any_of(unread.begin(), unread.end(), [&](const FieldViolation& other) {
      return FollowsFrom(violation.field, other.field);
    });
    if (follows) continue;
    if (const auto line = lines.find(violation.field); line != lines.end()) violation.line = line->second;
    violations->push_back(std::move(violation));
  }
  std::stable_sort(violations->begin(), violations->end(), [](const FieldViolation& a, const FieldViolation& b) {
    return (a.line == 0 ? INT_MAX : a.line) < (b.line == 0 ? INT_MAX : b.line);
  });
  if (violations->size() > kMaxViolations) violations->resize(kMaxViolations);
}

}  // namespace

absl::StatusOr<SpecFile> ParseSpec(std::string_view text) {
  SAB_ASSIGN_OR_RETURN(const YAML::Node root, LoadYaml(text));
  if (!root.IsDefined() || root.IsNull())
    return InvalidFields({{"", "is empty; a job file has name, model, task, train …"}});
  SpecFile file;
  Reader reader;
  reader.ReadMessage(root, "", &file.spec);
  if (!reader.violations.empty()) {
    AddValueViolations(file, reader.lines, &reader.violations);
    return InvalidFields(reader.violations);
  }
  file.lines = std::move(reader.lines);
  return file;
}

absl::Status ApplyOverride(std::string_view assignment, v1::JobSpec* spec) {
  const size_t equals = assignment.find('=');
  const std::string shown = absl::StrCat("\"", std::string(assignment.substr(0, 100)), "\"");
  if (equals == std::string_view::npos || equals == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(shown, ": must have the form key=value, for example train.steps=500"));
  }
  v1::JobSpec changed = *spec;
  SAB_RETURN_IF_ERROR(Annotate(
      Assign(std::string(assignment.substr(0, equals)), std::string(assignment.substr(equals + 1)), &changed), shown));
  *spec = std::move(changed);
  return absl::OkStatus();
}

}  // namespace sab::spec
