#!/usr/bin/env python3
"""The four networks in plain PyTorch: one Python loop over the steps, full scores under autograd, nothing clever.

Written from the model's definition alone and sharing no code with model/, so that two independent readings of it can be
compared (tests/model/torch_twin_test.py does, in double) and timed against each other:

    python bench/peers/sab_torch.py --kind sab --hidden-size 64 --length 10 --batch 32 --updates 100
    python bench/peers/sab_torch.py --config settings.json

Settings have the names of a job file's `model:` section.
"""

import argparse
import dataclasses
import json
import struct
import time

import torch
from torch.nn import functional as F


@dataclasses.dataclass
class Config:
    kind: str = "sab"  # sab | lstm | attention
    hidden_size: int = 64
    k_trunc: int = 5
    k_att: int = 2
    k_top: int = 5
    score: str = "mlp"  # mlp | separable
    recall: str = "top"  # top | all | random | last
    truncate: str = "both"  # both | h
    mental_updates: bool = True
    detach_scores: bool = False
    tie_guard: float = 0.01
    normaliser: str = "softmax"  # softmax | none
    dense: str = "softmax"  # softmax | raw
    memory_state: str = "provisional"  # provisional | recalled
    memory_capacity: int = 0
    memory_policy: str = "recent"  # recent | salient
    memory_recent: int = 16
    init: str = "scaled"  # scaled | paper
    seed: int = 1
    loss: str = "every"  # every | last | mse


# ---- recall: random, which is a function of (seed, the row's input, step) -------------------------------------------------

MASK32, MASK64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK32, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK32]
        k = [(k[0] + 0x9E3779B9) & MASK32, (k[1] + 0xBB67AE85) & MASK32]
    return c


def words(seed, stream, substream):
    block = 0
    while True:
        yield from philox([block, substream, stream & MASK32, stream >> 32], [seed & MASK32, seed >> 32])
        block += 1


def below(source, n):
    while True:
        low = next(source)
        product = (low | next(source) << 32) * n
        if product & MASK64 >= (1 << 64) % n:
            return product >> 64


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & MASK64
    return value


def row_streams(inputs, lengths):
    rows = []
    for row, length in zip(inputs, lengths):
        values = row[:length].reshape(-1).tolist()
        kind = {torch.int64: "q", torch.float64: "d", torch.float32: "f"}[inputs.dtype]
        rows.append(fnv1a(struct.pack(f"<{len(values)}{kind}", *values)))
    return rows


def random_memories(config, stream, step, n):
    source, chosen = words(config.seed, stream, step), []
    for last in range(n - config.k_top, n):
        drawn = below(source, last + 1)
        chosen.append(last if drawn in chosen else drawn)
    return sorted(chosen)


# ---- the networks --------------------------------------------------------------------------------------------------------


class HoldBackScores(torch.autograd.Function):
    """The identity whose backward pass is zero where `held` is true."""

    @staticmethod
    def forward(ctx, alpha, held):
        ctx.save_for_backward(held)
        return alpha.clone()

    @staticmethod
    def backward(ctx, gradient):
        (held,) = ctx.saved_tensors
        return gradient.masked_fill(held, 0), None


