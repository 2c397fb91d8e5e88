"""What ranks of a group agree on, measure and refuse."""

from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn

from lina_lab.config import ResourcesConfig, TrialConfig
from lina_lab.data.order import HeldOutBatches, RankLayout, StepBatches
from lina_lab.data.pretrained import weights_sha256
from lina_lab.model import sample_step_inputs
from lina_lab.model.inputs import IMAGES_PER_GENERATOR
from lina_lab.records.result import Progress
from lina_lab.training.callbacks.consistency import WeightSyncCheck, disagreement
from lina_lab.training.divergence import DivergedError, Divergence
from lina_lab.training.stopping import StopSignals
from lina_lab.training.strategy import strategy_for
from lina_lab.training.trial import run_trial

Tiny = Callable[..., TrialConfig]


@pytest.mark.parametrize("batch", [16, IMAGES_PER_GENERATOR, 80])
@pytest.mark.parametrize("parts", [1, 2, 5, 16])
def test_random_inputs_of_an_image_do_not_depend_on_how_the_batch_is_shared(tiny: Tiny, batch: int, parts: int) -> None:
    model = tiny().model
    whole = sample_step_inputs(model, seed=3, step=7, images=range(batch))
    edges = [batch * i // parts for i in range(parts + 1)]
    pieces = [sample_step_inputs(model, seed=3, step=7, images=range(start, stop)) for start, stop in pairwise(edges)]
    for name, dimension in (("visible_ids", 0), ("masked_ids", 0), ("timestep", 1), ("noise", 1), ("drop", 0)):
        joined = torch.cat([getattr(piece, name) for piece in pieces], dimension)
        assert torch.equal(joined, getattr(whole, name)), name
    assert len(whole.drop) == batch
    assert not torch.equal(
        whole.noise, sample_step_inputs(model, seed=3, step=7, images=range(batch), rng_version=2).noise
    )
    other = sample_step_inputs(model, seed=3, step=8, images=range(batch))
    assert other.noise.shape != whole.noise.shape or not torch.equal(other.noise, whole.noise)


def test_groups_of_images_have_different_random_inputs(tiny: Tiny) -> None:
    inputs = sample_step_inputs(tiny().model, seed=0, step=0, images=range(4 * IMAGES_PER_GENERATOR))
    groups = inputs.noise.split(IMAGES_PER_GENERATOR, dim=1)
    assert not any(torch.equal(one, other) for one, other in combinations(groups, 2))


@pytest.mark.parametrize(("world_size", "accumulate_grad_batches"), [(2, 1), (1, 4), (4, 2)])
def test_ranks_see_the_images_of_one_process_step_by_step(world_size: int, accumulate_grad_batches: int) -> None:
    arguments: dict[str, Any] = {"images": 10, "batch_size": 16, "steps": range(2, 5), "seed": 1}
    whole = list(StepBatches(**arguments))
    parts = [
        list(
            StepBatches(
                **arguments,
                layout=RankLayout(rank=r, world_size=world_size, accumulate_grad_batches=accumulate_grad_batches),
            )
        )
        for r in range(world_size)
    ]
    for step, expected in enumerate(whole):
        found = [
            ids
            for rank in range(world_size)
            for ids in parts[rank][step * accumulate_grad_batches : (step + 1) * accumulate_grad_batches]
        ]
        assert torch.equal(torch.cat(found), expected)


def test_steps_that_were_taken_are_left_out_and_count() -> None:
    arguments: dict[str, Any] = {
        "images": 10,
        "batch_size": 4,
        "steps": range(3, 8),
        "seed": 1,
        "layout": RankLayout(accumulate_grad_batches=2),
    }
    whole, rest = StepBatches(**arguments), StepBatches(**arguments, done=3)
    assert len(rest) == len(whole) == 10
    assert [ids.tolist() for ids in rest] == [ids.tolist() for ids in whole][6:]


def test_held_out_images_are_shared_out(tiny: Tiny) -> None:
    parts = [list(HeldOutBatches(images=25, batch_size=10, layout=RankLayout(rank=r, world_size=3))) for r in range(3)]
    assert all(len(part) == 3 for part in parts)
    joined = [[i for part in parts for i in part[batch]] for batch in range(2)]
    assert joined == [list(range(10)), list(range(10, 20))]


def test_accumulated_micro_batches_are_the_step(tiny: Tiny, tmp_path: Path) -> None:
    """Gradient accumulation in one process: the same losses but for rounding."""
    config = tiny(model={"attention": {"normalization": "subtraction"}})
    for name in ("whole", "accumulated"):
        (tmp_path / name).mkdir()
    losses: dict[str, list[tuple[int, float]]] = {"whole": [], "accumulated": []}
    for name, accumulate_grad_batches in (("whole", 1), ("accumulated", 4)):
        result = run_trial(
            config,
            tmp_path / name,
            resources=ResourcesConfig(accumulate_grad_batches=accumulate_grad_batches),
            report=lambda progress, name=name: losses[name].append((progress.images, progress.loss)),  # type: ignore[misc]
        )
        assert result.steps == 4
    assert [images for images, _ in losses["accumulated"]] == [images for images, _ in losses["whole"]]
    assert [x for _, x in losses["accumulated"]] == pytest.approx([x for _, x in losses["whole"]], abs=1e-5)


def test_a_batch_that_cannot_be_shared_out_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_size=16 cannot be divided evenly"):
        run_trial(tiny(), tmp_path, resources=ResourcesConfig(accumulate_grad_batches=3))


def test_asked_to_leave_a_trial_saves_its_state_and_resumes_at_that_step(tiny: Tiny, tmp_path: Path) -> None:
    """In the middle of an epoch, with accumulation; the end is that of an undisturbed trial, bit for bit."""
    config, layout = (
        tiny(trainer={"max_images": 160, "val_every_images": 80}),
        ResourcesConfig(accumulate_grad_batches=2),
    )
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = run_trial(config, tmp_path / "whole", resources=layout)
    requests, seen = StopSignals(), list[int]()

    def report(progress: Progress) -> None:
        if progress.validated_images != progress.images:  # a validation is reported too
            seen.append(progress.images)
        requests.leave = progress.images == 96

    first = run_trial(config, tmp_path / "parts", resources=layout, report=report, requests=requests)
    assert (first.status, first.steps, first.error) == ("preempted", 7, "asked to make room at step 7")
    second = run_trial(config, tmp_path / "parts", resources=layout, report=report)
    assert (second.status, second.resumed_at) == ("done", 7)
    assert seen == list(range(16, 161, 16))
    assert second.metrics == whole.metrics
    states = [
        torch.load(tmp_path / name / "step-00000010.ckpt", weights_only=True)["current_model_state"]
        for name in ("whole", "parts")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_asked_to_leave_at_the_last_step_it_ends_instead(tiny: Tiny, tmp_path: Path) -> None:
    requests = StopSignals()

    def report(progress: Progress) -> None:
        requests.leave = progress.images == 48

    assert run_trial(tiny(), tmp_path, report=report, requests=requests).status == "done"


def test_over_its_limit_of_time_a_trial_saves_its_state_and_is_cancelled(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = run_trial(tiny(), tmp_path / "whole")
    late = run_trial(tiny(), tmp_path / "parts", resources=ResourcesConfig(max_minutes=1e-9))
    sentence = "over its limit of training time at step 1; its state is saved"
    assert (late.status, late.steps, late.error) == ("cancelled", 1, sentence)
    more = run_trial(tiny(), tmp_path / "parts", resources=ResourcesConfig(max_minutes=10))
    assert (more.status, more.resumed_at) == ("done", 1)
    assert more.metrics == whole.metrics


def test_divergence_is_a_rule_of_the_losses_alone() -> None:
    rule = Divergence(2.0, 3)
    for loss in (1.0, 3.0, 3.0, 1.5, 3.0, 3.0):
        rule.update(1, loss)
    with pytest.raises(DivergedError, match=r"above 2 times its minimum of 1 for 3 steps at step 9"):
        rule.update(9, 2.5)
    with pytest.raises(DivergedError, match=r"the training loss is inf at step 4"):
        Divergence(2.0, 3).update(4, float("inf"))


def test_hosts_that_differ_are_named() -> None:
    one = ("a", {"torch": "1", "checkpoint": "none"})
    assert disagreement([one, one]) is None
    assert disagreement([one, ("b", {"torch": "2", "checkpoint": "none"})]) == "b differs from a: torch 2 against 1"
    assert disagreement([one, one, ("c", {"torch": "1"})]) == "c differs from a: checkpoint absent against none"


def test_ranks_whose_weights_part_by_one_bit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.load_state_dict(layer.state_dict())
    trainer: Any = SimpleNamespace(strategy=DDPStrategy(), world_size=2, global_step=7)

    def gather(views: list[Any], mine: Any) -> None:
        views[:] = [mine, ("fh2", weights_sha256(other))]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    WeightSyncCheck().on_train_epoch_end(trainer, layer)  # type: ignore[arg-type]
    with torch.no_grad():
        # Two that a sum would not tell apart.
        other.weight[0, 0], other.weight[0, 1] = layer.weight[0, 1], layer.weight[0, 0]
    with pytest.raises(RuntimeError, match="rank 1 on fh2 has other weights than rank 0 after 7 steps"):
        WeightSyncCheck().on_train_epoch_end(trainer, layer)  # type: ignore[arg-type]
    trainer.strategy = "auto"
    WeightSyncCheck().on_train_epoch_end(trainer, layer)  # type: ignore[arg-type]


def test_strategies_are_lightning_s() -> None:
    assert strategy_for(ResourcesConfig()) == "auto"
    assert isinstance(strategy_for(ResourcesConfig(nodes=2)), DDPStrategy)
    assert isinstance(strategy_for(ResourcesConfig(devices=2, strategy="fsdp")), ModelParallelStrategy)
