#include <google/protobuf/text_format.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "common/spec/spec_file.h"

namespace sab::client {
namespace {

struct GetOptions {
  std::string job;
  std::string output;
};

std::string AttemptTable(const v1::Job& job) {
  Table table({"ATTEMPT", "STEPS", "FROM", "PLACES", "TIME", "END"});
  for (const v1::Attempt& attempt : job.attempts()) {
    std::vector<std::string> places;
    for (const v1::Placement& placement : attempt.placements()) {
      places.push_back(absl::StrCat(placement.rank(), ":", placement.worker(), "#", placement.slot()));
    }
    const absl::Time end = attempt.has_end_time() ? ToTime(attempt.end_time()) : absl::Now();
    table.Add({absl::StrCat(attempt.number()), absl::StrCat(attempt.start_step(), " to ", attempt.last_step()),
               attempt.recovery_source().empty() ? "the beginning" : attempt.recovery_source(),
               absl::StrJoin(places, " "), ShortDuration(end - ToTime(attempt.start_time())),
               attempt.end_reason().substr(0, attempt.end_reason().find('\n'))});
  }
  return table.Text();
}

std::string Milliseconds(bool present, const google::protobuf::Duration& duration) {
  if (!present) return "-";
  return absl::StrCat(duration.seconds() * 1000 + duration.nanos() / 1'000'000);
}

// What each recovery took, phase by phase; "" for a job that was never disturbed.
std::string RecoveryTable(const v1::Job& job) {
  Table table({"ATTEMPT", "CAUSE", "LOST STEPS", "DETECT", "STOP", "PLACE", "START", "RESTORE", "FIRST STEP (ms)"});
  bool any = false;
  for (const v1::Attempt& attempt : job.attempts()) {
    if (!attempt.has_recovery()) continue;
    const v1::Recovery& r = attempt.recovery();
    any = true;
    table.Add({absl::StrCat(attempt.number()), r.cause(), absl::StrCat(r.lost_steps()),
               Milliseconds(r.has_detect(), r.detect()), Milliseconds(r.has_stop(), r.stop()),
               Milliseconds(r.has_place(), r.place()), Milliseconds(r.has_start(), r.start()),
               Milliseconds(r.has_restore(), r.restore()), Milliseconds(r.has_first_step(), r.first_step())});
  }
  return any ? absl::StrCat("\n", table.Text()) : "";
}

// "train.learning_rate: 0.001 -> 0.0001", one a line.
std::string SettingText(const v1::SpecChange& change, const std::string& field) {
  const auto value = [&](const v1::JobSpec& spec) {
    const google::protobuf::Message* message = &spec;
    std::string path = field;
    for (size_t dot; (dot = path.find('.')) != std::string::npos; path = path.substr(dot + 1)) {
      const auto* section = message->GetDescriptor()->FindFieldByName(path.substr(0, dot));
      message = &message->GetReflection()->GetMessage(*message, section);
    }
    std::string text;
    const auto* leaf = message->GetDescriptor()->FindFieldByName(path);
    const auto* reflection = message->GetReflection();
    if (leaf->is_repeated()) {
      for (int i = 0; i < reflection->FieldSize(*message, leaf); ++i) {
        std::string item;
        google::protobuf::TextFormat::PrintFieldValueToString(*message, leaf, i, &item);
        absl::StrAppend(&text, i > 0 ? ", " : "", item);
      }
      return absl::StrCat("[", text, "]");
    }
    google::protobuf::TextFormat::PrintFieldValueToString(*message, leaf, -1, &text);
    return text;
  };
  return absl::StrCat(field, ": ", value(change.before()), " -> ", value(change.after()));
}

// What was changed while the job trained.
std::string ChangeTable(const v1::Job& job) {
  if (job.changes().empty()) return "";
  Table table({"CHANGED", "FROM STEP", "SETTING"});
  for (const v1::SpecChange& change : job.changes()) {
    for (const std::string& field : change.fields()) {
      table.Add({absl::FormatTime(absl::RFC3339_sec, ToTime(change.create_time()), absl::UTCTimeZone()),
                 change.has_after_step() ? absl::StrCat(change.after_step() + 1) : "the next",
                 SettingText(change, field)});
    }
  }
  return absl::StrCat("\n", table.Text());
}

// The ranks of a running attempt: who computes, and who waits for whom.
std::string RankTable(const v1::Job& job) {
  if (job.ranks_size() < 2) return "";
  Table table({"RANK", "WORKER", "STEP", "AT", "COMPUTES (s)", "WAITS (s)", ""});
  for (const v1::RankStatus& rank : job.ranks()) {
    table.Add({absl::StrCat(rank.rank()), rank.worker(), absl::StrCat(rank.step()),
               rank.activity().empty() ? "-" : rank.activity(), FormatNumber(rank.compute_seconds()),
               FormatNumber(rank.wait_seconds()), rank.straggler() ? "straggler: the others wait for it" : ""});
  }
  return absl::StrCat("\n", table.Text());
}

std::string JobText(const v1::Job& job, absl::Time now) {
  Table table({"Job", job.name()});
  table.Add({"Name", job.spec().name()});
  table.Add({"State", StateName(job.state())});
  if (!job.state_reason().empty()) table.Add({"Reason", job.state_reason()});
  const int64_t steps = job.spec().train().steps();
  table.Add({"Step", steps > 0 ? absl::StrCat(job.step(), " of ", steps) : absl::StrCat(job.step())});
  if (job.spec().has_init_from()) table.Add({"Starts from", job.spec().init_from().checkpoint()});
  if (!job.stop_reason().empty()) table.Add({"Stopped by", job.stop_reason()});
  if (job.skipped_steps() > 0)
    table.Add({"Skipped", absl::StrCat(job.skipped_steps(), " steps whose gradient was not finite")});
  table.Add(
      {"Created", absl::StrCat(absl::FormatTime(absl::RFC3339_sec, ToTime(job.create_time()), absl::UTCTimeZone()),
                               " (", FormatAge(job.create_time(), now), ")")});
  if (job.has_start_time()) {
    const absl::Time end = job.has_end_time() ? ToTime(job.end_time()) : now;
    table.Add({job.has_end_time() ? "Took" : "Running for", ShortDuration(end - ToTime(job.start_time()))});
  }
  std::string text = table.Text();
  if (!job.failure().empty()) absl::StrAppend(&text, "\nFailure:\n", job.failure(), "\n");
  if (!job.attempts().empty()) absl::StrAppend(&text, "\n", AttemptTable(job));
  absl::StrAppend(&text, RecoveryTable(job), ChangeTable(job), RankTable(job));
  return text;
}

int Get(Context& context, const GetOptions& options) {
  const auto id = ParseJobArgument(options.job);
  if (!id.ok()) return context.Fail(id.status());
  const auto job = context.client().GetJob(*id);
  if (!job.ok()) return context.Fail(job.status());
  std::ostream& out = context.streams.out;
  if (options.output == "json") {
    out << ToJson(*job);
  } else if (options.output == "yaml") {
    out << "# " << job->name() << " " << StateName(job->state()) << "\n" << spec::FormatYaml(job->spec());
  } else if (options.output == "name") {
    out << job->name() << "\n";
  } else {
    out << JobText(*job, absl::Now());
  }
  return kExitOk;
}

}  // namespace

void AddGet(CLI::App& app, Context* context) {
  auto options = std::make_shared<GetOptions>();
  CLI::App* command = app.add_subcommand("get", "Show one job: state, steps, attempts, failure");
  AddJobArgument(command, &options->job);
  AddOutputOption(command, &options->output, {"table", "name", "json", "yaml"});
  command->footer(
      "-o yaml prints the job file with every setting resolved; it can be submitted again.\n\nExamples:\n"
      "  sabctl get jobs/3f9k2mzq\n"
      "  sabctl get 3f9k2mzq -o json | jq .state\n"
      "  sabctl get 3f9k2mzq -o yaml > again.yaml");
  command->callback([context, options] { context->action = [context, options] { return Get(*context, *options); }; });
}

}  // namespace sab::client
