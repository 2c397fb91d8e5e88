#!/usr/bin/env bash
# Two runs of MLflow that log the same new dataset at the same moment (mlflow 3.17.2, SQLite).
#
# Expected: `log_inputs` of two runs of one experiment, both with the same dataset, gives each run the dataset as its
# input, whichever comes first. Runs of a study start together and train on the same data, so this is the usual case.
# Seen: each looks for the dataset, finds none and inserts it. The second fails with an IntegrityError on the primary
# key of `datasets`, passed on as BAD_REQUEST, the code of a request that is wrong in itself, which clients do not
# repeat. That run has no input. The same call, made once more, succeeds.
#
# The script makes the moment the same by an event of SQLAlchemy, which holds each of the two until both have looked.
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
import threading
from concurrent.futures import ThreadPoolExecutor

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput
from mlflow.exceptions import MlflowException
from sqlalchemy import event
from sqlalchemy.orm import Session

logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow").setLevel(logging.WARNING)
client = MlflowClient("sqlite:///mlflow.db")
both, held = threading.Barrier(2), threading.local()


@event.listens_for(Session, "before_flush")
def hold(session, *_):
    if getattr(held, "once", False) and any(getattr(new, "__tablename__", "") == "datasets" for new in session.new):
        held.once = False
        both.wait(timeout=30)


def log(run_id, together=False):
    """Log the dataset to the run; returns the error, or None."""
    held.once = together
    dataset = Dataset(name="train", digest="4f2a", source_type="local", source='{"uri": "train.csv"}')
    try:
        client.log_inputs(run_id, [DatasetInput(dataset)])
    except MlflowException as error:
        return error
    return None


def inputs(run_id):
    return len(client.get_run(run_id).inputs.dataset_inputs)


experiment = client.create_experiment("study")
runs = [client.create_run(experiment).info.run_id for _ in range(2)]
with ThreadPoolExecutor(2) as pool:
    errors = list(pool.map(lambda run_id: log(run_id, together=True), runs))
failed = [(run_id, error) for run_id, error in zip(runs, errors, strict=True) if error]
counts = sorted(inputs(run_id) for run_id in runs)
print(f"mlflow {mlflow.__version__}: {len(failed)} of 2 calls failed; inputs of the runs {counts}")
assert len(failed) == 1 and counts == [0, 1], "both runs have their input now"
run_id, error = failed[0]
print(error.error_code, str(error).splitlines()[0])
assert error.error_code == "BAD_REQUEST", "the error has another code now"
assert "IntegrityError" in str(error) and "datasets.name" in str(error)
assert log(run_id) is None and inputs(run_id) == 1, "the same call succeeds when made once more, as before"
PYTHON
venv/bin/python check.py
