"""A cell's folder: the names of what lies in it, and how it is written. `study` and `training` share these."""

import hashlib
import os
from pathlib import Path

CONFIG_FILE, RESULT_FILE, ERROR_FILE = "config.yaml", "result.json", "error.txt"
RUN_FILE = "mlflow_run.txt"
"""The run that the cell's metrics go to."""
PICTURE_FILE = "samples.png"
CAPTIONS_FILE, SHUFFLED_FILE = "captions.jsonl", "captions_shuffled.jsonl"
"""Whether generated images are what their captions ask for; and the same images against captions of others."""
CHECKPOINTS = "step-*"
"""Pattern of the checkpoints, their hashes and their drafts."""
UNSENT_FILE = "unsent.jsonl"
"""Metrics that the tracking store did not take before the trial ended."""
CANCEL_FILE = "cancel"
"""Whoever works on the cell is to stop."""
GROUP_FILE, OUTCOME_FILE, PROGRESS_FILE = "group.json", "outcome.json", "progress.json"
"""What a group of processes is to train with; what it came to; how far it is."""
JOB_FILE = "job.json"
"""The job of a cluster that trains the cell."""
LOGS = "logs"
"""Folder of what each process of a group printed, and how it ended."""


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, finds the old one or the new one whole."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def sha256(path: Path) -> str:
    """Of a file's contents, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
