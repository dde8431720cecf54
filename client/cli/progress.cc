#include "client/cli/progress.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "client/api/client.h"
#include "client/cli/format.h"

namespace sab::client {
namespace {

constexpr absl::Duration kRateWindow = absl::Seconds(30);
// Figures stored before we came arrive in a burst that says nothing about speed.
constexpr absl::Duration kBurst = absl::Seconds(1);
constexpr absl::Duration kLeastWindow = absl::Seconds(2);
constexpr int kBarWidth = 24;

// The figure that tells most about a task, best first.
constexpr std::array<const char*, 5> kHeadlines = {"accuracy", "bits", "mse", "ce10", "loss"};

int Rank(const std::string& name) {
  const auto it = std::find(kHeadlines.begin(), kHeadlines.end(), name);
  return static_cast<int>(it - kHeadlines.begin());
}

absl::Duration RunTime(const v1::Job& job) {
  return job.has_start_time() && job.has_end_time() ? ToTime(job.end_time()) - ToTime(job.start_time())
                                                    : absl::InfiniteDuration();
}

}  // namespace

std::string Bar(double fraction, int width) {
  const int full = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * width);
  return absl::StrCat("[", std::string(full, '#'), std::string(width - full, ' '), "]");
}

std::string ProgressView::Painted(v1::JobState state) const {
  const std::string name = StateName(state);
  if (!options_.color) return name;
  const char* code = "33";
  if (state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_RUNNING) code = "32";
  if (state == v1::JOB_STATE_FAILED || state == v1::JOB_STATE_CANCELLED) code = "31";
  return absl::StrCat("\x1b[", code, "m", name, "\x1b[0m");
}

std::vector<std::string> ProgressView::OnJob(const v1::Job& job, absl::Time now) {
  std::vector<std::string> lines;
  const bool new_attempt = job.attempt_count() > 1 && job.attempt_count() != job_.attempt_count();
  const bool changed = job.state() != job_.state() ||
                       (job.state_reason() != job_.state_reason() && job.state() != v1::JOB_STATE_RUNNING);
  if (first_heard_ == absl::InfinitePast()) first_heard_ = now;
  if (new_attempt) {
    // The rate of an attempt that ended says nothing of this one, and its steps may be trained again.
    recent_.clear();
    step_ = job.step();
    const v1::Attempt* attempt = job.attempts().empty() ? nullptr : &*job.attempts().rbegin();
    lines.push_back(absl::StrCat(
        "attempt ", job.attempt_count(),
        attempt != nullptr && !attempt->recovery_source().empty()
            ? absl::StrCat(" goes on from step ", attempt->start_step(), " (", attempt->recovery_source(), ")")
            : " starts from the beginning"));
  }
  if (changed && !IsFinal(job.state())) {
    lines.push_back(absl::StrCat(job.name(), " ", Painted(job.state()), job.state_reason().empty() ? "" : ": ",
                                 job.state_reason()));
  }
  job_ = job;
  OnTrainStep(job.step(), now);
  return lines;
}

void ProgressView::OnTrainStep(int64_t step, absl::Time now) {
  if (step <= step_ && !recent_.empty()) return;
  step_ = std::max(step_, step);
  if (now - first_heard_ < kBurst) return;
  recent_.emplace_back(now, step_);
  while (now - recent_.front().first > kRateWindow) recent_.pop_front();
}

double ProgressView::StepsPerSecond(absl::Time now) const {
  if (recent_.size() >= 2 && recent_.back().first - recent_.front().first >= kLeastWindow) {
    return static_cast<double>(recent_.back().second - recent_.front().second) /
           absl::ToDoubleSeconds(recent_.back().first - recent_.front().first);
  }
  if (job_.attempts().empty()) return 0;
  const v1::Attempt& attempt = *job_.attempts().rbegin();
  if (!attempt.has_first_step_time()) return 0;
  const double seconds = absl::ToDoubleSeconds(now - ToTime(attempt.first_step_time()));
  return seconds > 0.2 ? static_cast<double>(std::max<int64_t>(step_ - attempt.start_step() - 1, 0)) / seconds : 0;
}

