#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace sab::model {

// Some memory of a pass: what a save point keeps of it and gives back.
struct SavedPiece {
  void* data = nullptr;
  size_t bytes = 0;
};

// Thrown out of a pass that was left before its end: see SavePoints::stopping.
struct PassStopped {};

// Keeps what an update of many minutes has done so far, so that a rank that is killed in the middle of it goes on from
// there. Two sides use it: the training loop says which update and which rows of the batch are at work; the engine asks
// at short intervals whether it is time, hands over the state of a block of rows, and asks for it back.
//
// An update consists of parts (what is passed through the engine at once: all rows of the rank, or one shard), a part
// of blocks. A block's state is all that the rest of its pass depends on, so the bits are those of a pass that was
// never left. States are kept under an identity: what was saved of other parameters, other data or another machine's
// arithmetic is not found.
class SavePoints {
 public:
  // Stands for the sum over the first blocks of a part, which are done: so many of them as its cursor says. Their own
  // states are not needed any more.
  static constexpr int64_t kSum = -1;

  using Numbers = std::vector<int64_t>;
  // Of a block's memory that only grows: what has come from position `from` to position `to`.
  using Grown = std::function<std::vector<SavedPiece>(int64_t from, int64_t to)>;
  // The rest of a block's memory where it is at `cursor`.
  using Rest = std::function<std::vector<SavedPiece>(const Numbers& cursor)>;

  // A block's state, to be saved or filled in.
  struct Block {
    int64_t block = 0;
    std::string identity;  // of the pass: parameters, rows, arithmetic
    Grown grown;           // may be empty
    Rest rest;
  };
  // How far it is.
  struct Position {
    Numbers cursor;        // the engine's own
    int64_t grown_to = 0;  // end of what grows
    double done = 0;       // of the block's pass, 0 .. 1
    std::string text;      // the same in words
  };

  virtual ~SavePoints() = default;

  // --- The training loop's side; one thread.
  struct Update {
    int64_t step = 0;
    const std::atomic<bool>* stop = nullptr;  // true: passes shall be left; outlives the update
    // Called once before the first save point of the update, on whichever thread makes it; the training thread waits
    // for its engine meanwhile.
    std::function<void()> before_first;
  };
  // Costs no access to a disk.
  virtual void BeginUpdate(Update update) = 0;
  // From here on the part whose first row in the global batch this is.
  virtual void BeginPart(int64_t first_row) = 0;
  // All parts of the update are done and have been taken in: what was saved of it is removed.
  virtual void EndUpdate() = 0;

  // --- The engine's side; any thread, none throws.
  // Passes shall be left soon.
  virtual bool stopping() const = 0;
  // Whether thread `member` of the engine has worked so long since its last save point that it shall make another.
  // Cheap.
  virtual bool Due(int member) = 0;
  // Whether the update as a whole has taken so long already that a part's result shall be kept.
  virtual bool IsLong() = 0;
  // Keeps a block's state; on return it is durable, or it has been said why not, and the last one remains.
  virtual void Save(int member, const Block& block, const Position& position) = 0;
  // Whether there may be something to Load. Costs no access to a disk.
  virtual bool Has(int64_t block) = 0;
  // Fills a block's memory in and returns its cursor. Empty: there is nothing that is whole and of this identity; what
  // grows may have been written to, the rest is as it was.
  virtual Numbers Load(const Block& block) = 0;
};

}  // namespace sab::model
