#!/usr/bin/env python3
"""The coordinator is held up for longer than a lease, again and again, as by a disk that does not answer: that is no worker's silence, and
the job goes on in its attempt."""

import argparse
import pathlib
import signal
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "deploy" / "chaos"))
from cluster import Cluster, send  # noqa: E402

LEASE_SECONDS = 3
JOB = """\
name: held-up
model: {kind: sab, hidden_size: 32}
task: {kind: copy, length: 10, one_hot: true}
train: {batch_size: 16, steps: 1000000, seed: 7}
eval: {every: 0, sequences: 32}
resources: {replicas: 2, device: cpu}
"""


class HeldUpTest(unittest.TestCase):
    def test_a_coordinator_that_was_held_up_blames_no_worker(self):
        with tempfile.TemporaryDirectory(prefix="sab-held-up-") as name:
            folder = pathlib.Path(name)
            (folder / "job.yaml").write_text(JOB)
            with Cluster(OPTIONS.bin_dir, folder, lease=f"{LEASE_SECONDS}s") as cluster:
                job = cluster.sabctl("submit", str(folder / "job.yaml"), "-o", "name").strip()
                cluster.wait(lambda: cluster.job(job)["state"] == "JOB_STATE_RUNNING", "the job")
                for _ in range(3):
                    before = int(cluster.job(job)["step"])
                    send(cluster.coordinator.pid, signal.SIGSTOP)
                    time.sleep(1.5 * LEASE_SECONDS)
                    send(cluster.coordinator.pid, signal.SIGCONT)
                    cluster.wait(lambda: int(cluster.job(job)["step"]) > before, "a step")
                    time.sleep(1.5 * LEASE_SECONDS)
                final = cluster.wait(lambda: (j := cluster.job(job))["state"] != "JOB_STATE_UNREACHABLE" and j, "its workers")
                log = (folder / "logs" / "coordinator.log").read_text()
                self.assertEqual(final["attempt_count"], "1", log)
                self.assertEqual(final["state"], "JOB_STATE_RUNNING", log)
                self.assertIn("was held up for", log)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin-dir", required=True)
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest])
