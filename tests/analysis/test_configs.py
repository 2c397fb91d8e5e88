"""A cell's configuration is read typed; stores of version 0.1 have only the text of its parameters."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lina_lab.analysis.load.configs import from_parameters
from lina_lab.analysis.load.errors import StoreError
from lina_lab.analysis.load.runs import read_study
from mlflow import MlflowClient
from mlflow.entities import Param

from lina_lab.config import StudyConfig, TrialConfig, from_dict, from_stored, to_dict
from lina_lab.records.runstore import CONFIG, TRAIN_LOSS, config_tags
from lina_lab.records.status import CellStatus
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.tracking import Tracker
from lina_lab.util.nested import flatten
from tests.conftest import STUDY

LAST = {TRAIN_LOSS: 1.5, "val/loss_raw": 1.4, "val/loss_ema": 1.3}


@pytest.fixture
def plan(tiny: Callable[..., TrialConfig]) -> Plan:
    """A study of four cells on latents in a folder named 2024."""
    trial = to_dict(tiny(data={"name": "latents", "path": "2024"}))
    return make_plan(from_dict(StudyConfig, STUDY | {"name": "numbered"}), trial)


def write(plan: Plan, folder: Path) -> MlflowClient:
    """Write the cells of a study as its workers do, without training them."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    tracker, file = Tracker(uri, folder / "mlartifacts", plan), folder / "config.yaml"
    file.write_text("")
    for cell in plan.cells:
        run = tracker.start(cell, file)
        tracker.client.log_metric(run, TRAIN_LOSS, 1.5, step=0)
        tracker.client.log_metric(run, "val/loss_ema", 1.3, step=64)
        tracker.end(run, CellStatus.DONE, metrics=LAST, images_seen=64)
    return MlflowClient(uri)


def forget_tag(client: MlflowClient, name: str) -> None:
    """Make the store one of version 0.1, which has no tag for the configuration."""
    experiment = client.get_experiment_by_name(name).experiment_id
    for run in client.search_runs([experiment], f"tags.`{CONFIG}` LIKE '%'"):
        client.delete_tag(run.info.run_id, CONFIG)


def test_a_study_on_a_folder_named_2024_is_analyzed(plan: Plan, tmp_path: Path) -> None:
    client = write(plan, tmp_path)
    runs = read_study("numbered", tmp_path)
    assert len(runs.cells) == 4
    assert set(runs.cells["data"]) == {"latents 2024"}
    forget_tag(client, "numbered")
    old = read_study("numbered", tmp_path)
    pd.testing.assert_frame_equal(old.cells, runs.cells)
    pd.testing.assert_frame_equal(old.checkpoints, runs.checkpoints)


def test_the_tag_decides_and_not_the_text_of_the_parameters(plan: Plan, tmp_path: Path) -> None:
    client = write(plan, tmp_path)
    experiment = client.get_experiment_by_name("numbered").experiment_id
    cell = plan.cells[0]
    (run,) = client.search_runs([experiment], f"tags.`lina.cell` = '{cell.config_hash}'")
    config = to_dict(cell.config)
    config["data"]["path"] = "2025"
    for name, value in config_tags(config).items():
        client.set_tag(run.info.run_id, name, value)
    with pytest.raises(StoreError, match="mixes data sets, which are not one of its axes: 3 of latents 2024, 1 of"):
        read_study("numbered", tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data": {"name": "latents", "path": "2024"}},
        {"data": {"name": "latents", "path": "[1]"}},
        {"model": {"attention": {"kind": "softmax", "gate": "none"}}},
    ],
)
def test_every_field_survives_as_the_text_of_a_parameter(
    tiny: Callable[..., TrialConfig], changes: Mapping[str, Any]
) -> None:
    config = tiny(**changes)
    params = [Param(name, str(value)) for name, value in flatten(to_dict(config)).items()]
    assert from_stored(TrialConfig, from_parameters({param.key: param.value for param in params})) == config
