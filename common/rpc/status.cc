#include "common/rpc/status.h"

#include <algorithm>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/status.pb.h"

namespace sab::rpc {
namespace {

// Trailers are bounded (kMaxMetadataBytes of channel.cc, 8 KiB in other languages' clients), so what goes into them is
// too.
constexpr size_t kMaxMessageBytes = 2 << 10;
constexpr size_t kMaxFullMessageBytes = 8 << 10;
constexpr size_t kMaxDetailsBytes = 24 << 10;
constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";

std::string Cut(absl::string_view text, size_t most) {
  if (text.size() <= most) return std::string(text);
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xC0) == 0x80) --most;  // not inside a UTF-8 character
  return absl::StrCat(text.substr(0, most), " … (", text.size() - most, " more bytes)");
}

google::rpc::Status Details(const absl::Status& status) {
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(Cut(status.message(), kMaxFullMessageBytes));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    auto* any = details.add_details();
    any->set_type_url(std::string(url));
    any->set_value(std::string(payload));
  });
  if (details.ByteSizeLong() > kMaxDetailsBytes) {
    auto* list = details.mutable_details();
    list->erase(
        std::remove_if(list->begin(), list->end(), [](const auto& any) { return any.type_url() != kErrorInfoUrl; }),
        list->end());
  }
  return details;
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(static_cast<int>(status.code()));
  bool has_payload = status.message().size() > kMaxMessageBytes;
  status.ForEachPayload([&](absl::string_view, const absl::Cord&) { has_payload = true; });
  const std::string message = Cut(status.message(), kMaxMessageBytes);
  if (!has_payload) return grpc::Status(code, message);
  return grpc::Status(code, message, Details(status).SerializeAsString());
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(static_cast<int>(status.error_code()));
  google::rpc::Status details;
  if (status.error_details().empty() || !details.ParseFromString(status.error_details()) ||
      details.code() != static_cast<int>(status.error_code())) {
    return absl::Status(code, status.error_message());
  }
  absl::Status result(code, details.message());
  for (const auto& any : details.details()) result.SetPayload(any.type_url(), absl::Cord(any.value()));
  return result;
}

}  // namespace sab::rpc
