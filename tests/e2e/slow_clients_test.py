#!/usr/bin/env python3
"""200 clients that open streams and take nothing of them, or a byte a second: others are answered, jobs train on, memory stays bounded, and the
stalled streams are cut. The clients answer pings, as a living program does that has stopped reading: only flow control tells."""

import argparse
import contextlib
import json
import pathlib
import re
import select
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "deploy" / "chaos"))
from cluster import Cluster  # noqa: E402

CLIENTS = 200
STALL_LIMIT = 10
MOST_GROWTH = 256 << 20  # of the coordinator's memory
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
JOB = """\
name: slow-clients
model: {kind: sab, hidden_size: 128}
task: {kind: copy, length: 10, one_hot: true}
train: {batch_size: 8, steps: 10000000, seed: 7}
eval: {every: 0, sequences: 32}
checkpoint: {every: 200, keep_latest: 100}
resources: {replicas: 1, device: cpu}
"""


def text(field, value):
    """A string field of a protobuf message."""
    return bytes([field << 3 | 2, len(value)]) + value.encode()


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name, value):
    """HPACK: literal, never indexed, not compressed."""
    return b"\x10" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


class Connection:
    """HTTP/2 to the coordinator, with one gRPC call at a time and a window of our choice for what it sends."""

    def __init__(self, address, window):
        host, port = address.rsplit(":", 1)
        self.authority = address
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.stream = -1
        self.ended = False  # the call, by the server
        self.data = b""
        self.window = window
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, window)))

    def call(self, method, message):
        self.stream += 2
        self.ended, self.data = False, b""
        head = b"".join(header(*pair) for pair in ((":method", "POST"), (":scheme", "http"), (":path", "/sab.v1." + method),
                                                   (":authority", self.authority), ("content-type", "application/grpc"), ("te", "trailers")))
        body = b"\0" + struct.pack(">I", len(message)) + message
        self.socket.sendall(frame(HEADERS, END_HEADERS, self.stream, head) + frame(DATA, END_STREAM, self.stream, body))

    def take(self):
        """Handles what has arrived; blocks until something has."""
        got = self.socket.recv(1 << 16)
        if not got:
            self.ended = True
        self.buffer += got
        while len(self.buffer) >= 9:
            length = int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < 9 + length:
                break
            kind, flags, stream = self.buffer[3], self.buffer[4], int.from_bytes(self.buffer[5:9], "big")
            payload, self.buffer = self.buffer[9:9 + length], self.buffer[9 + length:]
            if kind == PING and not flags & ACK:
                self.socket.sendall(frame(PING, ACK, 0, payload))
            elif kind == SETTINGS and not flags & ACK:
                self.socket.sendall(frame(SETTINGS, ACK, 0))
            elif kind == DATA and stream == self.stream:
                self.data += payload
                self.socket.sendall(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", length)) if length else b"")
            if kind == GOAWAY or (stream == self.stream and (kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM))):
                self.ended = True

    def ask_for_a_byte(self):
        self.socket.sendall(frame(WINDOW_UPDATE, 0, self.stream, struct.pack(">I", 1)))

    def answer(self, method, message):
        """One unary call; the seconds it took."""
        begin = time.monotonic()
        self.call(method, message)
        while not self.ended:
            self.take()
        assert self.data, f"no answer to {method}"
        return time.monotonic() - begin


class SlowClients:
    """The clients, served by one thread: they answer pings, and some ask for a byte each second."""

    def __init__(self, address, streams):
        self.connections = []
        for index in range(CLIENTS):
            method, message, window = streams[index % len(streams)]
            connection = Connection(address, window)
            connection.call(method, message)
            self.connections.append((connection, method))
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        poller = select.poll()
        by_fd = {connection.socket.fileno(): connection for connection, _ in self.connections}
        for fd in by_fd:
            poller.register(fd, select.POLLIN)
        next_byte = time.monotonic() + 1
        while not self.stop.is_set():
            for fd, _ in poller.poll(200):
                connection = by_fd[fd]
                try:
                    connection.take()
                except OSError:
                    connection.ended = True
                if connection.ended:
                    poller.unregister(fd)
            if time.monotonic() >= next_byte:
                next_byte += 1
                for connection, method in self.connections:
                    if not connection.ended and method.endswith("DownloadCheckpoint"):
                        connection.ask_for_a_byte()

    def open(self, method):
        return sum(not connection.ended for connection, of in self.connections if of == method)

    def close(self):
        self.stop.set()
        self.thread.join()
        for connection, _ in self.connections:
            connection.socket.close()


def quantiles(seconds):
    ordered = sorted(seconds)
    return f"median {1000 * ordered[len(ordered) // 2]:7.2f} ms   p99 {1000 * ordered[len(ordered) * 99 // 100]:7.2f} ms"


