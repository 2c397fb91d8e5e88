"""Memory, disk and FLOPs of the averages by power functions in the plan."""

from pathlib import Path
from typing import Any

import pytest

from lina_lab.config import ResourcesConfig
from lina_lab.study.cost import checkpoint_bytes, memory_bytes, other_flops, parameters, snapshot_bytes
from lina_lab.study.disk import size
from lina_lab.study.plan import describe
from lina_lab.training.trial import run_trial
from tests.study.conftest import workspace_at
from tests.study.test_plan import planned

EMA = {"decay": 0.5, "every_n_steps": 1, "profiles": [0.05, 0.1]}
LARGER = {"dim": 64, "num_heads": 4}


def test_snapshots_and_checkpoints_have_the_size_that_the_plan_says(tiny: Any, tmp_path: Path) -> None:
    sizes = {}
    for name, ema in (("plain", {"profiles": []}), ("more", EMA)):
        config = tiny(ema=ema, model=LARGER, trainer={"max_images": 160, "val_every_images": 160})
        (tmp_path / name).mkdir()
        run_trial(config, tmp_path / name)
        sizes[name] = (checkpoint_bytes(config), (tmp_path / name / "step-00000010.ckpt").stat().st_size)
        files = [path.stat().st_size for path in (tmp_path / name).glob("ema/*")]
        assert sum(files) == pytest.approx(snapshot_bytes(config), rel=0.1)
    planned, found = (more - plain for more, plain in zip(sizes["more"], sizes["plain"], strict=True))
    assert planned == 8 * parameters(tiny(model=LARGER).model)
    assert found == pytest.approx(planned, rel=0.1)


def test_memory_has_four_bytes_a_parameter_for_each_average_and_fsdp_shards_them(tiny: Any) -> None:
    total = parameters(tiny().model)
    for resources, share in ((ResourcesConfig(), 1), (ResourcesConfig(devices=2, strategy="fsdp"), 2)):
        plain, more = (memory_bytes(config, resources) for config in (tiny(), tiny(ema=EMA)))
        assert more - plain == pytest.approx(8 * total / share)


def test_each_length_costs_a_validation_and_the_images_of_a_distance(tiny: Any) -> None:
    trainer = {"max_images": 320, "val_every_images": 320}
    none, one, two = (
        other_flops(tiny(ema={**EMA, "lengths": lengths}, trainer=trainer, sampling={"quality_images": 20}))
        for lengths in ([], [0.05], [0.05, 0.07])
    )
    assert two - one == pytest.approx(one - none)
    without = tiny(trainer=trainer, sampling={"images_per_class": 0})
    images = other_flops(tiny(trainer=trainer, sampling={"images_per_class": 0, "quality_images": 20}))
    # The one validation is of raw and averaged weights.
    assert one - none == pytest.approx(other_flops(without) / 2 + images - other_flops(without))


def test_the_plan_names_the_disk_of_the_snapshots(tiny_study: Any, tmp_path: Path) -> None:
    plan = planned(tiny_study, {"ema.profiles": [0.05, 0.1]})
    text = describe(workspace_at(tmp_path / "runs", plan))
    snapshots = sum(snapshot_bytes(cell.config) for cell in plan.cells)
    sizes = [checkpoint_bytes(cell.config) for cell in plan.cells]
    assert snapshots == sum(4 * 2 * 4 * parameters(cell.config.model) for cell in plan.cells)
    assert f"; {size(snapshots)} of snapshots (ema.profiles); " in text
    assert f"- Disk: {size(2 * sum(sizes) + max(sizes) + snapshots)} for the 2 checkpoints" in text
    assert "ema.profiles" not in describe(workspace_at(tmp_path / "runs", planned(tiny_study)))
