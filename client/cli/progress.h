#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "sab/v1/job.pb.h"
#include "sab/v1/metric_service.pb.h"

namespace sab::client {

// Turns what is heard of a job into lines to print and one line of live progress. Pure: time is passed in, nothing is
// printed. Not thread-safe.
class ProgressView {
 public:
  struct Options {
    bool live = false;  // a status line is redrawn in place; otherwise training steps give plain lines now and then
    bool color = false;
    int width = 100;                                   // columns of the status line
    absl::Duration plain_interval = absl::Seconds(5);  // least time between two plain lines of training
  };

  explicit ProgressView(Options options) : options_(options) {}

  // Lines worth keeping: changes of state and their reasons, new attempts, the end.
  std::vector<std::string> OnJob(const v1::Job& job, absl::Time now);

  // Lines worth keeping: one for each evaluation.
  std::vector<std::string> OnMetrics(const google::protobuf::RepeatedPtrField<v1::MetricPoint>& points, absl::Time now);

  // The evaluation whose figures may still be arriving; call at the end.
  std::vector<std::string> Flush();

  // "copy-10  [#####     ]  45%  4500/10000  loss 0.0312  accuracy 0.962  38.1 steps/s  ETA 2m24s", at most `width`
  // columns.
  std::string StatusLine(absl::Time now) const;

  const v1::Job& job() const { return job_; }
  // Steps a second of late; 0 when not known yet.
  double StepsPerSecond(absl::Time now) const;

 private:
  void OnTrainStep(int64_t step, absl::Time now);
  std::string EvaluationLine() const;
  std::string Painted(v1::JobState state) const;

  const Options options_;
  v1::Job job_;
  int64_t step_ = 0;
  double train_loss_ = 0;
  bool has_train_loss_ = false;
  std::pair<std::string, double> headline_;  // the evaluation figure shown in the status line
  absl::Time first_heard_ = absl::InfinitePast();
  absl::Time last_plain_ = absl::InfinitePast();
  int64_t last_plain_step_ = -1;
  std::deque<std::pair<absl::Time, int64_t>> recent_;  // (when heard, step) of the last half minute
  // Figures of the evaluation being received: length -> (name, value) in order of arrival.
  int64_t evaluation_step_ = -1;
  std::map<int64_t, std::vector<std::pair<std::string, double>>> evaluation_;
};

// How a final job ended, in a line or two: state, why, steps, attempts, time.
std::vector<std::string> Summary(const v1::Job& job);

// "[#####     ]" with `width` places inside.
std::string Bar(double fraction, int width);

}  // namespace sab::client
