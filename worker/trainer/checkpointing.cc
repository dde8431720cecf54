#include "worker/trainer/checkpointing.h"

#include <ATen/ops/from_blob.h>
#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/ids.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"

namespace sab::trainer {

TensorView ViewOf(const model::NamedTensor& named) {
  return {named.name,
          named.tensor.scalar_type() == at::kDouble ? "F64"
          : named.tensor.scalar_type() == at::kLong ? "I64"
                                                    : "F32",
          named.tensor.sizes().vec(),
          {static_cast<const std::byte*>(named.tensor.data_ptr()), static_cast<size_t>(named.tensor.nbytes())}};
}

namespace {

using Json = nlohmann::ordered_json;

constexpr int kStateFormat = 1;
constexpr std::array<const char*, 3> kLosses = {"cross_entropy_every_step", "cross_entropy_last_step", "mse_last_step"};

std::vector<TensorView> ViewsOf(const std::vector<model::NamedTensor>& tensors) {
  std::vector<TensorView> views;
  for (const model::NamedTensor& tensor : tensors) views.push_back(ViewOf(tensor));
  return views;
}

std::string ShapeText(const at::Tensor& tensor) {
  return absl::StrCat("(", absl::StrJoin(tensor.sizes(), ", "), ")");
}

std::string StateJson(const CheckpointContext& context, const model::TrainState& state) {
  std::string spec;
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  (void)google::protobuf::util::MessageToJsonString(context.spec, &spec, options);
  Json vocabulary = Json::array();
  for (const char byte : context.vocabulary) vocabulary.push_back(static_cast<uint8_t>(byte));
  const Json json = {
      {"format", kStateFormat},
      {"job", context.id.job()},
      {"attempt", context.id.attempt()},
      {"world_size", context.world_size},
      {"step", state.step},
      {"optimizer_steps", state.optimizer_steps},
      {"skipped_steps", state.skipped_steps},
      {"nonfinite_in_a_row", state.nonfinite_in_a_row},
      {"curriculum_stage", state.curriculum_stage},
      {"eval_loss", state.eval_loss && std::isfinite(*state.eval_loss) ? Json(*state.eval_loss) : Json(nullptr)},
      {"stop_reason", state.stop_reason},
      // Data and random numbers are functions of (seed, step, row): this is all of their state.
      {"data",
       {{"seed", context.spec.train().has_seed() ? context.spec.train().seed() : 1}, {"next_step", state.step + 1}}},
      {"vocabulary", std::move(vocabulary)},
      {"shape",
       {{"inputs", context.shape.inputs},
        {"vocabulary", context.shape.vocabulary},
        {"outputs", context.shape.outputs},
        {"loss", kLosses[static_cast<size_t>(context.shape.loss)]}}},
      {"spec", Json::parse(spec, nullptr, false)},
  };
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

// Nothing for a loss that this version does not know.
std::optional<model::TaskShape> ParseShape(const Json& json) {
  const auto loss = std::find(kLosses.begin(), kLosses.end(), json.at("loss").get<std::string>());
  if (loss == kLosses.end()) return std::nullopt;
  return model::TaskShape{.inputs = json.at("inputs").get<int64_t>(),
                          .vocabulary = json.at("vocabulary").get<int64_t>(),
                          .outputs = json.at("outputs").get<int64_t>(),
                          .loss = static_cast<model::LossKind>(loss - kLosses.begin())};
}

absl::StatusOr<Restored> ParseState(const std::string& text, const std::string& path) {
  const absl::Status damaged = absl::DataLossError(absl::StrCat(path, " is not a state that this version writes"));
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return damaged;
  try {
    if (json.at("format").get<int>() != kStateFormat) return damaged;
    Restored restored;
    model::TrainState& state = restored.state;
    state.step = json.at("step").get<int64_t>();
    state.optimizer_steps = json.at("optimizer_steps").get<int64_t>();
    state.skipped_steps = json.at("skipped_steps").get<int64_t>();
    state.nonfinite_in_a_row = json.at("nonfinite_in_a_row").get<int64_t>();
    state.curriculum_stage = json.at("curriculum_stage").get<int64_t>();
    if (!json.at("eval_loss").is_null()) state.eval_loss = json.at("eval_loss").get<double>();
    state.stop_reason = json.at("stop_reason").get<std::string>();
    for (const Json& byte : json.at("vocabulary"))
      restored.vocabulary.push_back(static_cast<char>(byte.get<uint8_t>()));
    if (json.contains("shape")) {
      restored.shape = ParseShape(json["shape"]);
      if (!restored.shape) return damaged;
    }
    return restored;
  } catch (const Json::exception&) {
    return damaged;
  }
}

absl::StatusOr<std::vector<model::NamedTensor>> ReadTensors(const std::string& path) {
  SAB_ASSIGN_OR_RETURN(const auto file, SafetensorsFile::Open(path));
  std::vector<model::NamedTensor> tensors;
  for (const TensorView& view : file->tensors()) {
    if (view.dtype != "F32" && view.dtype != "F64") {
      return absl::DataLossError(absl::StrCat(path, ": ", view.name, " has type ", view.dtype, ", expected F32"));
    }
    // from_blob needs no alignment for a copy, and does not write.
    const at::Tensor mapped = at::from_blob(const_cast<std::byte*>(view.data.data()), view.shape,
                                            view.dtype == "F64" ? at::kDouble : at::kFloat);
    tensors.push_back({view.name, mapped.clone()});
  }
  return tensors;
}

}  // namespace

Snapshot TakeSnapshot(const model::TrainState& state, const model::ParameterSet& parameters,
                      const model::FrozenState& frozen) {
  Snapshot snapshot;
  snapshot.state = state;
  for (const model::Parameter& parameter : parameters.all()) {
    const int64_t offset = parameter.value.storage_offset() - parameters.values().storage_offset();
    snapshot.parameters.push_back(
        {parameter.name, frozen.values.narrow(0, offset, parameter.value.numel()).view(parameter.value.sizes())});
  }
  snapshot.optimizer = frozen.optimizer;
  return snapshot;
}

absl::StatusOr<v1::Checkpoint> WriteCheckpoint(const CheckpointContext& context, const Snapshot& snapshot) {
  v1::Checkpoint header;
  header.set_name(
      absl::StrCat(context.id.job(), "/checkpoints/", MakeCheckpointId(snapshot.state.step, context.id.attempt())));
  header.set_step(snapshot.state.step);
  header.set_attempt(context.id.attempt());
  if (snapshot.state.eval_loss && std::isfinite(*snapshot.state.eval_loss))
    header.set_eval_loss(*snapshot.state.eval_loss);
  if (snapshot.state.figure) header.set_ranked_figure(*snapshot.state.figure);
  SAB_ASSIGN_OR_RETURN(CheckpointWriter writer, CheckpointWriter::Create(context.parent, header));
  SAB_RETURN_IF_ERROR(writer.AddSafetensors(kModelFile, ViewsOf(snapshot.parameters), {{"format", "pt"}}));
  SAB_RETURN_IF_ERROR(writer.AddSafetensors(kOptimizerFile, ViewsOf(snapshot.optimizer)));
  SAB_RETURN_IF_ERROR(writer.AddFile(kStateFile, StateJson(context, snapshot.state)));
  return writer.Commit();
}

absl::StatusOr<Restored> ReadCheckpoint(const std::string& folder) {
  SAB_RETURN_IF_ERROR(VerifyCheckpoint(folder).status());
  const auto path = [&](std::string_view file) { return absl::StrCat(folder, "/", std::string(file)); };
  SAB_ASSIGN_OR_RETURN(const std::string text, ReadFile(path(kStateFile)));
  SAB_ASSIGN_OR_RETURN(Restored restored, ParseState(text, path(kStateFile)));
  SAB_ASSIGN_OR_RETURN(restored.parameters, ReadTensors(path(kModelFile)));
  SAB_ASSIGN_OR_RETURN(restored.optimizer, ReadTensors(path(kOptimizerFile)));
  return restored;
}

void BeginFrom(const v1::JobSpec& spec, Restored& restored) {
  const model::TrainState before = std::exchange(restored.state, {});
  restored.parameters_only = !spec.init_from().optimizer();
  if (restored.parameters_only) {
    restored.optimizer.clear();
    return;
  }
  restored.state.step = before.step;
  restored.state.optimizer_steps = before.optimizer_steps;
  restored.state.nonfinite_in_a_row = before.nonfinite_in_a_row;
  restored.state.eval_loss = before.eval_loss;
  const int64_t last_stage = std::max(0, spec.curriculum().lengths_size() - 1);
  restored.state.curriculum_stage = std::min(before.curriculum_stage, last_stage);
}

absl::Status RestoreParameters(const Restored& restored, model::ParameterSet& parameters) {
  for (const model::Parameter& parameter : parameters.all()) {
    const model::NamedTensor* found = nullptr;
    for (const model::NamedTensor& tensor : restored.parameters) {
      if (tensor.name == parameter.name) found = &tensor;
    }
    if (found == nullptr)
      return absl::FailedPreconditionError(absl::StrCat("the checkpoint has no parameter ", parameter.name));
    if (found->tensor.sizes() != parameter.value.sizes()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the checkpoint's ", parameter.name, " has the shape ", ShapeText(found->tensor), ", this network's ",
          ShapeText(parameter.value), ": the data or the spec are not those that it was trained with"));
    }
    at::Tensor value = parameter.value;
    value.copy_(found->tensor);
  }
  return absl::OkStatus();
}

