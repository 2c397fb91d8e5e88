"""What a study would take, and what moves together with size."""

from dataclasses import replace
from math import isnan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lina_lab.config import ResourcesConfig
from lina_lab.config.factors import FACTORS, PAIRING
from lina_lab.config.tasks import TASKS
from lina_lab.model import count
from lina_lab.records.record import Record, write_record
from lina_lab.records.status import CellStatus
from lina_lab.study.cost import checkpoint_bytes, memory_bytes, other_flops, parameters, training_flops
from lina_lab.study.disk import needed_bytes, size
from lina_lab.study.grid import Cell, Plan, make_plan
from lina_lab.study.plan import audit, cell_table, describe
from lina_lab.study.speed import Speed, speed_of
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
    assert [row["cell"] for row in table] == [cell.config_hash for cell in plan.cells]
    assert [row["steps"] for row in table] == [4] * 4
    assert [row["parameters"] for row in table] == [parameters(cell.config.model) for cell in plan.cells]
    assert all(isnan(row["hours"]) for row in table)
    assert "device-hours unknown" in describe(workspace_at(tmp_path / "runs", plan))
    assert not (tmp_path / "runs").exists()


def end(folder: Path, cell: Cell, **result: Any) -> None:
    """Record that a cell is done."""
    (folder / cell.config_hash).mkdir(parents=True)
    record = Record(
        config_hash=cell.config_hash,
        axes={},
        seed=cell.config.seed,
        status=CellStatus.DONE,
        mlflow_run="x",
        result=replace(RESULT, **result),
    )
    write_record(folder / cell.config_hash, record)


def test_an_assumed_rate_is_called_so(tiny_study: Any, tmp_path: Path) -> None:
    plan = planned(tiny_study, resources={"devices": 2, "flops_per_second": 1e9})
    workspace = workspace_at(tmp_path, plan)
    assert speed_of(workspace) == Speed(training=1 / 2e9, other=1 / 2e9)
    text = describe(workspace)
    assert "| hours, assumed" in text
    assert " device-hours at the assumed rate\n" in text
    assert "an assumption, not a measurement: study.resources.flops_per_second=1e+09 of a device" in text
    assert "Start-up, checkpoints and decoding are not in it." in text
    end(tmp_path / "tiny", plan.cells[0])
    text = describe(workspace)
    assert "an assumption" not in text
    assert "hours, assumed" not in text
    assert "1 cells have ended.\n- Time: measured on 1 finished cell: training, validation, generated images" in text


def test_hours_hold_training_validation_and_generated_images(tiny_study: Any, tmp_path: Path) -> None:
    plan = planned(tiny_study, resources={"flops_per_second": 1e9})
    hours = cell_table(workspace_at(tmp_path, plan))[0]["hours"]
    config = plan.cells[0].config
    assert hours * 3600 * 1e9 == pytest.approx(training_flops(config) + other_flops(config))
    more = planned(tiny_study, {"sampling.images_per_class": 100}, resources={"flops_per_second": 1e9})
    assert cell_table(workspace_at(tmp_path, more))[0]["hours"] > 5 * hours


def test_time_is_measured_with_what_comes_beside_training(tiny_study: Any, tmp_path: Path) -> None:
    """Three seconds a cell whatever its size, and four times the training's seconds a FLOP for the rest."""
    plan = planned(tiny_study, resources={"flops_per_second": 1e9})
    for cell in plan.cells[:2]:
        trained = training_flops(cell.config) / 1e8
        rest = 3.0 + 4 * other_flops(cell.config) / 1e8
        end(tmp_path / "tiny", cell, images_per_second=64 / trained, fit_seconds=trained + rest)
    found = speed_of(workspace_at(tmp_path, plan))
    assert found is not None
    assert found.cells == 2
    assert (found.training, found.other, found.start) == pytest.approx((1e-8, 4e-8, 3.0), rel=1e-6)
    # A cell that was resumed has the last attempt's time alone.
    end(tmp_path / "tiny", plan.cells[2], images_per_second=64 / 1e9, fit_seconds=0.0, resumed_at=2)
    again = speed_of(workspace_at(tmp_path, plan))
    assert again is not None
    assert (again.cells, again.start) == (3, pytest.approx(3.0))


