"""Judge the claims of the paper's abstract, and write its tables with published numbers next to ours.

  lina paper [runs=FOLDER] [geneval=FILE] [out=FOLDER]

Published numbers are read from `analysis/published`, ours from the run store, from a GenEval file and from the model's
own counts. A study that `scale=paper` ran is found as NAME_paper. A study of other images than the published runs' is
evidence for the claims, and no part of the tables. An empty cell shows a dash, and the notes of the table say what is
missing and why.
"""

if __name__ == "__main__":
    import sys

    from lina_lab.cli import main

    raise SystemExit(main(["paper", *sys.argv[1:]]))

from pydantic.dataclasses import dataclass
from yaml import YAMLError

from lina_lab.config import CHECKS
from lina_lab.config.grammar import Command

from .load.errors import StoreError


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class PaperConfig:
    """Fields of `lina paper`."""

    runs: str = "runs"
    """Folder of the runs."""
    tracking_uri: str | None = None
    """MLflow's store; null: `mlflow.db` in the folder of runs."""
    scaling: str = "normalization_scaling"
    """Our study of normalization, convolution and size."""
    gates: str = "kv_gate"
    """Our study of gates."""
    locality: str = "locality"
    """Our study of convolutions."""
    placement: str = "placement"
    """Our study of softmax in some blocks."""
    quality: str = "normalization_scaling"
    """Our study whose sample quality is compared with the published one."""
    geneval: str | None = None
    """Our results of the official GenEval tool (results.jsonl); null: none."""
    out: str = "reports"
    """Folder of the reports; the tables are written to its folder `paper`."""


def run(config: PaperConfig) -> int:
    """Write the tables and say where; 0."""
    from .report.paper_tables import write_tables

    try:
        files = write_tables(config)
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    for file in files:
        print(file)
    return 0


COMMAND = Command(config=PaperConfig, run=run, doc=__doc__, errors=(StoreError, ValueError, YAMLError))
