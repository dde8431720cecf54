"""Runs what is missing of a list of cells on a service: submits, waits, reads, stores. Can be cut at any moment and called again."""

import collections
import json
import os
import subprocess
import sys
import time
from datetime import datetime

import data
import results
from cells import CLAIMS
from service import FINAL

POLL_SECONDS = 1.0
HERE = os.path.dirname(os.path.abspath(__file__))

Run = collections.namedtuple("Run", "cell seed job digest")


def runs_of(cell, seeds=0):
    """A run for each of the cell's seeds, or of the first `seeds` whole numbers."""
    for seed in (range(1, seeds + 1) if seeds else cell.seeds):
        job = {**cell.job, "train": {**cell.job["train"], "seed": seed}}
        yield Run(cell, seed, job, data.digest(job))


def is_done(folder, run):
    stored = results.load(folder, run.cell)["runs"].get(str(run.seed))
    return stored is not None and stored["digest"] == run.digest


def seconds_between(start, end):
    parse = lambda text: datetime.fromisoformat(text[:26].rstrip("Z").ljust(26, "0") if "." in text else text[:19])
    return (parse(end) - parse(start)).total_seconds()


def busy_seconds(job):
    """Of all attempts, each from its first training step to its end: training and evaluations, without starts and waiting."""
    spent = 0.0
    for attempt in job.get("attempts", []):
        if attempt.get("first_step_time") and attempt.get("end_time"):
            spent += seconds_between(attempt["first_step_time"], attempt["end_time"])
    return spent


class Driver:
    def __init__(self, service, folder, work, raw_data=None, parallel=1, again=False, done_hook=lambda: None, say=print):
        self.service, self.folder, self.work, self.raw_data = service, folder, work, raw_data
        self.parallel, self.again, self.say = parallel, again, say
        self.done_hook = done_hook  # called after each stored run
        self.has_gpu = None
        self.files = {}  # prepared data: {a cell's data: {key: path}}

    def run(self, cells, seeds=0):
        """All runs of the cells that have no result yet."""
        waiting = collections.deque(run for cell in cells if self.can_run(cell) for run in runs_of(cell, seeds)
                                    if self.again or not is_done(self.folder, run))
        total, active, done = len(waiting), {}, 0
        self.say(f"{total} runs to do, {self.parallel} at a time")
        while waiting or active:
            while waiting and len(active) < self.parallel:
                run = waiting.popleft()
                active[self.job_of(run)] = run
            for name in list(active):
                job = self.service.get(name)
                if job["state"] in FINAL:
                    done += 1
                    self.finish(active.pop(name), name, job, f"{done}/{total}")
            if active:
                time.sleep(POLL_SECONDS)

    def can_run(self, cell):
        if cell.data and self.raw_data is None:
            self.skip(cell, f"needs the data folder (--data) for {cell.data}")
            return False
        if cell.data and cell.data not in self.files:
            try:
                self.files[cell.data] = data.prepare(cell.data, self.raw_data, self.work / "data")
            except OSError as error:
                self.skip(cell, f"data that cannot be used: {error}")
                return False
        if cell.gpu:
            if self.has_gpu is None:
                self.has_gpu = self.service.has_gpu()
            if not self.has_gpu:
                self.skip(cell, "needs a GPU")
                return False
        return True

    def skip(self, cell, why):
        self.say(f"skipped {cell.name}: {why}")

    def job_of(self, run):
        """The job of a run: one that an earlier call left in the service, or a new one."""
        labels = {"claims.cell": run.cell.name, "claims.run": run.digest}
        for name in self.service.jobs_labelled(labels):
            state = self.service.get(name)["state"]
            if state not in FINAL or (state == "SUCCEEDED" and not self.again):
                self.say(f"{run.cell.name} seed {run.seed}: goes on as {name}")
                return name
        name = self.service.submit({"name": run.cell.name.replace("/", "-")[:63], "labels": labels,
                                    **data.fill(run.job, self.files.get(run.cell.data, {}))})
        self.say(f"{run.cell.name} seed {run.seed}: {name}")
        return name

    def finish(self, run, name, job, progress):
        """Stores what came out. A job that somebody cancelled has no result."""
        if job["state"] == "CANCELLED":
            self.say(f"[{progress}] {run.cell.name} seed {run.seed}: cancelled, no result")
            return
        last, curves = results.figures_of(self.service.metrics(name, "eval"), self.metric_of(run.cell))
        stored = {"digest": run.digest, "state": job["state"], "reason": job.get("failure") or job.get("stop_reason", ""),
                  "updates": int(job.get("step", 0)), "skipped_steps": int(job.get("skipped_steps", 0)), "seconds": round(busy_seconds(job), 1),
                  "attempts": int(job.get("attempt_count", 1)), "figures": last, "curves": curves,
                  "where": f"{self.service.machine()}, {self.parallel} at a time", "date": job.get("end_time", "")[:10]}
        if run.cell.peer and job["state"] == "SUCCEEDED":
            stored["peer"] = self.compare_with_peer(run, name)
        results.store(self.folder, run.cell, run.seed, stored)
        shown = ", ".join(f"{'@' + length if length != '0' else ''} {value}".strip() for length, value in last.items())
        self.say(f"[{progress}] {run.cell.name} seed {run.seed}: {job['state']} after {stored['updates']} updates, {stored['seconds']} s: "
                 f"{self.metric_of(run.cell)} {shown or 'none'}")
        self.done_hook()

    def metric_of(self, cell):
        return next(claim.metric for claim in CLAIMS if claim.key == cell.claim)

    def compare_with_peer(self, run, name):
        """Training losses of the job and of PyTorch from the same start on the same batches, with the seconds of each."""
        start = self.work / "peer" / name.split("/")[-1]
        self.service.call("checkpoint", "download", name, "--step", "0", "--to", str(start), "--force")
        lines = self.service.metrics(name, "train", "loss")
        ours = [[line["step"], results.number(line["value"])] for line in lines]
        threads = max(1, os.cpu_count() // self.parallel)  # as each worker of `sabctl up` has
        done = subprocess.run([sys.executable, "-B", os.path.join(HERE, "peer.py"), "--start", str(start / "model.safetensors"),
                               "--threads", str(threads)], input=json.dumps(run.job), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return {"failure": done.stderr.strip()[-400:]}
        theirs = json.loads(done.stdout)
        steps = {step for step, _ in ours}
        return {"ours": results.thin(ours), "seconds": theirs["seconds"], "threads": threads,
                "losses": results.thin([point for point in theirs["losses"] if point[0] in steps])}