void RemoveUnfinishedCheckpoints(const std::string& parent) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(parent, error)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(".") && name.find(".tmp-") != std::string::npos &&
        !name.ends_with(absl::StrCat(".tmp-", getpid())))
      std::filesystem::remove_all(entry.path(), error);
  }
}

CheckpointWorker::CheckpointWorker() : thread_([this] { Run(); }) {}

CheckpointWorker::~CheckpointWorker() {
  {
    const MutexLock lock(&mutex_);
    closing_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

void CheckpointWorker::Submit(Order order) {
  const MutexLock lock(&mutex_);
  AwaitIdle();
  waiting_ = std::move(order);
  changed_.NotifyAll();
}

absl::Status CheckpointWorker::Finish() {
  const MutexLock lock(&mutex_);
  AwaitIdle();
  return status_;
}

void CheckpointWorker::AwaitIdle() {
  while (waiting_.has_value()) changed_.Wait(&mutex_);
}

namespace {

absl::Status Carry(const CheckpointWorker::Order& order) {
  absl::StatusOr<v1::Checkpoint> written = WriteCheckpoint(order.context, order.snapshot);
  if (!written.ok()) {
    log::Error(absl::StrCat("the checkpoint of step ", order.snapshot.state.step,
                            " was not written, training goes on: ", std::string(written.status().message())));
    return written.status();
  }
  log::Info(absl::StrCat("checkpoint ", written->name(), " written"));
  const absl::Status status = order.publish(*written);
  if (absl::IsAborted(status)) {
    // Of an attempt that has ended meanwhile: nobody will ever ask for it.
    std::error_code error;
    std::filesystem::remove_all(
        absl::StrCat(order.context.parent, "/", written->name().substr(written->name().rfind('/') + 1)), error);
  }
  return status;
}

}  // namespace

void CheckpointWorker::Run() {
  for (;;) {
    Order order;
    {
      const MutexLock lock(&mutex_);
      while (!waiting_ && !closing_) changed_.Wait(&mutex_);
      if (!waiting_) return;
      order = *waiting_;  // tensors are shared, not copied
    }
    absl::Status status = Carry(order);
    order = {};  // its memory is the training's again
    const MutexLock lock(&mutex_);
    waiting_.reset();
    status_ = std::move(status);
    changed_.NotifyAll();
  }
}

}  // namespace sab::trainer