std::vector<std::string> ProgressView::OnMetrics(const google::protobuf::RepeatedPtrField<v1::MetricPoint>& points,
                                                 absl::Time now) {
  std::vector<std::string> lines;
  if (first_heard_ == absl::InfinitePast()) first_heard_ = now;
  for (const v1::MetricPoint& point : points) {
    if (point.split() == "eval") {
      if (point.step() != evaluation_step_) {
        for (std::string& line : Flush()) lines.push_back(std::move(line));
        evaluation_step_ = point.step();
      }
      evaluation_[point.length()].emplace_back(point.name(), point.value());
      // Shown for the first length, which is the one trained on.
      const bool first_length = evaluation_.begin()->first == point.length();
      const bool known = Rank(point.name()) < static_cast<int>(kHeadlines.size());
      if (first_length && known && (headline_.first.empty() || Rank(point.name()) <= Rank(headline_.first))) {
        headline_ = {point.name(), point.value()};
      }
    } else if (point.split() == "train") {
      // Training figures of a later step end the evaluation before them.
      if (point.step() > evaluation_step_) {
        for (std::string& line : Flush()) lines.push_back(std::move(line));
      }
      if (point.name() == "loss") {
        train_loss_ = point.value();
        has_train_loss_ = true;
      }
      OnTrainStep(point.step(), now);
    }
  }
  if (!options_.live && step_ > last_plain_step_ && has_train_loss_ && now - last_plain_ >= options_.plain_interval &&
      now - first_heard_ >= kBurst) {
    last_plain_ = now;
    last_plain_step_ = step_;
    lines.push_back(StatusLine(now));
  }
  return lines;
}

std::vector<std::string> ProgressView::Flush() {
  if (evaluation_.empty()) return {};
  std::vector<std::string> lines = {EvaluationLine()};
  evaluation_.clear();
  return lines;
}

std::string ProgressView::EvaluationLine() const {
  std::string line = absl::StrCat("step ", evaluation_step_, " evaluation ");
  if (evaluation_.size() == 1) {
    for (const auto& [name, value] : evaluation_.begin()->second) {
      if (Rank(name) < static_cast<int>(kHeadlines.size()))
        absl::StrAppend(&line, " ", name, " ", FormatNumber(value), " ");
    }
    line.pop_back();
    return line;
  }
  // Over many lengths one figure is shown; `sabctl metrics` has the rest.
  std::string best = "loss";
  for (const auto& [name, value] : evaluation_.begin()->second) best = Rank(name) < Rank(best) ? name : best;
  absl::StrAppend(&line, " ", best);
  for (const auto& [length, figures] : evaluation_) {
    for (const auto& [name, value] : figures) {
      if (name == best) absl::StrAppend(&line, "  ", FormatNumber(value), " @", length);
    }
  }
  return line;
}

std::string ProgressView::StatusLine(absl::Time now) const {
  const int64_t total = job_.spec().train().steps();
  std::string figures = absl::StrCat("step ", FormatStep(step_, total));
  if (has_train_loss_) absl::StrAppend(&figures, "  loss ", FormatNumber(train_loss_));
  if (!headline_.first.empty() && (headline_.first != "loss" || !has_train_loss_)) {
    absl::StrAppend(&figures, "  ", headline_.first, " ", FormatNumber(headline_.second));
  }
  const double rate = StepsPerSecond(now);
  if (rate > 0 && total > 0 && !IsFinal(job_.state())) {
    absl::StrAppend(&figures, "  ", FormatNumber(rate), " steps/s  ETA ",
                    ShortDuration(absl::Seconds(static_cast<double>(std::max<int64_t>(total - step_, 0)) / rate)));
  }
  if (!options_.live) return figures;
  const double done = total > 0 ? static_cast<double>(step_) / static_cast<double>(total) : 0;
  const std::string name = job_.spec().name().empty() ? job_.name() : job_.spec().name();
  const std::string percent = absl::StrFormat("%3d%%  ", static_cast<int>(done * 100));
  // The bar gets what the rest leaves.
  const int room = options_.width - static_cast<int>(name.size() + percent.size() + figures.size()) - 5;
  std::string line = absl::StrCat(name, "  ", Bar(done, std::clamp(room, 4, kBarWidth)), " ", percent, figures);
  if (line.size() > static_cast<size_t>(options_.width)) line.resize(options_.width);
  return line;
}

std::vector<std::string> Summary(const v1::Job& job) {
  std::string line = absl::StrCat(job.name(), " ", StateName(job.state()));
  if (!job.stop_reason().empty()) absl::StrAppend(&line, " (", job.stop_reason(), ")");
  if (job.spec().train().steps() > 0)
    absl::StrAppend(&line, ": ", job.step(), " of ", job.spec().train().steps(), " steps");
  if (RunTime(job) != absl::InfiniteDuration()) absl::StrAppend(&line, " in ", ShortDuration(RunTime(job)));
  if (job.attempt_count() > 1) absl::StrAppend(&line, ", ", job.attempt_count(), " attempts");
  if (job.skipped_steps() > 0)
    absl::StrAppend(&line, ", ", job.skipped_steps(), " steps skipped (gradient not finite)");
  std::vector<std::string> lines = {line};
  const std::string& why = job.failure().empty() ? job.state_reason() : job.failure();
  if (job.state() != v1::JOB_STATE_SUCCEEDED && !why.empty()) {
    for (absl::string_view part : absl::StrSplit(why, '\n', absl::SkipEmpty()))
      lines.push_back(absl::StrCat("  ", part));
  }
  return lines;
}

}  // namespace sab::client
