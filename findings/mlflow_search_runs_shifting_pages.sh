#!/usr/bin/env bash
# MLflow's `MlflowClient.search_runs`, read page by page while a study goes on (mlflow 3.17.2, SQLite).
#
# Expected: `page_token` continues the list where the page before it ended, so a reader of all pages gets every run that
# existed at the start exactly once, as a reader of a queue by its cursor does.
# Seen: the token is an offset into the list as it is when the next page is asked for. A run that starts between two
# pages shifts the newest-first list, so one run comes twice; a run that is deleted between two pages shifts any list,
# so a run that was never touched does not come at all. Nothing says so.
#
# Exits with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mlflow==3.17.2
cd "$folder"
cat > check.py <<'PYTHON'
import logging

import mlflow
from mlflow import MlflowClient

logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow").setLevel(logging.WARNING)
client = MlflowClient("sqlite:///mlflow.db")


def read(name, between, order):
    """The runs of two pages of two, with something done between the pages, and those that there were before."""
    experiment = client.create_experiment(name)
    runs = [client.create_run(experiment, start_time=1000 + n, run_name=f"run {n}").info for n in range(4)]
    first = client.search_runs([experiment], max_results=2, order_by=order)
    between(experiment, runs)
    second = client.search_runs([experiment], max_results=2, order_by=order, page_token=first.token)
    return [run.info.run_name for run in [*first, *second]]


newest_first = read("starts", lambda experiment, runs: client.create_run(experiment, start_time=2000), None)
oldest_first = read("deleted", lambda _, runs: client.delete_run(runs[0].run_id), ["attributes.start_time ASC"])
print(f"mlflow {mlflow.__version__}\na run starts between two pages: {newest_first}\nrun 0 is deleted: {oldest_first}")
assert newest_first == ["run 3", "run 2", "run 2", "run 1"], "pages do not shift any more when a run starts"
assert oldest_first == ["run 0", "run 1", "run 3"], "pages do not shift any more when a run is deleted"
PYTHON
venv/bin/python check.py
