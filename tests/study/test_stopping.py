"""Seeds are added to the primary comparison until it is answered."""

import json
import random
import re
from math import log
from typing import Any

import pytest

from lina_lab.decisions.contrast import contrast
from lina_lab.decisions.sequential import looks, sequential_interval
from lina_lab.records.status import CellStatus, Phase
from lina_lab.study.grid import Cell, make_plan
from lina_lab.study.rounds import grown
from tests.study.growth import (
    AXES,
    DIM,
    LR,
    NORMALIZATION,
    PRIMARY,
    RATES,
    Loss,
    State,
    Study,
    hashes,
    run,
    seeds,
    state_of,
    within_the_grid,
)


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
    plan, _ = run(
        make_plan(*study), lambda cell: within_the_grid(cell) + random.Random(cell.config_hash).gauss(0, 1e-3)
    )
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
    differences = contrast(plan.study.primary_terms(), losses).values
    assert len(differences) == 5
    at_chosen = sequential_interval(list(differences.values()), looks(3, 5, 2))
    regrets = {one.point[NORMALIZATION]: one.regret for one in plan.tuned if one.point[DIM] == 16}
    assert min(regrets.values()) > 0
    assert plan.look.interval.value == at_chosen.value
    assert plan.look.interval.low == pytest.approx(at_chosen.low - regrets["subtraction"])
    assert plan.look.interval.high == pytest.approx(at_chosen.high + regrets["division"])


def test_growth_adds_seeds_at_both_sizes(tiny_study: Study) -> None:
    study = tiny_study(
        primary=PRIMARY | {"quantity": "growth"}, until={"primary": "resolved", "max_seeds": 4}, seeds=[0, 1]
    )
    plan, _ = run(make_plan(*study), differing(0.0, 0.1))
    assert {len(seeds(plan, normalization=n, dim=d)) for n in ("division", "subtraction") for d in (8, 16)} == {4}


TASKS = {"task": {"model.task": ["generation", "classification"]}}
ACROSS = {"axis": "task", "treatment": "classification", "baseline": "generation"}
INTERACTION = PRIMARY | {"quantity": "interaction", "across": ACROSS, "scale": "log"}


def test_an_interaction_adds_seeds_to_its_four_cells_and_judges_ratios(tiny_study: Study) -> None:
    """Subtraction has 1.2 times the loss in classification and 0.9 times in generation."""

    def loss(cell: Cell) -> float:
        task = cell.axes["model.task"]
        ratio = {"classification": 1.2, "generation": 0.9}[task] if cell.axes[NORMALIZATION] == "subtraction" else 1.0
        unit = {"classification": 40.0, "generation": 0.3}[task]
        return unit * ratio * random.Random(cell.config_hash).lognormvariate(0.0, 0.1)

    until = {"primary": "resolved", "max_seeds": 12}
    plan, _ = run(make_plan(*tiny_study(axes=AXES | TASKS, primary=INTERACTION, until=until, seeds=[0, 1])), loss)
    assert plan.look is not None
    assert plan.look.outcome == "higher"
    assert plan.look.interval.value == pytest.approx(log(1.2 / 0.9), abs=0.15)
    trained: dict[tuple[str, str, int], int] = {}
    for cell in plan.cells:
        key = (cell.axes[NORMALIZATION], cell.axes["model.task"], cell.axes[DIM])
        trained[key] = trained.get(key, 0) + 1
    assert plan.look.trained > 2
    assert {count for (*_, dim), count in trained.items() if dim == 16} == {plan.look.trained}
    assert {count for (*_, dim), count in trained.items() if dim == 8} == {2}


def test_an_interaction_is_at_the_best_rates_of_all_four(tiny_study: Study) -> None:
    def loss(cell: Cell) -> float:
        unit = 40.0 if cell.axes["model.task"] == "classification" else 0.3
        noise = random.Random(cell.config_hash).gauss(0, 0.01)
        return unit * (1 + 0.1 * log(cell.tuned[LR] / 0.004) ** 2 + noise)

    study = tiny_study(
        axes=AXES | TASKS,
        tune={LR: RATES},
        tuning={"seeds": [100, 101, 102]},
        primary=INTERACTION,
        until={"width": 1e-9, "max_seeds": 5},
        seeds=[0, 1, 2],
    )
    plan, states = run(make_plan(*study), loss)
    assert plan.look is not None
    compared = [cell for cell in plan.cells if cell.phase is Phase.COMPARISON]
    losses = [(cell.axes, cell.config.seed, (states[cell.config_hash].values or [])[0]) for cell in compared]
    found = contrast(plan.study.primary_terms(), losses)
    at_chosen = sequential_interval(list(found.values.values()), looks(3, 5, 2))
    regrets = {
        (one.point[NORMALIZATION], one.point["model.task"]): one.regret for one in plan.tuned if one.point[DIM] == 16
    }
    # As shares of the losses, the regrets of both tasks are alike; as losses, they are not.
    shares = {key: regret / (40.0 if key[1] == "classification" else 0.3) for key, regret in regrets.items()}
    assert max(shares.values()) < 10 * min(shares.values())
    below = at_chosen.low - plan.look.interval.low
    assert below == pytest.approx(shares["subtraction", "classification"] + shares["division", "generation"], rel=0.1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"across": None}, "quantity=interaction and across go together"),
        ({"quantity": "difference"}, "quantity=interaction and across go together"),
        ({"scale": "linear"}, "primary.across varies model.task, whose losses are of different kinds: it needs"),
        ({"across": ACROSS | {"axis": "size"}}, "primary.across.axis=size is not another axis that makes variants"),
        ({"across": ACROSS | {"axis": "normalization"}}, "primary.across.axis=normalization is not another axis"),
        ({"across": ACROSS | {"treatment": "video"}}, "primary: task has no value video; it has generation, class"),
        ({"across": ACROSS | {"treatment": "generation"}}, "treatment and baseline are both generation"),
        ({"at": {"task": "generation"}}, "primary.at: task is not another axis that makes variants"),
        (
            {"axis": "task", "treatment": "classification", "baseline": "generation", "across": None}
            | {"quantity": "difference", "at": {"normalization": "division"}},
            "primary.axis=task varies model.task, whose losses are of different kinds: compare another axis",
        ),
    ],
)
def test_an_interaction_that_says_nothing_is_refused(tiny_study: Study, changes: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        tiny_study(axes=AXES | TASKS, primary=INTERACTION | changes)


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
