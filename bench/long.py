"""Very long sequences: what a training step costs as they grow, and a task learned at a million steps.

cost   One training step with a loss at every position at T = 1,000 ... 1,000,000, divided by rows and steps: flat where the
       cost of a step does not depend on how much lies behind it. Peak memory is that of the process above its size before.
train  Submits a job with a curriculum of lengths to a service of its own and prints a row for each length trained at:
       updates, seconds, accuracy there, and the largest resident memory of all trainers together.
saves  Updates at T=1,000,000 by a service, with save points within them (`checkpoint.within_update: 1s`, far more often than by
       default) and without, in turns: seconds an update, and the most bytes that the save points take on the disk.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from engine import Side

HERE = os.path.dirname(os.path.abspath(__file__))
LENGTHS = (1_000, 10_000, 100_000, 1_000_000)
HIDDEN, ROWS = 64, 4
# `sab` reads every memory at every step: its cost grows with T, which is shown as far as it is bearable.
SYSTEMS = {"separable": 1_000_000, "bounded": 1_000_000, "lstm_truncated": 1_000_000, "sab": 10_000}


def cost(options):
    print(f"One training step, loss at every position, fp32, B={ROWS}, H={HIDDEN}, k_att=2, k_top=k_trunc=5, {options.threads} threads; "
          f"medians of {options.turns} turns. bounded: score mlp, 64 memories. Microseconds a row and step, MiB above the start.")
    print("| system | " + " | ".join(f"T={t:,}" for t in LENGTHS) + " |")
    print("| --- |" + " --: |" * len(LENGTHS))
    for system, longest in SYSTEMS.items():
        cells = []
        for steps in LENGTHS:
            if steps > longest:
                cells.append("-")
                continue
            side = Side([os.path.join(options.bin, "bench_engine"), system, str(steps), str(HIDDEN), str(ROWS), str(options.threads)],
                        options.threads)
            for _ in range(options.turns + 2 if steps <= 10_000 else options.turns):
                side.step()
            side.times = side.times if steps <= 10_000 else [0, 0] + side.times
            ms, (peak, _) = side.finish()
            cells.append(f"{ms * 1e3 / (steps * ROWS):.3f} us, {peak / 2**20:,.0f}")
        print(f"| {system} | " + " | ".join(cells) + " |", flush=True)


def status_bytes(pid, key):
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith(key + ":"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def descendants(pid):
    try:
        children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    except OSError:
        return []
    return [int(c) for c in children] + [d for c in children for d in descendants(int(c))]


class Peak(threading.Thread):
    """The largest of what `measure` gives, looked at a few times a second."""

    def __init__(self, measure):
        super().__init__(daemon=True)
        self.measure = measure
        self.largest = 0
        self.ended = threading.Event()

    def run(self):
        while not self.ended.wait(0.1):
            self.largest = max(self.largest, self.measure())


def trainers_bytes(service):
    """Resident memory of all trainers together."""
    return sum(status_bytes(pid, "VmRSS") for pid in descendants(service) if is_trainer(pid))


def folders_bytes(root, name):
    """On the disk, under folders of this name."""
    size = 0
    for folder in pathlib.Path(root).rglob(name):
        for path in folder.rglob("*"):
            try:
                size += path.stat().st_blocks * 512
            except OSError:
                pass  # replaced meanwhile
    return size


def is_trainer(pid):
    try:
        with open(f"/proc/{pid}/comm") as comm:
            return comm.read().strip() == "sab-trainer"
    except OSError:
        return False


def start_service(sabctl, state, workers):
    address = os.path.join(state, "address")
    log = open(os.path.join(state, "up.log"), "w")
    up = subprocess.Popen([sabctl, "up", "--workers", str(workers), "--state-dir", os.path.join(state, "state"), "--listen", "127.0.0.1:0",
                           "--address-file", address], stdout=log, stderr=subprocess.STDOUT)
    while not os.path.exists(address):
        if up.poll() is not None:
            sys.exit(open(log.name).read())
        time.sleep(0.1)
    os.environ["SAB_ADDRESS"] = open(address).read().strip()
    return up


def figures(sabctl, job, split):
    lines = subprocess.run([sabctl, "metrics", job, "--split", split, "-o", "jsonl"], capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in lines.splitlines()]


def stages(trained, evaluated, last_step):
    """[(length, first step, last step)] from {step: length} of the reported steps; a curriculum goes on right after an evaluation."""
    found = []
    for step in sorted(trained):
        if found and found[-1][0] == trained[step]:
            continue
        start = max([e for e in evaluated if e < step], default=0)
        if found:
            found[-1][2] = start
        found.append([trained[step], start + 1, last_step])
    return found


def report(sabctl, job, peak):
    trained = {f["step"]: int(f["value"]) for f in figures(sabctl, job, "train") if f["name"] == "length"}
    timed = {f["step"]: f["value"] for f in figures(sabctl, job, "system") if f["name"] == "seconds_per_step"}
    accuracy = [f for f in figures(sabctl, job, "eval") if f["name"] == "accuracy"]
    longest = max(f["length"] for f in accuracy)
    print(f"| trained at T | updates | seconds an update | accuracy there, last | accuracy at T={longest:,}, last |")
    print("| --: | --: | --: | --: | --: |")
    for length, first, last in stages(trained, {f["step"] for f in accuracy}, max(f["step"] for f in accuracy)):
        def at(wanted):
            values = [f["value"] for f in accuracy if f["length"] == wanted and first <= f["step"] <= last]
            return f"{100 * values[-1]:.1f} %" if values else "-"
        seconds = [timed[s] for s in timed if first < s <= last]
        print(f"| {length:,} | {last - first + 1:,} | {statistics.median(seconds):.2g} | {at(length)} | {at(longest)} |" if seconds else
              f"| {length:,} | {last - first + 1:,} | - | {at(length)} | {at(longest)} |")
    print(f"Largest resident memory of the trainers together: {peak / 2**30:.2f} GiB.")


def train(options):
    sabctl = os.path.join(options.bin, "sabctl")
    with tempfile.TemporaryDirectory(prefix="sab-long-") as state:
        up = start_service(sabctl, state, options.threads)
        watch = Peak(lambda: trainers_bytes(up.pid))
        watch.start()
        try:
            job = subprocess.run([sabctl, "submit", options.job, "-o", "name"], capture_output=True, text=True, check=True).stdout.strip()
            print(f"{job}: {options.job}", flush=True)
            began = time.monotonic()
            code = subprocess.run([sabctl, "watch", job]).returncode
            print(f"{time.monotonic() - began:.0f} s in all")
            watch.ended.set()
            report(sabctl, job, watch.largest)
            return code
        finally:
            watch.ended.set()
            up.send_signal(signal.SIGTERM)
            up.wait()


SAVES_JOB = """
name: saves
model: {{kind: sab, hidden_size: 64, {model}}}
task: {{kind: recall, length: 1000000}}
train: {{batch_size: 8, steps: {updates}, clip_norm: 1.0, seed: 1}}
eval: {{every: 0, lengths: [20], sequences: 8}}
checkpoint: {{every: 0, within_update: {interval}}}
resources: {{replicas: {replicas}, device: cpu}}
"""


def seconds_per_update(sabctl, state, options, model, interval):
    path = os.path.join(state, "saves.yaml")
    with open(path, "w") as job_file:
        job_file.write(SAVES_JOB.format(model=model, updates=options.updates, interval=interval, replicas=options.threads))
    job = subprocess.run([sabctl, "submit", path, "-o", "name"], capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run([sabctl, "wait", job], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # The first update is made beside the start of all.
    return [f["value"] for f in figures(sabctl, job, "system") if f["name"] == "seconds_per_step" and f["step"] > 1]


def saves(options):
    sabctl = os.path.join(options.bin, "sabctl")
    print(f"An update at T=1,000,000, H=64, 8 rows over {options.threads} ranks: medians of {options.turns} turns of {options.updates} updates.")
    print("| system | seconds without | with a save every second | ratio | MiB on the disk, most |")
    print("| --- | --: | --: | --: | --: |")
    for system, model in (("separable", "score: separable"), ("bounded", "memory: {capacity: 64, policy: salient}")):
        with tempfile.TemporaryDirectory(prefix="sab-long-") as state:
            up = start_service(sabctl, state, options.threads)
            watch = Peak(lambda: folders_bytes(state, "save_points"))
            watch.start()
            try:
                times = {"0": [], "1s": []}
                for _ in range(options.turns):
                    for interval, into in times.items():
                        into += seconds_per_update(sabctl, state, options, model, interval)
                without, with_saves = statistics.median(times["0"]), statistics.median(times["1s"])
                print(f"| {system} | {without:.2f} | {with_saves:.2f} | {with_saves / without:.2f} | {watch.largest / 2**20:,.0f} |", flush=True)
            finally:
                watch.ended.set()
                up.send_signal(signal.SIGTERM)
                up.wait()
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="folder of the programs")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", choices=("cost", "train", "saves"))
    parser.add_argument("--updates", type=int, default=4, help="of a job of `saves`")
    parser.add_argument("--job", default=os.path.join(HERE, "long", "recall.yaml"))
    options = parser.parse_args()
    if options.only in (None, "cost"):
        cost(options)
    code = train(options) if options.only in (None, "train") else 0
    return code or (saves(options) if options.only in (None, "saves") else 0)


if __name__ == "__main__":
    sys.exit(main())
