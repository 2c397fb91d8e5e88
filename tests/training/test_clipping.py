"""The gradients' norm is limited as configured, whatever shares the batch."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lina_lab.config import ResourcesConfig, TrialConfig
from lina_lab.records.result import Progress
from lina_lab.training.gradients import clip_gradients, gradient_norm
from lina_lab.training.module import LinaModule
from lina_lab.training.trial import run_trial
from tests.training.test_resume import LONG, assert_same_state, final

Tiny = Callable[..., TrialConfig]


def with_gradients() -> tuple[nn.Linear, torch.optim.Optimizer]:
    """Gradients of norm 5 in two groups; a third parameter has none."""
    module, other = nn.Linear(2, 1), nn.Parameter(torch.zeros(1))
    module.weight.grad, module.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    return module, torch.optim.SGD([{"params": [module.weight, other]}, {"params": [module.bias]}], lr=1.0)


def test_the_norm_is_that_of_all_gradients_together() -> None:
    assert gradient_norm(with_gradients()[1]).item() == 5.0


@pytest.mark.parametrize(("most", "left"), [(2.5, 0.5), (5.5, 1.0), (100.0, 1.0)])
def test_larger_gradients_are_scaled_down_together_and_smaller_ones_stay(most: float, left: float) -> None:
    module, optimizer = with_gradients()
    assert clip_gradients(optimizer, most).item() == 5.0
    assert module.weight.grad is not None
    assert module.bias.grad is not None
    assert module.weight.grad.tolist() == [[pytest.approx(3 * left), 0.0]]
    assert module.bias.grad.item() == pytest.approx(4 * left)


def trained(config: TrialConfig, folder: Path, **resources: Any) -> tuple[dict[str, float], list[Progress]]:
    folder.mkdir()
    seen: list[Progress] = []
    result = run_trial(config, folder, report=seen.append, resources=ResourcesConfig(**resources))
    return result.metrics, seen


def test_a_limit_that_is_never_reached_changes_no_bit(tiny: Tiny, tmp_path: Path) -> None:
    plain, _ = trained(tiny(trainer=LONG), tmp_path / "plain")
    loose, seen = trained(tiny(trainer=LONG, optimizer={"clip_norm": 1e6}), tmp_path / "loose")
    assert loose == plain
    assert len({progress.gradient_norm for progress in seen}) == 10
    states = [final(tmp_path / name) for name in ("plain", "loose")]
    for part in ("state_dict", "current_model_state", "optimizer_states"):
        assert_same_state(states[0][part], states[1][part], part)


def test_the_optimizer_gets_gradients_of_at_most_the_limit_and_the_norm_before_is_reported(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms, original = list[float](), torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, closure: Any = None) -> Any:
        loss = original(self, closure)
        if closure is not None:  # a step of training, after which its gradients are still there
            norms.append(gradient_norm(self).item())
        return loss

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    _, seen = trained(tiny(trainer=LONG, optimizer={"clip_norm": 0.25}), tmp_path / "x")
    assert norms == [pytest.approx(0.25, rel=1e-4)] * 10
    assert all(progress.gradient_norm is not None and progress.gradient_norm > 0.25 for progress in seen)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_accumulated_gradients_are_clipped_once_as_a_whole(tiny: Tiny, tmp_path: Path, precision: str) -> None:
    """In bf16-mixed Lightning's own clipping refuses the fused AdamW."""
    model = {"attention": {"normalization": "subtraction"}}
    config = tiny(model=model, trainer={**LONG, "precision": precision}, optimizer={"clip_norm": 0.25})
    whole, _ = trained(config, tmp_path / "whole")
    parts, _ = trained(config, tmp_path / "parts", accumulate_grad_batches=4)
    assert parts == pytest.approx(whole, abs=1e-5 if precision == "32-true" else 1e-2)


def test_a_trainer_of_somebody_s_own_clips_as_it_says(tiny: Tiny) -> None:
    module, calls = LinaModule(tiny()), list[Any]()
    module.clip_gradients = lambda *arguments, **named: calls.append(named)  # type: ignore[method-assign]
    optimizer: Any = SimpleNamespace(param_groups=[])
    module.configure_gradient_clipping(optimizer, 0.5, "norm")
    module.configure_gradient_clipping(optimizer)
    assert calls == [{"gradient_clip_val": 0.5, "gradient_clip_algorithm": "norm"}]


@pytest.mark.parametrize("most", [0.0, -1.0, float("inf")])
def test_a_limit_that_is_none_is_refused(tiny: Tiny, most: float) -> None:
    with pytest.raises(ValueError, match=r"^optimizer.clip_norm="):
        tiny(optimizer={"clip_norm": most})


@pytest.mark.system
@pytest.mark.parametrize(
    ("optimizer", "strategy"), [("adamw", "ddp"), ("muon", "ddp"), ("adamw", "fsdp")], ids="-".join
)
def test_two_ranks_give_the_losses_of_one_process(tiny: Tiny, tmp_path: Path, optimizer: str, strategy: str) -> None:
    from tests.system.test_groups import alone, assert_same, steady, train, weights

    fields = {"name": optimizer, "clip_norm": 0.25, "schedule": "wsd", "cooldown": 0.5}
    config = steady(tiny, optimizer=fields)
    one = alone(config, tmp_path / "one")
    several = train(config, tmp_path / "several", devices=2, strategy=strategy)
    assert_same(one, several)
    first, other = weights(tmp_path / "one"), weights(tmp_path / "several")
    # Muon rounds to 8 bits within a step.
    tolerance = 1e-5 if optimizer == "adamw" else 1e-4
    assert all(torch.allclose(first[name], other[name], atol=tolerance) for name in first)
