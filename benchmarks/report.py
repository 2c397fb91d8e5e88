"""Time and memory of a report: `python benchmarks/report.py [cells=10000] [checkpoints=100]`.

Creates a run store of cells that were never trained, and makes its report in a process of its own.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from pydantic.dataclasses import dataclass
from sqlalchemy import Connection, create_engine, text

from lina_lab.config import CHECKS, StudyConfig, TrialConfig, from_dict, to_dict
from lina_lab.config.checks import PositiveInt
from lina_lab.config.grammar import Command
from lina_lab.model import count
from lina_lab.records.runstore import (
    AXES,
    CELL,
    FORMAT,
    KIND,
    SEED,
    STATUS,
    STUDY,
    TRAIN_LOSS,
    config_tags,
    quiet_logs,
)

NAME = "planted"
WIDTHS = (16, 32, 48, 64, 96)
EFFECTS = {("division", "none"): 30.0, ("division", "depthwise"): 26.0}
EFFECTS |= {("subtraction", conv): amount * 1.02 for (_, conv), amount in EFFECTS.items()}
"""Variant -> coefficient A of the planted scaling law."""
E, ALPHA, BETA = 0.3, 0.4, 0.5
METRICS = (TRAIN_LOSS, "val/loss_raw", "val/loss_ema")


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class ReportBenchConfig:
    """Fields of the benchmark."""

    cells: PositiveInt = 10_000
    """Cells in the store, rounded up to whole seeds."""
    checkpoints: PositiveInt = 100
    """Points of each cell's curve."""
    max_images: PositiveInt = 5120
    """Images that each cell has seen."""


