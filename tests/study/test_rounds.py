"""What follows from results: a pure function of the configuration and the cells' states."""

from typing import Any

import pytest

from lina_lab.records.status import CellStatus, Phase
from lina_lab.study.grid import make_plan
from lina_lab.study.rounds import grown, notes, phase
from tests.study.growth import (
    DIM,
    LR,
    NORMALIZATION,
    PRIMARY,
    RATES,
    State,
    Study,
    hashes,
    planted,
    run,
    state_of,
    within_the_grid,
)


def test_a_study_without_tuning_and_stopping_never_grows(tiny_study: Study) -> None:
    plan = make_plan(*tiny_study())
    assert grown(plan, {}) is plan


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


def test_a_failed_cell_of_tuning_stops_the_study_with_a_sentence(tiny_study: Study) -> None:
    plan = grown(make_plan(*tiny_study(tune={LR: RATES})), {})
    states = {cell.config_hash: state_of(planted(cell)) for cell in plan.cells}
    states[plan.cells[3].config_hash] = State(CellStatus.FAILED)
    after = grown(plan, states)
    assert after.stopped == (
        f"the tuning cell {plan.cells[3].label} failed, so the comparison cannot start: the same command retries it"
    )
    assert hashes(after) == hashes(plan)


def test_cells_of_a_comparison_have_the_hash_of_their_configuration_alone(tiny_study: Study) -> None:
    tuned, _ = run(make_plan(*tiny_study(tune={LR: RATES})), within_the_grid)
    study, base = tiny_study()
    base["optimizer"]["lr"] = 0.004
    assert hashes(tuned, Phase.COMPARISON) == hashes(make_plan(study, base))
