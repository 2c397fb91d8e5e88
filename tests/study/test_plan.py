"""What a study would take, and what moves together with size."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lina_lab.config.factors import FACTORS, PAIRING
from lina_lab.records.record import Record, write_record
from lina_lab.records.status import CellStatus
from lina_lab.study.cost import memory_bytes, parameters, training_flops
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.plan import audit, cell_table, describe, seconds_per_flop
from tests.study.conftest import RESULT, workspace_at


def planned(tiny_study: Any, changes: dict[str, Any] | None = None, **study: Any) -> Plan:
    config, base = tiny_study(**study)
    for field, value in (changes or {}).items():
        section, _, name = field.partition(".")
        base[section][name] = value
    return make_plan(config, base)


def test_the_table_has_a_row_for_each_cell_and_nothing_is_made(tiny_study: Any, tmp_path: Path) -> None:
    plan = planned(tiny_study)
    table = cell_table(workspace_at(tmp_path / "runs", plan))
    assert list(table["cell"]) == [cell.config_hash for cell in plan.cells]
    assert list(table["steps"]) == [4] * 4
    assert list(table["parameters"]) == [parameters(cell.config.model) for cell in plan.cells]
    assert table["hours"].isna().all()
    assert "device-hours unknown" in describe(workspace_at(tmp_path / "runs", plan))
    assert not (tmp_path / "runs").exists()


def test_time_is_stated_or_measured(tiny_study: Any, tmp_path: Path) -> None:
    plan = planned(tiny_study, resources={"devices": 2, "flops_per_second": 1e9})
    assert seconds_per_flop(workspace_at(tmp_path, plan)) == 1 / 2e9
    cell = plan.cells[0]
    folder = tmp_path / "tiny" / cell.config_hash
    folder.mkdir(parents=True)
    record = Record(
        config_hash=cell.config_hash,
        axes={},
        seed=0,
        status=CellStatus.DONE,
        mlflow_run="x",
        result=replace(RESULT, images_per_second=32.0),
    )
    write_record(folder, record)
    assert seconds_per_flop(workspace_at(tmp_path, plan)) == pytest.approx(2.0 / training_flops(cell.config))
    hours = cell_table(workspace_at(tmp_path, plan))["hours"]
    assert hours[0] == pytest.approx(2.0 / 3600)


@pytest.mark.parametrize(
    ("changes", "study", "changing"),
    [
        ({}, {}, ["channels of a head"]),
        ({}, {"axes": {"size": {"model.dim": [8, 16], "model.num_heads": [2, 4]}}}, ["heads"]),
        (
            {},
            {"axes": {"size": {"model.dim": [8, 16], "data.batch_size": [16, 32]}}},
            [
                "batch in images",
                "batch in tokens",
                "optimizer steps",
                "images that the average reaches back",
                "channels of a head",
            ],
        ),
        (
            {"optimizer.warmup_images": 16},
            {"budget": {"unit": "flops", "amount": 1e9}},
            ["images seen", "optimizer steps", "share of the budget in warm-up", "channels of a head"],
        ),
    ],
)
def test_the_audit_names_what_changes_with_size(
    tiny_study: Any, changes: dict[str, Any], study: dict[str, Any], changing: list[str]
) -> None:
    found = audit(planned(tiny_study, changes, **study))
    assert list(found.changing) == changing
    assert not {*found.equal} & {*changing}
    assert {*found.equal, *found.differing, *changing} == set(FACTORS)


def test_the_audit_counts_the_seeds_of_each_size(tiny_study: Any) -> None:
    assert audit(planned(tiny_study)).seeds == ""
    assert audit(planned(tiny_study, seeds_at_size={"8": [0, 1]})).seeds == "2 at 8, 1 at 16"


def test_the_plan_prints_what_is_equal_for_all_cells_and_what_pairing_guarantees(
    tiny_study: Any, tmp_path: Path
) -> None:
    text = describe(workspace_at(tmp_path / "runs", planned(tiny_study)))
    assert "- Equal for all cells: batch in images (16), batch in tokens (1,024), images seen (64), " in text
    assert text.endswith(f"- {PAIRING}\n")


def test_the_memory_estimate_is_of_the_right_order(tiny: Any, tmp_path: Path) -> None:
    """Against what a training step allocates: within a factor of two."""
    import torch

    from benchmarks.attention import peak_bytes
    from lina_lab.model import LINA

    model = {"dim": 64, "num_heads": 4, "depth": 8, "condition_depth": 4, "flow_depth": 2, "noise_samples_per_token": 4}
    config = tiny(model=model, data={"batch_size": 32, "val_images": 40, "val_batch_size": 20})
    lina = LINA(config.model)
    latents, label = torch.zeros(32, 1, 8, 8), torch.zeros(32, dtype=torch.long)

    def step() -> None:
        lina.zero_grad()
        generator = torch.Generator().manual_seed(0)
        lina.loss(latents, label=label, generator=generator).backward()

    measured = peak_bytes(step, "cpu") + 16 * parameters(config.model)
    assert 0.5 < memory_bytes(config) / measured < 2


def test_a_plan_says_how_many_seeds_its_primary_comparison_needs(tiny_study: Any, tmp_path: Path) -> None:
    primary = {"axis": "normalization", "treatment": "subtraction", "baseline": "division", "margin": 0.03}
    plan = planned(tiny_study, primary=primary, seeds=[0, 1, 2])
    shifts = {0: 0.10, 1: 0.12, 2: 0.14}
    for cell in plan.cells:
        lower = cell.axes["model.attention.normalization"] == "division" or cell.axes["model.dim"] == 8
        loss = 0.5 + (0 if lower else shifts[cell.config.seed]) + cell.config.seed
        folder = tmp_path / "tiny" / cell.config_hash
        folder.mkdir(parents=True)
        result = replace(RESULT, metrics=RESULT.metrics | {"val/loss_ema": loss})
        done = Record(
            config_hash=cell.config_hash,
            axes={},
            seed=cell.config.seed,
            status=CellStatus.DONE,
            mlflow_run="x",
            result=result,
        )
        write_record(folder, done)
    text = describe(workspace_at(tmp_path, plan))
    assert "subtraction minus division at size 16; deviation of paired differences 0.02, measured on 3 seeds." in text
    assert (
        "To resolve 0.01 you need about 34 seeds.\nTo resolve 0.02 you need about 10 seeds.\n"
        "To resolve 0.03, the margin, you need about 6 seeds.\n"
    ) in text
    assert "3 seeds resolve 0.065 or more (with a power of 80%)." in text
    one = replace(plan, cells=tuple(cell for cell in plan.cells if cell.config.seed == 0))
    assert "is unknown: fewer than two of its seeds are done" in describe(workspace_at(tmp_path, one))


@pytest.mark.parametrize(
    ("every", "decay", "refused"), [(100, 0.99, True), (4, 0.5, True), (3, 0.95, True), (3, 0.5, False)]
)
def test_an_objective_of_an_average_that_hardly_moves_is_refused(
    tiny_study: Any, every: int, decay: float, refused: bool
) -> None:
    """With four steps and an update every hundred, the averaged weights stay those of the first step."""
    changes = {"ema.every_n_steps": every, "ema.decay": decay}
    if refused:
        with pytest.raises(ValueError, match=r"names val/loss_ema, which would measure averaged weights.* 4 optimizer"):
            planned(tiny_study, changes)
    else:
        assert planned(tiny_study, changes).cells
    assert planned(tiny_study, changes, objectives=[{"metric": "val/loss_raw"}]).cells


CAUTIONS = [
    ({"ema.every_n_steps": 3, "ema.decay": 0.5}, "averaged weights (EMA), 50% of which are those after the first step"),
    ({"optimizer.warmup_images": 128}, "the learning rate ends at 50% of optimizer.lr=0.001"),
    ({"trainer.log_every_n_steps": 5}, "the training loss has no curve"),
    ({"model.condition_dropout": 0.0}, "the sample grid is drawn without guidance"),
    ({"trainer.max_images": 2_000_000}, "about 2 pairs of the random streams of training are equal"),
]


@pytest.mark.parametrize(("changes", "sentence"), CAUTIONS, ids=lambda value: str(value)[:30])
def test_what_is_slower_than_the_budget_is_said_by_the_plan(
    tiny_study: Any, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    assert planned(tiny_study).cautions() == ()
    text = describe(workspace_at(tmp_path / "runs", planned(tiny_study, changes)))
    assert text.count(sentence) == 1


def test_a_warm_up_of_just_the_budget_is_reached(tiny_study: Any) -> None:
    assert planned(tiny_study, {"optimizer.warmup_images": 64}).cautions() == ()


def test_a_training_that_seeds_with_all_bits_has_no_equal_streams(tiny_study: Any) -> None:
    assert planned(tiny_study, {"trainer.max_images": 2_000_000, "trainer.rng_version": 2}).cautions() == ()
