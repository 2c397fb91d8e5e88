"""Which cells of a run store count, and what is refused with a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis.load.errors import StoreError
from lina_lab.analysis.load.runs import StudyRuns, read_study
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from sqlalchemy import create_engine, text

from benchmarks.report import EFFECTS, NAME, WIDTHS, ReportBenchConfig, make_store
from lina_lab.config import TrialConfig, from_dict
from lina_lab.records.runstore import (
    CELL,
    CONTENTS,
    ERROR,
    FORMAT_VERSION,
    KIND,
    PHASE,
    SEED,
    STATUS,
    STUDY,
    config_from_tags,
    config_tags,
)
from lina_lab.study.cost import training_flops

CELLS, CHECKPOINTS = len(EFFECTS) * len(WIDTHS), 3


@pytest.fixture
def store(tmp_path: Path) -> "Store":
    """A store of one seed, as a study leaves it."""
    make_store(ReportBenchConfig(cells=CELLS, checkpoints=CHECKPOINTS, max_images=960), tmp_path)
    return Store(tmp_path)


class Store:
    """A run store to tamper with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, f"sqlite:///{folder / 'mlflow.db'}"
        self.client = MlflowClient(self.uri)
        self.experiment = self.client.get_experiment_by_name(NAME).experiment_id

    def runs(self, kind: str = "cell") -> list[Run]:
        return list(self.client.search_runs([self.experiment], f"tags.`{KIND}` = '{kind}'", max_results=1000))

    def read(self) -> StudyRuns:
        return read_study(NAME, self.folder)

    def change_field(self, run: Run, field: str, value: Any) -> None:
        """Change a field of the configuration that a run holds."""
        config = config_from_tags(self.client.get_run(run.info.run_id).data.tags)
        assert config is not None
        *parts, last = field.split(".")
        section = config
        for part in parts:
            section = section[part]
        section[last] = value
        for tag, text_of_tag in config_tags(config).items():
            self.client.set_tag(run.info.run_id, tag, text_of_tag)

    def copy(self, run: Run, **tags: str) -> str:
        """Another run like it."""
        tags = {**{name: value for name, value in run.data.tags.items() if name.startswith("lina.")}, **tags}
        new: str = self.client.create_run(self.experiment, tags=tags).info.run_id
        self.client.log_batch(new, params=[Param(k, v) for k, v in run.data.params.items()])
        self.client.log_batch(new, metrics=[Metric(k, v, 0, 960) for k, v in run.data.metrics.items()])
        return new

    def complaint(self) -> str:
        with pytest.raises(StoreError) as error:
            self.read()
        return str(error.value)


def test_each_cell_is_a_row_with_what_follows_from_its_configuration(store: Store) -> None:
    runs = store.read()
    assert len(runs.cells) == CELLS
    assert (runs.cells["reason"] == "").all()
    row = runs.cells[(runs.cells["size"] == 32) & (runs.cells["variant"] == "division, depthwise")].iloc[0]
    model = {"latent_channels": 1, "latent_size": [8, 8], "num_classes": 10, "dim": 32, "num_heads": 4}
    model |= {"condition_depth": 1, "depth": 4, "flow_depth": 2, "attention": {"gate": "none"}}
    trainer = {"max_images": 960}
    config = from_dict(TrialConfig, {"model": model, "data": {"batch_size": 32}, "trainer": trainer})
    assert row["flops"] == training_flops(config)
    assert row["images seen"] == 960
    # 11 classes, a start and a mask token.
    assert row["parameters"] - row["body_parameters"] == 13 * 32


def test_each_checkpoint_is_a_row_with_the_training_loss_since_the_one_before(store: Store) -> None:
    runs = store.read()
    assert len(runs.checkpoints) == CELLS * CHECKPOINTS
    cell = runs.cells.iloc[0]
    mine = runs.checkpoints[runs.checkpoints["cell"] == cell["cell"]]
    assert list(mine["images"]) == [320, 640, 960]
    assert list(mine["flops"]) == pytest.approx([cell["flops_per_image"] * images for images in (320, 640, 960)])
    history = runs.history[runs.history["cell"] == cell["cell"]]
    for metric in ("train/loss", "val/loss_ema"):
        assert list(mine[metric]) == list(history[history["metric"] == metric].sort_values("images")["value"])


