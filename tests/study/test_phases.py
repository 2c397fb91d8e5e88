"""A cell that raises, in each phase of its life: the others go on, and the next command does it from where it was."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from lina_lab.data.modules.digits import DigitsDataModule
from lina_lab.records.record import read_record
from lina_lab.study import worker
from lina_lab.study.display import display
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.summary import Summary
from lina_lab.training import module
from lina_lab.training.checkpoints import Checkpoints
from lina_lab.training.module import LinaModule
from lina_lab.training.trial import run_trial
from tests.study.conftest import store_at

PHASES: dict[str, tuple[Any, str]] = {
    "making the model": (module, "initialize"),
    "reading the data": (DigitsDataModule, "__init__"),
    "making the optimizer": (LinaModule, "configure_optimizers"),
    "a training step": (LinaModule, "training_step"),
    "validation": (LinaModule, "validation_step"),
    "its end": (LinaModule, "on_validation_epoch_end"),
    "a checkpoint": (Checkpoints, "on_train_epoch_end"),
    "the record": (worker, "write_record"),
}


def run(plan: Plan, runs: Path) -> Summary:
    return worker.run_study(store_at(runs, plan), lambda: nullcontext(run_trial), display())


def metrics(plan: Plan, runs: Path) -> list[Any]:
    records = [read_record(runs / "tiny" / cell.config_hash, cell.config_hash) for cell in plan.cells]
    return [record and record.result and record.result.metrics for record in records]


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, list[Any]]:
    return {}


@pytest.mark.parametrize("phase", PHASES)
def test_a_cell_that_raises_costs_itself_alone(
    phase: str, tiny_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, list[Any]]
) -> None:
    plan = make_plan(*tiny_study(axes={"size": {"model.dim": [8, 16]}}))
    if not undisturbed:
        run(plan, tmp_path / "undisturbed")
        undisturbed["metrics"] = metrics(plan, tmp_path / "undisturbed")
        shutil.rmtree(tmp_path / "undisturbed")
    owner, name = PHASES[phase]
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def planted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError(f"planted in {phase}")
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, planted)
    summary = run(plan, tmp_path)
    assert summary.counts == {"failed": 1, "done": 1}
    assert summary.failures == {"8 seed 0": f"RuntimeError: planted in {phase}"}
    monkeypatch.undo()
    assert run(plan, tmp_path).counts == {"done": 2}
    assert metrics(plan, tmp_path) == undisturbed["metrics"]
