"""Budgets of one training as points in D: branches that cool down, with a planted law at their ends."""

import dataclasses
from typing import Any

import pandas as pd
import pytest
from lina_lab.analysis.load.cells import SCHEDULE
from lina_lab.analysis.load.lineage import STATE
from lina_lab.analysis.load.runs import StudyRuns
from lina_lab.analysis.report.study_report import analyze_study, study_figures
from lina_lab.analysis.stats.study_fits import checkpoint_points, fit_study
from lina_lab.analysis.stats.trainings import budget_axis, by_training

from tests.analysis.simulated import ALPHA, BATCH, BETA, CHECKPOINTS, STEPS, simulated

BUDGETS = [STEPS * BATCH * part // CHECKPOINTS for part in (1, 2, 4, 6)]
STAGES = {"axis": "images", "starts": {"long": "short"}}
IMAGES: dict[str, Any] = {"trainer.max_images": BUDGETS}


def branches(**axes: Any) -> StudyRuns:
    """Trainings whose loss before their end is far above that of a complete training."""
    labels = {"images": ["short", "long", "longer", "longest"]}
    runs = simulated({**axes, "images": IMAGES}, seeds=4, effect=0.0, noise=0.003, labels=labels, stages=STAGES)
    budgets = runs.cells.set_index("cell")["trainer.max_images"]
    table = runs.checkpoints
    own = budgets.reindex(table["cell"]).to_numpy(float)
    table = table[table["images"] <= own].copy()
    before = table["images"].to_numpy(float) < own[runs.checkpoints["images"] <= own]
    table.loc[before, "val/loss_ema"] += 0.3
    return dataclasses.replace(runs, checkpoints=table, cells=runs.cells.assign(**{STATE: "training", SCHEDULE: "wsd"}))


def test_the_ends_of_branches_are_points_in_images_of_one_variant() -> None:
    runs = by_training(branches())
    points = checkpoint_points(runs)
    assert set(points["variant"]) == {"all"}
    assert sorted(set(points["images"])) == BUDGETS
    assert (points.groupby(["size", "seed"]).size() == len(BUDGETS)).all()


def test_the_planted_law_in_size_and_images_is_found_at_the_ends() -> None:
    fits = fit_study(branches())
    assert fits.surface is not None
    assert fits.surface.holds
    (pair,) = fits.surface_exponents.values()
    for number, truth in zip(pair, (ALPHA, BETA), strict=True):
        assert number.free.value == pytest.approx(truth, abs=0.08)


def test_budgets_without_a_cooldown_have_all_their_checkpoints() -> None:
    runs = branches()
    constant = dataclasses.replace(runs, cells=runs.cells.assign(**{SCHEDULE: "constant"}))
    assert len(by_training(constant).checkpoints) == len(runs.checkpoints)


def test_budgets_that_do_not_cool_down_are_left_out_beside_those_that_do() -> None:
    runs = branches()
    trunk = runs.cells["trainer.max_images"] == BUDGETS[1]
    mixed = dataclasses.replace(
        runs, cells=runs.cells.assign(**{SCHEDULE: trunk.map({True: "constant", False: "wsd"})})
    )
    points = checkpoint_points(by_training(mixed))
    assert sorted(set(points["images"])) == [BUDGETS[0], *BUDGETS[2:]]


def test_of_a_training_whose_rate_falls_the_end_alone_counts() -> None:
    """Without stages, too: a checkpoint on the way stands for no complete training."""
    runs = simulated(seeds=2)
    falling = dataclasses.replace(runs, cells=runs.cells.assign(**{SCHEDULE: "cosine"}))
    points = checkpoint_points(by_training(falling))
    assert set(points["images"]) == {STEPS * BATCH}
    assert set(points["variant"]) == set(runs.variants)


def test_other_axes_still_make_variants() -> None:
    runs = by_training(branches(convolution={"model.attention.conv": ["none", "depthwise"]}))
    assert runs.variants == ["no convolution", "depthwise"]
    assert set(checkpoint_points(runs)["variant"]) == {"no convolution", "depthwise"}


def test_figures_of_laws_are_drawn_by_training() -> None:
    report = analyze_study(branches())
    drawn = study_figures(report)
    assert set(drawn["surface"][1]["variant"]) == {"all"}


@pytest.mark.parametrize(
    ("state", "fields"),
    [("weights", {}), ("training", {"optimizer.lr": [0.001, 0.002, 0.003, 0.004]})],
    ids=["fresh starts", "another rate"],
)
def test_ways_that_differ_in_more_than_the_budget_stay_variants(state: str, fields: dict[str, Any]) -> None:
    runs = branches()
    axes = {"images": {**IMAGES, **fields}, "size": runs.study.axes["size"]}
    runs = dataclasses.replace(
        runs, study=dataclasses.replace(runs.study, axes=axes), cells=runs.cells.assign(**{STATE: state})
    )
    assert budget_axis(runs) is None
    assert set(by_training(runs).cells["variant"]) == set(runs.cells["variant"])


def test_a_study_without_stages_is_left_as_it_is() -> None:
    runs = simulated(seeds=2)
    assert by_training(runs) is runs
    pd.testing.assert_frame_equal(by_training(runs).checkpoints, runs.checkpoints)