class SlowClientsTest(unittest.TestCase):
    def start(self, *worker_flags):
        folder = tempfile.TemporaryDirectory(prefix="sab-slow-clients-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.cluster = self.enterContext(Cluster(OPTIONS.bin_dir, self.folder, workers=1, worker_flags=worker_flags,
                                                 coordinator_flags=["--stall-limit", f"{STALL_LIMIT}s"]))

    def memory(self):
        status = pathlib.Path(f"/proc/{self.cluster.coordinator.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) << 10

    def look(self, title, job, seconds):
        """Calls of others and steps of the job for some seconds."""
        connection = Connection(self.cluster.address, 1 << 20)
        name, latencies = text(1, job), []
        steps, begin = int(self.cluster.job(job)["step"]), time.monotonic()
        while time.monotonic() - begin < seconds:
            latencies.append(connection.answer("JobService/GetJob", name))
            time.sleep(0.01)
        latencies_create = [self.timed_submit() for _ in range(3)]
        made = int(self.cluster.job(job)["step"]) - steps
        rate = made / (time.monotonic() - begin)
        print(f"{title:22} GetJob {quantiles(latencies)}   submit {1000 * max(latencies_create):6.0f} ms at most   {rate:6.0f} steps/s   "
              f"{self.memory() >> 20} MiB", flush=True)
        self.assertGreater(made, 0)
        connection.socket.close()

    def timed_submit(self):
        begin = time.monotonic()
        self.cluster.sabctl("submit", str(self.folder / "job.yaml"), "-o", "name")
        return time.monotonic() - begin

    def test_clients_that_do_not_read_hold_up_nobody_and_are_cut(self):
        self.start()
        spec = self.folder / "job.yaml"
        spec.write_text(JOB)
        job = self.cluster.sabctl("submit", str(spec), "-o", "name").strip()
        checkpoint = self.cluster.wait(
            lambda: json.loads(self.cluster.sabctl("checkpoint", "list", job, "-o", "json")).get("checkpoints"), "a checkpoint")[0]
        largest = max(checkpoint["files"], key=lambda file: int(file["size_bytes"]))["path"]
        self.look("before", job, 4)
        memory = self.memory()

        streams = [("CheckpointService/DownloadCheckpoint", text(1, checkpoint["name"]) + text(2, largest), 1),
                   ("MetricService/WatchMetrics", text(1, job), 0),
                   ("JobService/WatchJob", text(1, job), 0),
                   ("LogService/TailLogs", text(1, job) + b"\x20\x01", 0)]
        slow = SlowClients(self.cluster.address, streams)
        self.addCleanup(slow.close)
        self.look(f"{CLIENTS} slow clients", job, 4)
        grown = self.memory() - memory
        self.assertLess(grown, MOST_GROWTH)
        for method, *_ in streams:
            self.cluster.wait(lambda: slow.open(method) == 0, f"{method} to be cut", interval=0.2)
        print(f"all {CLIENTS} streams were cut", flush=True)
        self.look("after", job, 4)
        self.assertEqual(self.cluster.job(job)["attempt_count"], "1")

    def add_figures(self, count):
        """Gives the only job more figures than fit on the way to a client."""
        self.cluster.coordinator.kill()
        self.cluster.coordinator.wait()
        with contextlib.closing(sqlite3.connect(self.folder / "coordinator" / "metrics.db")) as database, database:
            job, sequence, series = database.execute("SELECT job, max(sequence), series FROM points").fetchone()
            rows = ((job, sequence + i, 100 + i, series, i / count) for i in range(1, count + 1))
            database.executemany("INSERT INTO points (job, sequence, step, series, attempt, value) VALUES (?, ?, ?, ?, 1, ?)", rows)
            database.execute("UPDATE jobs SET next_sequence = ?, count = ?", (sequence + count + 1, sequence + count))
        self.cluster.start_coordinator()

    def test_a_client_that_is_cut_and_goes_on_misses_nothing(self):
        self.start("--trainer", pathlib.Path(OPTIONS.bin_dir).parent / "tests" / "fake_trainer")
        spec = self.folder / "job.yaml"
        spec.write_text(JOB.replace("steps: 10000000", "steps: 20"))
        job = self.cluster.sabctl("submit", str(spec), "-o", "name").strip()
        self.cluster.sabctl("wait", job, "--quiet")
        self.add_figures(200_000)
        stored = self.cluster.sabctl("metrics", job, "-o", "jsonl").splitlines()
        # It writes into a pipe that nobody reads for longer than the limit.
        follow = subprocess.Popen(
            [self.cluster.bin / "sabctl", "--address", self.cluster.address, "--connect-timeout", "60s", "metrics", job, "--follow", "-o", "jsonl"],
            stdout=subprocess.PIPE)
        self.addCleanup(follow.kill)
        log = self.folder / "logs" / "coordinator.log"
        self.cluster.wait(lambda: "1 streams were cut" in log.read_text(), "the stream to be cut", interval=0.2)
        seen = follow.communicate(timeout=120)[0].decode().splitlines()
        self.assertEqual(follow.returncode, 0)
        self.assertEqual(sorted(seen), sorted(stored))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin-dir", required=True)
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest])
