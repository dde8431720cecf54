#include "server/store/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <filesystem>
#include <fstream>

#include "common/base/status.h"
#include "tests/util/temp_dir.h"

namespace sab::server {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using testing_util::TempDir;

JobRecord Job(const std::string& id, int64_t created, int attempts = 0) {
  JobRecord record;
  record.job.set_name("jobs/" + id);
  record.job.mutable_create_time()->set_seconds(created);
  for (int i = 1; i <= attempts; ++i) record.job.add_attempts()->set_number(i);
  record.job.set_attempt_count(attempts);
  return record;
}

class StoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<Store> Open() {
    auto store = Store::Open(folder());
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  std::string folder() const { return dir_.path() + "/state"; }
  void Execute(const std::string& sql) {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open((folder() + "/coordinator.db").c_str(), &db), SQLITE_OK);
    ASSERT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK);
    sqlite3_close(db);
  }

  TempDir dir_;
};

TEST_F(StoreTest, WhatWasCommittedIsThereAfterTwoOpenings) {
  {
    auto store = Open();
    JobRecord record = Job("b", 2, 1);
    record.restarts = 1;
    ASSERT_TRUE(store->Commit({.put_jobs = {Job("a", 1), record}, .add_requests = {{"r", "a"}}}).ok());
  }
  {
    auto store = Open();
    v1::Checkpoint checkpoint;
    checkpoint.set_name("jobs/b/checkpoints/000000000005-a1");
    WorkerRecord worker;
    worker.worker.set_name("workers/w");
    worker.incarnation = 7;
    ASSERT_TRUE(store
                    ->Commit({.put_jobs = {Job("b", 2, 2)},
                              .put_checkpoints = {checkpoint},
                              .put_workers = {worker},
                              .add_removals = {"jobs/old"}})
                    .ok());
  }
  auto state = Open()->Load();
  ASSERT_TRUE(state.ok());
  ASSERT_THAT(state->jobs, SizeIs(2));
  EXPECT_EQ(state->jobs[0].job.name(), "jobs/a");
  EXPECT_THAT(state->jobs[1].job.attempts(), SizeIs(2));
  EXPECT_EQ(state->requests["r"], "a");
  EXPECT_THAT(state->checkpoints, SizeIs(1));
  ASSERT_THAT(state->workers, SizeIs(1));
  EXPECT_EQ(state->workers[0].incarnation, 7);
  EXPECT_THAT(state->removals, SizeIs(1));
}

TEST_F(StoreTest, DeletingAJobDeletesAllThatIsItsOwn) {
  auto store = Open();
  v1::Checkpoint checkpoint;
  checkpoint.set_name("jobs/a/checkpoints/000000000005-a1");
  ASSERT_TRUE(
      store->Commit({.put_jobs = {Job("a", 1, 1)}, .add_requests = {{"r", "a"}}, .put_checkpoints = {checkpoint}})
          .ok());
  ASSERT_TRUE(store->Commit({.delete_jobs = {JobId("a")}}).ok());
  auto state = store->Load();
  EXPECT_TRUE(state->jobs.empty() && state->requests.empty() && state->checkpoints.empty());
}

TEST_F(StoreTest, AFailedChangeLeavesNothingBehind) {
  auto store = Open();
  ASSERT_TRUE(store->Commit({.put_jobs = {Job("a", 1)}, .add_requests = {{"r", "a"}}}).ok());
  EXPECT_FALSE(store->Commit({.put_jobs = {Job("b", 2)}, .add_requests = {{"r", "b"}}}).ok());
  EXPECT_THAT(store->Load()->jobs, SizeIs(1));
}

TEST_F(StoreTest, ASecondCoordinatorOnTheSameFolderIsRefused) {
  auto first = Open();
  auto second = Store::Open(folder());
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status()));
  EXPECT_EQ(ReasonOf(second.status()), "STATE_DIR_IN_USE");
  first.reset();
  EXPECT_TRUE(Store::Open(folder()).ok());
}

TEST_F(StoreTest, ANewerSchemaIsRefused) {
  Open().reset();
  Execute("PRAGMA user_version = 99");
  auto store = Store::Open(folder());
  EXPECT_TRUE(absl::IsFailedPrecondition(store.status()));
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("schema 99"));
}

TEST_F(StoreTest, AFileThatIsNoDatabaseIsRefusedByName) {
  fs::create_directories(folder());
  std::ofstream(folder() + "/coordinator.db") << std::string(8192, 'x');
  auto store = Store::Open(folder());
  EXPECT_TRUE(absl::IsDataLoss(store.status())) << store.status();
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("coordinator.db"));
}

TEST_F(StoreTest, ARowThatCannotBeReadIsReported) {
  ASSERT_TRUE(Open()->Commit({.put_jobs = {Job("a", 1)}}).ok());
  Execute("UPDATE jobs SET job = x'ffffffff'");
  EXPECT_TRUE(absl::IsDataLoss(Open()->Load().status()));
}

}  // namespace
}  // namespace sab::server
