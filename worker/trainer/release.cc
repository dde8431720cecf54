#include "worker/trainer/release.h"

#include <chrono>
#include <utility>

namespace sab::trainer {

Release::Release(std::shared_ptr<v1::TrainerService::Stub> stub, const v1::TrainerId& id,
                 std::function<void()> on_release)
    : stub_(std::move(stub)), on_release_(std::move(on_release)) {
  *request_.mutable_id() = id;
  stub_->async()->AwaitRelease(&context_, &request_, &response_, [this](const grpc::Status& status) {
    if (status.ok()) on_release_();
    const MutexLock lock(&mutex_);
    if (status.ok()) next_ = response_.next();
    done_ = true;
    changed_.NotifyAll();
  });
}

Release::~Release() {
  context_.TryCancel();
  const MutexLock lock(&mutex_);
  while (!done_) changed_.Wait(&mutex_);
}

std::optional<v1::TrainerId> Release::Await(absl::Duration patience) {
  const auto until = std::chrono::steady_clock::now() + absl::ToChronoMicroseconds(patience);
  const MutexLock lock(&mutex_);
  while (!done_) {
    const auto left = until - std::chrono::steady_clock::now();
    if (left.count() <= 0) return std::nullopt;
    changed_.WaitFor(&mutex_, absl::FromChrono(left));
  }
  return next_;
}

bool Release::refused() const {
  const MutexLock lock(&mutex_);
  return done_ && !next_.has_value();
}

}  // namespace sab::trainer
