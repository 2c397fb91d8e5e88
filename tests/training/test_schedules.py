"""The learning rate over training: what each schedule is, needs and refuses, and that it resumes."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from lina_lab.config import BudgetConfig, ResourcesConfig, StartConfig, StudyConfig, TrialConfig, from_dict, to_dict
from lina_lab.config.schedules import (
    SCHEDULES,
    ScheduleEntry,
    cooldown_start,
    problem_of_going_on,
    rate_factor,
    warmup_steps,
)
from lina_lab.study.grid import make_plan
from lina_lab.training.module import LinaModule
from lina_lab.training.trial import run_trial
from tests.conftest import STUDY
from tests.training.test_resume import LONG, KilledError, assert_same_state, final, run

Tiny = Callable[..., TrialConfig]
TEN_STEPS = {"max_images": 160, "val_every_images": 160}


def factors(config: TrialConfig) -> list[float]:
    """The rates of all steps, as shares of the highest, by the scheduler that training uses."""
    built: Any = LinaModule(config).configure_optimizers()
    optimizer, schedule, found = built["optimizer"], built["lr_scheduler"]["scheduler"], list[float]()
    for _ in range(config.max_steps):
        rates = {group["lr"] / config.optimizer.lr for group in optimizer.param_groups}
        assert len(rates) == 1
        found += rates
        optimizer.step()
        schedule.step()
    return found


WARM = {"warmup_images": 64}
EXPECTED: dict[str, tuple[dict[str, Any], list[float]]] = {
    "constant": ({}, [1.0] * 10),
    "constant after warm-up": (WARM, [0.25, 0.5, 0.75, *[1.0] * 7]),
    "linear": ({"schedule": "linear"}, [1 - n / 10 for n in range(10)]),
    "linear after warm-up": (
        {"schedule": "linear", **WARM},
        [0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6],
    ),
    "cosine": ({"schedule": "cosine"}, [0.5 + 0.5 * math.cos(math.pi * n / 10) for n in range(10)]),
    "cosine to a tenth": (
        {"schedule": "cosine", "final_rate": 0.1},
        [0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * n / 10)) for n in range(10)],
    ),
    "wsd": (
        {"schedule": "wsd", "cooldown": 0.4, **WARM},
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1 - math.sqrt(1 / 4), 1 - math.sqrt(2 / 4), 1 - math.sqrt(3 / 4)],
    ),
    "wsd to a half": (
        {"schedule": "wsd", "cooldown": 0.2, "final_rate": 0.5},
        [*[1.0] * 9, 0.5 + 0.5 * (1 - math.sqrt(1 / 2))],
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_rate_of_each_step_is_that_of_the_formula(tiny: Tiny, name: str) -> None:
    optimizer, expected = EXPECTED[name]
    assert factors(tiny(trainer=TEN_STEPS, optimizer=optimizer)) == pytest.approx(expected)


def test_the_constant_schedule_is_bit_for_bit_what_it_was(tiny: Tiny) -> None:
    for images in (0, 10, 16, 100, 160, 1000):
        config = tiny(trainer=TEN_STEPS, optimizer={"warmup_images": images})
        warmup = images / 16
        for step in range(12):
            found = rate_factor(config.optimizer, step, total=10, warmup=warmup)
            assert found == min(1.0, (step + 1) / max(warmup, 1))


def test_the_rate_at_the_end_of_the_budget_is_the_final_one(tiny: Tiny) -> None:
    for fields in ({"schedule": "cosine"}, {"schedule": "linear"}, {"schedule": "wsd", "cooldown": 0.3}):
        config = tiny(trainer=TEN_STEPS, optimizer={**fields, "final_rate": 0.2}).optimizer
        for step in (10, 11, 50):
            assert rate_factor(config, step, total=10, warmup=0) == pytest.approx(0.2)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no cooldown": ({"schedule": "wsd"}, "optimizer: schedule=wsd needs cooldown, the share of the budget in which"),
    "idle cooldown": (
        {"schedule": "cosine", "cooldown": 0.2},
        "optimizer: cooldown=0.2 is not a field of schedule=cosine, which uses final_rate alone",
    ),
    "idle final rate": ({"final_rate": 0.5}, "optimizer: final_rate=0.5 is not a field of schedule=constant, whose"),
    "cooldown of nothing": ({"schedule": "wsd", "cooldown": 0.0}, "optimizer.cooldown=0.0: input should be greater"),
    "cooldown over the run": ({"schedule": "wsd", "cooldown": 1.2}, "optimizer.cooldown=1.2: input should be less"),
    "unknown": ({"schedule": "steps"}, "optimizer.schedule='steps': input should be 'constant', 'cosine', 'linear' or"),
}
TOO_SHORT: dict[str, tuple[dict[str, Any], str]] = {
    "cooldown in warm-up": (
        {"schedule": "wsd", "cooldown": 0.5, "warmup_images": 96},
        "optimizer.warmup_images=96 and optimizer.cooldown=0.5 are together longer than the budget of 160 images",
    ),
    "no room to fall": (
        {"schedule": "linear", "warmup_images": 160},
        "optimizer.warmup_images=160 leaves nothing of the budget of 160 images in which optimizer.schedule=linear",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_fields_that_do_not_fit_the_schedule_are_refused_in_one_sentence(tiny: Tiny, name: str) -> None:
    optimizer, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=r"^[^;]*$") as refused:
        tiny(trainer=TEN_STEPS, optimizer=optimizer)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize("name", TOO_SHORT)
def test_a_budget_that_is_too_short_for_its_schedule_is_refused_before_anything_is_planned_or_trained(
    tiny: Tiny, tmp_path: Path, name: str
) -> None:
    optimizer, sentence = TOO_SHORT[name]
    config = tiny(trainer=TEN_STEPS, optimizer=optimizer)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        run_trial(config, tmp_path)
    assert not list(tmp_path.iterdir())
    study = from_dict(StudyConfig, {**STUDY, "name": "short"})
    with pytest.raises(ValueError, match=re.escape(sentence)):
        make_plan(study, to_dict(config))
    # The study's budget counts, where it has one.
    assert make_plan(replace(study, budget=BudgetConfig(unit="images", amount=1600)), to_dict(config)).cells


def test_a_cooldown_and_a_warm_up_may_fill_the_budget(tiny: Tiny) -> None:
    config = tiny(trainer=TEN_STEPS, optimizer={"schedule": "wsd", "cooldown": 0.5, "warmup_images": 80})
    assert cooldown_start(config) == 80
    assert factors(config)[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_a_branch_has_the_rates_of_its_trunk_until_it_leaves_it(tiny: Tiny) -> None:
    """A trunk of 8 steps, from whose end a branch of 10 steps cools down and another trunk goes on."""
    trunk = tiny(trainer={"max_images": 128, "val_every_images": 128}, optimizer=WARM)
    branch = tiny(trainer=TEN_STEPS, optimizer={"schedule": "wsd", "cooldown": 0.2, **WARM})
    longer = tiny(trainer={"max_images": 256, "val_every_images": 128}, optimizer=WARM)
    assert cooldown_start(branch) == trunk.images_seen == 128
    assert cooldown_start(longer) == 256
    assert factors(trunk) == factors(branch)[:8] == factors(longer)[:8]
    assert factors(branch)[8] == 1.0
    for config in (branch, longer):
        assert problem_of_going_on(config, trunk, 128) is None


def test_a_branch_that_would_have_cooled_down_before_is_refused(tiny: Tiny) -> None:
    trunk = tiny(trainer={"max_images": 128, "val_every_images": 128})
    early = tiny(trainer=TEN_STEPS, optimizer={"schedule": "wsd", "cooldown": 0.3})
    cosine = tiny(trainer=TEN_STEPS, optimizer={"schedule": "cosine"})
    assert problem_of_going_on(early, trunk, 112) is None
    assert problem_of_going_on(early, trunk, 128) == (
        "start.state=training goes on after 128 images, where the rate must not have fallen: optimizer.schedule=wsd of "
        "this trial lowers it from 112 images on"
    )
    sentence = problem_of_going_on(cosine, trunk, 128)
    assert sentence is not None
    assert sentence.endswith("optimizer.schedule=cosine of this trial lowers it from 0 images on")
    cooled = problem_of_going_on(tiny(trainer={"max_images": 320, "val_every_images": 160}), early, 160)
    assert cooled is not None
    assert cooled.endswith("optimizer.schedule=wsd of the source lowers it from 112 images on")


def test_cooldown_branches_of_a_trunk_are_bit_for_bit_trainings_of_their_own(tiny: Tiny, tmp_path: Path) -> None:
    """Two budgets from one trunk of five steps, and one from its extension."""
    study, trunks = tmp_path / "study", list[Path]()
    study.mkdir()

    def budget(images: int, **optimizer: Any) -> TrialConfig:
        return tiny(
            trainer={"max_images": images, "val_every_images": 48}, optimizer={**WARM, "clip_norm": 1.0, **optimizer}
        )

    def after(config: TrialConfig) -> TrialConfig:
        return replace(config, start=StartConfig(source=str(trunks[-1]), state="training"))

    for steps in (5, 8):
        trunk = budget(16 * steps)
        run(after(trunk) if trunks else trunk, study / f"trunk-{steps}")
        trunks.append(study / f"trunk-{steps}")
        branch = budget(16 * (steps + 2), schedule="wsd", cooldown=2 / (steps + 2))
        whole, cut = run(branch, study / f"whole-{steps}"), run(after(branch), study / f"branch-{steps}")
        assert cut.metrics == whole.metrics
        states = [final(study / f"{name}-{steps}") for name in ("whole", "branch")]
        for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
            assert_same_state(states[0][part], states[1][part], part)
    early = after(budget(160, schedule="wsd", cooldown=0.5))
    with pytest.raises(ValueError, match=r"^[^;]*goes on after 128 images, where the rate must not have"):
        run(early, study / "early")


def test_a_schedule_of_another_package_is_a_shape(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ScheduleEntry(name="square", documentation="", falls="in cooldown", shape=lambda p: (1 - p) ** 2)
    monkeypatch.setitem(SCHEDULES.builtin, "square", entry)
    config = tiny(trainer=TEN_STEPS, optimizer={"schedule": "square", "cooldown": 0.2})
    assert factors(config) == pytest.approx([*[1.0] * 9, 0.25])
    for fields in ({"falls": "after warm-up"}, {"falls": "now", "shape": abs}):
        with pytest.raises(ValueError, match=r"optimizer.schedule=x (has no shape|must say from where)"):
            ScheduleEntry(name="x", documentation="", **fields).check()  # type: ignore[arg-type]


def test_micro_batches_of_a_step_have_one_rate(tiny: Tiny, tmp_path: Path) -> None:
    rates: dict[int | None, float | None] = {}
    (tmp_path / "x").mkdir()
    run_trial(
        tiny(trainer=TEN_STEPS, optimizer={"schedule": "linear"}),
        tmp_path / "x",
        resources=ResourcesConfig(accumulate_grad_batches=4),
        report=lambda progress: rates.update({progress.step: progress.learning_rate}),
    )
    assert [*rates.values()] == pytest.approx([1e-3 * (1 - n / 10) for n in range(10)])


FALLING = {
    "constant": {},
    "cosine": {"schedule": "cosine"},
    "linear": {"schedule": "linear", "final_rate": 0.1},
    "wsd": {"schedule": "wsd", "cooldown": 0.5},
}


@pytest.mark.parametrize(("schedule", "optimizer"), [*product(FALLING, ("adamw", "muon"))])
def test_each_schedule_resumes_bit_for_bit_with_each_optimizer_and_clipping(
    tiny: Tiny, tmp_path: Path, schedule: str, optimizer: str
) -> None:
    fields = {"name": optimizer, "clip_norm": 0.5, "warmup_images": 40, **FALLING[schedule]}
    config = tiny(trainer=LONG, optimizer=fields)
    whole = run(config, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(config, tmp_path / "broken", kill_at=8)
    broken = run(config, tmp_path / "broken")
    assert broken.resumed_at == 6
    assert broken.metrics == whole.metrics
    states = [final(tmp_path / name) for name in ("whole", "broken")]
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert_same_state(states[0][part], states[1][part], part)


def test_the_rate_after_resuming_is_that_of_the_step(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(trainer=LONG, optimizer={"schedule": "wsd", "cooldown": 0.5})
    rates: dict[int | None, float | None] = {}
    with pytest.raises(KilledError):
        run(config, tmp_path / "x", kill_at=8)
    run_trial(config, tmp_path / "x", report=lambda progress: rates.update({progress.step: progress.learning_rate}))
    expected = [rate_factor(config.optimizer, n, total=10, warmup=warmup_steps(config)) for n in range(6, 10)]
    assert [*rates.values()] == pytest.approx([config.optimizer.lr * factor for factor in expected])


def test_another_schedule_is_another_trial(tiny: Tiny) -> None:
    trials = [tiny(trainer=TEN_STEPS, optimizer=fields) for fields in FALLING.values()]
    trials += [replace(trials[0], optimizer=replace(trials[0].optimizer, clip_norm=1.0))]
    assert len({trial.config_hash() for trial in trials}) == 5
    assert len({trial.config_hash({}) for trial in trials}) == 5
