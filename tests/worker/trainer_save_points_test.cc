#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <numeric>

#include "tests/util/fake_clock.h"
#include "tests/util/temp_dir.h"
#include "worker/trainer/save_points.h"

namespace sab::trainer {
namespace {

namespace fs = std::filesystem;
using model::SavedPiece;
using model::SavePoints;

// A block of 3 positions of 5,000 numbers that grow, and a rest of 2,000 with zero pages among them.
struct Memory {
  std::vector<int32_t> grown = std::vector<int32_t>(15'000);
  std::vector<int32_t> rest = std::vector<int32_t>(2'000);

  SavePoints::Block Block(const std::string& identity = "same") {
    return {0, identity,
            [this](int64_t from, int64_t to) {
              return std::vector<SavedPiece>{{grown.data() + from * 5'000, static_cast<size_t>(to - from) * 20'000}};
            },
            [this](const SavePoints::Numbers&) {
              return std::vector<SavedPiece>{{rest.data(), rest.size() * sizeof(int32_t)}};
            }};
  }
};

class FileSavePointsTest : public ::testing::Test {
 protected:
  FileSavePointsTest() { Fill(); }

  void Fill() {
    std::iota(memory_.grown.begin(), memory_.grown.end(), 1);
    memory_.rest.back() = 77;
  }
  // Of another process.
  std::unique_ptr<FileSavePoints> Open(const std::string& context = "spec", std::function<void()> before_first = {}) {
    auto points = std::make_unique<FileSavePoints>(
        FileSavePoints::Options{.folder = Folder(), .interval = absl::Seconds(60), .clock = &clock_});
    points->SetContext(context);
    points->Scan();
    points->BeginUpdate({7, nullptr, std::move(before_first)});
    points->BeginPart(4);
    return points;
  }
  // Two save points, at positions 1 and 3.
  void SaveTwice(FileSavePoints& points) {
    points.Save(0, memory_.Block(), {{1}, 1, 0.1, "early"});
    points.Save(0, memory_.Block(), {{3}, 3, 0.5, "late"});
  }
  std::string Folder() const { return dir_.path() + "/save_points"; }
  std::vector<fs::path> Files(const std::string& ending) const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(Folder()))
      if (entry.path().extension() == ending) files.push_back(entry.path());
    return files;
  }

  testing_util::TempDir dir_;
  testing_util::FakeClock clock_;
  Memory memory_;
};

TEST_F(FileSavePointsTest, AnotherProcessGetsBackWhatWasSavedLast) {
  SaveTwice(*Open());
  EXPECT_EQ(Files(".data").size(), 3);  // two pieces of what grows, the last rest
  const auto points = Open();
  ASSERT_TRUE(points->Has(0));
  EXPECT_FALSE(points->Has(1));
  Memory other;
  std::fill(other.rest.begin(), other.rest.end(), 5);
  EXPECT_EQ(points->Load(other.Block()), SavePoints::Numbers{3});
  EXPECT_EQ(other.grown, memory_.grown);
  EXPECT_EQ(other.rest, memory_.rest);
}

TEST_F(FileSavePointsTest, OfAnotherIdentityOrContextIsNotGoneOnFrom) {
  SaveTwice(*Open());
  Memory other;
  EXPECT_TRUE(Open()->Load(other.Block("another")).empty());
  EXPECT_TRUE(Open("another spec")->Load(other.Block()).empty());
  EXPECT_EQ(other.rest, std::vector<int32_t>(2'000));
  EXPECT_EQ(Open()->Load(other.Block()), SavePoints::Numbers{3});
}

TEST_F(FileSavePointsTest, AFileThatIsTornOrChangedAnywhereIsRefused) {
  for (const bool cut : {true, false})
    for (size_t victim = 0; victim < 4; ++victim) {
      SaveTwice(*Open());
      std::vector<fs::path> files = Files(".data");
      files.push_back(Files(".json").front());
      ASSERT_EQ(files.size(), 4);
      const auto size = static_cast<int64_t>(fs::file_size(files[victim]));
      if (cut) {
        fs::resize_file(files[victim], static_cast<uintmax_t>(size - 1));
      } else {
        std::fstream file(files[victim], std::ios::in | std::ios::out | std::ios::binary);
        file.seekg(size / 2);
        const char changed = static_cast<char>(file.get() ^ 1);
        file.seekp(size / 2);
        file.put(changed);
      }
      const auto points = Open();
      Memory other;
      EXPECT_TRUE(points->Load(other.Block()).empty()) << files[victim] << " cut: " << cut;
      EXPECT_EQ(other.rest, std::vector<int32_t>(2'000));
      EXPECT_FALSE(points->Has(0));
      fs::remove_all(Folder());
    }
}

TEST_F(FileSavePointsTest, TheEndOfAnUpdateRemovesWhatItsRankSavedAndNothingElse) {
  SaveTwice(*Open());
  const auto points = Open();
  points->BeginPart(9);
  points->Save(0, memory_.Block(), {{1}, 1, 0.1, "another part"});
  points->BeginUpdate({6, nullptr, nullptr});
  points->BeginPart(4);
  points->Save(0, memory_.Block(), {{1}, 1, 0.1, "an earlier step"});
  points->EndUpdate();
  EXPECT_EQ(Files(".json").size(), 2);
  points->BeginUpdate({7, nullptr, nullptr});
  points->BeginPart(4);
  EXPECT_TRUE(points->Has(0));
  points->EndUpdate();
  EXPECT_EQ(Files(".json").size(), 1);
  points->RemoveUpTo(7);
  EXPECT_TRUE(fs::is_empty(Folder()));
}

TEST_F(FileSavePointsTest, ASavePointIsDueAnIntervalAfterTheThreadsLastOne) {
  int calls = 0;
  const auto points = Open("spec", [&] { ++calls; });
  EXPECT_FALSE(points->Due(0));
  clock_.Advance(absl::Seconds(60));
  EXPECT_TRUE(points->Due(0));
  EXPECT_TRUE(points->IsLong());
  SaveTwice(*points);
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(points->Due(0));
  EXPECT_TRUE(points->Due(1));
}

}  // namespace
}  // namespace sab::trainer
