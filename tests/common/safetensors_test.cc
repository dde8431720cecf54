#include "common/checkpoint/safetensors.h"

#include <cstring>
#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/util/temp_dir.h"

namespace sab {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename T>
TensorView View(const std::string& name, const std::string& dtype, std::vector<int64_t> shape,
                const std::vector<T>& data) {
  return {name, dtype, std::move(shape), {reinterpret_cast<const std::byte*>(data.data()), data.size() * sizeof(T)}};
}

std::string Encode(const std::vector<TensorView>& tensors, const std::map<std::string, std::string>& metadata = {}) {
  auto file = SafetensorsHeader(tensors, metadata);
  EXPECT_TRUE(file.ok()) << file.status();
  for (const TensorView& tensor : tensors) {
    file->append(reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size());
  }
  return *file;
}

// A file with this header text and so many zero bytes of data.
std::string Raw(const std::string& header, size_t data_bytes = 0) {
  std::string file(8, '\0');
  for (int i = 0; i < 8; ++i) file[i] = static_cast<char>((header.size() >> (8 * i)) & 0xFF);
  return file + header + std::string(data_bytes, '\0');
}

class SafetensorsTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& content) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << content;
    return SafetensorsFile::Open(path_);
  }
  absl::Status Error(const std::string& content) { return Open(content).status(); }

  testing_util::TempDir dir_;
  const std::string path_ = dir_.path() + "/x.safetensors";
  const std::vector<float> weights_ = {1, -2, 3.5, 0, 5, 6};
  const std::vector<int64_t> counts_ = {7, -8};
};

TEST_F(SafetensorsTest, WhatIsWrittenIsRead) {
  const std::vector<double> empty;
  const auto file =
      Open(Encode({View("w", "F32", {2, 3}, weights_), View("n", "I64", {2}, counts_), View("e", "F64", {0, 4}, empty)},
                  {{"step", "12"}, {"quote", "a\"b"}}));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ((*file)->tensors().size(), 3);
  const auto w = (*file)->Find("w");
  ASSERT_TRUE(w.ok());
  EXPECT_EQ(w->dtype, "F32");
  EXPECT_THAT(w->shape, ElementsAre(2, 3));
  EXPECT_EQ(std::memcmp(w->data.data(), weights_.data(), 24), 0);
  EXPECT_EQ(std::memcmp((*file)->Find("n")->data.data(), counts_.data(), 16), 0);
  EXPECT_EQ((*file)->Find("e")->data.size(), 0);
  EXPECT_EQ((*file)->metadata().at("quote"), "a\"b");
}

TEST_F(SafetensorsTest, AFileOfTheFormatsOwnPythonPackageIsRead) {
  // safetensors.numpy.save_file({"a": float32 0..5 as (2, 3), "b": int64 [1, 2], "c": float64 (0, 3)}, metadata={"x":
  // "y"})
  const std::string header =
      R"({"__metadata__":{"x":"y"},"b":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},)"
      R"("c":{"dtype":"F64","shape":[0,3],"data_offsets":[16,16]},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[16,40]}}      )";
  const std::vector<int64_t> b = {1, 2};
  const std::vector<float> a = {0, 1, 2, 3, 4, 5};
  const auto file = Open(Raw(header) + std::string(reinterpret_cast<const char*>(b.data()), 16) +
                         std::string(reinterpret_cast<const char*>(a.data()), 24));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata().at("x"), "y");
  EXPECT_EQ(std::memcmp((*file)->Find("a")->data.data(), a.data(), 24), 0);
  EXPECT_THAT((*file)->Find("a")->shape, ElementsAre(2, 3));
}

TEST_F(SafetensorsTest, AFileWithoutTensorsIsValid) {
  const auto file = Open(Encode({}));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->tensors().empty());
}

TEST_F(SafetensorsTest, DataBeginsAtAMultipleOfEight) {
  for (const std::string name : {"a", "ab", "abc", "abcd", "abcde", "abcdef", "abcdefg"}) {
    EXPECT_EQ(SafetensorsHeader({View(name, "F32", {6}, weights_)}, {})->size() % 8, 0);
  }
}