def test_runs_that_do_not_count_are_kept_with_the_reason(store: Store) -> None:
    """One failed, one still running, one done twice, one whose loss is no number, one without the loss."""
    first, second, third, fourth, fifth, *_ = store.runs()
    for run, state, error in ((first, "failed", "RuntimeError: planted"), (second, "running", "")):
        store.client.set_tag(run.info.run_id, STATUS, state)
        store.client.set_tag(run.info.run_id, ERROR, error)
    later = store.copy(third)
    store.client.log_metric(fourth.info.run_id, "val/loss_ema", float("nan"), step=961)
    with create_engine(store.uri).begin() as connection:
        for table in ("metrics", "latest_metrics"):
            where = {"r": fifth.info.run_id}
            connection.execute(text(f"DELETE FROM {table} WHERE run_uuid = :r AND key = 'val/loss_ema'"), where)
    runs = store.read()
    assert len(runs.cells) == CELLS - 4
    assert later in set(runs.cells["run"])
    reasons = dict(zip(runs.excluded["cell"], runs.excluded["reason"], strict=True))
    assert reasons == {
        first.data.tags[CELL]: "RuntimeError: planted",
        second.data.tags[CELL]: "it has not finished",
        third.data.tags[CELL]: "a later attempt at this cell is done",
        fourth.data.tags[CELL]: "it has no finite val/loss_ema, an objective of the study",
        fifth.data.tags[CELL]: "it has no finite val/loss_ema, an objective of the study",
    }
    kept = runs.checkpoints[runs.checkpoints["reason"] != ""]
    assert set(kept["cell"]) == set(reasons)
    assert set(kept["state"]) == {"failed", "running", "done"}
    assert set(runs.history["cell"]) == set(runs.cells["cell"])
    assert np.isfinite(runs.cells["val/loss_ema"]).all()


def test_a_study_without_a_cell_that_counts_says_what_there_is(store: Store) -> None:
    for run in store.runs():
        store.client.set_tag(run.info.run_id, STATUS, "failed")
        store.client.set_tag(run.info.run_id, ERROR, "RuntimeError: planted")
    said = store.complaint()
    assert f"no cell of the study planted counts ({CELLS} failed; the first: RuntimeError: planted)" in said
    for run in store.runs():
        store.client.delete_run(run.info.run_id)
    assert "has no cell yet: run it first (lina run study=planted)" in store.complaint()


def test_one_run_is_a_table_of_one_row(store: Store) -> None:
    for run in store.runs()[1:]:
        store.client.delete_run(run.info.run_id)
    runs = store.read()
    assert len(runs.cells) == 1
    assert len(runs.variants) == len(runs.sizes) == 1


def several_data_sets(store: Store) -> None:
    for run in store.runs()[:2]:
        store.change_field(run, "data.name", "latents")
        store.change_field(run, "data.path", "imagenet")


def two_of_one_kind(store: Store) -> None:
    run = store.runs()[0]
    other = store.copy(run, **{CELL: "another"})
    store.change_field(store.client.get_run(other), "optimizer.lr", 0.5)


def a_newer_store(store: Store) -> None:
    store.client.set_tag(store.runs("study")[0].info.run_id, "lina.format", str(FORMAT_VERSION + 1))


def another_definition(store: Store) -> None:
    run = store.runs("study")[0]
    definition = json.loads(run.data.tags[STUDY]) | {"hypothesis": "none"}
    store.client.set_tag(run.info.run_id, STUDY, json.dumps(definition))


def another_configuration(store: Store) -> None:
    store.change_field(store.runs()[3], "model.attention.gate", "swish")


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (
            several_data_sets,
            f"mixes data sets, which are not one of its axes: {CELLS - 2} of digits, 2 of latents imagenet",
        ),
        (
            two_of_one_kind,
            "are both subtraction, depthwise, size 96, seed 0, and differ in optimizer.lr: make that an axis",
        ),
        (
            a_newer_store,
            f"was written by a newer lina_lab (format {FORMAT_VERSION + 1}, and this one knows {FORMAT_VERSION}): "
            "read it with that version",
        ),
        (another_definition, "is not one of this version of lina_lab (study.hypothesis is not a field)"),
        (another_configuration, "is not one of this version of lina_lab (model.attention"),
    ],
)
def test_what_does_not_belong_into_one_table_is_refused(
    store: Store, tamper: Callable[[Store], None], said: str
) -> None:
    tamper(store)
    assert said in store.complaint()