def test_flops_beside_training_are_those_of_each_part(tiny: Any) -> None:
    """Two validations of raw and averaged weights; a grid that each device generates; measured images."""
    plain = tiny(sampling={"images_per_class": 0})
    model = plain.model
    validations = 2 * 2 * 40 * 2 * count.loss_operations(model).total
    assert other_flops(plain) == validations
    guided, unguided = (
        2 * count.generation_operations(model, steps=2, flow_steps=2, guided=each).total for each in (True, False)
    )
    grid = tiny(sampling={"images_per_class": 3})
    assert other_flops(grid) - validations == 10 * 3 * guided
    two = ResourcesConfig(devices=2)
    assert other_flops(grid, two) - validations == 2 * 10 * 3 * guided
    often = tiny(sampling={"images_per_class": 0, "quality_images": 50, "quality_every_images": 32})
    assert other_flops(often, two) - validations == 2 * 50 * unguided
    sharded = ResourcesConfig(devices=2, strategy="fsdp")
    assert other_flops(often, sharded) - validations == 2 * 2 * 50 * unguided


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


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_the_memory_estimate_is_of_the_right_order(tiny: Any, task: str, checkpointing: bool) -> None:
    """Against what a training step allocates: within a factor of two."""
    import torch

    from benchmarks.attention import peak_bytes
    from lina_lab.model import make_model, sample_loss_inputs

    sizes = {"dim": 64, "num_heads": 4, "depth": 8, "condition_depth": 4, "flow_depth": 2}
    model = sizes | {"noise_samples_per_token": 4, "gradient_checkpointing": checkpointing, "task": task}
    config = tiny(model=model, data={"batch_size": 32, "val_images": 40, "val_batch_size": 20})
    made = make_model(config.model)
    latents, label = torch.zeros(32, 1, 8, 8), torch.zeros(32, dtype=torch.long)

    def step() -> None:
        made.zero_grad()
        inputs = sample_loss_inputs(config.model, 32, torch.Generator().manual_seed(0))
        made.loss_from_inputs(latents, inputs, label=label).backward()

    measured = peak_bytes(step, "cpu") + 16 * parameters(config.model)
    assert 0.5 < memory_bytes(config) / measured < 2


def test_memory_knows_the_layout_and_gradient_checkpointing(tiny: Any) -> None:
    model = {"dim": 64, "num_heads": 4, "depth": 8}
    config = tiny(model=model, data={"batch_size": 64, "val_images": 40, "val_batch_size": 20})
    whole = memory_bytes(config)
    accumulated = memory_bytes(config, ResourcesConfig(accumulate_grad_batches=4))
    states = 20 * parameters(config.model)
    assert accumulated - states == pytest.approx((whole - states) / 4)
    shared, sharded = (
        memory_bytes(config, ResourcesConfig(devices=8, strategy=strategy)) for strategy in ("ddp", "fsdp")
    )
    assert shared - 4 * parameters(config.model) - states == pytest.approx((whole - states) / 8)
    assert 15 * parameters(config.model) < shared - sharded < 22 * parameters(config.model)
    again = tiny(model=model | {"gradient_checkpointing": True}, data={"batch_size": 64, "val_images": 40})
    assert memory_bytes(again) < whole / 2


