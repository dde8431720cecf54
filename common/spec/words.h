#pragma once

#include <google/protobuf/descriptor.h>

#include <string>
#include <string_view>
#include <vector>

namespace sab::spec {

// How job files write an enum's value: MODEL_KIND_SAB -> "sab". "" for the unspecified one.
std::string Word(const google::protobuf::EnumValueDescriptor& value);

// All words of an enum, in its order.
std::vector<std::string> Words(const google::protobuf::EnumDescriptor& type);

// The candidate a user most likely meant by `typed` ("" when none is close): a few letters off, a beginning, or the
// initials.
std::string Nearest(std::string_view typed, const std::vector<std::string>& candidates);

}  // namespace sab::spec
