"""A service to submit jobs to: one of our own (`sabctl up`), restarted when it is killed, or one that runs already."""

import ctypes
import json
import os
import platform
import signal
import subprocess
import time

UNREACHABLE = 5  # exit code of sabctl
START_SECONDS = 60
FINAL = ("SUCCEEDED", "FAILED", "CANCELLED")


class ServiceError(RuntimeError):
    pass


def end_with_parent():
    """In the child: a session of its own, so that Ctrl-C reaches the driver alone, and SIGTERM when the driver dies."""
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def processor():
    with open("/proc/cpuinfo") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


class Service:
    def __init__(self, sabctl, folder, workers=0, address="", say=print):
        self.sabctl, self.folder, self.workers, self.say = str(sabctl), folder, workers, say
        self.own = not address
        self.address = address
        self.process = None
        self.restarts_left = 5

    def start(self):
        if not self.own:
            self.call("list", "-o", "name")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + START_SECONDS
        while not self.start_once(deadline):
            # The programs of one that was killed may not be gone yet, and hold its state.
            if time.monotonic() > deadline:
                raise ServiceError(f"the service did not start; see {self.folder / 'up.log'}")
            time.sleep(1)

    def start_once(self, deadline):
        """Whether `sabctl up` came up; when not, it is gone again."""
        address_file = self.folder / "address"
        address_file.unlink(missing_ok=True)
        with open(self.folder / "up.log", "ab") as log:
            self.process = subprocess.Popen(
                [self.sabctl, "up", "--workers", str(self.workers), "--state-dir", str(self.folder / "state"), "--listen", "127.0.0.1:0",
                 "--address-file", str(address_file)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=end_with_parent)
        while not address_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                return False
            time.sleep(0.1)
        self.address = address_file.read_text().strip()
        return True

    def stop(self):
        """Jobs that are not done stay in the state folder and go on at the next start."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def restart_if_dead(self):
        if not self.own or self.process is None or self.process.poll() is None:
            return
        if self.restarts_left == 0:
            raise ServiceError(f"the service ended again and again; see {self.folder / 'up.log'}")
        self.restarts_left -= 1
        self.say(f"the service ended with {self.process.returncode}; starting it again on its state")
        self.process = None
        self.start()

    def call(self, *arguments, stdin=None):
        """The standard output of sabctl. Waits for a service that is away; its own it starts again."""
        while True:
            self.restart_if_dead()
            done = subprocess.run([self.sabctl, *arguments], input=stdin, capture_output=True, text=True,
                                  env={**os.environ, "SAB_ADDRESS": self.address})
            if done.returncode == 0:
                self.restarts_left = 5
                return done.stdout
            if done.returncode != UNREACHABLE:
                raise ServiceError(f"sabctl {' '.join(arguments[:2])}: {(done.stderr or done.stdout).strip()}")
            if not self.own:
                self.say(f"no service answers at {self.address}; trying again")
            time.sleep(1)

    def submit(self, job):
        return self.call("submit", "-", "-o", "name", stdin=json.dumps(job)).strip()

    def get(self, name):
        job = json.loads(self.call("get", name, "-o", "json"))
        job["state"] = job["state"].removeprefix("JOB_STATE_")
        return job

    def jobs_labelled(self, labels):
        """Names, newest first."""
        options = [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
        return self.call("list", *options, "--all", "-o", "name").split()

    def metrics(self, name, split, figure=""):
        lines = self.call("metrics", name, "--split", split, *(["--name", figure] if figure else []), "-o", "jsonl")
        return [json.loads(line) for line in lines.splitlines()]

    def slots(self):
        workers = json.loads(self.call("worker", "list", "-o", "json")).get("workers", [])
        return [slot for worker in workers for slot in worker.get("slots", [])]

    def has_gpu(self):
        return any(slot.get("device") == "cuda" for slot in self.slots())

    def machine(self):
        """What trains: the GPUs, this machine's processor, or another one's, of which no more is known."""
        gpus = sorted({slot["device_name"] for slot in self.slots() if slot.get("device") == "cuda"})
        if gpus:
            return ", ".join(gpus)
        return processor() if self.own else "CPU slots of another machine"
