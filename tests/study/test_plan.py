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
