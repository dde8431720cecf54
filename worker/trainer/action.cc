#include "worker/trainer/action.h"

#include <c10/core/DeviceGuard.h>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/ids.h"
#include "common/base/log.h"
#include "common/checkpoint/checkpoint.h"
#include "model/apply/evaluate.h"
#include "model/apply/predict.h"
#include "model/apply/sample.h"
#include "worker/trainer/preparation.h"
#include "worker/trainer/spec_translation.h"

namespace sab::trainer {
namespace {

// A network with the parameters of the job's checkpoint.
struct Network {
  v1::Checkpoint checkpoint;
  Restored restored;
  std::unique_ptr<model::Task> task;  // only where its data are needed
  model::TaskShape shape;
  model::ModelConfig config;
  std::unique_ptr<model::ParameterSet> parameters;
  std::unique_ptr<model::Engine> engine;
};

Network Build(const v1::GetAssignmentResponse& assignment, at::Device device) {
  const v1::JobSpec& spec = assignment.assignment().spec();
  Network network;
  network.checkpoint = assignment.assignment().resume_from();
  std::optional<Restored> restored = Restore(assignment);
  if (!restored) throw std::runtime_error("the coordinator named no checkpoint to work with");
  network.restored = *std::move(restored);
  if (spec.action() == v1::ACTION_KIND_EVALUATE || !network.restored.shape)
    network.task = OpenTask(spec, network.restored.vocabulary);
  network.shape = network.restored.shape ? *network.restored.shape : network.task->shape();
  network.config = ToModelConfig(spec);
  network.parameters = std::make_unique<model::ParameterSet>(network.config, network.shape, device);
  OrThrow(RestoreParameters(network.restored, *network.parameters));
  network.engine = model::MakeEngine(network.config, network.shape, *network.parameters);
  return network;
}

class Action {
 public:
  Action(const v1::GetAssignmentResponse& assignment, const Replica::Connections& with, PulseMeter& pulse)
      : assignment_(assignment), spec_(assignment.assignment().spec()), with_(with), pulse_(pulse) {
    with_.interruption.SetLeaveAction([this] { leave_ = true; });
  }
  ~Action() { with_.interruption.SetLeaveAction(nullptr); }

  std::string Run() {
    const at::Device device = PrepareDevice(assignment_);
    const c10::DeviceGuard guard(device);
    network_ = Build(assignment_, device);
    with_.reporter.SetPhase(v1::TRAINER_PHASE_TRAINING);
    pulse_.Enter(v1::TRAINER_ACTIVITY_EVALUATION);
    const bool done = spec_.action() == v1::ACTION_KIND_EVALUATE  ? Evaluate()
                      : spec_.action() == v1::ACTION_KIND_PREDICT ? Predict()
                                                                  : Sample();
    if (done) return "done";
    return with_.interruption.requested() ? "" : "leave";
  }

 private:
  // False: stop.
  bool Report(int64_t done) {
    with_.reporter.SetStep(done, 0);
    pulse_.Enter(v1::TRAINER_ACTIVITY_EVALUATION);
    done_ = done;
    return !leave_ && !with_.interruption.requested();
  }
  model::WorkProgress Progress() {
    return [this](int64_t done, int64_t) { return Report(done); };
  }

  void Add(const std::string& name, int64_t length, double value) {
    v1::MetricPoint point;
    point.set_step(network_.checkpoint.step());
    point.set_split("eval");
    point.set_name(name);
    point.set_length(length);
    point.set_value(value);
    with_.reporter.Add(std::move(point));
  }

  bool Evaluate() {
    model::EvaluationWork work;
    work.lengths.assign(spec_.eval().lengths().begin(), spec_.eval().lengths().end());
    work.sequences = spec_.eval().sequences();
    work.batch_size = spec_.train().batch_size();
    work.step = network_.checkpoint.step();
    return model::Evaluate(work, *network_.task, *network_.engine, *network_.parameters, Progress(),
                           [&](const model::EvalReport& report) {
                             for (const model::Figure& figure : report.figures)
                               Add(figure.name, report.length, figure.value);
                             Add("max_hidden_norm", report.length, report.max_hidden_norm);
                             with_.reporter.Flush();
                           });
  }

  bool Predict() {
    const model::TensorData data = OpenTensors("predict.input", spec_.predict().input());
    const auto prediction = model::Predict(data, spec_.train().batch_size(), network_.shape, *network_.engine,
                                           *network_.parameters, Progress());
    if (!prediction) return false;
    std::vector<TensorView> views = {ViewOf({"outputs", prediction->outputs})};
    if (prediction->classes.defined()) views.push_back(ViewOf({"classes", prediction->classes}));
    CheckpointWriter writer = Result();
    OrThrow(writer.AddSafetensors(kPredictionFile, views));
    return Publish(std::move(writer));
  }

  bool Sample() {
    const std::string& vocabulary = network_.restored.vocabulary;
    model::SampleWork work{.prompt = {},
                           .length = spec_.sample().length(),
                           .temperature = spec_.sample().temperature(),
                           .seed = static_cast<uint64_t>(spec_.sample().seed())};
    for (const char byte : spec_.sample().prompt()) {
      const size_t symbol = vocabulary.find(byte);
      if (symbol == std::string::npos) {
        throw std::invalid_argument(absl::StrCat("sample.prompt: byte ", static_cast<int>(static_cast<uint8_t>(byte)),
                                                 " does not occur in the text that the network was trained on"));
      }
      work.prompt.push_back(static_cast<int64_t>(symbol));
    }
    const auto written = model::Sample(work, network_.config, network_.shape, *network_.parameters, Progress());
    if (!written) return false;
    std::string text;
    for (const int64_t symbol : *written) text.push_back(vocabulary.at(static_cast<size_t>(symbol)));
    CheckpointWriter writer = Result();
    OrThrow(writer.AddFile(kSampleFile, text));
    return Publish(std::move(writer));
  }

  // Named by the work done, as checkpoints are by their steps.
  CheckpointWriter Result() const {
    const v1::TrainerId& id = assignment_.assignment().id();
    v1::Checkpoint header;
    header.set_name(absl::StrCat(id.job(), "/checkpoints/", MakeCheckpointId(done_, id.attempt())));
    header.set_step(done_);
    header.set_attempt(id.attempt());
    absl::StatusOr<CheckpointWriter> writer = CheckpointWriter::Create(assignment_.checkpoint_dir(), header);
    OrThrow(writer.status());
    return *std::move(writer);
  }

  bool Publish(CheckpointWriter writer) {
    const absl::StatusOr<v1::Checkpoint> written = writer.Commit();
    OrThrow(written.status());
    OrThrow(with_.agent.PublishCheckpoint(*written));
    log::Info(absl::StrCat("result ", written->name(), " written"));
    return true;
  }

  const v1::GetAssignmentResponse& assignment_;
  const v1::JobSpec& spec_;
  const Replica::Connections& with_;
  PulseMeter& pulse_;
  Network network_;
  int64_t done_ = 0;
  std::atomic<bool> leave_ = false;
};

}  // namespace

std::string RunAction(const v1::GetAssignmentResponse& assignment, const Replica::Connections& with,
                      PulseMeter& pulse) {
  return Action(assignment, with, pulse).Run();
}

}  // namespace sab::trainer
