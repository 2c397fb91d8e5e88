"""What follows from results: values that are tuned, seeds that are added."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import pytest

from lina_lab.config import StudyConfig
from lina_lab.decisions.contrast import contrast_values
from lina_lab.decisions.sequential import looks, sequential_interval
from lina_lab.records.status import CellStatus, Phase
from lina_lab.study.grid import Cell, Plan, make_plan
from lina_lab.study.rounds import grown, notes, phase
from lina_lab.study.tuning import tuned_at

RATES = [0.001, 0.002, 0.004, 0.008, 0.016]
NORMALIZATION, DIM, LR = "model.attention.normalization", "model.dim", "optimizer.lr"
PRIMARY = {"axis": "normalization", "treatment": "subtraction", "baseline": "division"}
AXES = {"normalization": {NORMALIZATION: ["division", "subtraction"]}, "size": {DIM: [8, 16]}}
BEST = {("division", 8): 0.003, ("division", 16): 0.004, ("subtraction", 8): 0.006, ("subtraction", 16): 0.002}

Loss = Callable[[Cell], float]
Study = Callable[..., tuple[StudyConfig, dict[str, Any]]]


@dataclass(frozen=True)
class State:
    status: CellStatus
    values: list[float] | None = None


def planted(cell: Cell) -> float:
    """A parabola in the logarithm of the rate, with the noise of the cell's seed, and some of its own."""
    best = BEST[cell.axes[NORMALIZATION], cell.axes[DIM]]
    own = random.Random(cell.config_hash).gauss(0, 0.002)
    common = random.Random(cell.config.seed).gauss(0, 0.05)
    return 0.5 + 0.1 * log(cell.tuned[LR] / best) ** 2 + common + own


def state_of(loss: float) -> State:
    return State(CellStatus.DONE, [loss]) if loss < float("inf") else State(CellStatus.DIVERGED)


def run(plan: Plan, loss: Loss = planted, order: int = 0, at_once: int = 1) -> tuple[Plan, dict[str, State]]:
    """End the open cells in a random order, some at a time, until no more follow."""
    states: dict[str, State] = {}
    choose = random.Random(order)
    plan = grown(plan, states)
    while open_cells := [cell for cell in plan.cells if cell.config_hash not in states]:
        for cell in choose.sample(open_cells, min(at_once, len(open_cells))):
            states[cell.config_hash] = state_of(loss(cell))
        before, plan = plan, grown(plan, states)
        assert set(hashes(before)) < set(hashes(plan)) or hashes(before) == hashes(plan)
    return plan, states


def hashes(plan: Plan, which: Phase | None = None) -> list[str]:
    return sorted(cell.config_hash for cell in plan.cells if which in (None, cell.phase))


def seeds(plan: Plan, **axes: Any) -> list[int]:
    """Seeds of the comparison's cells at a point."""
    wanted = {NORMALIZATION: axes["normalization"], DIM: axes["dim"]}
    return [cell.config.seed for cell in plan.cells if cell.phase is Phase.COMPARISON and cell.axes == wanted]


def rates(plan: Plan) -> dict[tuple[str, int], set[float]]:
    """Rates of the comparison's cells."""
    found: dict[tuple[str, int], set[float]] = {}
    for cell in plan.cells:
        if cell.phase is Phase.COMPARISON:
            found.setdefault((cell.axes[NORMALIZATION], cell.axes[DIM]), set()).add(cell.config.optimizer.lr)
    return found


def test_a_study_without_tuning_and_stopping_never_grows(tiny_study: Study) -> None:
    plan = make_plan(*tiny_study())
    assert grown(plan, {}) is plan


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


def test_all_cells_of_a_grid_are_there_at_once_and_the_comparison_waits_for_the_last(tiny_study: Study) -> None:
    plan = grown(make_plan(*tiny_study(tune={LR: RATES})), {})
    assert [cell.phase for cell in plan.cells] == [Phase.TUNING] * (4 * 5 * 2)
    assert phase(plan) is Phase.TUNING
    assert {cell.config.seed for cell in plan.cells} == {1000, 1001}
    assert plan.cells[0].label == "division 8 lr 0.001 seed 1000"
    states = {cell.config_hash: state_of(planted(cell)) for cell in plan.cells[:-1]}
    assert hashes(grown(plan, states)) == hashes(plan)
    last = plan.cells[-1]
    after = grown(plan, states | {last.config_hash: state_of(planted(last))})
    assert len(hashes(after, Phase.COMPARISON)) == 4
    assert all(cell.axes.keys() == {NORMALIZATION, DIM} for cell in after.cells)
    assert len(notes(after)) == 4


