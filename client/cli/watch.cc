#include <unistd.h>

#include <csignal>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/progress.h"
#include "common/base/mutex.h"

namespace sab::client {
namespace {

// How often a live status line is redrawn at most.
constexpr absl::Duration kRedraw = absl::Milliseconds(100);

// What the two streams have said, and whether they have ended. Both write, the printing thread reads.
class Screen {
 public:
  Screen(ProgressView::Options options) : live_(options.live), view_(options) {}

  void OnJob(const v1::Job& job) {
    MutexLock lock(&mutex_);
    Keep(view_.OnJob(job, absl::Now()));
  }
  void OnMetrics(const google::protobuf::RepeatedPtrField<v1::MetricPoint>& points) {
    MutexLock lock(&mutex_);
    Keep(view_.OnMetrics(points, absl::Now()));
  }
  void StreamEnded() {
    MutexLock lock(&mutex_);
    ++streams_ended_;
    changed_.NotifyAll();
  }

  // Prints until both streams have ended.
  void PrintUntilEnd(std::ostream& out) {
    bool ended = false;
    while (!ended) {
      std::vector<std::string> lines;
      std::string status;
      {
        MutexLock lock(&mutex_);
        while (!dirty_ && streams_ended_ < 2) {
          // A live line shows time passing too.
          if (!changed_.WaitFor(&mutex_, live_ ? absl::Seconds(1) : absl::Hours(1))) break;
        }
        ended = streams_ended_ == 2;
        if (ended) Keep(view_.Flush());
        lines.swap(lines_);
        dirty_ = false;
        if (live_ && !ended) status = view_.StatusLine(absl::Now());
      }
      const char* clear = live_ ? "\r\x1b[K" : "";
      for (const std::string& line : lines) out << clear << line << "\n";
      if (live_) out << clear << status;
      out.flush();
      if (live_ && !ended) absl::SleepFor(kRedraw);
    }
  }

 private:
  void Keep(std::vector<std::string> lines) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (std::string& line : lines) lines_.push_back(std::move(line));
    dirty_ = true;
    changed_.NotifyAll();
  }

  const bool live_;
  Mutex mutex_;
  CondVar changed_;
  ProgressView view_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);
  bool dirty_ ABSL_GUARDED_BY(mutex_) = false;
  int streams_ended_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Ctrl-C ends the looking on and not the job; say so. Only what a signal handler may do.
extern "C" void OnInterrupt(int) {
  static constexpr char kText[] = "\nsabctl: stopped watching; the job goes on (end it with `sabctl cancel`)\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kText, sizeof(kText) - 1);
  _exit(130);
}

}  // namespace

int WatchUntilFinal(Context& context, const JobId& job) {
  if (context.streams.out_is_terminal) std::signal(SIGINT, OnInterrupt);
  Screen screen({.live = context.streams.out_is_terminal && !context.quiet,
                 .color = context.streams.color,
                 .width = context.streams.width});
  Client& client = context.client();
  absl::Status metrics_status;
  std::thread metrics([&] {
    metrics_status = client.WatchMetrics(job, [&](const auto& points) { screen.OnMetrics(points); });
    screen.StreamEnded();
  });
  absl::StatusOr<v1::Job> final = absl::UnknownError("");
  std::thread states([&] {
    final = client.WatchJob(job, [&](const v1::Job& seen) { screen.OnJob(seen); });
    // Without the job there is nothing to look at any more.
    if (!final.ok()) client.Cancel();
    screen.StreamEnded();
  });
  std::ostream discard(nullptr);
  screen.PrintUntilEnd(context.quiet ? discard : context.streams.out);
  metrics.join();
  states.join();
  if (!final.ok()) return context.Fail(final.status());
  if (!metrics_status.ok()) context.PrintError(absl::StrCat("figures: ", metrics_status.message()));
  if (!context.quiet) {
    for (const std::string& line : Summary(*final)) context.streams.out << line << "\n";
  }
  context.streams.out.flush();
  return ExitCodeOf(final->state());
}

void AddWatch(CLI::App& app, Context* context) {
  auto job = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("watch", "Follow a job to its end: progress, figures, changes of state");
  AddJobArgument(command, job.get());
  command->footer(
      "Ends with the job's exit code: 0 succeeded, 1 failed, 3 cancelled.\n\nExamples:\n"
      "  sabctl watch jobs/3f9k2mzq\n  sabctl watch 3f9k2mzq | tee training.log   plain lines");
  command->callback([context, job] {
    context->action = [context, job] {
      const auto id = ParseJobArgument(*job);
      return id.ok() ? WatchUntilFinal(*context, *id) : context->Fail(id.status());
    };
  });
}

}  // namespace sab::client