def test_two_seeds_are_two_rows(store: Store) -> None:
    run = store.runs()[0]
    store.copy(run, **{CELL: "another", SEED: "1"})
    runs = store.read()
    assert sorted(runs.cells["seed"]) == [0] * CELLS + [1]
    assert isinstance(runs.checkpoints, pd.DataFrame)


def tune(store: Store) -> list[tuple[float, int, str]]:
    """Make it a study whose rate is tuned, with three tuning cells of one point; returns what they are."""
    run = store.runs("study")[0]
    fields = {"tune": {"optimizer.lr": [0.001, 0.002, 0.004]}, "tuning": {"seeds": [1000, 1001]}}
    store.client.set_tag(run.info.run_id, STUDY, json.dumps(json.loads(run.data.tags[STUDY]) | fields))
    tried = [(0.001, 1000, "done"), (0.002, 1000, "done"), (0.002, 1001, "diverged")]
    for rate, seed, state in tried:
        tags = {CELL: f"{rate} {seed}", SEED: str(seed), STATUS: state, PHASE: "tuning"}
        other = store.copy(store.runs()[0], **tags)
        store.change_field(store.client.get_run(other), "optimizer.lr", rate)
    return tried


def test_tuning_cells_are_a_table_of_their_own(store: Store) -> None:
    before = store.read()
    assert before.tuning.empty
    cell = store.runs()[0].data.tags[CELL]
    tried = tune(store)
    runs = store.read()
    assert list(runs.tuning[["value", "seed", "state"]].itertuples(index=False, name=None)) == tried
    assert set(runs.tuning["field"]) == {"optimizer.lr"}
    assert runs.tuning["variant"].nunique() == 1
    objective = before.cells.set_index("cell").loc[cell, "val/loss_ema"]
    assert list(runs.tuning["objective"][:2]) == [objective, objective]
    assert np.isnan(runs.tuning["objective"][2])
    for name in ("cells", "history", "checkpoints", "excluded", "source"):
        assert len(getattr(runs, name)) == len(getattr(before, name))
    assert runs.diverged.empty


def test_cells_that_were_trained_again_are_a_table_of_their_own(store: Store) -> None:
    before = store.read()
    assert before.again.empty
    again = store.copy(store.runs()[0], **{CELL: "again", PHASE: "rounding"})
    assert again
    runs = store.read()
    assert list(runs.again["cell"]) == ["again"]
    for name in ("cells", "history", "checkpoints", "excluded", "source", "tuning"):
        assert len(getattr(runs, name)) == len(getattr(before, name))


def test_data_that_moved_while_a_study_went_on_are_one_data_set_and_others_are_not(store: Store) -> None:
    first, second, third, *_ = store.runs()
    for run, path, contents in ((first, "/a", None), (second, "/b", "0123"), (third, "/c", "0123")):
        store.change_field(run, "data.name", "latents")
        store.change_field(run, "data.path", path)
        if contents is not None:
            store.client.set_tag(run.info.run_id, CONTENTS, json.dumps({"data.path": contents}))
    for run in store.runs():
        if run.info.run_id not in {one.info.run_id for one in (first, second, third)}:
            store.client.delete_run(run.info.run_id)
    assert len(store.read().cells) == 3
    store.client.set_tag(third.info.run_id, CONTENTS, json.dumps({"data.path": "4567"}))
    assert "mixes data sets" in store.complaint()


def test_a_study_that_still_tunes_has_nothing_to_compare(store: Store) -> None:
    originals = store.runs()
    tune(store)
    for run in originals:
        store.client.delete_run(run.info.run_id)
    assert "has tuning cells only, and none to compare yet" in store.complaint()


def test_a_cell_that_diverged_is_named(store: Store) -> None:
    run = store.runs()[0]
    store.client.set_tag(run.info.run_id, STATUS, "diverged")
    runs = store.read()
    assert list(runs.diverged["cell"]) == [run.data.tags[CELL]]
    assert list(runs.diverged["cell"]) == list(runs.excluded["cell"])
