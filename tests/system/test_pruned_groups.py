"""A group of ranks whose trial is given up."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lina_lab.config import ResourcesConfig, TrialConfig, to_dict
from lina_lab.launch.group import GroupLaunch
from lina_lab.launch.torchrun import OneMachine
from lina_lab.records.files import PRUNE_FILE
from lina_lab.records.result import Progress

pytestmark = pytest.mark.system


def test_a_group_tells_its_validations_and_is_given_up_on_all_ranks_at_once(
    tiny: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    config = tiny(trainer={"max_images": 160_000, "val_every_images": 160})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    told: list[float] = []

    def report(progress: Progress) -> None:
        if progress.validation is not None:
            told.append(progress.validation["val/loss_ema"])
            (tmp_path / PRUNE_FILE).touch()

    launch = GroupLaunch(OneMachine(), ResourcesConfig(timeout_seconds=60, devices=2), print)
    result = launch(config, tmp_path, tracking=None, report=report)
    assert result.status == "pruned"
    assert 0 < result.images_seen < 160_000
    assert told
    states = [json.loads((tmp_path / f"logs/rank-{rank}.json").read_text())["state"] for rank in (0, 1)]
    assert states == ["ended", "ended"]
