#!/usr/bin/env python3
"""The driver of bench/claims on a real service, with cells of a few updates: runs, reads and renders; runs nothing twice; goes on after
Ctrl-C and after its service was killed; makes sequences of recordings."""
import argparse
import io
import json
import math
import pathlib
import struct
import sys
import tarfile
import tempfile
import unittest
import wave
import xml.etree.ElementTree

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "bench" / "claims"))
import cells  # noqa: E402
import data  # noqa: E402
import driver  # noqa: E402
import main  # noqa: E402
import service  # noqa: E402

BUILD = None


def tiny(name, updates=20, seeds=(1, 2), **more):
    job = cells.job({"kind": "sab", "hidden_size": 8}, cells.copy_task(5, True), {"steps": updates, "batch_size": 8},
                    {"every": 5, "lengths": [5], "sequences": 16, "final_lengths": [10]})
    return cells.Cell(name, "small", f"a tiny {name}", job, (5, 10), seeds, budget="small", **more)


class AnyFile(dict):
    def __missing__(self, key):
        return str(SOURCE / "README.md")


def write_recordings(path):
    """Two recordings for training and one held out, of digits 0 and 1."""
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:xz") as tar:
        for name, samples in (("0_ann_5", 30), ("1_ann_6", 50), ("0_ann_0", 20)):
            sound = io.BytesIO()
            with wave.open(sound, "wb") as out:
                out.setnchannels(1)
                out.setsampwidth(2)
                out.setframerate(8000)
                out.writeframes(b"".join(struct.pack("<h", round(900 * math.sin(i / 2))) for i in range(samples)))
            info = tarfile.TarInfo(f"recordings/{name}.wav")
            info.size = len(sound.getvalue())
            tar.addfile(info, io.BytesIO(sound.getvalue()))


class ClaimsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="sab-claims-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.said = []

    def replace(self, owner, name, value):
        self.addCleanup(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    def call(self, some_cells, *arguments):
        self.said.clear()
        self.replace(main, "all_cells", lambda: some_cells)
        self.replace(main, "say", self.said.append)
        return main.main(["--build", str(BUILD), "--results", str(self.folder / "results"), "--work", str(self.folder / "work"),
                          "--parallel", "2", *arguments])

    def result(self, name):
        return json.loads((self.folder / "results" / f"{name}.json").read_text())["runs"]

    def heard(self, words):
        return any(words in line for line in self.said)

    def test_runs_each_cell_once_and_writes_the_page(self):
        self.assertEqual(self.call([tiny("one"), tiny("group/same-job", seeds=(1,)), tiny("text", data="ptb")]), 0)
        runs = self.result("one")
        self.assertEqual(self.result("group.same-job")["1"]["figures"], runs["1"]["figures"])
        self.assertEqual(list(runs), ["1", "2"])
        for run in runs.values():
            self.assertEqual((run["state"], run["updates"]), ("SUCCEEDED", 20))
            self.assertEqual(sorted(run["figures"]), ["10", "5"])
            self.assertEqual([step for step, _ in run["curves"]["5"]], [5, 10, 15, 20])
        self.assertNotEqual(runs["1"]["digest"], runs["2"]["digest"])
        self.assertTrue(self.heard("skipped text: needs the data folder"))

        page = self.folder / "results" / "CLAIMS.md"
        self.assertIn("a tiny one", page.read_text())
        images = sorted((self.folder / "results" / "images").glob("*.svg"))
        self.assertEqual([image.name for image in images], ["claims-small-curves.svg", "claims-small-transfer.svg"])
        for image in images:
            xml.etree.ElementTree.parse(image)

        before = (self.folder / "results" / "one.json").read_bytes()
        self.assertEqual(self.call([tiny("one")]), 0)
        self.assertTrue(self.heard("0 runs to do"))
        self.assertEqual((self.folder / "results" / "one.json").read_bytes(), before)
        written = page.read_text()
        page.unlink()
        self.call([tiny("one")], "--render")
        self.assertEqual(page.read_text(), written)

        self.assertEqual(self.call([tiny("one", updates=21)], "--seeds", "1"), 0)
        self.assertTrue(self.heard("1 runs to do"))
        self.assertEqual(self.result("one")["1"]["updates"], 21)

    def test_every_cell_is_a_job_that_the_service_accepts(self):
        ours = service.Service(BUILD / "bin" / "sabctl", self.folder / "work", 1, say=self.said.append)
        self.addCleanup(ours.stop)
        ours.start()
        every = cells.all_cells()
        self.assertEqual(len({cell.name for cell in every}), len(every))
        for cell in every:
            self.assertIn(cell.claim, [claim.key for claim in cells.CLAIMS])
            file = {"name": "dry", **data.fill(cell.job, AnyFile())}
            ours.call("submit", "-", "--dry-run", "-o", "json", stdin=json.dumps(file))

    def test_goes_on_after_ctrl_c_with_the_jobs_it_left(self):
        def interrupt(_):
            self.replace(driver.time, "sleep", sleep)
            raise KeyboardInterrupt

        sleep = driver.time.sleep
        start = service.Service.start

        def start_then_arm(this):
            start(this)
            self.replace(driver.time, "sleep", interrupt)

        self.replace(service.Service, "start", start_then_arm)
        self.assertEqual(self.call([tiny("one", seeds=(1,))]), 130)
        self.assertFalse((self.folder / "results" / "one.json").exists())
        self.replace(service.Service, "start", start)
        self.assertEqual(self.call([tiny("one", seeds=(1,))]), 0)
        self.assertTrue(self.heard("goes on as jobs/"))
        self.assertEqual(self.result("one")["1"]["state"], "SUCCEEDED")

    def test_starts_a_killed_service_again(self):
        submit = service.Service.submit

        def submit_then_kill(this, job):
            name = submit(this, job)
            this.process.kill()
            this.process.wait()
            return name

        self.replace(service.Service, "submit", submit_then_kill)
        self.assertEqual(self.call([tiny("one", seeds=(1,))]), 0, self.said)
        self.assertTrue(self.heard("starting it again on its state"))
        self.assertEqual(self.result("one")["1"]["state"], "SUCCEEDED")

    def test_a_failed_run_is_a_result_and_is_said(self):
        write_recordings(self.folder / "raw" / "fsdd" / "recordings.tar.xz")
        job = cells.job({"kind": "lstm", "hidden_size": 8}, {"kind": "tensor", "path": "{digits_train}"}, {"steps": 4, "batch_size": 2},
                        {"every": 2, "path": "{digits_test}"})
        sound = cells.Cell("digits", "digits", "tiny recordings", job, seeds=(1,), budget="small", data="digits")
        broken = cells.Cell("broken", "digits", "not a safetensors file", data.fill(job, {"digits_train": __file__, "digits_test": __file__}),
                            seeds=(1,), budget="small")
        self.assertEqual(self.call([sound, broken], "--data", str(self.folder / "raw")), 0)
        self.assertEqual(self.result("digits")["1"]["figures"].keys(), {"0"})
        self.assertEqual(self.result("broken")["1"]["state"], "FAILED")
        self.assertIn("seed 1 FAILED", (self.folder / "results" / "CLAIMS.md").read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, required=True)
    arguments, rest = parser.parse_known_args()
    BUILD = arguments.build
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
