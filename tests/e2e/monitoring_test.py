#!/usr/bin/env python3
"""Monitoring as deployed, tried on a run.

Starts coordinator and workers with `sabctl up`, runs a job whose first attempt fails, scrapes it all with a real Prometheus under the rules of
deploy/prometheus, and checks that
  - every query of the Grafana dashboard and every recording rule has data, and every rule evaluates;
  - every series that an alert looks at exists: a misspelt name would never fire;
  - docs/METRICS.md names exactly the metrics that are served, with their types and labels;
  - docs/OPERATIONS.md says what to do about every alert.
Exit codes: 0, 1 a check failed, 77 there is no Prometheus.
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

PATIENCE_SECONDS = 120
WORKERS = 2

# Without data on a sound service.
MAY_BE_EMPTY = {
    'ALERTS{alertname=~"Sab.*", alertstate="firing"}',
    'sab_rpc_requests_total{code=~"UNKNOWN|INTERNAL|UNAVAILABLE|DATA_LOSS|DEADLINE_EXCEEDED"}',
}

# The fake trainer takes about 5 s to its fault, starts again from a checkpoint and goes on until it is cancelled.
JOB = """
name: monitored
model: {kind: sab, hidden_size: 32}
task: {kind: copy, length: 10, one_hot: true}
train: {batch_size: 16, steps: 1000000}
eval: {every: 0}
checkpoint: {every: 400, keep_latest: 1}
resources: {replicas: 2, device: cpu}
labels: {fake.step_ms: "4", fake.fail_at_step: "1200"}
"""

failures = []


def check(holds, text):
    if not holds:
        failures.append(text)
        print(f"FAILED {text}", flush=True)
    return holds


def fetch(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def eventually(condition, what):
    """The first true value of condition()."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE_SECONDS} s for {what}")
        time.sleep(0.2)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def process(command, log):
    with open(log, "wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class Prometheus:
    def __init__(self, address):
        self.base = f"http://{address}/api/v1/"

    def call(self, path, **parameters):
        """(data, error)"""
        try:
            return json.loads(fetch(f"{self.base}{path}?{urllib.parse.urlencode(parameters)}"))["data"], None
        except urllib.error.HTTPError as error:
            body = error.read().decode()
            # While it starts it answers in plain words.
            return None, json.loads(body).get("error", str(error)) if body.startswith("{") else str(error)
        except OSError as error:
            return None, str(error)

    def has_data(self, expression):
        """(any value that is a number, error)"""
        data, error = self.call("query", query=expression)
        if error:
            return False, error
        return any(sample["value"][1] != "NaN" for sample in data["result"]), None

    def targets_up(self):
        data, _ = self.call("targets", state="active")
        return data is not None and bool(data["activeTargets"]) and all(t["health"] == "up" for t in data["activeTargets"])

    def rules(self):
        data, _ = self.call("rules")
        return [rule for group in data["groups"] for rule in group["rules"]] if data else []


def prometheus_config(source, into, coordinator, workers):
    """The deployed files, with the addresses of this run and a shorter interval."""
    into.mkdir()
    deployed = source / "deploy/prometheus"
    text = (deployed / "prometheus.yml").read_text()
    assert '"coordinator:9464"' in text and "interval: 5s" in text
    (into / "prometheus.yml").write_text(text.replace('"coordinator:9464"', f'"{coordinator}"').replace("interval: 5s", "interval: 1s"))
    text = (deployed / "workers.yml").read_text()
    for i, worker in enumerate(workers, start=1):
        assert f"worker-{i}:9465" in text
        text = text.replace(f"worker-{i}:9465", worker)
    (into / "workers.yml").write_text(text)
    (into / "rules.yml").write_text((deployed / "rules.yml").read_text())
    return into / "prometheus.yml"


def dashboard_queries(dashboard):
    queries = [(f"panel {panel['title']!r}", target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
    for annotation in dashboard["annotations"]["list"]:
        queries.append((f"annotation {annotation['name']!r}", annotation["expr"]))
    for variable in dashboard["templating"]["list"]:
        name = re.fullmatch(r"label_values\((.*), *\w+\)", variable["definition"])
        queries.append((f"variable {variable['name']!r}", name[1]))
    return [(where, query.replace("$__rate_interval", "20s").replace("$worker", ".*")) for where, query in queries]


def check_dashboard(dashboard):
    ids = [panel["id"] for panel in dashboard["panels"]]
    check(len(ids) == len(set(ids)), "dashboard: two panels have one id")
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            check(panel.get("description"), f"dashboard: panel {panel['title']!r} has no description")
            check(panel["datasource"]["uid"] == "prometheus", f"dashboard: panel {panel['title']!r} does not use the provisioned data source")
    cells = [(p["gridPos"]["x"] + dx, p["gridPos"]["y"] + dy) for p in dashboard["panels"]
             for dx in range(p["gridPos"]["w"]) for dy in range(p["gridPos"]["h"])]
    check(len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24, "dashboard: panels overlap or leave the grid")


SELECTOR = re.compile(r"\b(?:up|sab_\w+|sab:[\w:]+|process_\w+)(?:\{[^}]*\})?")


def queries_to_try(dashboard, rules):
    queries = dashboard_queries(dashboard)
    for rule in rules:
        if rule["type"] == "recording":
            queries.append((f"rule {rule['name']}", rule["query"]))
        # An alert's expression is empty as long as all is well; what it looks at must exist nevertheless.
        queries += [(f"{rule['name']} looks at", selector) for selector in SELECTOR.findall(rule["query"])]
    return [(where, query) for where, query in queries if query not in MAY_BE_EMPTY]


def check_queries(prometheus, queries):
    waiting = dict.fromkeys(queries)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while waiting and time.monotonic() < deadline:
        for where, query in list(waiting):
            found, error = prometheus.has_data(query)
            waiting[where, query] = error or "no data"
            if found:
                del waiting[where, query]
        time.sleep(0.5)
    for (where, query), error in waiting.items():
        check(False, f"{where}: {error}: {query}")
    print(f"{len(queries)} queries tried", flush=True)


def check_rules(prometheus, operations):
    rules = prometheus.rules()
    for rule in rules:
        check(rule["health"] == "ok", f"rule {rule['name']}: {rule['health']} {rule.get('lastError', '')}")
        if rule["type"] == "alerting":
            check(f"`{rule['name']}`" in operations, f"docs/OPERATIONS.md does not mention the alert {rule['name']}")
    print(f"{len(rules)} rules evaluated", flush=True)


def served_metrics(addresses):
    """name -> (type, labels) of /metrics pages together: what belongs to rank 0 is on one worker alone."""
    text = "\n".join(fetch(f"http://{address}/metrics") for address in addresses)
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    labels = {name: set() for name in types}
    for sample, inside in re.findall(r"^(\w+)\{(.*)\} ", text, re.M):
        name = sample if sample in types else re.sub(r"_(bucket|sum|count)$", "", sample)
        labels[name] |= set(re.findall(r'(\w+)="', inside)) - {"le"}
    return {name: (kind, frozenset(labels[name])) for name, kind in types.items()}


def documented_metrics(text):
    """section -> name -> (type, labels) of docs/METRICS.md."""
    sections = {}
    for title, body in re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", text, re.M | re.S):
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", body, re.M)
        sections[title] = {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    return sections


def check_documentation(text, coordinator, workers):
    documented = documented_metrics(text)
    for section, addresses in [("Coordinator", [coordinator]), ("Worker", workers)]:
        written = documented[section] | documented["Every process"]
        served = served_metrics(addresses)
        check(written.keys() == served.keys(), f"docs/METRICS.md, {section}: not served {sorted(written.keys() - served.keys())}, "
              f"not written {sorted(served.keys() - written.keys())}")
        for name in written.keys() & served.keys():
            check(written[name] == served[name], f"docs/METRICS.md: {name} is written as {written[name]} and served as {served[name]}")


class Service:
    """`sabctl up` on free ports."""

    def __init__(self, bin_dir, trainer, folder):
        self.sabctl, self.folder, self.state = bin_dir / "sabctl", folder, folder / "state"
        self.command = [str(self.sabctl), "up", "--workers", str(WORKERS), "--state-dir", str(self.state), "--listen", "127.0.0.1:0",
                        "--address-file", str(folder / "address"), "--trainer", str(trainer)]

    def run(self, *arguments):
        environment = {**os.environ, "SAB_ADDRESS": (self.folder / "address").read_text().strip()}
        return subprocess.run([str(self.sabctl), *arguments], env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)

    def coordinator(self):
        return self.metrics_address("coordinator")

    def workers(self):
        return [self.metrics_address(f"worker-{i}") for i in range(WORKERS)]

    def metrics_address(self, name):
        return (self.state / f"run/{name}.metrics").read_text().strip()

    def submit(self):
        (self.folder / "job.yaml").write_text(JOB)
        result = self.run("submit", str(self.folder / "job.yaml"), "-o", "name")
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def trains_again(self, name):
        job = json.loads(self.run("get", name, "-o", "json").stdout)
        return int(job["attempt_count"]) >= 2 and job["state"] == "JOB_STATE_RUNNING"


def watch_a_run(service, prometheus, source):
    """All checks that need a service at work."""
    eventually(prometheus.targets_up, "Prometheus to scrape all targets")
    job = service.submit()
    eventually(lambda: service.trains_again(job), "the second attempt to train")
    assert service.run("get", "jobs/none").returncode != 0  # an answer that is not OK
    dashboard = json.loads((source / "deploy/grafana/dashboards/sab.json").read_text())
    check_dashboard(dashboard)
    rules = eventually(prometheus.rules, "the rules")
    check_queries(prometheus, queries_to_try(dashboard, rules))
    check_rules(prometheus, (source / "docs/OPERATIONS.md").read_text())
    check_documentation((source / "docs/METRICS.md").read_text(), service.coordinator(), service.workers())
    assert service.run("cancel", job).returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin-dir", type=pathlib.Path, required=True)
    parser.add_argument("--trainer", type=pathlib.Path, required=True, help="the fake trainer")
    parser.add_argument("--prometheus-dir", type=pathlib.Path, required=True)
    parser.add_argument("--source-dir", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    program = arguments.prometheus_dir / "prometheus"
    if not os.access(program, os.X_OK):
        print(f"skipped: there is no {program}")
        return 77
    with tempfile.TemporaryDirectory(prefix="sab-monitoring-") as name:
        folder = pathlib.Path(name)
        service = Service(arguments.bin_dir, arguments.trainer, folder)
        with process(service.command, folder / "up.log") as up:
            eventually(lambda: (folder / "address").exists() or up.poll() is not None, "the service to come up")
            if up.poll() is not None:
                print((folder / "up.log").read_text())
                return 1
            config = prometheus_config(arguments.source_dir, folder / "prometheus", service.coordinator(), service.workers())
            listen = f"127.0.0.1:{free_port()}"
            with process([str(program), f"--config.file={config}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={listen}"],
                         folder / "prometheus.log"):
                try:
                    watch_a_run(service, Prometheus(listen), arguments.source_dir)
                except AssertionError as error:
                    check(False, str(error))
        if failures:
            for log in [folder / "prometheus.log", folder / "up.log", *sorted((service.state / "logs").glob("*.log"))]:
                print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-15:], sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
