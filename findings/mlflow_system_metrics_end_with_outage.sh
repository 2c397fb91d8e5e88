#!/usr/bin/env bash
# MLflow's system metrics after an outage of its server (mlflow 3.17.2, psutil 7.2.2).
#
# Expected: a run whose server is away for a moment loses the system metrics of that moment. When the server is back,
# the series goes on, as the metrics do that the run logs itself.
# Seen: after each sample the monitor asks whether the run is still RUNNING. The first such question that fails ends its
# thread for good, with one warning in the log of the run. The run goes on for hours, is RUNNING and logs its loss, and
# its CPU and memory series stay where they were.
#
# The client repeats a request seven times by default, for about four minutes; the script sets that to none, which
# MLFLOW_HTTP_REQUEST_MAX_RETRIES allows, and so shows in seconds what a longer outage does with the default.
#
# Exits with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mlflow==3.17.2 psutil==7.2.2
cd "$folder"
cat > check.py <<'PYTHON'
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
import mlflow
from mlflow import MlflowClient

INTERVAL, SAMPLES = 0.5, 10
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
url = f"http://127.0.0.1:{port}"
command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
command += ["--backend-store-uri", "sqlite:///mlflow.db"]


def until(true, seconds=120):
    """Wait until the condition holds; returns whether it did in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.1)
    return False


def healthy():
    try:
        return urllib.request.urlopen(f"{url}/health", timeout=5).status == 200
    except OSError:
        return False


def start():
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    if not until(healthy):
        stop(server)
        raise SystemExit("the server did not start")
    return server


def stop(server):
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def points(key):
    return len(client.get_metric_history(run_id, key))


def monitors():
    return [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]


CPU = "system/cpu_utilization_percentage"
server = start()
try:
    mlflow.set_tracking_uri(url)
    mlflow.set_system_metrics_sampling_interval(INTERVAL)
    client = MlflowClient()
    run_id = mlflow.start_run(log_system_metrics=True).info.run_id
    mlflow.log_metric("loss", 1.0, step=0)
    assert until(lambda: points(CPU) >= 3), "system metrics come while the server is there"
    stop(server)
    until(lambda: not monitors(), 20)
    server = start()
    before = points(CPU)
    mlflow.log_metric("loss", 0.5, step=1)
    time.sleep(INTERVAL * SAMPLES)
    after, status = points(CPU), client.get_run(run_id).info.status
    print(f"mlflow {mlflow.__version__}: the run is {status} and has {points('loss')} losses")
    print(f"CPU utilisation: {before} points when the server is back, {after} after {SAMPLES} more intervals")
    assert status == "RUNNING" and points("loss") == 2
    assert after == before and not monitors(), "the series goes on after an outage now"
    mlflow.end_run()
finally:
    stop(server)
PYTHON
venv/bin/python check.py 2>errors || { cat errors >&2; exit 1; }
grep -o "Failed to get mlflow run" errors
