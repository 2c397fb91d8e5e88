"""A field's value is tuned for each variant and size."""

import random
from math import log
from typing import Any

import pytest

from lina_lab.records.status import Phase
from lina_lab.study.grid import Cell, make_plan
from lina_lab.study.rounds import grown, phase
from lina_lab.study.tuning import tuned_at
from tests.study.growth import (
    AXES,
    BEST,
    DIM,
    LR,
    NORMALIZATION,
    RATES,
    Study,
    hashes,
    planted,
    rates,
    run,
    within_the_grid,
)


@pytest.mark.parametrize(
    "how", [{}, {"racing": True}, {"sampler": "tpe", "trials": 9}, {"sampler": "tpe", "racing": True}]
)
def test_planted_rates_are_found_and_used(tiny_study: Study, how: dict[str, Any]) -> None:
    tuning = {"seeds": list(range(100, 106)), **how}
    plan, _ = run(make_plan(*tiny_study(tune={LR: RATES}, tuning=tuning, seeds=[0, 1])), at_once=3)
    assert plan.stopped == ""
    assert phase(plan) is Phase.COMPARISON
    for point, best in BEST.items():
        (rate,) = rates(plan)[point]
        assert abs(log(rate / best)) < 0.15, (point, rate)
    assert len(hashes(plan, Phase.COMPARISON)) == 8


def test_racing_spends_few_seeds_on_hopeless_rates(tiny_study: Study) -> None:
    def cells_at(racing: bool) -> dict[float, int]:
        tuning = {"seeds": list(range(100, 110)), "racing": racing}
        plan, _ = run(make_plan(*tiny_study(tune={LR: RATES}, tuning=tuning)), at_once=4)
        found = dict.fromkeys(RATES, 0)
        for cell in plan.cells:
            if cell.phase is Phase.TUNING and cell.axes == {NORMALIZATION: "division", DIM: 16}:
                found[cell.tuned[LR]] += 1
        return found

    assert cells_at(racing=False) == dict.fromkeys(RATES, 10)
    assert cells_at(racing=True) == {0.001: 4, 0.002: 4, 0.004: 10, 0.008: 4, 0.016: 4}


def test_racing_drops_a_rate_that_diverges_once(tiny_study: Study) -> None:
    def loss(cell: Cell) -> float:
        return float("inf") if cell.tuned[LR] > 0.01 and cell.config.seed == 101 else planted(cell)

    tuning = {"seeds": list(range(100, 106)), "racing": True}
    plan, _ = run(make_plan(*tiny_study(tune={LR: RATES}, tuning=tuning)), loss)
    tried = [cell for cell in plan.cells if cell.phase is Phase.TUNING and cell.tuned[LR] == 0.016]
    assert len(tried) == 4 * 4
    assert plan.stopped == ""


def test_the_first_seeds_of_all_rates_are_raced_at_once(tiny_study: Study) -> None:
    tuning = {"seeds": list(range(100, 106)), "racing": True}
    plan = grown(make_plan(*tiny_study(tune={LR: RATES}, tuning=tuning)), {})
    assert len(plan.cells) == 4 * (6 + 4 * 4)


def test_a_sampler_tries_as_many_rates_as_it_may_between_the_ends(tiny_study: Study) -> None:
    tuning = {"sampler": "tpe", "trials": 8}
    plan, _ = run(make_plan(*tiny_study(tune={LR: RATES}, tuning=tuning)))
    for one in plan.tuned:
        assert len(one.tried) == 8
        assert set(RATES) < set(one.tried)
        assert all(0.001 <= value <= 0.016 and value == float(f"{value:.3g}") for value in one.tried)
    sampled = {value for one in plan.tuned for value in set(one.tried) - set(RATES)}
    assert len(sampled) == 4 * 3


def beyond(cell: Cell) -> float:
    """The best rate lies beyond the grid."""
    return abs(log(cell.tuned[LR] / 0.05)) + random.Random(cell.config_hash).gauss(0, 0.001)


def test_an_optimum_at_the_edge_is_refused_in_one_sentence(tiny_study: Study) -> None:
    study = tiny_study(tune={LR: RATES}, axes={"size": {DIM: [8, 16]}})
    plan, _ = run(make_plan(*study), lambda cell: beyond(cell) if cell.axes[DIM] == 16 else within_the_grid(cell))
    assert hashes(plan, Phase.COMPARISON) == []
    assert plan.stopped == (
        "no optimum of optimizer.lr was found: 16 is best at 0.016, the largest value tried; give "
        "study.tune={optimizer.lr:[...]} a wider range, or let it grow with study.tuning.extend=N (what is trained is "
        "kept)"
    )


