#!/usr/bin/env python3
"""The coordinator's disk is full: submits say so and what to do, the running job trains on, a coordinator that starts meanwhile says why it cannot,
and with space everything goes on without a loss. Needs a mount namespace of its own for a small tmpfs; exits with 77 where there is none."""

import argparse
import errno
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "deploy" / "chaos"))
from cluster import Cluster  # noqa: E402

INSIDE = "SAB_TEST_MOUNT_NAMESPACE"
JOB = """\
name: full-disk
model: {kind: sab, hidden_size: 32}
task: {kind: copy, length: 10, one_hot: true}
train: {batch_size: 16, steps: 1000000, seed: 7}
eval: {every: 0, sequences: 32}
checkpoint: {every: 500}
resources: {replicas: 2, device: cpu}
"""


def fill(path):
    """Takes all space that is left."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1 << 8, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


class FullDiskTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="sab-full-disk-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.state = self.folder / "coordinator"
        self.state.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", self.state], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", self.state])
        self.cluster = self.enterContext(Cluster(OPTIONS.bin_dir, self.folder, lease="3s"))
        self.spec = self.folder / "job.yaml"
        self.spec.write_text(JOB)

    def submit(self, check=True):
        command = [self.cluster.bin / "sabctl", "--address", self.cluster.address, "submit", self.spec, "-o", "name"]
        return subprocess.run(command, check=check, capture_output=True, text=True, timeout=60)

    def steps(self, job):
        return int(self.cluster.job(job).get("step", 0))

    def awaits_more_steps(self, job, what):
        before = self.steps(job)
        self.cluster.wait(lambda: self.steps(job) > before + 5, what)

    def test_a_full_disk_stops_submits_and_nothing_else(self):
        job = self.submit().stdout.strip()
        self.awaits_more_steps(job, "the first steps")
        trainers = self.cluster.trainers(job)
        fill(self.state / "filler")

        refused = self.submit(check=False)
        self.assertEqual(refused.returncode, 1, refused)
        self.assertIn(str(self.state / "coordinator.db"), refused.stderr)
        self.assertIn("free disk space", refused.stderr)
        self.awaits_more_steps(job, "steps on a full disk")
        self.assertEqual(self.cluster.job(job)["state"], "JOB_STATE_RUNNING")

        # Started on the full disk it says why it cannot, and the trainers go on.
        self.cluster.coordinator.kill()
        self.cluster.coordinator.wait()
        started = subprocess.run(
            [self.cluster.bin / "sab-coordinator", "--state-dir", self.state, "--listen", self.cluster.address, "--metrics-listen", "",
             "--checkpoint-dir", self.folder / "checkpoints"], capture_output=True, text=True, timeout=60)
        self.assertEqual(started.returncode, 1, started)
        self.assertIn(str(self.state), started.stderr)
        self.assertIn("free disk space", started.stderr)

        (self.state / "filler").unlink()
        self.cluster.start_coordinator()
        self.cluster.wait(lambda: self.cluster.job(job)["state"] == "JOB_STATE_RUNNING", "the job to be adopted")
        self.awaits_more_steps(job, "steps with space again")
        self.assertEqual(self.cluster.trainers(job), trainers)
        self.assertEqual(self.cluster.job(job)["attempt_count"], "1")
        second = self.submit().stdout.strip()
        self.assertEqual(self.cluster.job(second)["state"], "JOB_STATE_QUEUED")

        # What the coordinator could not take was kept by the agents; figures of a fast job come once a second.
        def steps():
            lines = self.cluster.sabctl("metrics", job, "--split", "train", "--name", "loss", "-o", "jsonl").splitlines()
            return [json.loads(line)["step"] for line in lines]

        self.cluster.wait(lambda: len(steps()) > 2, "three figures of the loss")
        seen = steps()
        self.assertEqual(seen, sorted(set(seen)))

    def test_space_that_comes_back_is_enough(self):
        job = self.submit().stdout.strip()
        self.awaits_more_steps(job, "the first steps")
        fill(self.state / "filler")
        self.assertEqual(self.submit(check=False).returncode, 1)
        # Cancelled on a full disk: refused, and nothing is half done.
        refused = subprocess.run([self.cluster.bin / "sabctl", "--address", self.cluster.address, "cancel", job], capture_output=True, text=True)
        self.assertEqual(refused.returncode, 1, refused)
        self.awaits_more_steps(job, "steps after a refused cancel")
        (self.state / "filler").unlink()
        self.cluster.sabctl("cancel", job)
        self.assertEqual(self.cluster.job(job)["state"], "JOB_STATE_CANCELLED")
        self.submit()


if __name__ == "__main__":
    if INSIDE not in os.environ:
        isolated = ["unshare", "--mount", "--propagation", "private"] + ([] if os.getuid() == 0 else ["--map-root-user"])
        try:
            possible = subprocess.run([*isolated, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True)
        except FileNotFoundError as error:
            possible = subprocess.CompletedProcess([], 1, stderr=str(error))
        if possible.returncode != 0:
            print(f"skipped: a tmpfs cannot be mounted here: {possible.stderr.strip()}")
            sys.exit(77)
        os.environ[INSIDE] = "1"
        os.execvp(isolated[0], [*isolated, sys.executable, "-B", *sys.argv])
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin-dir", required=True)
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest])
