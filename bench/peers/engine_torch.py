"""PyTorch's side of `./dev bench engine`: one training configuration, a step for each line on standard input.

usage: engine_torch.py SYSTEM STEPS HIDDEN BATCH THREADS [cpu|cuda]
Answers each line with the step's milliseconds, and the end of the input with the peak of memory above what it was before the first
step (resident; on a GPU, of its allocator). This is what one writes with PyTorch and no kernels of one's own: nn.LSTM where it fits, otherwise nn.LSTMCell and
attention op by op under autograd, with the keys W_m m cached at the write.
"""

import sys
import time

import torch
from torch import nn

K_TRUNC, K_ATT, K_TOP, CAPACITY = 5, 2, 5, 64


def status_bytes(key):
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    return 0


class Attention(nn.Module):
    """An LSTM whose output also reads all its earlier states; the context does not enter the recurrence."""

    def __init__(self, hidden):
        super().__init__()
        self.cell = nn.LSTM(1, hidden, batch_first=True)
        self.w_m = nn.Linear(hidden, hidden, bias=False)
        self.w_q = nn.Linear(hidden, hidden, bias=False)
        self.w = nn.Linear(hidden, 1, bias=False)
        self.out = nn.Linear(2 * hidden, 10)

    def forward(self, x):
        h, _ = self.cell(x)
        memories = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)  # (B,T,H)
        keys, queries = self.w_m(memories), self.w_q(h)
        contexts = []
        for t in range(x.shape[1]):
            scores = self.w(torch.tanh(keys[:, :t + 1] + queries[:, t:t + 1])).squeeze(2)
            alpha = scores.softmax(1)
            contexts.append(torch.bmm(alpha.unsqueeze(1), memories[:, :t + 1]).squeeze(1))
        return self.out(torch.cat([h, torch.stack(contexts, 1)], 2))


class Lstm(nn.Module):
    """nn.LSTM, in stretches of k_trunc steps when truncated."""

    def __init__(self, hidden, truncated):
        super().__init__()
        self.cell = nn.LSTM(1, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 10)
        self.truncated = truncated

    def forward(self, x):
        if not self.truncated:
            return self.out(self.cell(x)[0])
        state, pieces = None, []
        for piece in torch.split(x, K_TRUNC, 1):
            h, state = self.cell(piece, state)
            state = tuple(s.detach() for s in state)
            pieces.append(h)
        return self.out(torch.cat(pieces, 1))


class Sab(nn.Module):
    """Sparse attentive backtracking with the defaults: provisional memories, dense phase softmax."""

    def __init__(self, hidden, system):
        super().__init__()
        self.hidden, self.separable, self.capacity = hidden, system == "separable", CAPACITY if system == "bounded" else None
        self.cell = nn.LSTMCell(1, hidden)
        if self.separable:
            self.w_m = nn.Linear(hidden, 1, bias=False)
        else:
            self.w_m = nn.Linear(hidden, hidden, bias=False)
            self.w_q = nn.Linear(hidden, hidden, bias=False)
            self.w = nn.Linear(hidden, 1, bias=False)
        self.out = nn.Linear(2 * hidden, 10)

    def recall(self, memories, keys, hat):
        keys = torch.stack(keys, 1)
        scores = keys.squeeze(2) if self.separable else self.w(torch.tanh(keys + self.w_q(hat).unsqueeze(1))).squeeze(2)
        memory = torch.stack(memories, 1)
        if scores.shape[1] <= K_TOP:
            alpha = scores.softmax(1)
        else:
            best, index = scores.topk(K_TOP + 1, dim=1)
            gaps = best[:, :K_TOP] - best[:, K_TOP:]
            alpha = gaps / (gaps.sum(1, keepdim=True) + 1e-7)
            memory = memory.gather(1, index[:, :K_TOP, None].expand(-1, -1, self.hidden))
        return torch.bmm(alpha.unsqueeze(1), memory).squeeze(1)

    def forward(self, x):
        h = c = x.new_zeros(x.shape[0], self.hidden)
        memories, outputs = [h], []
        keys = [x.new_zeros(x.shape[0], 1 if self.separable else self.hidden)]
        for t in range(1, x.shape[1] + 1):
            if t % K_TRUNC == 0:
                h, c = h.detach(), c.detach()
            hat, c = self.cell(x[:, t - 1], (h, c))
            s = self.recall(memories, keys, hat)
            h = hat + s
            outputs.append(torch.cat([h, s], 1))
            if t % K_ATT == 0:
                memories.append(hat)
                keys.append(self.w_m(torch.tanh(hat) if self.separable else hat))
                if self.capacity and len(memories) > self.capacity:
                    del memories[1], keys[1]
        return self.out(torch.stack(outputs, 1))


def main():
    system, (steps, hidden, batch, threads) = sys.argv[1], map(int, sys.argv[2:6])
    device = sys.argv[6] if len(sys.argv) > 6 else "cpu"
    cuda = device == "cuda"
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    if system == "attention":
        model = Attention(hidden)
    elif system.startswith("lstm"):
        model = Lstm(hidden, system == "lstm_truncated")
    else:
        model = Sab(hidden, system)
    model.to(device)
    x, y = torch.rand(batch, steps, 1, device=device), torch.randint(0, 10, (batch, steps), device=device)
    before = torch.cuda.memory_allocated() if cuda else status_bytes("VmRSS")
    for _ in sys.stdin:
        start = time.perf_counter()
        model.zero_grad()
        nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        if cuda:
            torch.cuda.synchronize()
        print((time.perf_counter() - start) * 1e3, flush=True)
    print((torch.cuda.max_memory_allocated() if cuda else status_bytes("VmHWM")) - before, flush=True)


if __name__ == "__main__":
    main()
