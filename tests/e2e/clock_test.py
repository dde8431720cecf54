#!/usr/bin/env python3
"""Every program's wall clock is five hours apart from the kernel's, as if that had just been set back: whoever waits for a point of the wall clock
waits five hours too long. A job trains to its end in one attempt all the same, and the lease of a worker that is killed ends."""

import argparse
import pathlib
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "deploy" / "chaos"))
from cluster import Cluster  # noqa: E402

SHIFT = 5 * 3600
JOB = """\
name: clock
model: {{kind: sab, hidden_size: 32}}
task: {{kind: copy, length: 10, one_hot: true}}
train: {{batch_size: 16, steps: {steps}, seed: 7}}
eval: {{every: 0, sequences: 32}}
checkpoint: {{every: 500}}
resources: {{replicas: 2, device: cpu}}
"""


class ShiftedCluster(Cluster):
    def _start(self, title, *arguments):
        return super()._start(title, "env", f"LD_PRELOAD={OPTIONS.shifted_clock}", f"SHIFTED_CLOCK_SECONDS={SHIFT}", *arguments)


class ClockTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="sab-clock-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def submit(self, cluster, steps):
        spec = self.folder / "job.yaml"
        spec.write_text(JOB.format(steps=steps))
        return cluster.sabctl("submit", str(spec), "-o", "name").strip()

    def test_a_wall_clock_that_is_set_back_ends_no_lease_and_keeps_none(self):
        with ShiftedCluster(OPTIONS.bin_dir, self.folder, lease="10s") as cluster:
            job = self.submit(cluster, 3000)
            cluster.sabctl("wait", job, "--quiet", check=False)
            final = cluster.job(job)
            logs = (self.folder / "logs" / "coordinator.log").read_text()
            self.assertEqual(final["state"], "JOB_STATE_SUCCEEDED", logs)
            self.assertEqual(final["attempt_count"], "1", logs)
            self.assertNotIn("UNREACHABLE", logs)

            second = self.submit(cluster, 1_000_000)
            cluster.wait(lambda: cluster.job(second)["state"] == "JOB_STATE_RUNNING", "the second job")
            cluster.workers[1].kill()
            lost = cluster.wait(lambda: (j := cluster.job(second))["state"] == "JOB_STATE_RECOVERING" and j, "the lease to end")
            self.assertIn("was not heard of", lost["attempts"][0]["end_reason"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin-dir", required=True)
    parser.add_argument("--shifted-clock", required=True, help="tests/util/shifted_clock.cc as a library")
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest])
