#!/usr/bin/env python3
"""Injects faults into a cluster of its own on this machine and checks that nothing is lost.

Trains one job undisturbed and the same job again under faults drawn from a seed, then checks: the job SUCCEEDED at its last step, with
the same parameters bit for bit; every attempt but the last ended for a reason; what is left of ended attempts is gone.
"""

import argparse
import pathlib
import random
import sys
import tempfile
import time

from cluster import KILL, STOP, Cluster, send

KINDS = ("trainer", "stop", "agent", "coordinator")
JOB = """\
name: chaos
model: {{kind: sab, hidden_size: 32}}
task: {{kind: copy, length: 10, one_hot: true}}
train: {{batch_size: 16, steps: {steps}, seed: 7, clip_norm: 1.0}}
eval: {{every: 0, sequences: 32}}
checkpoint: {{every: 200}}
resources: {{replicas: {workers}, device: cpu}}
queue: {{max_restarts: 1000000}}
"""


class Chaos:
    def __init__(self, cluster, job, seed):
        self.cluster = cluster
        self.job = job
        self.random = random.Random(seed)
        self.done = []

    def say(self, text):
        print(f"{time.monotonic() - START:8.2f}s  {text}", flush=True)

    def trains(self):
        """The job as it is once it trains, or has ended."""
        def look():
            job = self.cluster.job(self.job)
            attempts = job.get("attempts") or [{}]
            final = job["state"] in ("JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED")
            return job if final or (job["state"] == "JOB_STATE_RUNNING" and "first_step_time" in attempts[-1]) else None
        return self.cluster.wait(look, "the job to train", interval=0.05)

    def strike(self, kind):
        """One fault. What the cluster does not restart by itself is started again."""
        if kind in ("trainer", "stop"):
            trainers = self.cluster.trainers(self.job)
            if not trainers:
                return
            rank = self.random.choice(sorted(trainers))
            if send(trainers[rank][1], KILL if kind == "trainer" else STOP):
                self.say(f"{'killed' if kind == 'trainer' else 'stopped'} rank {rank}, pid {trainers[rank][1]}")
        elif kind == "agent":
            index = self.random.randrange(len(self.cluster.workers))
            self.say(f"killed agent {index}, pid {self.cluster.workers[index].pid}, and started it again")
            self.cluster.workers[index].kill()
            self.cluster.workers[index].wait()
            self.cluster.start_worker(index)
        else:
            self.say(f"killed the coordinator, pid {self.cluster.coordinator.pid}, and started it again")
            self.cluster.coordinator.kill()
            self.cluster.coordinator.wait()
            self.cluster.start_coordinator()
        self.done.append(kind)

    def run(self, kinds, kills, seconds):
        end = time.monotonic() + seconds
        while len(self.done) < kills and time.monotonic() < end:
            job = self.trains()
            if job["state"] != "JOB_STATE_RUNNING":
                return
            # In the middle of whatever comes next: a step, a checkpoint, a recovery.
            time.sleep(self.random.uniform(0, 0.5))
            self.strike(self.random.choice(kinds))


def check(cluster, job, expected, steps):
    """The invariants that do not hold, in words."""
    wrong = []
    final = cluster.job(job)
    if final["state"] != "JOB_STATE_SUCCEEDED":
        return [f"{job} is {final['state']}: {final.get('failure', '')}"]
    if int(final["step"]) != steps:
        wrong.append(f"it ended at step {final['step']} and not {steps}")
    if cluster.final_model(job) != expected:
        wrong.append("its parameters are not those of the run without faults")
    attempts = final["attempts"]
    wrong += [f"attempt {a['number']} has no end" for a in attempts if not a.get("end_reason")]
    for before, after in zip(attempts, attempts[1:]):
        if int(after["start_step"]) > int(before["last_step"]) + 1 and after["recovery_source"].startswith("jobs/"):
            wrong.append(f"attempt {after['number']} starts beyond what attempt {before['number']} had reached")
    if cluster.trainers(job):
        wrong.append("trainers of the finished job still run")
    return wrong


def summary(final):
    lost = sum(int(a.get("recovery", {}).get("lost_steps", 0)) for a in final["attempts"])
    memory = sum(a.get("recovery_source", "").startswith("memory") for a in final["attempts"])
    return f"{len(final['attempts'])} attempts, {memory} from memory, {lost} steps trained twice"


def main():
    parser = argparse.ArgumentParser(prog="./dev chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help="same seed, same faults in the same order (default 1)")
    parser.add_argument("--kills", type=int, default=20, help="faults (default 20)")
    parser.add_argument("--seconds", type=float, default=600, help="no new faults after so long (default 600)")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"any of {','.join(KINDS)} (default: all)")
    parser.add_argument("--workers", type=int, default=2, help="workers, and ranks of the job (default 2)")
    parser.add_argument("--steps", type=int, default=20000, help="length of the job in training steps (default 20000)")
    parser.add_argument("--lease", default="5s", help="lease of the workers (default 5s)")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        parser.error(f"--kinds: {', '.join(unknown)}: not among {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory(prefix="sab-chaos-") as folder:
        with Cluster(options.bin_dir, folder, options.workers, options.lease) as cluster:
            spec = pathlib.Path(folder) / "job.yaml"
            spec.write_text(JOB.format(steps=options.steps, workers=options.workers))
            submit = lambda: cluster.sabctl("submit", str(spec), "-o", "name").strip()
            undisturbed = submit()
            cluster.sabctl("wait", undisturbed, "--quiet")
            expected = cluster.final_model(undisturbed)
            chaos = Chaos(cluster, submit(), options.seed)
            chaos.run(kinds, options.kills, options.seconds)
            cluster.sabctl("wait", chaos.job, "--quiet", check=False)
            wrong = check(cluster, chaos.job, expected, options.steps)
            final = cluster.job(chaos.job)
            for kind in KINDS:
                print(f"{kind:12} {chaos.done.count(kind)}")
            print(f"{final['state']}: {summary(final)}")
            if wrong:
                for line in wrong:
                    print(f"WRONG: {line}")
                print(cluster.sabctl("get", chaos.job, check=False))
                for log in sorted((pathlib.Path(folder) / "logs").iterdir()):
                    print(f"--- {log.name}\n{log.read_text()[-6000:]}", file=sys.stderr)
                return 1
    print(f"seed {options.seed}: {len(chaos.done)} faults, every invariant holds")
    return 0


START = time.monotonic()
if __name__ == "__main__":
    sys.exit(main())