@pytest.mark.parametrize("how", [{}, {"racing": True}, {"sampler": "tpe", "racing": True, "trials": 5}])
def test_the_same_results_give_the_same_cells_whatever_the_order(tiny_study: Study, how: dict[str, Any]) -> None:
    tuning = {"seeds": list(range(100, 105)), **how}
    study = tiny_study(
        tune={LR: RATES[1:4]}, tuning=tuning, seeds=[0, 1], primary=PRIMARY, until={"width": 0.003, "max_seeds": 6}
    )
    one, states = run(make_plan(*study), order=1, at_once=2)
    two, _ = run(make_plan(*study), order=2, at_once=7)
    assert hashes(one) == hashes(two)
    # A process that comes later sees all states at once.
    assert hashes(grown(make_plan(*study), states)) == hashes(one)
    assert hashes(grown(make_plan(*study), dict(reversed(states.items())))) == hashes(one)


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
    plan, _ = run(make_plan(*study), lambda cell: beyond(cell) if cell.axes[DIM] == 16 else beyond_not(cell))
    assert hashes(plan, Phase.COMPARISON) == []
    assert plan.stopped == (
        "no optimum of optimizer.lr was found: 16 is best at 0.016, the largest value tried; give "
        "study.tune={optimizer.lr:[...]} a wider range, or let it grow with study.tuning.extend=N (what is trained is "
        "kept)"
    )


def beyond_not(cell: Cell) -> float:
    return log(cell.tuned[LR] / 0.004) ** 2


def test_a_grid_grows_at_its_edge_by_its_own_ratio(tiny_study: Study) -> None:
    study = tiny_study(tune={LR: RATES}, axes={"size": {DIM: [8, 16]}}, tuning={"extend": 3})
    plan, _ = run(make_plan(*study), beyond)
    assert all(sorted(one.tried) == [*RATES, 0.032, 0.064, 0.128] for one in plan.tuned)
    assert plan.stopped == ""
    short = tiny_study(tune={LR: RATES}, axes={"size": {DIM: [8, 16]}}, tuning={"extend": 1})
    plan, _ = run(make_plan(*short), beyond)
    assert "8 is best at 0.032, the largest value tried; 16 is best at 0.032" in plan.stopped


def test_a_failed_cell_of_tuning_stops_the_study_with_a_sentence(tiny_study: Study) -> None:
    plan = grown(make_plan(*tiny_study(tune={LR: RATES})), {})
    states = {cell.config_hash: state_of(planted(cell)) for cell in plan.cells}
    states[plan.cells[3].config_hash] = State(CellStatus.FAILED)
    after = grown(plan, states)
    assert after.stopped == (
        f"the tuning cell {plan.cells[3].label} failed, so the comparison cannot start: the same command retries it"
    )
    assert hashes(after) == hashes(plan)


def test_rates_that_all_diverge_are_refused(tiny_study: Study) -> None:
    plan, _ = run(make_plan(*tiny_study(tune={LR: RATES}, axes={"size": {DIM: [8]}})), lambda cell: float("inf"))
    assert "8 is equally good, or diverges, at all of 0.001, 0.002, 0.004, 0.008, 0.016" in plan.stopped


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


def test_cells_of_a_comparison_have_the_hash_of_their_configuration_alone(tiny_study: Study) -> None:
    tuned, _ = run(make_plan(*tiny_study(tune={LR: RATES})), beyond_not)
    study, base = tiny_study()
    base["optimizer"]["lr"] = 0.004
    assert hashes(tuned, Phase.COMPARISON) == hashes(make_plan(study, base))


@pytest.mark.parametrize("field", ["optimizer.lrr", "optimizer", "nothing.at.all"])
def test_tuning_of_an_unknown_field_is_refused(tiny_study: Study, field: str) -> None:
    with pytest.raises(ValueError, match=f"tune: {field} is not a field of a trial"):
        make_plan(*tiny_study(tune={field: RATES}))


