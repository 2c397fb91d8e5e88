"""Training under muP: rates and their ratios, an exact resume, and the coordinate check."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from lina_lab.commands.coordinates import COMMAND
from lina_lab.config import OptimizerConfig, TrialConfig
from lina_lab.config.optimizers import OPTIMIZERS, OptimizerEntry
from lina_lab.model import LINA
from lina_lab.training.coordinates import LIMIT, growth
from lina_lab.training.module import LinaModule
from lina_lab.training.optimizers import adamw, make_optimizer
from lina_lab.training.trial import run_trial
from tests.training.test_resume import LONG, KilledError, assert_same_state, final, run

Tiny = Callable[..., TrialConfig]
MUP = {"dim": 16, "num_heads": 4, "parametrization": "mup", "base_dim": 8}


def rates(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    """Learning rate of each parameter by its id."""
    return {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}


def test_hidden_weights_have_a_smaller_rate_more_weight_decay_and_a_smaller_epsilon(tiny: Tiny) -> None:
    model = LINA(tiny(model=MUP).model)
    optimizer = make_optimizer(model, OptimizerConfig(lr=0.1, weight_decay=0.3))
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    block, head = model.backbone.decoder[0], model.flow_head.head
    for parameter, expected in (
        (block.attn.qkv.weight, (0.05, 0.6, 0.5e-8)),
        (block.attn.qkv.bias, (0.1, 0.3, 0.5e-8)),
        (model.backbone.mask_token, (0.1, 0.3, 0.5e-8)),
        (block.norm1.weight, (0.1, 0.0, 0.5e-8)),
        (head.weight, (0.05, 0.6, 1e-8)),
        (head.bias, (0.1, 0.3, 1e-8)),
    ):
        found = settings[id(parameter)]
        assert (found["lr"], found["weight_decay"], found["eps"]) == pytest.approx(expected)


def test_the_warm_up_keeps_the_ratios_of_the_rates(tiny: Tiny) -> None:
    module = LinaModule(tiny(model=MUP, optimizer={"lr": 0.1, "warmup_images": 64}))
    built: Any = module.configure_optimizers()
    optimizer, schedule = built["optimizer"], built["lr_scheduler"]["scheduler"]
    hidden, bias = module.model.backbone.decoder[0].attn.qkv.weight, module.model.backbone.embed.bias
    for expected in (0.025, 0.05, 0.075, 0.1, 0.1):
        found = rates(optimizer)
        assert (found[id(hidden)], found[id(bias)]) == pytest.approx((expected / 2, expected))
        optimizer.step()
        schedule.step()


def test_a_rate_of_1_over_m_of_the_last_layer_is_a_factor_of_1_over_m_on_its_output(tiny: Tiny) -> None:
    """The form of the paper and the one here train to the same losses."""
    config, m = tiny(model=MUP, optimizer={"lr": 0.01}), 2
    losses: dict[str, list[float]] = {"rate": [], "output": [], "both": []}
    for form, found in losses.items():
        module = LinaModule(config)
        optimizer = make_optimizer(module.model, config.optimizer)
        head = module.model.flow_head.head
        if form != "rate":
            head.register_forward_pre_hook(lambda module, inputs: (inputs[0] / m,))
        if form == "output":
            own = next(group for group in optimizer.param_groups if any(p is head.weight for p in group["params"]))
            own.update(lr=own["lr"] * m, weight_decay=own["weight_decay"] / m, eps=own["eps"] / m)
        for step in range(6):
            generator = torch.Generator().manual_seed(step)
            latents = torch.randn(8, 1, 8, 8, generator=generator)
            loss = module.model.loss(latents, label=torch.arange(8), generator=generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
    assert losses["rate"] == pytest.approx(losses["output"], rel=1e-5)
    assert losses["rate"] != pytest.approx(losses["both"], rel=1e-4)


def test_at_base_width_a_trial_under_mup_is_the_standard_one_bit_for_bit(tiny: Tiny, tmp_path: Path) -> None:
    results = {}
    for name, model in (("standard", {}), ("mup", {"parametrization": "mup", "base_dim": 8})):
        (tmp_path / name).mkdir()
        results[name] = run_trial(tiny(model=model), tmp_path / name)
    assert results["mup"].metrics == results["standard"].metrics
    states = [final(tmp_path / name) for name in ("standard", "mup")]
    for part in ("state_dict", "current_model_state", "optimizer_states"):
        assert_same_state(states[0][part], states[1][part], part)


def test_a_trial_under_mup_resumes_bit_for_bit(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(model=MUP, trainer=LONG, optimizer={"warmup_images": 100})
    whole = run(config, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(config, tmp_path / "broken", kill_at=5)
    broken = run(config, tmp_path / "broken")
    assert broken.resumed_at == 3
    assert broken.metrics == whole.metrics
    states = [final(tmp_path / name) for name in ("whole", "broken")]
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert_same_state(states[0][part], states[1][part], part)


def test_mup_needs_an_optimizer_that_steps_as_adam_does(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = OptimizerEntry(name="other", documentation="", maker=adamw)
    monkeypatch.setitem(OPTIMIZERS.builtin, "other", entry)
    tiny(optimizer={"name": "other"})
    with pytest.raises(ValueError, match=r"mup needs an optimizer that steps as Adam does, not other$"):
        tiny(model=MUP, optimizer={"name": "other"})


def test_an_optimizer_that_joins_groups_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def joined(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for group in groups for p in group["params"]], lr=config.lr)

    entry = OptimizerEntry(name="other", documentation="", maker=joined, adam_like=True)
    monkeypatch.setitem(OPTIMIZERS.builtin, "other", entry)
    with pytest.raises(ValueError, match=r"optimizer.name=other changes the groups that model.parametrization=mup"):
        LinaModule(tiny(model=MUP, optimizer={"name": "other"})).configure_optimizers()


def test_activations_keep_their_size_over_widths_under_mup_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert COMMAND.main([f"out={tmp_path}", "widths=[32,64,128]"]) == 0
    ratios = growth(pd.read_csv(tmp_path / "coordinates.csv"))
    assert len(ratios) > 40
    assert ratios["mup"].max() <= LIMIT
    assert ratios["standard"].max() > 2
    assert (tmp_path / "coordinates.png").stat().st_size > 5000
    assert "passed: under muP no ratio may be above 1.3" in capsys.readouterr().out


def test_the_check_fails_where_all_parameters_have_one_rate_and_names_the_worst_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lina_lab.training.coordinates.make_optimizer", lambda model, config: adamw_of(model, 0.01))
    assert COMMAND.main([f"out={tmp_path}", "widths=[32,128]", "seeds=1"]) == 1
    printed = capsys.readouterr().out
    worst = str(growth(pd.read_csv(tmp_path / "coordinates.csv"))["mup"].idxmax())
    assert f"({worst})\nfailed: " in printed
    assert printed.splitlines()[2].startswith(f"| {worst} ")


def adamw_of(model: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
    """As without muP: one rate for all."""
    return torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=lr)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("widths=[32]", "widths=[32] must be two or more different widths"),
        ("widths=[32,40]", "width 40 is not a multiple of the 16 channels of a head"),
        ("model={dim: 33}", "model: dim=33 is not a multiple of num_heads=2"),
    ],
)
def test_wrong_arguments_of_the_command_are_one_sentence(
    argument: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert COMMAND.main([f"out={tmp_path}", argument]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("\n") == 1
