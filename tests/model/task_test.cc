#include "model/tasks/task.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <set>

#include "model/tasks/data_file.h"
#include "model/tasks/internal.h"

#ifdef SAB_HAVE_ZLIB
#include <zlib.h>
#endif

namespace sab::model {
namespace {

using ::testing::HasSubstr;

std::string WriteFile(const std::string& name, const std::string& content) {
  const std::string path = ::testing::TempDir() + name;
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

std::string Refusal(const TaskConfig& config) {
  try {
    MakeTask(config);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "accepted";
}

std::vector<TaskConfig> SyntheticTasks() {
  std::vector<TaskConfig> tasks(4);
  tasks[0] = {.kind = TaskKind::kCopy, .length = 7};
  tasks[1] = {.kind = TaskKind::kCopy, .length = 7, .one_hot = true};
  tasks[2] = {.kind = TaskKind::kAdding, .length = 7};
  tasks[3] = {.kind = TaskKind::kRecall, .length = 7};
  return tasks;
}

TEST(ShareOfTest, SharesCoverAllRowsInOrderAndDifferByAtMostOne) {
  for (const int64_t rows : {1, 7, 64}) {
    for (const int world_size : {1, 2, 3, 8}) {
      int64_t next = 0;
      for (int rank = 0; rank < world_size; ++rank) {
        const RowRange share = ShareOf(rows, rank, world_size);
        EXPECT_EQ(share.first, next);
        EXPECT_GE(share.count, rows / world_size);
        EXPECT_LE(share.count, rows / world_size + 1);
        next += share.count;
      }
      EXPECT_EQ(next, rows);
    }
  }
}

TEST(SyntheticTaskTest, RowsDoNotDependOnHowABatchIsCut) {
  for (const TaskConfig& config : SyntheticTasks()) {
    const auto task = MakeTask(config);
    const Batch whole = task->TrainingBatch(3, 7, {0, 8});
    const Batch part = task->TrainingBatch(3, 7, {5, 3});
    EXPECT_TRUE(at::equal(whole.inputs.narrow(0, 5, 3), part.inputs));
    EXPECT_TRUE(at::equal(whole.targets.narrow(0, 5, 3), part.targets));
  }
}

TEST(SyntheticTaskTest, StepsSeedsAndEvaluationGiveOtherData) {
  for (TaskConfig config : SyntheticTasks()) {
    const auto task = MakeTask(config);
    const Batch batch = task->TrainingBatch(1, 7, {0, 8});
    EXPECT_TRUE(at::equal(batch.inputs, task->TrainingBatch(1, 7, {0, 8}).inputs));
    EXPECT_FALSE(at::equal(batch.inputs, task->TrainingBatch(2, 7, {0, 8}).inputs));
    EXPECT_FALSE(at::equal(batch.inputs, task->EvaluationBatch(7, {0, 8}).inputs));
    config.seed = 2;
    EXPECT_FALSE(at::equal(batch.inputs, MakeTask(config)->TrainingBatch(1, 7, {0, 8}).inputs));
  }
}

TEST(CopyTaskTest, HasSymbolsBlanksMarkerAndTheSymbolsAsTarget) {
  const auto task = MakeTask({.kind = TaskKind::kCopy, .length = 5});
  const Batch batch = task->TrainingBatch(1, 5, {0, 200});
  ASSERT_EQ(batch.inputs.sizes(), (at::IntArrayRef{200, 25, 1}));
  const at::Tensor input = batch.inputs.squeeze(2).to(at::kLong);
  const at::Tensor symbols = input.narrow(1, 0, 10);
  EXPECT_EQ(symbols.min().item<int64_t>(), 1);
  EXPECT_EQ(symbols.max().item<int64_t>(), 8);
  EXPECT_NEAR(symbols.to(at::kDouble).mean().item<double>(), 4.5, 0.2);
  EXPECT_EQ(input.narrow(1, 10, 4).abs().sum().item<int64_t>(), 0);  // T-1 blanks
  EXPECT_TRUE((input.select(1, 14) == 9).all().item<bool>());
  EXPECT_EQ(input.narrow(1, 15, 10).abs().sum().item<int64_t>(), 0);
  EXPECT_EQ(batch.targets.narrow(1, 0, 15).abs().sum().item<int64_t>(), 0);
  EXPECT_TRUE(at::equal(batch.targets.narrow(1, 15, 10), symbols));
  EXPECT_EQ(batch.metric_from, 15);
  EXPECT_EQ(task->TrainingLossCount(1, 5, 200), 200 * 25);
}

TEST(CopyTaskTest, OneHotInputIsTheSameSequence) {
  const auto plain = MakeTask({.kind = TaskKind::kCopy, .length = 5})->TrainingBatch(1, 5, {0, 4});
  const auto one_hot = MakeTask({.kind = TaskKind::kCopy, .length = 5, .one_hot = true})->TrainingBatch(1, 5, {0, 4});
  ASSERT_EQ(one_hot.inputs.size(2), 10);
  EXPECT_TRUE((one_hot.inputs.sum(2) == 1).all().item<bool>());
  EXPECT_TRUE(at::equal(one_hot.inputs.argmax(2), plain.inputs.squeeze(2).to(at::kLong)));
}

TEST(AddingTaskTest, TheTargetIsTheMeanOfTheTwoMarkedNumbers) {
  for (const int64_t length : {2, 7, 50}) {
    const auto task = MakeTask({.kind = TaskKind::kAdding, .length = length});
    const Batch batch = task->TrainingBatch(1, length, {0, 300});
    const at::Tensor numbers = batch.inputs.select(2, 0), marks = batch.inputs.select(2, 1);
    EXPECT_TRUE((marks.narrow(1, 0, length / 2).sum(1) == 1).all().item<bool>());
    EXPECT_TRUE((marks.narrow(1, length / 2, length - length / 2).sum(1) == 1).all().item<bool>());
    EXPECT_TRUE(at::allclose((numbers * marks).sum(1) / 2, batch.targets.squeeze(1)));
    EXPECT_NEAR(batch.targets.var().item<double>(), 1.0 / 24, 0.01);  // what always answering 1/2 would lose
  }
}

TEST(RecallTaskTest, TheTargetIsTheFirstSymbolAndTheLastStepAsks) {
  const auto task = MakeTask({.kind = TaskKind::kRecall, .length = 6});
  const Batch batch = task->EvaluationBatch(6, {0, 100});
  EXPECT_TRUE((batch.inputs.sum(2) == 1).all().item<bool>());
  const at::Tensor symbols = batch.inputs.argmax(2);
  EXPECT_TRUE(at::equal(symbols.select(1, 0), batch.targets));
  EXPECT_LE(batch.targets.max().item<int64_t>(), 7);
  const at::Tensor between = symbols.narrow(1, 1, 4);
  EXPECT_EQ(between.min().item<int64_t>(), 8);
  EXPECT_EQ(between.max().item<int64_t>(), 15);
  EXPECT_TRUE((symbols.select(1, 5) == 16).all().item<bool>());
}

TEST(SyntheticTaskTest, TooShortALengthIsRefusedByName) {
  EXPECT_EQ(Refusal({.kind = TaskKind::kCopy, .length = 0}), "task.length: must be at least 1, got 0");
  EXPECT_EQ(Refusal({.kind = TaskKind::kAdding, .length = 1}), "task.length: must be at least 2, got 1");
}

TEST(FiguresTest, AreRatiosOfTheSums) {
  const PassSums sums = {.loss_sum = 6, .loss_count = 4, .scored_loss_sum = 3, .scored_count = 2, .correct_count = 1};
  const auto copy = MakeTask({.kind = TaskKind::kCopy, .length = 5})->Figures(sums);
  ASSERT_EQ(copy.size(), 3u);
  EXPECT_EQ(copy[0].value, 1.5);
  EXPECT_EQ(copy[1].name, "accuracy");
  EXPECT_EQ(copy[1].value, 0.5);
  EXPECT_EQ(copy[2].name, "ce10");
  EXPECT_EQ(copy[2].value, 1.5);
  EXPECT_TRUE(std::isnan(MakeTask({.kind = TaskKind::kAdding, .length = 5})->Figures({})[0].value));
}

TEST(ShuffledRowTest, EveryEpochIsAnotherPermutation) {
  for (const int64_t rows : {1, 2, 3, 100, 257}) {
    std::vector<std::vector<int64_t>> epochs;
    for (int64_t epoch = 0; epoch < 2; ++epoch) {
      std::vector<int64_t> order;
      for (int64_t i = 0; i < rows; ++i) order.push_back(ShuffledRow(7, epoch * rows + i, rows));
      EXPECT_EQ(std::set<int64_t>(order.begin(), order.end()).size(), static_cast<size_t>(rows));
      EXPECT_LT(*std::max_element(order.begin(), order.end()), rows);
      epochs.push_back(order);
    }
    if (rows >= 100) {
      EXPECT_NE(epochs[0], epochs[1]);
    }
  }
}

TEST(TextTaskTest, TheTargetIsTheNextByteAndValidationIsContiguousAndUnseen) {
  std::string text;
  for (int i = 0; i < 400; ++i) text += static_cast<char>('a' + i % 7);
  const std::string path = WriteFile("text_plain", text);
  const auto task = MakeTask({.kind = TaskKind::kText, .path = path, .window = 9});
  EXPECT_EQ(task->vocabulary(), "abcdefg");
  EXPECT_EQ(task->shape().vocabulary, 7);
  EXPECT_EQ(task->shape().outputs, 7);
  const Batch batch = task->TrainingBatch(1, 0, {0, 20});
  EXPECT_TRUE(at::equal((batch.inputs + 1) % 7, batch.targets));
  EXPECT_EQ(task->EvaluationRows(100), 2);  // 5 % are 20 bytes
  const Batch valid = task->EvaluationBatch(0, {0, 2});
  EXPECT_EQ(valid.inputs[0][0].item<int64_t>(), 380 % 7);
  EXPECT_EQ(valid.inputs[1][0].item<int64_t>(), 389 % 7);
  const auto figures = task->Figures({.loss_sum = M_LN2, .loss_count = 1, .scored_count = 1});
  EXPECT_EQ(figures[1].name, "bits");
  EXPECT_DOUBLE_EQ(figures[1].value, 1);
}

TEST(TextTaskTest, TheVocabularyCoversAValidationFile) {
  const std::string path = WriteFile("text_train", std::string(50, 'x') + std::string(50, 'y'));
  const std::string valid = WriteFile("text_valid", "xxxyyyzzz");
  EXPECT_EQ(MakeTask({.kind = TaskKind::kText, .path = path, .valid_path = valid, .window = 4})->vocabulary(), "xyz");
}

TEST(TextTaskTest, AFileThatDoesNotFitTheCheckpointIsRefusedWithByteAndOffset) {
  const std::string path = WriteFile("text_changed", std::string(60, 'x') + "y" + std::string(60, 'x'));
  const TaskConfig config = {.kind = TaskKind::kText, .path = path, .window = 4, .vocabulary = "ax"};
  EXPECT_THAT(Refusal(config), HasSubstr("text_changed': byte 121 at offset 60 is not in the checkpoint's vocabulary"));
}

TEST(TextTaskTest, UnusableFilesAreRefusedByName) {
  EXPECT_THAT(Refusal({.kind = TaskKind::kText, .path = "/nowhere/file"}),
              HasSubstr("task.path '/nowhere/file': cannot be read: No such file"));
  EXPECT_THAT(Refusal({.kind = TaskKind::kText, .path = "/tmp"}), HasSubstr("is not a regular file"));
  EXPECT_THAT(Refusal({.kind = TaskKind::kText, .path = WriteFile("text_empty", "")}), HasSubstr("is empty"));
  EXPECT_THAT(Refusal({.kind = TaskKind::kText, .path = WriteFile("text_short", "abcdefgh"), .window = 9}),
              HasSubstr("task.window needs at least 10"));
}

std::string BigEndian(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16), static_cast<char>(value >> 8),
          static_cast<char>(value)};
}

// 40 images of 2 x 3 whose pixels are 6 i + p, labels i % 4.
struct IdxFiles {
  std::string pixels = BigEndian(0x803) + BigEndian(40) + BigEndian(2) + BigEndian(3);
  std::string labels = BigEndian(0x801) + BigEndian(40);
  IdxFiles() {
    for (int i = 0; i < 40; ++i) {
      for (int p = 0; p < 6; ++p) pixels += static_cast<char>(6 * i + p);
      labels += static_cast<char>(i % 4);
    }
  }
  TaskConfig Config(const std::string& name) const {
    return {.kind = TaskKind::kImage,
            .path = WriteFile(name + "_images", pixels),
            .labels_path = WriteFile(name + "_labels", labels)};
  }
};

TEST(ImageTaskTest, ReadsIdxPixelByPixelWithItsLabels) {
  const auto task = MakeTask(IdxFiles().Config("idx"));
  EXPECT_EQ(task->shape().outputs, 4);
  EXPECT_EQ(task->EvaluationRows(1000), 2);  // 5 %
  const Batch held_out = task->EvaluationBatch(0, {0, 2});
  ASSERT_EQ(held_out.inputs.sizes(), (at::IntArrayRef{2, 6, 1}));
  EXPECT_FLOAT_EQ(held_out.inputs[1][5][0].item<float>(), 239.0f / 255.0f);
  EXPECT_EQ(held_out.targets[1].item<int64_t>(), 39 % 4);
  const Batch batch = task->TrainingBatch(1, 0, {0, 38});  // one epoch: every training image once
  const at::Tensor first = (batch.inputs.select(1, 0).squeeze(1) * 255 / 6).round().to(at::kLong);
  EXPECT_TRUE(at::equal(std::get<0>(first.sort()), at::arange(38)));
  EXPECT_TRUE(at::equal(first % 4, batch.targets));
}

TEST(ImageTaskTest, ThePermutationIsFixedByItsSeed) {
  TaskConfig config = IdxFiles().Config("idx_permuted");
  const Batch plain = MakeTask(config)->EvaluationBatch(0, {0, 2});
  config.permute_seed = 3;
  const Batch permuted = MakeTask(config)->EvaluationBatch(0, {0, 2});
  EXPECT_FALSE(at::equal(plain.inputs, permuted.inputs));
  EXPECT_TRUE(at::equal(permuted.inputs, MakeTask(config)->EvaluationBatch(0, {0, 2}).inputs));
  EXPECT_TRUE(at::equal(std::get<0>(plain.inputs.sort(1)), std::get<0>(permuted.inputs.sort(1))));
}

TEST(ImageTaskTest, ReadsCifarInThreeChannels) {
  std::string records;
  for (int i = 0; i < 30; ++i) {
    records += static_cast<char>(i % 10);
    for (int plane = 0; plane < 3; ++plane) records += std::string(1024, static_cast<char>(10 * plane + i));
  }
  const auto task = MakeTask({.kind = TaskKind::kImage, .path = WriteFile("cifar", records)});
  EXPECT_EQ(task->shape().inputs, 3);
  EXPECT_EQ(task->shape().outputs, 10);
  const Batch batch = task->EvaluationBatch(0, {0, 1});
  ASSERT_EQ(batch.inputs.sizes(), (at::IntArrayRef{1, 1024, 3}));
  EXPECT_FLOAT_EQ(batch.inputs[0][7][2].item<float>(), 49.0f / 255.0f);
  EXPECT_EQ(batch.targets[0].item<int64_t>(), 9);
}

TEST(ImageTaskTest, DamagedFilesAreRefusedWithWhatIsWrong) {
  IdxFiles cut;
  cut.pixels.pop_back();
  EXPECT_THAT(Refusal(cut.Config("idx_cut")), HasSubstr("has 255 bytes, its IDX header promises 256"));
  IdxFiles wrong;
  wrong.labels[3] = 3;
  EXPECT_THAT(Refusal(wrong.Config("idx_magic")), HasSubstr("starts with the number 2051 and not 2049"));
  IdxFiles fewer;
  fewer.labels = BigEndian(0x801) + BigEndian(1) + "a";
  EXPECT_THAT(Refusal(fewer.Config("idx_fewer")), HasSubstr("has 1 labels"));
  TaskConfig unlabelled = IdxFiles().Config("idx_unlabelled");
  unlabelled.labels_path.clear();
  EXPECT_THAT(Refusal(unlabelled), HasSubstr("task.labels_path must name the labels' file"));
  EXPECT_THAT(Refusal({.kind = TaskKind::kImage, .path = WriteFile("cifar_cut", std::string(5000, 'x'))}),
              HasSubstr("neither IDX nor CIFAR"));
}

#ifdef SAB_HAVE_ZLIB
TEST(ImageTaskTest, ReadsPackedFilesAndNamesDamagedOnes) {
  const IdxFiles files;
  TaskConfig config = files.Config("idx_packed");
  const Batch plain = MakeTask(config)->EvaluationBatch(0, {0, 2});
  const std::string packed = ::testing::TempDir() + "images.gz";
  gzFile out = gzopen(packed.c_str(), "wb");
  gzwrite(out, files.pixels.data(), static_cast<unsigned>(files.pixels.size()));
  gzclose(out);
  config.path = packed;
  EXPECT_TRUE(at::equal(plain.inputs, MakeTask(config)->EvaluationBatch(0, {0, 2}).inputs));

  std::ifstream in(packed, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  bytes.resize(bytes.size() / 2);
  config.path = WriteFile("cut.gz", bytes);
  EXPECT_THAT(Refusal(config), HasSubstr("is damaged gzip"));
}
#endif

// Arrays of a tensor task in memory.
struct Arrays {
  at::Tensor inputs, targets, lengths;

  static ArrayView View(const at::Tensor& tensor) {
    return {tensor.scalar_type() == at::kLong ? "I64" : "F32", tensor.sizes().vec(),
            static_cast<const std::byte*>(tensor.data_ptr())};
  }
  TensorData Data() const {
    TensorData data = {.path = "/data/mine.safetensors"};
    data.inputs = View(inputs);
    data.targets = View(targets);
    if (lengths.defined()) data.lengths = View(lengths);
    return data;
  }
  TaskConfig Config() const { return {.kind = TaskKind::kTensor, .batch_size = 4, .tensors = Data()}; }
};

TEST(TensorTaskTest, TheFormOfTheTargetsDecidesTheLoss) {
  const at::Tensor inputs = at::rand({40, 5, 2});
  const auto every = MakeTask(Arrays{inputs, at::arange(200).reshape({40, 5}) % 7}.Config());
  EXPECT_EQ(every->shape().loss, LossKind::kCrossEntropyEveryStep);
  EXPECT_EQ(every->shape().outputs, 7);
  EXPECT_EQ(every->shape().inputs, 2);
  EXPECT_EQ(every->TrainingLossCount(1, 0, 4), 20);
  const auto last = MakeTask(Arrays{inputs, at::arange(40) % 3}.Config());
  EXPECT_EQ(last->shape().loss, LossKind::kCrossEntropyLastStep);
  EXPECT_EQ(last->shape().outputs, 3);
  const auto mse = MakeTask(Arrays{inputs, at::rand({40, 6})}.Config());
  EXPECT_EQ(mse->shape().loss, LossKind::kMseLastStep);
  EXPECT_EQ(mse->shape().outputs, 6);
  EXPECT_EQ(mse->TrainingLossCount(1, 0, 4), 24);
  EXPECT_EQ(mse->Figures({})[1].name, "mse");
}

TEST(TensorTaskTest, SymbolsLengthsAndPaddingAreHandedOver) {
  Arrays arrays;
  arrays.lengths = 1 + at::arange(40) % 5;
  const at::Tensor inside = at::arange(5).unsqueeze(0) < arrays.lengths.unsqueeze(1);
  arrays.inputs = at::where(inside, at::arange(200).reshape({40, 5}) % 9, at::full({40, 5}, -1, at::kLong));
  arrays.targets = at::where(inside, at::arange(200).reshape({40, 5}) % 4, at::full({40, 5}, -100, at::kLong));
  const auto task = MakeTask(arrays.Config());
  EXPECT_EQ(task->shape().vocabulary, 9);
  EXPECT_EQ(task->shape().inputs, 0);
  const Batch batch = task->TrainingBatch(2, 0, {0, 4});
  EXPECT_GE(batch.inputs.min().item<int64_t>(), 0);
  EXPECT_GE(batch.targets.min().item<int64_t>(), 0);
  EXPECT_EQ(task->TrainingLossCount(2, 0, 4), batch.lengths.sum().item<int64_t>());
  const Batch held_out = task->EvaluationBatch(0, {0, 2});
  EXPECT_TRUE(at::equal(held_out.lengths, arrays.lengths.narrow(0, 0, 2)));
  EXPECT_TRUE(at::equal(held_out.inputs, arrays.inputs.narrow(0, 0, 2).clamp_min(0)));
}

TEST(TensorTaskTest, BadArraysAreRefusedWithPlaceAndReason) {
  const at::Tensor inputs = at::rand({40, 5, 2});
  EXPECT_THAT(Refusal(Arrays{inputs, at::rand({39, 6})}.Config()),
              HasSubstr("targets must be I64 (40, 5), I64 (40) or F32 (40, O), got F32 (39, 6)"));
  EXPECT_THAT(Refusal(Arrays{at::rand({40, 5}), at::arange(40)}.Config()),
              HasSubstr("inputs must be F32 (N, T, I) or I64 (N, T), got F32 (40, 5)"));
  at::Tensor targets = at::arange(40) % 3;
  targets[17] = -1;
  EXPECT_THAT(Refusal(Arrays{inputs, targets}.Config()),
              HasSubstr("task.path '/data/mine.safetensors': targets[17] is -1"));
  EXPECT_THAT(Refusal(Arrays{inputs, at::arange(40) % 3, at::arange(40)}.Config()),
              HasSubstr("lengths[0] is 0, must be 1 to 5"));
  TaskConfig nothing = {.kind = TaskKind::kTensor};
  nothing.tensors.path = "/data/x";
  EXPECT_THAT(Refusal(nothing), HasSubstr("has no array 'inputs'"));
}

TEST(TensorTaskTest, WithoutAHoldOutEveryRowIsTrainedAndEvaluated) {
  const Arrays arrays = {at::rand({7, 5, 2}), at::arange(7)};
  const auto task = MakeTask(arrays.Config());
  EXPECT_EQ(task->EvaluationRows(100), 7);
  const at::Tensor epoch = task->TrainingBatch(1, 0, {0, 7}).targets;
  EXPECT_TRUE(at::equal(std::get<0>(epoch.sort()), at::arange(7)));
}

TEST(TensorTaskTest, AHoldOutMustFitTheTrainingData) {
  const Arrays training = {at::rand({40, 5, 2}), at::arange(40) % 3};
  const Arrays good = {at::rand({6, 9, 2}), at::arange(6) % 3};
  const Arrays more_classes = {at::rand({6, 9, 2}), at::arange(6)};
  const Arrays more_channels = {at::rand({6, 5, 3}), at::arange(6) % 3};
  TaskConfig config = training.Config();
  config.eval_tensors = good.Data();
  EXPECT_EQ(MakeTask(config)->EvaluationRows(100), 6);
  config.eval_tensors = more_classes.Data();
  EXPECT_THAT(Refusal(config),
              HasSubstr("eval.path '/data/mine.safetensors': targets have 6 classes, those of task.path 3"));
  config.eval_tensors = more_channels.Data();
  EXPECT_THAT(Refusal(config), HasSubstr("do not fit those of task.path"));
}

}  // namespace
}  // namespace sab::model
