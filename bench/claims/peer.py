#!/usr/bin/env python3
"""A copy job again in plain PyTorch (bench/peers/sab_torch.py), from the same initial values on the same batches.

Reads the job file as JSON on standard input and the initial values from --start; prints {"losses": [[step, loss], ...], "seconds"}.
"""

import argparse
import json
import os
import struct
import sys
import time

import torch
from torch.nn import functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peers"))
import sab_torch  # noqa: E402

TASK_SALT = 0x7461736B64617461
SYMBOLS = 10


def parameters_of(path):
    """The arrays of a safetensors file, all float32."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header, data = json.loads(file.read(size)), file.read()
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = torch.frombuffer(bytearray(data[begin:end]), dtype=torch.float32)
        arrays[name] = values.reshape(entry["shape"]).clone().requires_grad_()
    return arrays


def copy_batch(seed, step, rows, length, one_hot):
    """The batch that the service draws for this step: row r has random numbers of its own."""
    symbols = torch.empty(rows, SYMBOLS, dtype=torch.int64)
    for row in range(rows):
        source = sab_torch.words(seed ^ TASK_SALT, 2 * step, row)
        for i in range(SYMBOLS):
            symbols[row, i] = 1 + sab_torch.below(source, 8)
    inputs = torch.zeros(rows, length + 2 * SYMBOLS, dtype=torch.int64)
    inputs[:, :SYMBOLS], inputs[:, length + SYMBOLS - 1] = symbols, 9
    targets = torch.zeros_like(inputs)
    targets[:, -SYMBOLS:] = symbols
    return (F.one_hot(inputs, 10) if one_hot else inputs[:, :, None]).float(), targets


def train(job, values):
    model, task, settings = dict(job["model"]), job["task"], job["train"]
    config = sab_torch.Config(**model, seed=settings["seed"])
    optimizer = torch.optim.Adam(values.values(), lr=settings["learning_rate"])
    rows = settings.get("batch_size", 64)
    lengths = torch.full((rows,), task["length"] + 2 * SYMBOLS)
    losses, spent = [], 0.0
    for step in range(1, settings["steps"] + 1):
        inputs, targets = copy_batch(settings["seed"], step, rows, task["length"], task["one_hot"])
        start = time.perf_counter()
        outputs, _, _ = sab_torch.forward(config, values, inputs, lengths)
        total, count = sab_torch.loss_sum(config, outputs, targets, lengths)
        optimizer.zero_grad()
        (total / count).backward()
        if settings.get("clip_norm"):
            torch.nn.utils.clip_grad_norm_(values.values(), settings["clip_norm"])
        optimizer.step()
        spent += time.perf_counter() - start
        losses.append([step, round(total.item() / count, 7)])
    return {"losses": losses, "seconds": round(spent, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", required=True, help="model.safetensors of a checkpoint of step 0")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    json.dump(train(json.load(sys.stdin), parameters_of(arguments.start)), sys.stdout)


if __name__ == "__main__":
    main()
