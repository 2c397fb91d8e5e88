"""The names and tags of a study in MLflow."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import RunTag

from lina_lab.config import TrialConfig, from_stored, to_dict
from lina_lab.config.trial import DataConfig
from lina_lab.records.runstore import CONFIG, TAG_LENGTH, config_from_tags, config_tags


def test_a_configuration_comes_back_from_its_tag_with_its_types() -> None:
    config = TrialConfig(data=DataConfig(name="latents", path="2024", batch_size=64))
    tags = config_tags(to_dict(config))
    assert list(tags) == [CONFIG]
    assert from_stored(TrialConfig, config_from_tags(tags) or {}) == config


@pytest.mark.parametrize("length", [TAG_LENGTH - 20, TAG_LENGTH, 3 * TAG_LENGTH])
def test_a_long_configuration_survives_mlflow_in_several_tags(tmp_path: Path, length: int) -> None:
    config = {"data": {"path": "é" + "x" * length, "flip": None}, "seed": 3}
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.create_run(client.create_experiment("study")).info.run_id
    client.log_batch(run, tags=[RunTag(name, value) for name, value in config_tags(config).items()])
    assert config_from_tags(client.get_run(run).data.tags) == config


def test_a_shorter_configuration_may_stand_before_the_rest_of_a_longer_one() -> None:
    tags = config_tags({"path": "x" * 2 * TAG_LENGTH}) | config_tags({"seed": 1})
    assert len(tags) == 3
    assert config_from_tags(tags) == {"seed": 1}


def test_a_run_of_version_0_1_has_no_configuration_in_its_tags() -> None:
    assert config_from_tags({"lina.cell": "0123456789ab"}) is None


def test_the_tag_is_compact_json() -> None:
    assert config_tags({"a": [1, 2.5, True, None]}) == {CONFIG: '{"a":[1,2.5,true,null]}'}
