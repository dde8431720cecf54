// The last transaction of a store, cut and damaged at every byte that it wrote.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "server/store/store.h"
#include "tests/util/temp_dir.h"

namespace sab::server {
namespace {

namespace fs = std::filesystem;

std::string Content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void Write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

JobRecord Job(const std::string& id, int64_t created) {
  JobRecord record;
  record.job.set_name("jobs/" + id);
  record.job.mutable_create_time()->set_seconds(created);
  record.job.add_attempts()->set_number(1);
  return record;
}

// A store whose jobs "a" and "b" were answered, and then "c" was: `before` is the log's size between.
class TornStoreTest : public ::testing::Test {
 protected:
  TornStoreTest() {
    auto store = *Store::Open(source());
    EXPECT_TRUE(store->Commit({.put_jobs = {Job("a", 1)}, .add_requests = {{"ra", "a"}}}).ok());
    EXPECT_TRUE(store->Commit({.put_jobs = {Job("b", 2)}, .add_requests = {{"rb", "b"}}}).ok());
    before_ = fs::file_size(source() + "/coordinator.db-wal");
    EXPECT_TRUE(store->Commit({.put_jobs = {Job("c", 3)}, .add_requests = {{"rc", "c"}}}).ok());
    // As kill -9 leaves it: the log is not taken into the database.
    database_ = Content(source() + "/coordinator.db");
    log_ = Content(source() + "/coordinator.db-wal");
  }

  std::string source() const { return dir_.path() + "/source"; }
  // Where nothing waits for a disk, if there is such a place.
  static std::string Fast() { return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"; }

  // Opens the database with this log. It holds "a" and "b" in any case; true: "c" too.
  bool HoldsAll(const std::string& log, const std::string& what) {
    const std::string folder = absl::StrCat(Fast(), "/sab-torn-store-", getpid());
    fs::remove_all(folder);
    fs::create_directory(folder);
    Write(folder + "/coordinator.db", database_);
    Write(folder + "/coordinator.db-wal", log);
    size_t jobs = 0;
    {
      auto torn = Store::Open(folder);
      EXPECT_TRUE(torn.ok()) << what << ": " << torn.status();
      if (!torn.ok()) return false;
      auto state = (*torn)->Load();
      EXPECT_TRUE(state.ok()) << what << ": " << state.status();
      if (!state.ok()) return false;
      jobs = state->jobs.size();
      EXPECT_EQ(state->requests.size(), jobs) << what;
      EXPECT_TRUE(jobs == 2 || jobs == 3) << what << ": " << jobs;
      EXPECT_EQ(state->jobs[0].job.name() + " " + state->jobs[1].job.name(), "jobs/a jobs/b") << what;
      for (const JobRecord& record : state->jobs) EXPECT_EQ(record.job.attempts_size(), 1) << what;
    }
    fs::remove_all(folder);
    return jobs == 3;
  }

  testing_util::TempDir dir_;
  size_t before_ = 0;
  std::string database_;
  std::string log_;
};

TEST_F(TornStoreTest, CutAtAnyByteOfItsLastTransactionItHoldsAllThatWasAnsweredBefore) {
  ASSERT_GT(log_.size(), before_);
  for (size_t cut = before_; cut < log_.size(); ++cut) {
    ASSERT_FALSE(HoldsAll(log_.substr(0, cut), absl::StrCat("cut at ", cut)));
    if (HasFailure()) return;
  }
  EXPECT_TRUE(HoldsAll(log_, "whole"));
}

TEST_F(TornStoreTest, WithAnyByteOfItsLastTransactionDamagedItHoldsAllThatWasAnsweredBefore) {
  for (size_t at = before_; at < log_.size(); ++at) {
    std::string damaged = log_;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    HoldsAll(damaged, absl::StrCat("damaged at ", at));
    if (HasFailure()) return;
  }
}

// Blocks of a file that was extended and not written are zeros after a power failure.
TEST_F(TornStoreTest, ZerosInPlaceOfItsLastTransactionAreNoTransaction) {
  for (size_t from = before_; from < log_.size(); from += 512) {
    const std::string zeros = log_.substr(0, from) + std::string(log_.size() - from, '\0');
    EXPECT_FALSE(HoldsAll(zeros, absl::StrCat("zeros from ", from)));
  }
}

// What has been answered long ago is in the database itself: there damage is found and named, and never served.
TEST_F(TornStoreTest, ADamagedDatabaseIsRefusedByName) {
  {
    auto store = *Store::Open(source());  // takes the log in
  }
  const std::string path = source() + "/coordinator.db";
  std::string damaged = Content(path);
  ASSERT_GT(damaged.size(), 8192u);
  for (size_t at = 4096; at < damaged.size(); at += 256) damaged[at] = '\x5a';
  Write(path, damaged);
  const auto store = Store::Open(source());
  ASSERT_TRUE(absl::IsDataLoss(store.status())) << store.status();
  EXPECT_EQ(ReasonOf(store.status()), "STORE_DAMAGED");
  EXPECT_NE(store.status().message().find(path), absl::string_view::npos);
}

}  // namespace
}  // namespace sab::server