def lstm_cell(p, x, h, c):
    gates = x @ p["cell.weight_ih"].T + p["cell.bias_ih"] + h @ p["cell.weight_hh"].T + p["cell.bias_hh"]
    i, f, g, o = gates.split(h.shape[1], dim=1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def read_inputs(p, inputs, dtype):
    if inputs.is_floating_point():
        return inputs.to(dtype)
    if "embedding.weight" in p:
        return p["embedding.weight"][inputs]
    return F.one_hot(inputs, p["cell.weight_ih"].shape[1]).to(dtype)


def scores_of(config, p, memories, query):
    """memories (B,n,H), query (B,H) -> (B,n)"""
    if config.detach_scores:
        memories, query = memories.detach(), query.detach()
    if config.kind == "sab" and config.score == "separable":
        return (torch.tanh(query) @ p["attention.query_score.weight"])[:, None] + torch.tanh(memories) @ p[
            "attention.memory_score.weight"]
    hidden = memories @ p["attention.memory.weight"].T + (query @ p["attention.query.weight"].T)[:, None]
    return torch.tanh(hidden) @ p["attention.score.weight"]


def recall(config, p, memories, query, step, streams):
    """What a step recalls (B,H), the weights over all memories (B,n), and which rows the guard held back."""
    n = memories.shape[1]
    scores = scores_of(config, p, memories, query)
    held = torch.zeros(len(memories), dtype=torch.bool)
    if n > config.k_top and config.recall == "top":
        ranking = scores.detach().sort(dim=1, descending=True, stable=True).indices
        delta = scores.gather(1, ranking[:, config.k_top:config.k_top + 1])
        chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, ranking[:, :config.k_top], True)
        r = torch.where(chosen, torch.relu(scores - delta), torch.zeros_like(scores))
        z = r.sum(1, keepdim=True) + 1e-7
        alpha = r / z
        held = (z < config.tie_guard)[:, 0]
        alpha = HoldBackScores.apply(alpha, held[:, None].expand_as(alpha))
    else:
        chosen = torch.ones_like(scores, dtype=torch.bool)
        if n > config.k_top and config.recall == "last":
            chosen[:, :n - config.k_top] = False
        if n > config.k_top and config.recall == "random":
            chosen[:] = False
            for row, stream in enumerate(streams):
                chosen[row, random_memories(config, stream, step, n)] = True
        if config.dense == "softmax":
            alpha = scores.masked_fill(~chosen, -torch.inf).softmax(1)
        else:
            alpha = scores * chosen
    return (alpha[:, :, None] * memories).sum(1), alpha, held


def evict(config, memories, recalled):
    """Drops one memory a row when there are more than the capacity; all (B,n,..)."""
    n = memories.shape[1]
    if config.memory_capacity == 0 or n <= config.memory_capacity:
        return memories, recalled
    keep = []
    for row in range(len(memories)):
        leaving = 1
        if config.memory_policy == "salient":
            candidates = range(1, n - min(config.memory_recent, config.memory_capacity - 1))
            leaving = min(candidates, key=lambda i: (recalled[row, i].item(), i))
        keep.append([i for i in range(n) if i != leaving])
    keep = torch.tensor(keep)
    return memories.gather(1, keep[:, :, None].expand(-1, -1, memories.shape[2])), recalled.gather(1, keep)


def forward(config, p, inputs, lengths):
    """y (B,T,O), h (B,T,H), and the number of (row, step) pairs inside their rows that the guard held back."""
    rows, steps = inputs.shape[:2]
    dtype = p["output.bias"].dtype
    x = read_inputs(p, inputs, dtype)
    h = c = torch.zeros(rows, config.hidden_size, dtype=dtype)
    memories, recalled = h[:, None], torch.zeros(rows, 1, dtype=dtype)
    streams = row_streams(inputs, lengths.tolist()) if config.recall == "random" else None
    outputs, hidden, guarded = [], [], 0
    for step in range(1, steps + 1):
        if config.kind != "attention" and config.k_trunc and step % config.k_trunc == 0:
            h = h.detach()
            c = c.detach() if config.truncate == "both" else c
        h, c = lstm_cell(p, x[:, step - 1], h, c)
        features = h
        if config.kind == "attention":
            scores = scores_of(config, p, memories, h)
            alpha = scores.softmax(1) if config.normaliser == "softmax" else scores
            features = torch.cat([h, (alpha[:, :, None] * memories).sum(1)], dim=1)
            memories = torch.cat([memories, h[:, None]], dim=1)
        elif config.kind == "sab":
            provisional = h
            s, alpha, held = recall(config, p, memories, h, step, streams)
            guarded += int((held & (step <= lengths)).sum())
            recalled = recalled + alpha.detach()
            h = provisional + s
            features = torch.cat([h, s], dim=1)
            if step % config.k_att == 0:
                memory = h if config.memory_state == "recalled" else provisional
                memory = memory if config.mental_updates else memory.detach()
                memories = torch.cat([memories, memory[:, None]], dim=1)
                recalled = torch.cat([recalled, torch.zeros(rows, 1, dtype=dtype)], dim=1)
                memories, recalled = evict(config, memories, recalled)
        outputs.append(features @ p["output.weight"].T + p["output.bias"])
        hidden.append(h)
    return torch.stack(outputs, 1), torch.stack(hidden, 1), guarded


