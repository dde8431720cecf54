#include <google/protobuf/message.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "common/spec/spec_file.h"
#include "common/spec/words.h"

namespace sab::spec {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

void EmitDouble(double value, YAML::Emitter* out) {
  char text[64];
  const auto end =
      std::to_chars(text, text + sizeof text, value).ptr;  // shortest text that reads back to the same number
  *out << std::string(text, end);
}

void EmitMessage(const Message& message, YAML::Emitter* out);

// `index` -1: the field is not repeated.
void EmitValue(const Message& message, const FieldDescriptor* field, int index, YAML::Emitter* out) {
  const auto* reflection = message.GetReflection();
  const bool repeated = index >= 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      *out << (repeated ? reflection->GetRepeatedInt64(message, field, index) : reflection->GetInt64(message, field));
      break;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      EmitDouble(
          repeated ? reflection->GetRepeatedDouble(message, field, index) : reflection->GetDouble(message, field), out);
      break;
    case FieldDescriptor::CPPTYPE_BOOL:
      *out << (repeated ? reflection->GetRepeatedBool(message, field, index) : reflection->GetBool(message, field));
      break;
    case FieldDescriptor::CPPTYPE_ENUM:
      *out << Word(
          *(repeated ? reflection->GetRepeatedEnum(message, field, index) : reflection->GetEnum(message, field)));
      break;
    case FieldDescriptor::CPPTYPE_STRING:
      *out << (repeated ? reflection->GetRepeatedString(message, field, index) : reflection->GetString(message, field));
      break;
    default:
      EmitMessage(
          repeated ? reflection->GetRepeatedMessage(message, field, index) : reflection->GetMessage(message, field),
          out);
  }
}

// A map<string, string> in the order of its keys.
void EmitMap(const Message& message, const FieldDescriptor* field, YAML::Emitter* out) {
  const auto* reflection = message.GetReflection();
  const FieldDescriptor* key = field->message_type()->map_key();
  const FieldDescriptor* value = field->message_type()->map_value();
  std::map<std::string, std::string> sorted;
  for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
    const Message& entry = reflection->GetRepeatedMessage(message, field, i);
    sorted[entry.GetReflection()->GetString(entry, key)] = entry.GetReflection()->GetString(entry, value);
  }
  *out << YAML::BeginMap;
  for (const auto& [name, text] : sorted) *out << YAML::Key << name << YAML::Value << text;
  *out << YAML::EndMap;
}

void EmitMessage(const Message& message, YAML::Emitter* out) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);  // those that are set, by number
  *out << YAML::BeginMap;
  for (const FieldDescriptor* field : fields) {
    *out << YAML::Key << field->name() << YAML::Value;
    if (field->is_map()) {
      EmitMap(message, field, out);
    } else if (field->is_repeated()) {
      *out << YAML::Flow << YAML::BeginSeq;
      for (int i = 0; i < message.GetReflection()->FieldSize(message, field); ++i) EmitValue(message, field, i, out);
      *out << YAML::EndSeq;
    } else {
      EmitValue(message, field, -1, out);
    }
  }
  *out << YAML::EndMap;
}

}  // namespace

std::string FormatYaml(const v1::JobSpec& spec) {
  YAML::Emitter out;
  EmitMessage(spec, &out);
  return std::string(out.c_str()) + "\n";
}

}  // namespace sab::spec