def test_a_grid_grows_at_its_edge_by_its_own_ratio(tiny_study: Study) -> None:
    study = tiny_study(tune={LR: RATES}, axes={"size": {DIM: [8, 16]}}, tuning={"extend": 3})
    plan, _ = run(make_plan(*study), beyond)
    assert all(sorted(one.tried) == [*RATES, 0.032, 0.064, 0.128] for one in plan.tuned)
    assert plan.stopped == ""
    short = tiny_study(tune={LR: RATES}, axes={"size": {DIM: [8, 16]}}, tuning={"extend": 1})
    plan, _ = run(make_plan(*short), beyond)
    assert "8 is best at 0.032, the largest value tried; 16 is best at 0.032" in plan.stopped


def test_a_grid_does_not_grow_beyond_what_a_trial_takes(tiny_study: Study) -> None:
    study = tiny_study(
        tune={"model.condition_dropout": [0.3, 0.6, 0.9]}, axes={"size": {DIM: [8]}}, tuning={"extend": 2}
    )
    plan, _ = run(make_plan(*study), lambda cell: 1 - cell.config.model.condition_dropout)
    assert plan.stopped == (
        "no optimum of model.condition_dropout was found: 8 is best at 0.9, the largest value tried "
        "(model.condition_dropout=1.35: input should be less than or equal to 1); give "
        "study.tune={model.condition_dropout:[...]} values nearer to the limit (what is trained is kept)"
    )


@pytest.mark.parametrize("variants", [["division"], ["division", "subtraction"]])
def test_variants_that_diverge_at_all_rates_are_refused(tiny_study: Study, variants: list[str]) -> None:
    def loss(cell: Cell) -> float:
        return float("inf") if cell.axes[NORMALIZATION] in variants else within_the_grid(cell)

    plan, _ = run(make_plan(*tiny_study(tune={LR: RATES[:4]}, axes=AXES | {"size": {DIM: [8]}})), loss)
    problems = [f"{one} 8 is equally good, or diverges, at all of 0.001, 0.002, 0.004, 0.008" for one in variants]
    assert plan.stopped.startswith(f"no optimum of optimizer.lr was found: {'; '.join(problems)}; give")
    assert hashes(plan, Phase.COMPARISON) == []


def test_a_rate_at_which_one_seed_diverges_is_not_used(tiny_study: Study) -> None:
    def loss(cell: Cell) -> float:
        diverges = cell.phase is Phase.TUNING and cell.tuned[LR] > 0.003 and cell.config.seed == 1000
        return float("inf") if diverges else within_the_grid(cell)

    plan, _ = run(make_plan(*tiny_study(tune={LR: RATES})), loss)
    assert plan.stopped == ""
    assert {rate for used in rates(plan).values() for rate in used} == {0.002}


def test_sizes_that_are_not_tuned_take_the_value_of_the_nearest_one(tiny_study: Study) -> None:
    axes = {"normalization": {NORMALIZATION: ["division", "subtraction"]}, "size": {DIM: [8, 16, 24, 32, 40]}}
    study = tiny_study(tune={LR: RATES}, axes=axes, tuning={"sizes": ["8", "24"]})

    def loss(cell: Cell) -> float:
        return log(cell.tuned[LR] / (0.008 if cell.axes[DIM] == 8 else 0.002)) ** 2

    plan, _ = run(make_plan(*study), loss)
    assert {cell.axes[DIM] for cell in plan.cells if cell.phase is Phase.TUNING} == {8, 24}
    assert {dim: rate for (_, dim), (rate,) in rates(plan).items()} == {
        8: 0.008,
        16: 0.008,
        24: 0.002,
        32: 0.002,
        40: 0.002,
    }


def test_a_part_of_a_study_without_a_tuned_size_is_refused(tiny_study: Study) -> None:
    study, base = tiny_study(tune={LR: RATES}, tuning={"sizes": ["16"]})
    base["model"]["dim"] = 8
    with pytest.raises(
        ValueError, match=r"study.tuning.sizes=\['16'\]: the plan has none of these sizes for division 8"
    ):
        grown(make_plan(study, base, ["model.dim"]), {})


def test_a_rate_of_the_command_line_is_not_tuned(tiny_study: Study) -> None:
    study, base = tiny_study(tune={LR: RATES})
    base["optimizer"]["lr"] = 0.004
    plan = grown(make_plan(study, base, [LR]), {})
    assert [cell.phase for cell in plan.cells] == [Phase.COMPARISON] * 4
    assert {cell.config.optimizer.lr for cell in plan.cells} == {0.004}
    assert plan.study.tune == {}


@pytest.mark.parametrize("field", ["optimizer.lrr", "optimizer", "nothing.at.all"])
def test_tuning_of_an_unknown_field_is_refused(tiny_study: Study, field: str) -> None:
    with pytest.raises(ValueError, match=f"tune: {field} is not a field of a trial"):
        make_plan(*tiny_study(tune={field: RATES}))


def test_the_tuning_of_a_point_is_found_whatever_the_order_of_its_fields(tiny_study: Study) -> None:
    plan, _ = run(make_plan(*tiny_study(tune={LR: RATES})))
    at = tuned_at(plan, plan.tuned)
    for point in plan.points:
        one = at(dict(reversed(point.items())))
        assert one is not None
        assert one.point == point