def loss_sum(config, outputs, targets, lengths):
    """The sum over positions, and how many there are."""
    rows, steps = outputs.shape[:2]
    if config.loss == "every":
        inside = torch.arange(steps)[None] < lengths[:, None]
        losses = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none").view(rows, steps)
        return (losses * inside).sum(), int(inside.sum())
    last = outputs[torch.arange(rows), lengths - 1]
    if config.loss == "mse":
        return ((last - targets) ** 2).sum(), targets.numel()
    return F.cross_entropy(last, targets, reduction="sum"), rows


# ---- a copy task to time it on -------------------------------------------------------------------------------------------


def initial_parameters(config, inputs, outputs):
    generator = torch.Generator().manual_seed(config.seed)
    size = config.hidden_size

    def uniform(*shape, fan=size):
        return ((torch.rand(*shape, generator=generator) * 2 - 1) / fan**0.5).requires_grad_()

    def normal(*shape):
        deviation = size**-0.5
        if config.init == "paper":
            deviation = 1.0 if len(shape) == 2 and config.kind == "sab" else 0.01
        return (torch.randn(*shape, generator=generator) * deviation).requires_grad_()

    p = {"cell.weight_ih": uniform(4 * size, inputs), "cell.weight_hh": uniform(4 * size, size),
         "cell.bias_ih": uniform(4 * size), "cell.bias_hh": uniform(4 * size)}
    if config.kind == "sab" and config.score == "separable":
        p |= {"attention.query_score.weight": normal(size), "attention.memory_score.weight": normal(size)}
    elif config.kind != "lstm":
        p |= {"attention.memory.weight": normal(size, size), "attention.query.weight": normal(size, size),
              "attention.score.weight": normal(size)}
    features = size if config.kind == "lstm" else 2 * size
    return p | {"output.weight": uniform(outputs, features, fan=features), "output.bias": uniform(outputs, fan=features)}


def copy_batch(rows, length, generator):
    symbols = torch.randint(1, 9, (rows, 10), generator=generator)
    inputs = torch.zeros(rows, length + 20, dtype=torch.int64)
    inputs[:, :10], inputs[:, length + 9] = symbols, 9
    targets = torch.zeros_like(inputs)
    targets[:, -10:] = symbols
    return F.one_hot(inputs, 10).float(), targets


def train(config, length, rows, updates):
    p = initial_parameters(config, 10, 10)
    optimizer = torch.optim.Adam(p.values(), lr=1e-3)
    generator = torch.Generator().manual_seed(config.seed + 1)
    lengths = torch.full((rows,), length + 20)
    start = time.perf_counter()
    for update in range(1, updates + 1):
        inputs, targets = copy_batch(rows, length, generator)
        outputs, hidden, _ = forward(config, p, inputs, lengths)
        total, count = loss_sum(config, outputs, targets, lengths)
        optimizer.zero_grad()
        (total / count).backward()
        norm = torch.nn.utils.clip_grad_norm_(p.values(), 1.0)
        optimizer.step()
        if update % max(1, updates // 10) == 0:
            accuracy = (outputs.argmax(2) == targets)[:, -10:].float().mean()
            seconds = (time.perf_counter() - start) / update
            print(f"update {update} loss {total.item() / count:.4f} accuracy {accuracy:.3f} gradient {norm:.3g} "
                  f"|h| {hidden.norm(dim=2).max():.3g} {1e3 * seconds:.1f} ms/update", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="JSON file of settings; options override it")
    for field in dataclasses.fields(Config):
        kind = (lambda text: text.lower() in ("1", "true")) if isinstance(field.default, bool) else type(field.default)
        parser.add_argument("--" + field.name.replace("_", "-"), type=kind)
    parser.add_argument("--length", type=int, default=10, help="of the copy task (one-hot)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    settings = json.load(open(arguments.config)) if arguments.config else {}
    for field in dataclasses.fields(Config):
        if getattr(arguments, field.name) is not None:
            settings[field.name] = getattr(arguments, field.name)
    torch.set_num_threads(arguments.threads)
    train(Config(**settings), arguments.length, arguments.batch, arguments.updates)


if __name__ == "__main__":
    main()