def differing(by: float, noise: float) -> Loss:
    """Subtraction differs from division by a value, with noise."""

    def loss(cell: Cell) -> float:
        effect = by if cell.axes[NORMALIZATION] == "subtraction" else 0.0
        return 0.5 + effect + random.Random(json.dumps([cell.axes, cell.config.seed])).gauss(0, noise)

    return loss


@pytest.mark.parametrize(
    ("until", "by", "noise", "trained"),
    [
        ({"primary": "resolved", "max_seeds": 9}, 0.1, 0.005, 3),
        ({"primary": "resolved", "max_seeds": 9}, 0.0, 0.02, 9),
        ({"width": 0.001, "max_seeds": 8, "step": 3}, 0.0, 0.02, 8),
        ({"width": 10.0, "max_seeds": 8}, 0.0, 0.02, 3),
    ],
)
def test_seeds_are_added_to_the_primary_comparison_until_it_is_answered(
    tiny_study: Study, until: dict[str, Any], by: float, noise: float, trained: int
) -> None:
    study = tiny_study(primary=PRIMARY, until=until, seeds=[5, 0, 1])
    plan, _ = run(make_plan(*study), differing(by, noise), at_once=2)
    assert plan.look is not None
    assert plan.look.enough
    assert plan.look.trained == trained
    expected = [5, 0, 1, 6, 7, 8, 9, 10, 11][:trained]
    assert seeds(plan, normalization="subtraction", dim=16) == expected
    assert seeds(plan, normalization="division", dim=16) == expected
    assert seeds(plan, normalization="division", dim=8) == [5, 0, 1]


def test_seeds_are_added_in_steps_and_not_before_all_of_a_step_have_ended(tiny_study: Study) -> None:
    study = tiny_study(primary=PRIMARY, until={"primary": "resolved", "max_seeds": 6}, seeds=[0, 1])
    plan = grown(make_plan(*study), {})
    assert len(plan.cells) == 8
    ended = {cell.config_hash: state_of(differing(0, 0.1)(cell)) for cell in plan.cells if cell.axes[DIM] == 16}
    after = grown(plan, ended)
    assert seeds(after, normalization="division", dim=16) == [0, 1, 2, 3]
    part = ended | {after.cells[-1].config_hash: State(CellStatus.DONE, [0.5])}
    assert hashes(grown(after, part)) == hashes(after)


def test_added_seeds_are_those_of_no_other_use(tiny_study: Study) -> None:
    study = tiny_study(
        tune={LR: RATES},
        tuning={"seeds": [2, 3]},
        primary=PRIMARY,
        until={"primary": "resolved", "max_seeds": 4},
        seeds=[0, 1],
    )
    plan, _ = run(make_plan(*study), lambda cell: beyond_not(cell) + random.Random(cell.config_hash).gauss(0, 1e-3))
    assert seeds(plan, normalization="division", dim=16) == [0, 1, 4, 5]


def test_variants_within_the_margin_are_an_answer_too(tiny_study: Study) -> None:
    study = tiny_study(
        primary=PRIMARY | {"margin": 0.1}, until={"primary": "resolved", "max_seeds": 12}, seeds=[0, 1, 2, 3]
    )
    plan, _ = run(make_plan(*study), differing(0.0, 0.01))
    assert plan.look is not None
    assert (plan.look.outcome, plan.look.trained) == ("equivalent", 4)


@pytest.mark.parametrize("order", [("normalization", "size"), ("size", "normalization")])
def test_a_look_is_widened_by_what_the_chosen_rates_may_give_away(tiny_study: Study, order: tuple[str, ...]) -> None:
    """The variants are judged at their own best rates, whatever the order in which the study names its axes."""
    study = tiny_study(
        axes={axis: AXES[axis] for axis in order},
        tune={LR: RATES},
        tuning={"seeds": [100, 101, 102]},
        primary=PRIMARY,
        until={"width": 1e-9, "max_seeds": 5},
        seeds=[0, 1, 2],
    )
    plan, states = run(make_plan(*study))
    assert plan.look is not None
    compared = [cell for cell in plan.cells if cell.phase is Phase.COMPARISON]
    losses = [(cell.axes, cell.config.seed, (states[cell.config_hash].values or [])[0]) for cell in compared]
    differences = contrast_values(plan.study.primary_terms(), losses)
    assert len(differences) == 5
    at_chosen = sequential_interval(list(differences.values()), looks(3, 5, 2))
    regrets = {one.point[NORMALIZATION]: one.regret for one in plan.tuned if one.point[DIM] == 16}
    assert min(regrets.values()) > 0
    assert plan.look.interval.value == at_chosen.value
    assert plan.look.interval.low == pytest.approx(at_chosen.low - regrets["subtraction"])
    assert plan.look.interval.high == pytest.approx(at_chosen.high + regrets["division"])