TEST_F(SafetensorsTest, AMissingTensorIsNamedWithThoseThereAre) {
  const auto file = Open(Encode({View("w", "F32", {6}, weights_)}));
  const auto missing = (*file)->Find("v");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("it has w"));
}

TEST_F(SafetensorsTest, WritingRefusesTwoOfANameAndShapesThatDoNotFit) {
  const TensorView w = View("w", "F32", {6}, weights_);
  EXPECT_EQ(SafetensorsHeader({w, w}, {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(SafetensorsHeader({View("w", "F32", {5}, weights_)}, {}).ok());
  EXPECT_FALSE(SafetensorsHeader({View("w", "F33", {6}, weights_)}, {}).ok());
  EXPECT_FALSE(SafetensorsHeader({View("w", "F32", {-6}, weights_)}, {}).ok());
  EXPECT_FALSE(SafetensorsHeader({View("__metadata__", "F32", {6}, weights_)}, {}).ok());
}

TEST_F(SafetensorsTest, AMissingFileIsNotFound) {
  EXPECT_EQ(SafetensorsFile::Open(dir_.path() + "/none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(SafetensorsFile::Open(dir_.path()).status().code(), absl::StatusCode::kNotFound);
}

struct BadHeader {
  const char* header;
  size_t data_bytes;
  const char* text;
};

class BadHeaderTest : public SafetensorsTest, public ::testing::WithParamInterface<BadHeader> {};

TEST_P(BadHeaderTest, IsDataLossThatNamesFileAndFault) {
  const absl::Status status = Error(Raw(GetParam().header, GetParam().data_bytes));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().text));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadHeaderTest,
    ::testing::Values(
        BadHeader{"", 0, "JSON"}, BadHeader{"[]", 0, "JSON"}, BadHeader{"{", 0, "JSON"},
        BadHeader{"\xff\xfe", 0, "JSON"}, BadHeader{R"({"a":1})", 0, "must have dtype"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1]}})", 4, "must have"},
        BadHeader{R"({"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}})", 4, "unknown dtype"},
        BadHeader{R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", 4, "dtype is not"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "shape"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4, "shape"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "do not fit"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}})", 4, "do not fit"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "outside"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}})", 4, "outside"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99999999999999999999]}})", 4, "pair"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "pair"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8, "holds 8 bytes"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "was due"},
        BadHeader{
            R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
            8, "was due"},
        BadHeader{
            R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
            4, "occurs twice"},
        BadHeader{R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4, "occurs twice"},
        BadHeader{R"({"a":[[[[[[[[[[[[]]]]]]]]]]]]})", 0, "nested"},
        BadHeader{R"({"__metadata__":{"a":1}})", 0, "__metadata__"},
        BadHeader{R"({"__metadata__":[]})", 0, "__metadata__"}));

TEST_F(SafetensorsTest, AHeaderLargerThanTheFileIsRefused) {
  EXPECT_EQ(Error(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10)).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Error(std::string("\x03\0\0\0\0\0\0\0{}", 10)).code(), absl::StatusCode::kDataLoss);
}

TEST_F(SafetensorsTest, EveryTruncationIsRefused) {
  const std::string whole = Encode({View("w", "F32", {2, 3}, weights_), View("n", "I64", {2}, counts_)}, {{"a", "b"}});
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_EQ(Error(whole.substr(0, size)).code(), absl::StatusCode::kDataLoss) << size;
  }
}

TEST_F(SafetensorsTest, NoFlippedByteMakesItReadOutsideTheFile) {
  const std::string whole = Encode({View("w", "F32", {2, 3}, weights_), View("n", "I64", {2}, counts_)}, {{"a", "b"}});
  std::mt19937 random(1);
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << (random() % 8)));
    const auto file = Open(damaged);
    if (!file.ok()) continue;
    size_t bytes = 0;
    for (const TensorView& tensor : (*file)->tensors()) {
      bytes += tensor.data.size();
      for (std::byte value : tensor.data) bytes += std::to_integer<size_t>(value) & 0;  // touch every byte
    }
    EXPECT_LE(bytes, whole.size());
  }
}

}  // namespace
}  // namespace sab