def test_a_plan_names_the_disk_that_it_needs(tiny_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two checkpoints of each cell that has not ended, and one for each worker that is being written."""
    plan = planned(tiny_study)
    workspace = workspace_at(tmp_path / "runs", plan)
    sizes = [checkpoint_bytes(cell.config) for cell in plan.cells]
    needed, part = size(2 * sum(sizes) + max(sizes)), max(sizes) / 4
    text = describe(workspace)
    parts = f"{size(part)} raw weights, {size(part)} averages, {size(2 * part)} moments of the optimizer"
    assert (
        f"- Disk: {needed} for the 2 checkpoints that each cell keeps, of up to {size(max(sizes))} ({parts}); " in text
    )
    assert f"- Disk: {size(2 * sum(sizes) + 3 * max(sizes))} for" in describe(workspace, workers=3)
    assert f"are free under {tmp_path / 'runs'}.\n" in text
    end(tmp_path / "runs" / "tiny", plan.cells[0])
    assert f"- Disk: {size(2 * sum(sizes[1:]) + max(sizes))} for" in describe(workspace)
    monkeypatch.setattr("lina_lab.study.disk.disk_usage", lambda path: SimpleNamespace(free=1000))
    assert f"1 kB are free under {tmp_path / 'runs'}, which is not enough: checkpoint.keep_last=1 and" in describe(
        workspace
    )


DISK: dict[str, tuple[dict[str, Any], float, float]] = {
    "the last": ({"keep_last": 1}, 1, 1),
    "no more than are written": ({"keep_last": 9}, 2, 1),
    "by images": ({"keep_last": 9, "every_images": 16}, 5, 1),
    "by minutes": ({"keep_last": 9, "every_minutes": 1.0}, 9, 1),
    "milestones": ({"keep_last": 1, "keep_every_images": 16, "every_minutes": 1.0}, 5, 1),
    "the best": ({"keep_last": 1, "keep_best": "val/loss_ema"}, 2, 1),
    # Two whole ones and one that is being written, of which half of one is in the sum already.
    "weights": ({"finished": "weights"}, 0.5, 2.5),
    "weights and the best": ({"finished": "weights", "keep_best": "val/loss_ema", "every_minutes": 1.0}, 1, 3),
}


@pytest.mark.parametrize(("policy", "kept", "more"), DISK.values(), ids=DISK)
def test_the_disk_follows_the_policy_of_the_checkpoints(
    tiny_study: Any, policy: dict[str, Any], kept: float, more: float
) -> None:
    """In checkpoints: what each cell keeps, and what one that trains needs besides."""
    configs = [c.config for c in planned(tiny_study, {f"checkpoint.{name}": v for name, v in policy.items()}).cells]
    sizes = [checkpoint_bytes(config) for config in configs]
    assert needed_bytes(configs, 1) == pytest.approx(kept * sum(sizes) + more * max(sizes))
    assert needed_bytes(configs, 3) == pytest.approx(kept * sum(sizes) + 3 * more * max(sizes))


def test_a_plan_names_what_it_has_not_looked_at(tiny_study: Any, tmp_path: Path) -> None:
    assert "Not looked at" not in describe(workspace_at(tmp_path, planned(tiny_study)))
    shards = {"data.name": "shards", "data.path": "x", "sampling.vae": "me/vae", "model.num_classes": None}
    plan = planned(tiny_study, shards | {"model.text_dim": 8, "data.encoder": "me/t5"})
    text = describe(workspace_at(tmp_path, plan))
    assert "- Not looked at: data.encoder=me/t5, sampling.vae=me/vae. They are loaded when a cell starts.\n" in text


def test_a_checkpoint_has_about_the_size_that_a_plan_says(tiny: Any, tmp_path: Path) -> None:
    from lina_lab.training.trial import run_trial

    model = {"dim": 64, "num_heads": 4, "depth": 4}
    config = tiny(model=model, trainer={"max_images": 16, "val_every_images": 16}, sampling={"images_per_class": 0})
    run_trial(config, tmp_path)
    (file,) = tmp_path.glob("step-*.ckpt")
    assert 0.7 < checkpoint_bytes(config) / file.stat().st_size < 1.2


@pytest.mark.parametrize(("number", "text"), [(999, "999 B"), (24e9, "24 GB"), (733e9, "733 GB"), (2.5e13, "25 TB")])
def test_bytes_are_written_for_people(number: float, text: str) -> None:
    assert size(number) == text


def test_a_plan_says_how_many_seeds_its_primary_comparison_needs(tiny_study: Any, tmp_path: Path) -> None:
    primary = {"axis": "normalization", "treatment": "subtraction", "baseline": "division", "margin": 0.03}
    plan = planned(tiny_study, primary=primary, seeds=[0, 1, 2])
    shifts = {0: 0.10, 1: 0.12, 2: 0.14}
    for cell in plan.cells:
        lower = cell.axes["model.attention.normalization"] == "division" or cell.axes["model.dim"] == 8
        loss = 0.5 + (0 if lower else shifts[cell.config.seed]) + cell.config.seed
        end(tmp_path / "tiny", cell, metrics=RESULT.metrics | {"val/loss_ema": loss})
    text = describe(workspace_at(tmp_path, plan))
    assert (
        "normalization=subtraction minus normalization=division, size=16; deviation of paired differences 0.02, "
        "measured on 3 seeds." in text
    )
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