def test_the_tuning_of_a_point_is_found_whatever_the_order_of_its_fields(tiny_study: Study) -> None:
    plan, _ = run(make_plan(*tiny_study(tune={LR: RATES})))
    at = tuned_at(plan, plan.tuned)
    for point in plan.points:
        one = at(dict(reversed(point.items())))
        assert one is not None
        assert one.point == point


def test_growth_adds_seeds_at_both_sizes(tiny_study: Study) -> None:
    study = tiny_study(
        primary=PRIMARY | {"quantity": "growth"}, until={"primary": "resolved", "max_seeds": 4}, seeds=[0, 1]
    )
    plan, _ = run(make_plan(*study), differing(0.0, 0.1))
    assert {len(seeds(plan, normalization=n, dim=d)) for n in ("division", "subtraction") for d in (8, 16)} == {4}


def test_diverged_seeds_count_against_the_most_and_enter_no_interval(tiny_study: Study) -> None:
    def loss(cell: Cell) -> float:
        return float("inf") if cell.config.seed == 1 else differing(0.0, 0.1)(cell)

    study = tiny_study(primary=PRIMARY, until={"primary": "resolved", "max_seeds": 4}, seeds=[0, 1])
    plan, _ = run(make_plan(*study), loss)
    assert plan.look is not None
    assert (plan.look.trained, plan.look.interval.seeds) == (4, 3)


def test_a_failed_cell_of_the_comparison_adds_no_seed(tiny_study: Study) -> None:
    plan = grown(make_plan(*tiny_study(primary=PRIMARY, until={"primary": "resolved", "max_seeds": 4})), {})
    states = {cell.config_hash: State(CellStatus.FAILED) for cell in plan.cells}
    assert hashes(grown(plan, states)) == hashes(plan)


def test_a_seed_of_the_command_line_is_the_only_one(tiny_study: Study) -> None:
    study, base = tiny_study(primary=PRIMARY, until={"primary": "resolved", "max_seeds": 4})
    base["seed"] = 7
    plan, _ = run(make_plan(study, base, ["seed"]), differing(0.0, 0.1))
    assert {cell.config.seed for cell in plan.cells} == {7}


@pytest.mark.parametrize("tune", [{}, {LR: RATES[1:4]}])
def test_an_excluded_primary_comparison_is_refused_before_anything_is_trained(tiny_study: Study, tune: Any) -> None:
    study = tiny_study(
        tune=tune,
        primary=PRIMARY,
        until={"primary": "resolved", "max_seeds": 4},
        exclude=[{NORMALIZATION: "subtraction", DIM: 16}],
    )
    with pytest.raises(ValueError, match=r"study\.exclude leaves out a cell of the primary comparison"):
        grown(make_plan(*study), {})


def test_a_part_of_a_study_without_its_primary_comparison_is_trained_as_it_is(tiny_study: Study) -> None:
    study, base = tiny_study(primary=PRIMARY, until={"primary": "resolved", "max_seeds": 4})
    base["model"]["dim"] = 8
    plan, _ = run(make_plan(study, base, ["model.dim"]), differing(0.0, 0.1))
    assert len(plan.cells) == 2


def test_a_growth_whose_sizes_share_no_seed_is_refused(tiny_study: Study) -> None:
    study = tiny_study(
        primary=PRIMARY | {"quantity": "growth"},
        until={"primary": "resolved", "max_seeds": 4},
        seeds=[0, 1],
        seeds_at_size={"16": [2, 3]},
    )
    with pytest.raises(ValueError, match=r"study\.until needs seeds that all cells of the primary comparison share"):
        grown(make_plan(*study), {})
