#include "bench/coordinator/users.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/util/specs.h"

namespace sab::bench {
namespace {

constexpr absl::Duration kPatience = absl::Minutes(2);
constexpr size_t kOpenJobs = 5;  // of a user at a time
constexpr int kStepMs = 5;
constexpr int kFigureEvery = 10;  // steps between two figures of the pretended trainer

client::ClientOptions Patient(const std::string& address) {
  return {.address = address, .connect_timeout = kPatience, .call_timeout = kPatience};
}

std::string StateOf(const v1::Job& job) {
  return v1::JobState_Name(job.state());
}

}  // namespace

void Violations::Add(std::string text) {
  MutexLock lock(&mutex_);
  texts_.push_back(std::move(text));
}

std::vector<std::string> Violations::Take() {
  MutexLock lock(&mutex_);
  return std::exchange(texts_, {});
}

User::User(const std::string& address, uint32_t seed, Violations* violations)
    : violations_(violations), client_(Patient(address)), random_(seed), thread_([this] { Run(); }) {}

User::~User() {
  Stop();
}

void User::Stop() {
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
}

void User::AddJobs(std::set<std::string>* names) const {
  for (const auto& [id, known] : jobs_) names->insert(id.name());
}

void User::Run() {
  while (!stopping_) {
    std::vector<std::map<JobId, Known>::iterator> open;
    for (auto it = jobs_.begin(); it != jobs_.end(); ++it) {
      if (!it->second.final && !it->second.cancelled) open.push_back(it);
    }
    if (open.size() < kOpenJobs) {
      Submit();
    } else {
      const auto chosen = open[random_() % open.size()];
      Disturb(chosen->first, chosen->second);
    }
    ++calls_;
    std::this_thread::sleep_for(std::chrono::milliseconds(20 + random_() % 100));
  }
}

void User::Submit() {
  v1::JobSpec spec = testing_util::CopySpec();
  Known known{.steps = 40 + static_cast<int64_t>(random_() % 400)};
  spec.mutable_train()->set_steps(known.steps);
  spec.mutable_eval()->set_every(0);
  spec.mutable_checkpoint()->set_every(100);
  (*spec.mutable_labels())["fake.step_ms"] = absl::StrCat(kStepMs);
  const auto created = client_.CreateJob(spec);
  if (!created.ok()) return violations_->Add(absl::StrCat("submit: ", created.status().ToString()));
  jobs_[*ParseJobName(created->job().name())] = known;
}

bool User::Answered(const absl::Status& status, const char* verb, const JobId& id, Known& known) {
  if (status.ok()) return true;
  if (!absl::IsFailedPrecondition(status)) {
    violations_->Add(absl::StrCat(verb, " ", id.name(), ": ", status.ToString()));
  }
  known.final = true;
  return false;
}

void User::Disturb(const JobId& id, Known& known) {
  const auto job = client_.GetJob(id);
  if (!job.ok()) {
    violations_->Add(absl::StrCat(id.name(), ", whose creation was answered: ", job.status().ToString()));
    known.final = true;
    return;
  }
  known.final = client::IsFinal(job->state());
  if (known.final) return;
  const bool paused = job->state() == v1::JOB_STATE_PAUSED || job->stop_intent() == v1::STOP_INTENT_PAUSE;
  const uint32_t draw = random_() % 10;
  if (draw < 2) {
    known.cancelled = Answered(client_.CancelJob(id).status(), "cancel", id, known);
  } else if (paused) {
    Answered(client_.ResumeJob(id).status(), "resume", id, known);
  } else if (draw < 5) {
    if (Answered(client_.PauseJob(id).status(), "pause", id, known)) ++known.pauses;
  } else {
    v1::UpdateJobRequest update;
    update.set_name(id.name());
    update.set_priority(random_() % 100);
    if (Answered(client_.UpdateJob(update).status(), "update", id, known)) known.priority = update.priority();
  }
}

void User::Check() {
  for (auto& [id, known] : jobs_) {
    const auto job = client_.GetJob(id);
    if (job.ok() && (job->state() == v1::JOB_STATE_PAUSED || job->stop_intent() == v1::STOP_INTENT_PAUSE)) {
      (void)client_.ResumeJob(id);  // it may have ended meanwhile
    }
  }
  for (auto& [id, known] : jobs_) CheckJob(id, known);
}

void User::CheckJob(const JobId& id, const Known& known) {
  const auto job = client_.WatchJob(
      id, [](const v1::Job&) {}, absl::Now() + kPatience);
  if (!job.ok()) return violations_->Add(absl::StrCat(id.name(), " does not end: ", job.status().ToString()));
  const auto wrong = [&](absl::string_view what) {
    violations_->Add(absl::StrCat(id.name(), " ", what, "\n", job->DebugString()));
  };
  if (known.cancelled) {
    if (job->state() != v1::JOB_STATE_CANCELLED) wrong("was cancelled, and is not");
  } else if (job->state() != v1::JOB_STATE_SUCCEEDED) {
    wrong(absl::StrCat("is ", StateOf(*job)));
  } else if (job->step() != known.steps) {
    wrong(absl::StrCat("ended at step ", job->step(), " of ", known.steps));
  }
  if (known.priority.has_value() && job->spec().queue().priority() != *known.priority)
    wrong(absl::StrCat("lost its priority ", *known.priority));
  // A pause that came before the first step, or that was repeated over a kill, may have cost none.
  if (job->attempt_count() > 1 + known.pauses)
    wrong(absl::StrCat("took ", job->attempt_count(), " attempts for ", known.pauses, " pauses"));
  CheckFigures(id, known);
}

void User::CheckFigures(const JobId& id, const Known& known) {
  v1::ListMetricsRequest request;
  request.set_job(id.name());
  request.set_metric("loss");
  const auto figures = client_.ListMetrics(request);
  if (!figures.ok()) return violations_->Add(absl::StrCat(id.name(), ": ", figures.status().ToString()));
  const auto& points = figures->points();
  for (int i = 1; i < points.size(); ++i) {
    if (points[i].step() <= points[i - 1].step())
      violations_->Add(absl::StrCat(id.name(), ": a figure of step ", points[i].step(), " twice"));
  }
  const int64_t expected = (known.steps - 1) / kFigureEvery + 1;
  if (!known.cancelled && known.pauses == 0 && points.size() != expected)
    violations_->Add(absl::StrCat(id.name(), ": ", points.size(), " figures and not ", expected));
}

Follower::Follower(const std::string& address, JobId job, Violations* violations)
    : job_(std::move(job)), violations_(violations), client_(Patient(address)), watcher_(Patient(address)) {
  thread_ = std::thread([this] {
    const auto end = watcher_.WatchJob(job_, [this](const v1::Job& seen) { Look(seen); });
    if (!end.ok()) violations_->Add(absl::StrCat("following ", job_.name(), ": ", end.status().ToString()));
    MutexLock lock(&mutex_);
    ended_ = true;
    changed_.NotifyAll();
  });
}

Follower::~Follower() {
  watcher_.Cancel();
  if (thread_.joinable()) thread_.join();
}

void Follower::Look(const v1::Job& job) {
  MutexLock lock(&mutex_);
  if (job.attempt_count() > std::max<int64_t>(1, last_.attempt_count())) {
    violations_->Add(absl::StrCat(job_.name(), " began attempt ", job.attempt_count(), ": ",
                                  job.attempts(job.attempts_size() - 2).end_reason()));
  }
  if (job.state() == v1::JOB_STATE_RUNNING) {
    if (job.step() < step_)
      violations_->Add(absl::StrCat(job_.name(), " went back from step ", step_, " to ", job.step()));
    step_ = job.step();
  }
  last_ = job;
  changed_.NotifyAll();
}

v1::Job Follower::AwaitState(v1::JobState state) {
  MutexLock lock(&mutex_);
  while (last_.state() != state && !ended_) changed_.Wait(&mutex_);
  return last_;
}

void Follower::AwaitRunning() {
  AwaitState(v1::JOB_STATE_RUNNING);
}

void Follower::Finish() {
  const auto paused = client_.PauseJob(job_);
  if (!paused.ok()) return violations_->Add(absl::StrCat("pause ", job_.name(), ": ", paused.status().ToString()));
  const v1::Job job = AwaitState(v1::JOB_STATE_PAUSED);
  if (job.state() != v1::JOB_STATE_PAUSED || job.attempt_count() != 1)
    violations_->Add(absl::StrCat(job_.name(), " was not paused in its first attempt\n", job.DebugString()));
  const auto checkpoints = client_.ListCheckpoints(job_);
  if (!checkpoints.ok() || checkpoints->empty() || checkpoints->front().step() != job.step())
    violations_->Add(absl::StrCat(job_.name(), " left no checkpoint of step ", job.step()));
  int64_t last = 0;
  v1::ListMetricsRequest request;
  request.set_job(job_.name());
  request.set_metric("loss");
  do {
    const auto page = client_.ListMetrics(request);
    if (!page.ok()) return violations_->Add(absl::StrCat(job_.name(), ": ", page.status().ToString()));
    for (const v1::MetricPoint& point : page->points()) {
      if (point.step() <= last)
        violations_->Add(absl::StrCat(job_.name(), ": a figure of step ", point.step(), " after that of step ", last));
      last = point.step();
    }
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  if (const auto cancelled = client_.CancelJob(job_); !cancelled.ok())
    violations_->Add(absl::StrCat("cancel ", job_.name(), ": ", cancelled.status().ToString()));
  AwaitState(v1::JOB_STATE_CANCELLED);
}

}  // namespace sab::bench
