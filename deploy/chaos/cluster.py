"""A sab cluster of this machine whose programs may be killed and started again one by one. Standard library alone."""

import json
import os
import pathlib
import re
import signal
import subprocess
import time


class Cluster:
    """A coordinator and workers of one CPU slot each, with their state below `folder`. Use it in a `with`.

    `host` is the coordinator's address and that of the workers, but for `places`: {index: (address, command that runs a program there)}.
    """

    def __init__(self, bin_dir, folder, workers=2, lease="5s", standby=1, host="127.0.0.1", places=None, coordinator_flags=(), worker_flags=()):
        self.bin = pathlib.Path(bin_dir)
        self.folder = pathlib.Path(folder)
        self.lease = lease
        self.standby = standby
        self.host = host
        self.places = places or {}
        self.coordinator_flags = coordinator_flags
        self.worker_flags = worker_flags
        self.address = f"{host}:0"
        self.coordinator = None
        self.workers = [None] * workers

    def __enter__(self):
        for name in ("logs", "checkpoints", "coordinator"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.start_coordinator()
        for index in range(len(self.workers)):
            self.start_worker(index)
        self.wait(lambda: self.ready_workers() == len(self.workers), "the workers")
        return self

    def __exit__(self, *_):
        for process in [*self.workers, self.coordinator]:
            if process is not None and process.poll() is None:
                process.terminate()
        for process in [*self.workers, self.coordinator]:
            if process is not None:
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _start(self, title, *arguments):
        with open(self.folder / "logs" / f"{title}.log", "ab") as log:
            return subprocess.Popen([str(a) for a in arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def start_coordinator(self):
        address_file = self.folder / "coordinator.address"
        address_file.unlink(missing_ok=True)
        self.coordinator = self._start(
            "coordinator", self.bin / "sab-coordinator", "--state-dir", self.folder / "coordinator", "--listen", self.address,
            "--metrics-listen", "127.0.0.1:0", "--checkpoint-dir", self.folder / "checkpoints", "--lease", self.lease,
            "--address-file", address_file, *self.coordinator_flags)
        self.wait(lambda: address_file.exists() and address_file.read_text().strip(), "the coordinator")
        self.address = address_file.read_text().strip()

    def start_worker(self, index):
        state = self.folder / f"worker-{index}"
        state.mkdir(exist_ok=True)
        address, there = self.places.get(index, (self.host, []))
        self.workers[index] = self._start(
            f"worker-{index}", *there, self.bin / "sab-worker", "--coordinator", self.address, "--state-dir", state, "--slots", "1",
            "--device", "cpu", "--threads-per-slot", "1", "--advertise", address, "--metrics-listen", "127.0.0.1:0",
            "--standby", str(self.standby), *self.worker_flags)

    def sabctl(self, *arguments, check=True):
        command = [str(self.bin / "sabctl"), "--address", self.address, "--connect-timeout", "60s", *arguments]
        return subprocess.run(command, check=check, capture_output=True, text=True).stdout

    def job(self, name):
        return json.loads(self.sabctl("get", name, "-o", "json"))

    def ready_workers(self):
        text = self.sabctl("worker", "list", "-o", "json", check=False)
        return sum(worker.get("state") == "WORKER_STATE_READY" for worker in json.loads(text).get("workers", [])) if text else 0

    def trainers(self, job):
        """Rank -> (attempt, pid) of the job's newest trainers, from what the agents note."""
        found = {}
        for path in self.folder.glob("worker-*/trainers/*.json"):
            try:
                record = json.loads(path.read_text())
            except (OSError, ValueError):
                continue  # being replaced
            if record.get("job") == job and os.path.exists(f"/proc/{record['pid']}"):
                entry = (record["attempt"], record["pid"])
                found[record["rank"]] = max(found.get(record["rank"], (0, 0)), entry)
        return found

    def wait(self, condition, what, seconds=180, interval=0.02):
        deadline = time.monotonic() + seconds
        while True:
            result = condition()
            if result:
                return result
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds} s for {what}; logs are in {self.folder / 'logs'}")
            time.sleep(interval)

    def final_model(self, job):
        """SHA-256 of the newest checkpoint's parameters."""
        checkpoint = json.loads(self.sabctl("checkpoint", "list", job, "-o", "json"))["checkpoints"][0]
        return next(file["sha256"] for file in checkpoint["files"] if file["path"] == "model.safetensors")


def moment(stamp):
    """Seconds since 1970 of a protobuf JSON timestamp."""
    import calendar
    whole, fraction = re.match(r"([^.Z]*)(\.\d+)?Z", stamp).groups()
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(fraction or 0)


def send(pid, number):
    """False: there is no such process any more."""
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


KILL, STOP = signal.SIGKILL, signal.SIGSTOP
