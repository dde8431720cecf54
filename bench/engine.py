"""Runs our engine and its peers on the same training step, taking turns, and prints one table and a profile by part.

Each side is a process of its own that runs one step per line it is sent, so that both see the same machine: ours, then the peer's,
and again. A figure is the median of its turns after two steps that are not counted; memory is the peak of resident memory above
what the process had before its first step. With --device cuda both sides run on the GPU, with its allocator's peak for the memory.
"""

import argparse
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
BATCH = {"cpu": 64, "cuda": 128}
TOO_LARGE = {  # (system, peer): the longest T the peer is asked for; beyond, it needs tens of GB or minutes a step
    "sab": 320, "separable": 320, "bounded": 320, "attention": 320, "lstm": 5020, "lstm_truncated": 5020}
# (system, hidden sizes, lengths): T = 5,020 only for what is linear there.
CASES = [
    ("sab", 128, (120, 320, 1020)),
    ("separable", 128, (320, 1020, 5020)),
    ("bounded", 128, (320, 1020, 5020)),
    ("lstm", 128, (120, 320, 1020, 5020)),
    ("lstm_truncated", 128, (120, 320, 1020, 5020)),
    ("attention", 128, (120, 320, 1020)),
    ("sab", 512, (120, 320)),
    ("lstm", 512, (120, 320)),
    ("lstm_truncated", 512, (120, 320)),
    ("attention", 512, (120, 320)),
]


class Side:
    """One process that runs a step for each line."""

    def __init__(self, command, threads):
        env = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.times = []

    def step(self):
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        self.times.append(float(line))

    def finish(self):
        """The median of the turns that count, and the last line's numbers."""
        self.process.stdin.close()
        numbers = [int(n) for n in self.process.stdout.readline().split()]
        self.process.wait()
        return statistics.median(self.times[2:]), numbers


def measure(options, system, hidden, steps, ours_only):
    common = [system, str(steps), str(hidden), str(BATCH[options.device]), str(options.threads)]
    ours = Side([options.program, *common, "fast", options.device], options.threads)
    peer = None if ours_only else Side([sys.executable, os.path.join(HERE, "peers", "engine_torch.py"), *common, options.device],
                                       options.threads)
    for _ in range(2 + options.turns):
        ours.step()
        if peer:
            peer.step()
    return ours.finish(), peer.finish() if peer else None


def row(system, hidden, steps, ours, peer):
    ms, (peak, predicted) = ours
    cells = [system, f"{hidden}", f"{steps:,}", f"{ms:,.1f}", f"{peak / 2**20:,.0f}", f"{predicted / 2**20:,.0f}"]
    if peer:
        peer_ms, (peer_peak,) = peer
        cells += [f"{peer_ms:,.1f}", f"{peer_peak / 2**20:,.0f}", f"{peer_ms / ms:.1f}x", f"1/{peer_peak / max(peak, 1):.0f}"]
    else:
        cells += ["-"] * 4
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True, help="bench_engine")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", choices=list(BATCH), default="cpu")
    parser.add_argument("--quick", action="store_true", help="T up to 320 and H=128")
    parser.add_argument("--only", help="one system: " + ", ".join(TOO_LARGE))
    options = parser.parse_args()

    print(f"One training step (forward and backward), fp32, B={BATCH[options.device]}, {options.device}, k_att=2, k_top=k_trunc=5, {options.threads} threads; medians of "
          f"{options.turns} turns. Peer: PyTorch, the recurrence op by op for sab and attention, nn.LSTM for lstm.")
    print("| system | H | T | ours, ms | ours, MiB | predicted, MiB | PyTorch, ms | PyTorch, MiB | time | memory |")
    print("| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |")
    for system, hidden, lengths in CASES:
        if options.only and system != options.only or options.quick and hidden > 128:
            continue
        for steps in lengths:
            if options.quick and steps > 320:
                continue
            # Op by op, H=512 at T=320 is left out too: more than 16 GB.
            ours_only = steps > TOO_LARGE[system] or (hidden > 128 and steps > 120 and not system.startswith("lstm"))
            print(row(system, hidden, steps, *measure(options, system, hidden, steps, ours_only)), flush=True)

    if options.device == "cuda":
        return
    print("\nWhere a step's time goes:")
    for system in ["sab", "lstm", "attention"] if not options.only else [options.only]:
        subprocess.run([options.program, "profile", system, "320", "128", str(BATCH["cpu"])], check=True)


if __name__ == "__main__":
    main()