def make_store(config: ReportBenchConfig, folder: Path) -> StudyConfig:
    """Create a run store with losses `E + A N^-alpha + B D^-beta` and noise of the seeds; returns the study."""
    quiet_logs()
    uri, points = f"sqlite:///{folder / 'mlflow.db'}", [(v, width) for v in EFFECTS for width in WIDTHS]
    study = _study(-(-config.cells // len(points)))
    client = MlflowClient(uri)
    experiment = client.create_experiment(NAME)
    tags = {KIND: "study", FORMAT: "1", STUDY: json.dumps(to_dict(study))}
    client.create_run(experiment, tags=tags)
    engine = create_engine(uri)
    for variant, width in points:
        template, losses = _template(client, experiment, variant, width, config), _losses(variant, width, config)
        trial = to_dict(_trial(variant, width, config))
        with engine.begin() as connection:
            for seed in study.seeds:
                _copy(connection, template, seed, trial, losses)
        client.delete_run(template)
    engine.dispose()
    return study


def _study(seeds: int) -> StudyConfig:
    return from_dict(
        StudyConfig,
        {
            "name": NAME,
            "question": "How long does a report take?",
            "axes": {
                "normalization": {"model.attention.normalization": ["division", "subtraction"]},
                "convolution": {"model.attention.conv": ["none", "depthwise"]},
                "size": {"model.dim": list(WIDTHS)},
            },
            "size_axis": "size",
            "seeds": list(range(seeds)),
        },
    )


def _trial(variant: tuple[str, str], width: int, config: ReportBenchConfig) -> TrialConfig:
    attention = {"normalization": variant[0], "conv": variant[1], "gate": "none"}
    model = {"latent_channels": 1, "latent_size": [8, 8], "num_classes": 10, "dim": width, "num_heads": 4}
    model |= {"condition_depth": 1, "depth": 4, "flow_depth": 2, "attention": attention}
    data, trainer = {"batch_size": 32}, {"max_images": config.max_images}
    return from_dict(TrialConfig, {"model": model, "data": data, "trainer": trainer})


def _template(
    client: MlflowClient, experiment: str, variant: tuple[str, str], width: int, config: ReportBenchConfig
) -> str:
    """A run as the study layer writes it, to copy from; returns its id."""
    axes = dict(zip(("model.attention.normalization", "model.attention.conv"), variant, strict=True))
    tags = {KIND: "cell", STATUS: "done", AXES: json.dumps({**axes, "model.dim": width}), CELL: "", SEED: ""}
    trial = to_dict(_trial(variant, width, config))
    tags |= config_tags(trial)
    run: str = client.create_run(experiment, tags=tags, run_name=f"{' '.join(variant)} {width}").info.run_id
    flat = pd.json_normalize(trial).iloc[0]
    numbers = {"images_per_second": 900.0, "fit_seconds": 10.0, "peak_memory_mib": 900.0}
    params = [Param(str(name), str(value)) for name, value in flat.items()]
    client.log_batch(run, params=params, metrics=[Metric(name, value, 0, 0) for name, value in numbers.items()])
    client.log_batch(run, tags=[RunTag("mlflow.source.git.commit", "0" * 40)])
    client.set_terminated(run)
    return run


def _losses(variant: tuple[str, str], width: int, config: ReportBenchConfig) -> "pd.Series[float]":
    images = np.linspace(config.max_images / config.checkpoints, config.max_images, config.checkpoints).astype(int)
    size = count.parameters(_trial(variant, width, config).model).total
    return pd.Series(E + EFFECTS[variant] * size**-ALPHA + 3 * images**-BETA, index=images)


def _copy(
    connection: Connection, template: str, seed: int, trial: Mapping[str, Any], losses: "pd.Series[float]"
) -> None:
    new = f"{template[:24]}{seed:08x}"
    for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
        columns = [row[1] for row in connection.execute(text(f"PRAGMA table_info({table})"))]
        values = ", ".join(":new" if name == "run_uuid" else f'"{name}"' for name in columns)
        names = ", ".join(f'"{name}"' for name in columns)
        connection.execute(
            text(f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} WHERE run_uuid = :old"),
            {"new": new, "old": template},
        )
    changed = {CELL: new[-12:] + template[:4], SEED: str(seed), **config_tags({**trial, "seed": seed})}
    for key, value in changed.items():
        connection.execute(
            text("UPDATE tags SET value = :v WHERE run_uuid = :r AND key = :k"), {"v": value, "r": new, "k": key}
        )
    connection.execute(text("UPDATE params SET value = :v WHERE run_uuid = :r AND key = 'seed'"), {"v": seed, "r": new})
    rows = list(_points(new, np.random.default_rng(seed), losses))
    insert = "INSERT INTO {} (run_uuid, key, step, value, timestamp, is_nan) VALUES (:r, :k, :s, :v, 0, 0)"
    connection.execute(text(insert.format("metrics")), rows)
    last = {str(row["k"]): row for row in rows}
    connection.execute(text(insert.format("latest_metrics")), list(last.values()))


def _points(run: str, generator: np.random.Generator, losses: "pd.Series[float]") -> Iterator[dict[str, Any]]:
    level = float(np.exp(0.01 * generator.standard_normal()))
    for metric in METRICS:
        # A step's loss is logged at the images seen before it.
        before = metric == TRAIN_LOSS
        noise = np.exp((0.05 if before else 1e-4) * generator.standard_normal(len(losses)))
        for images, loss in zip(losses.index, losses.to_numpy(float) * noise * level, strict=True):
            yield {"r": run, "k": metric, "s": int(images) - before, "v": float(loss)}


def run(config: ReportBenchConfig) -> int:
    """Measure and print; returns 0."""
    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name), time.perf_counter()
        study = make_store(config, folder)
        cells = len(study.seeds) * len(WIDTHS) * len(EFFECTS)
        print(f"made: {cells:,} cells, {config.checkpoints} checkpoints each, in {time.perf_counter() - start:.0f} s")
        start = time.perf_counter()
        report = ["-m", "lina_lab.analysis.plots", f"study={NAME}", f"runs={folder}", f"out={folder / 'reports'}"]
        subprocess.run([sys.executable, *report], check=True, stdout=subprocess.DEVNULL)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        print(f"report: {time.perf_counter() - start:.1f} s, {peak:.2f} GiB at most")
    return 0


COMMAND = Command(config=ReportBenchConfig, run=run, doc=__doc__, errors=())

if __name__ == "__main__":
    sys.exit(COMMAND.main(sys.argv[1:]))
