"""Several processes that start one cell from a source: as one process does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lina_lab.config import TrialConfig
from lina_lab.records.weights import locate
from tests.system.test_groups import alone, assert_same, steady, train
from tests.training.old_checkpoints import last, load

pytestmark = pytest.mark.system
Tiny = Callable[..., TrialConfig]
LAYOUTS = pytest.mark.parametrize(
    "layout", [{"devices": 2}, {"devices": 2, "strategy": "fsdp", "accelerator": "cpu"}], ids=["ddp", "fsdp"]
)


@pytest.fixture
def source(tiny: Tiny, tmp_path: Path) -> dict[str, Any]:
    """The fields that name a trial of five steps as the source."""
    alone(steady(tiny, trainer={"max_images": 80, "val_every_images": 80}), tmp_path / "source")
    return {"source": str(tmp_path / "source"), "sha256": locate(str(tmp_path / "source")).sha256}


@LAYOUTS
def test_ranks_begin_with_the_weights_of_one_process(
    tiny: Tiny, tmp_path: Path, source: dict[str, Any], layout: dict[str, Any]
) -> None:
    """A rate that moves nothing shows them, in the raw and in the averaged model, on a larger image."""
    config = steady(
        tiny,
        model={"attention": {"normalization": "subtraction"}, "latent_size": [8, 8], "flow_depth": 2},
        trainer={"max_images": 16},
        optimizer={"lr": 1e-30, "weight_decay": 0.0},
        start=source,
    )
    one = alone(config, tmp_path / "one")
    several = train(config, tmp_path / "several", **layout)
    assert one.origin == several.origin is not None
    first, other = (load(last(tmp_path / name).path) for name in ("one", "several"))
    for state in ("state_dict", "current_model_state"):
        assert first[state].keys() == other[state].keys()
        # What is drawn as zero is as large as the rate after a step.
        torch.testing.assert_close(dict(first[state]), dict(other[state]), rtol=0, atol=1e-20)
    origin = load(last(tmp_path / "source").path)["state_dict"]
    assert all(torch.equal(value, first["state_dict"][name]) for name, value in origin.items())


@LAYOUTS
@pytest.mark.parametrize("state", ["optimizer", "training"])
def test_ranks_take_the_optimizer_or_all_of_the_source_as_one_process_does(
    tiny: Tiny, tmp_path: Path, source: dict[str, Any], layout: dict[str, Any], state: str
) -> None:
    config = steady(tiny, start={**source, "state": state})
    one = alone(config, tmp_path / "one")
    several = train(config, tmp_path / "several", **layout)
    assert_same(one, several)
    first, other = (load(last(tmp_path / name).path) for name in ("one", "several"))
    for name, value in first["current_model_state"].items():
        assert torch.allclose(value, other["current_model_state"][name], atol=1e-5), name
    moments = [saved["optimizer_states"][0]["state"] for saved in (first, other)]
    for name, expected in moments[0].items():
        assert float(expected["step"]) == float(moments[1][name]["step"]) == {"optimizer": 15, "training": 10}[state]
        assert torch.allclose(expected["exp_avg"], moments[1][name]["exp_avg"], atol=1e-5), name
