#!/usr/bin/env python3
"""A worker whose packets are dropped, in both directions and without a word, and that comes back. It lives in a network namespace of its own, on
a bridge of the test's; exits with 77 where there is none."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "deploy" / "chaos"))
from cluster import Cluster  # noqa: E402

INSIDE = "SAB_TEST_NETWORK_NAMESPACE"
HERE_ADDRESS, AWAY_ADDRESS = "10.77.0.1", "10.77.0.2"
LEASE = 6.0
JOB = """\
name: partition
model: {{kind: sab, hidden_size: 32}}
task: {{kind: copy, length: 10, one_hot: true}}
train: {{batch_size: 16, steps: {steps}, seed: 7}}
eval: {{every: 0, sequences: 32}}
checkpoint: {{every: 200}}
resources: {{replicas: {replicas}, device: cpu}}
"""


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


def make_network():
    """A bridge with our address, and the namespace "away" behind a port of it."""
    ip("link", "set", "lo", "up")
    ip("link", "add", "name", "bridge", "type", "bridge")
    ip("addr", "add", f"{HERE_ADDRESS}/24", "dev", "bridge")
    ip("link", "set", "bridge", "up")
    ip("netns", "add", "away")
    ip("link", "add", "name", "port", "type", "veth", "peer", "name", "away", "netns", "away")
    ip("link", "set", "port", "master", "bridge", "up")
    ip("-n", "away", "addr", "add", f"{AWAY_ADDRESS}/24", "dev", "away")
    ip("-n", "away", "link", "set", "lo", "up")
    ip("-n", "away", "link", "set", "away", "up")


def cut():
    ip("link", "set", "port", "nomaster")


def mend():
    ip("link", "set", "port", "master", "bridge")


class PartitionTest(unittest.TestCase):
    """Worker 0 is here, worker 1 away."""

    def start(self, workers):
        folder = tempfile.TemporaryDirectory(prefix="sab-partition-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.addCleanup(mend)
        self.cluster = self.enterContext(Cluster(OPTIONS.bin_dir, self.folder, workers, lease=f"{LEASE}s", host=HERE_ADDRESS,
                                                 places={1: (AWAY_ADDRESS, ["ip", "netns", "exec", "away"])}))
        self.addCleanup(lambda: self._outcome.success or print(self.logs(), file=sys.stderr))

    def logs(self):
        return "\n".join(f"--- {log.name}\n{log.read_text()[-5000:]}" for log in sorted((self.folder / "logs").iterdir()))

    def submit(self, steps, replicas):
        spec = self.folder / "job.yaml"
        spec.write_text(JOB.format(steps=steps, replicas=replicas))
        return self.cluster.sabctl("submit", str(spec), "-o", "name").strip()

    def awaits_state(self, job, state, seconds=60):
        return self.cluster.wait(lambda: (j := self.cluster.job(job))["state"] == state and j, f"{job} to be {state}", seconds)

    def awaits_step(self, job, step):
        self.cluster.wait(lambda: int(self.cluster.job(job).get("step", 0)) >= step, f"step {step}")

    def ends(self, job):
        self.cluster.sabctl("wait", job, "--quiet", check=False)
        return self.cluster.job(job)

    def undisturbed(self, steps, replicas):
        job = self.submit(steps, replicas)
        self.assertEqual(self.ends(job)["state"], "JOB_STATE_SUCCEEDED")
        return self.cluster.final_model(job)

    def test_a_worker_cut_off_for_less_than_its_lease_costs_nothing(self):
        self.start(2)
        job = self.submit(1_000_000, 2)
        self.awaits_state(job, "JOB_STATE_RUNNING")
        trainers = self.cluster.trainers(job)
        for seconds in (LEASE * 0.2, LEASE * 0.5):
            before = int(self.cluster.job(job)["step"])
            cut()
            time.sleep(seconds)
            mend()
            self.awaits_state(job, "JOB_STATE_RUNNING")
            self.awaits_step(job, before + 20)
            seen = self.cluster.job(job)
            self.assertEqual(seen["attempt_count"], "1", [a.get("end_reason") for a in seen["attempts"]])
        self.assertEqual(self.cluster.trainers(job), trainers)

    def test_a_job_of_a_worker_that_is_cut_off_moves_and_the_old_rank_is_fenced(self):
        self.start(3)
        steps = 40000
        expected = self.undisturbed(steps, 2)
        job = self.submit_on_away(steps)
        cut()
        moved = self.cluster.wait(lambda: (j := self.cluster.job(job)).get("attempt_count") == "2" and j, "the second attempt", LEASE * 5)
        self.assertIn("was not heard of", moved["attempts"][0]["end_reason"])
        self.assertTrue(moved["attempts"][1]["recovery_source"].startswith("memory"), moved["attempts"][1])
        # It runs on behind the cut, in a slot that nobody gets meanwhile.
        self.assertTrue(self.trainers_away(job, 1))
        next_in_line = self.submit(20, 1)
        time.sleep(LEASE / 2)
        self.assertEqual(self.cluster.job(next_in_line)["state"], "JOB_STATE_QUEUED")
        mend()
        self.cluster.wait(lambda: not self.trainers_away(job, 1), "the old rank to be stopped", LEASE * 10)
        self.assertEqual(self.ends(next_in_line)["state"], "JOB_STATE_SUCCEEDED")
        final = self.ends(job)
        self.assertEqual(final["state"], "JOB_STATE_SUCCEEDED", final)
        self.assertEqual(final["attempt_count"], "2")
        self.assertEqual(self.cluster.final_model(job), expected)
        self.cluster.wait(lambda: self.cluster.ready_workers() == 3, "all workers", LEASE * 10)

    def test_without_another_slot_the_job_waits_and_goes_on_from_disk(self):
        self.start(2)
        steps = 8000
        expected = self.undisturbed(steps, 2)
        job = self.submit(steps, 2)
        self.awaits_step(job, 400)
        cut()
        self.cluster.wait(lambda: self.cluster.job(job)["state"] == "JOB_STATE_UNREACHABLE", "UNREACHABLE", LEASE * 3)
        waiting = self.cluster.wait(lambda: (j := self.cluster.job(job))["state"] == "JOB_STATE_RECOVERING" and j, "RECOVERING", LEASE * 3)
        self.assertIn("was not heard of", waiting["attempts"][0]["end_reason"])
        time.sleep(LEASE / 2)
        self.assertEqual(self.cluster.job(job)["attempt_count"], "1")  # its slot is not given away, not even to itself
        mend()
        final = self.ends(job)
        self.assertEqual(final["state"], "JOB_STATE_SUCCEEDED", final)
        self.assertEqual(self.cluster.final_model(job), expected)

    def submit_on_away(self, steps):
        """A job of two ranks of which one is away."""
        listed = json.loads(self.cluster.sabctl("worker", "list", "-o", "json"))["workers"]
        other = next(worker["name"] for worker in listed if worker["host"] == HERE_ADDRESS)
        self.cluster.sabctl("worker", "drain", other)
        job = self.submit(steps, 2)
        self.awaits_step(job, 50)
        self.cluster.sabctl("worker", "undrain", other)
        return job

    def trainers_away(self, job, attempt):
        found = []
        for path in self.folder.glob("worker-1/trainers/*.json"):
            try:
                record = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            if record.get("job") == job and record["attempt"] == attempt and os.path.exists(f"/proc/{record['pid']}"):
                found.append(record["pid"])
        return found


if __name__ == "__main__":
    if INSIDE not in os.environ:
        isolated = ["unshare", "--net", "--mount", "--propagation", "private"] + ([] if os.getuid() == 0 else ["--map-root-user"])
        try:
            possible = subprocess.run([*isolated, "sh", "-c", "mount -t tmpfs tmpfs /run && ip netns add x && ip link add name b type bridge"],
                                      capture_output=True, text=True)
        except FileNotFoundError as error:
            possible = subprocess.CompletedProcess([], 1, stderr=str(error))
        if possible.returncode != 0:
            print(f"skipped: no network of its own can be made here: {possible.stderr.strip()}")
            sys.exit(77)
        os.environ[INSIDE] = "1"
        os.execvp(isolated[0], [*isolated, sys.executable, "-B", *sys.argv])
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)  # where `ip netns` keeps its names
    make_network()
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin-dir", required=True)
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest])
