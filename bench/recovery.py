"""See recovery.sh."""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "deploy" / "chaos"))
from cluster import Cluster, moment, send  # noqa: E402

JOB = """\
name: recovery
model: {kind: sab, hidden_size: 64}
task: {kind: copy, length: 20, one_hot: true}
train: {batch_size: 32, steps: 100000000, seed: 7, clip_norm: 1.0}
eval: {every: 0, sequences: 32}
checkpoint: {every: 500}
resources: {replicas: 2, device: cpu}
queue: {max_restarts: 1000000}
"""
PHASES = ("detect", "stop", "place", "start", "restore", "first_step")


def seconds(text):
    return float((text or "0s").rstrip("s"))


def ours(bin_dir, kills, seed):
    """(seconds of each recovery, {phase: seconds of each}, steps trained twice)."""
    draw = random.Random(seed)
    times, phases, lost = [], {phase: [] for phase in PHASES}, 0
    with tempfile.TemporaryDirectory(prefix="sab-recovery-") as folder, Cluster(bin_dir, folder) as cluster:
        spec = pathlib.Path(folder) / "job.yaml"
        spec.write_text(JOB)
        job = cluster.sabctl("submit", str(spec), "-o", "name").strip()

        def trained(number):
            seen = cluster.job(job)
            attempts = seen.get("attempts", [])
            if len(attempts) >= number and "first_step_time" in attempts[number - 1]:
                return attempts[number - 1]
            if seen["state"] == "JOB_STATE_FAILED":
                raise RuntimeError(seen["failure"])
            return None

        cluster.wait(lambda: trained(1), "the first step")
        for kill in range(1, kills + 1):
            time.sleep(draw.uniform(1.0, 2.0))  # a standby is loaded meanwhile
            trainers = cluster.wait(lambda: len(t := cluster.trainers(job)) == 2 and t, "two trainers")
            fault = time.time()
            send(trainers[draw.randrange(2)][1], signal.SIGKILL)
            attempt = cluster.wait(lambda: trained(kill + 1), f"recovery {kill}", interval=0.1)
            times.append(moment(attempt["first_step_time"]) - fault)
            lost += int(attempt["recovery"].get("lost_steps", 0))
            for phase in PHASES:
                phases[phase].append(seconds(attempt["recovery"].get(phase)))
        cluster.sabctl("cancel", job)
    return times, phases, lost


def kill_those_with(setting):
    """Kills every process of ours with this setting in its environment."""
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if setting.encode() in (process / "environ").read_bytes().split(b"\0"):
                send(int(process.name), signal.SIGKILL)
        except OSError:
            continue  # it has ended, or is another user's


def torchrun(python, kills, seed):
    """Seconds of each recovery; infinite when there was no step for long, after which it is started anew."""
    draw = random.Random(seed)
    times = []
    while len(times) < kills:
        some = torchrun_once(python, kills - len(times), draw)
        if not some:
            raise RuntimeError("torchrun makes no step; its output is above")
        times += some
    return times


def torchrun_once(python, kills, draw, limit=120):
    """The same, up to the first infinite one."""
    times = []
    with tempfile.TemporaryDirectory(prefix="sab-torchrun-", ignore_cleanup_errors=True) as folder:
        environment = dict(os.environ, OMP_NUM_THREADS="1", SAB_BENCH_DIR=folder)
        command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1000",
                   "--monitor-interval=0.1", str(HERE / "peers" / "recovery_torchrun.py")]
        log = open(pathlib.Path(folder) / "log", "wb")
        run = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            progress = pathlib.Path(folder) / "progress"

            def last():
                try:
                    restart, step, when = progress.read_text().split()
                    return int(restart), int(step), float(when)
                except (OSError, ValueError):
                    return -1, 0, 0.0

            def wait(condition):
                end = time.monotonic() + limit
                while not condition():
                    if time.monotonic() > end or run.poll() is not None:
                        return False
                    time.sleep(0.02)
                return True

            if not wait(lambda: last()[1] > 5):
                print((pathlib.Path(folder) / "log").read_text()[-2000:], file=sys.stderr)
                return []
            for _ in range(kills):
                time.sleep(draw.uniform(1.0, 2.0))
                restart = last()[0]
                pids = [int((pathlib.Path(folder) / f"pid-{rank}").read_text()) for rank in range(2)]
                fault = time.time()
                send(pids[draw.randrange(2)], signal.SIGKILL)
                if not wait(lambda: last()[0] > restart):
                    times.append(float("inf"))
                    break
                times.append(float((pathlib.Path(folder) / f"first-{last()[0]}").read_text()) - fault)
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
            kill_those_with(f"SAB_BENCH_DIR={folder}")  # its workers have sessions of their own and outlive it
            log.close()
    return times


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def row(name, values):
    print(f"{name:34} {len(values):6} {quantile(values, .5):8.3f} {quantile(values, .9):8.3f} {quantile(values, .99):8.3f} {max(values):8.3f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bin_dir")
    parser.add_argument("python")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--torchrun-kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    times, phases, lost = ours(options.bin_dir, options.kills, options.seed)
    print(f"{'seconds from SIGKILL to next step':34} {'kills':>6} {'median':>8} {'p90':>8} {'p99':>8} {'most':>8}")
    row("sab", times)
    if options.torchrun_kills > 0:
        row("torchrun --max-restarts", torchrun(options.python, options.torchrun_kills, options.seed))
    print(f"\n{'sab, phase by phase':34}")
    for phase in PHASES:
        row(f"  {phase.replace('_', ' ')}", phases[phase])
    print(f"\nsab: {lost} steps trained twice; torchrun goes on from the checkpoint of the last step")


if __name__ == "__main__":
    main()
