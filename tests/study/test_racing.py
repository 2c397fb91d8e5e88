"""A study that races its variants over seeds."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from lina_lab.config import StudyConfig, from_dict, to_dict
from lina_lab.records.status import CellStatus, Phase
from lina_lab.study.compared import COMPARED_FILE
from lina_lab.study.contest import contest, peers
from lina_lab.study.forecast import to_follow
from lina_lab.study.grid import Cell, make_plan
from lina_lab.study.pruning import can_be_pruned
from lina_lab.study.rounds import grown, notes
from lina_lab.util.errors import ChangedError
from tests.study.conftest import RESULT, Lab, store_at
from tests.study.growth import DIM, LR, RATES, State, Study, hashes, run, within_the_grid
from tests.study.test_stages import WAYS

CONV = "model.attention.conv_kernel"
AXES = {"kernel": {CONV: [3, 5, 7]}, "size": {DIM: [8, 16]}}
RACING = {"rule": "racing", "options": {"block": 3}}
SEEDS = list(range(8))


def racing(tiny_study: Study, **changes: Any) -> Any:
    return tiny_study(**{"axes": AXES, "seeds": SEEDS, "pruning": RACING, **changes})


def loss(cell: Cell) -> float:
    """Kernel 7 is bad at size 16; the others are alike."""
    bad = cell.axes.get(CONV) == 7 and cell.axes[DIM] == 16
    return 0.5 + bad + random.Random(json.dumps([cell.axes, cell.config.seed])).gauss(0, 0.01)


def trained(plan: Any, **axes: int) -> list[int]:
    """Seeds at a point that are not given up."""
    at = {CONV: axes["kernel"], DIM: axes["dim"]}
    compared = [cell for cell in plan.cells if cell.axes == at and cell.phase is Phase.COMPARISON]
    return [cell.config.seed for cell in compared if cell.config_hash not in plan.raced.reasons]


def test_all_variants_train_a_block_before_they_are_judged(tiny_study: Study) -> None:
    plan = grown(make_plan(*racing(tiny_study)), {})
    assert len(plan.cells) == 3 * 2 * 3
    assert {cell.config.seed for cell in plan.cells} == {0, 1, 2}
    assert plan.raced is not None
    assert not plan.raced.begun


def test_a_bad_variant_is_trained_no_further_at_the_size_where_it_is_bad(tiny_study: Study) -> None:
    plan, _ = run(make_plan(*racing(tiny_study)), loss, at_once=4)
    assert trained(plan, kernel=7, dim=16) == [0, 1, 2]
    assert trained(plan, kernel=7, dim=8) == SEEDS
    assert trained(plan, kernel=3, dim=16) == SEEDS
    assert plan.raced is not None
    assert len(plan.cells) == 48
    assert len(plan.raced.reasons) == 5
    (line,) = notes(plan)
    assert line.startswith("7 16 left the race after 3 seeds: +")


def test_the_same_results_give_the_same_cells_whatever_the_order(tiny_study: Study) -> None:
    study = racing(tiny_study)
    one, states = run(make_plan(*study), loss, order=1, at_once=2)
    two, _ = run(make_plan(*study), loss, order=2, at_once=7)
    late = grown(make_plan(*study), dict(reversed(states.items())))
    assert hashes(one) == hashes(two) == hashes(late)
    assert one.raced == two.raced == late.raced


def test_pruned_cells_in_the_store_change_no_decision(tiny_study: Study) -> None:
    study = racing(tiny_study)
    plan, states = run(make_plan(*study), loss)
    assert plan.raced is not None
    pruned = {name: State(CellStatus.PRUNED) for name in plan.raced.reasons}
    assert grown(make_plan(*study), states | pruned).raced == plan.raced


@pytest.mark.parametrize("status", [CellStatus.FAILED, CellStatus.CANCELLED])
def test_a_race_waits_for_a_cell_that_failed_or_was_cancelled(tiny_study: Study, status: CellStatus) -> None:
    plan = grown(make_plan(*racing(tiny_study)), {})
    states = {cell.config_hash: State(CellStatus.DONE, [loss(cell)]) for cell in plan.cells}
    waiting = next(cell for cell in plan.cells if cell.axes[DIM] == 16)
    after = grown(plan, states | {waiting.config_hash: State(status)})
    assert {c.config.seed for c in after.cells if c.axes[DIM] == 16} == {0, 1, 2}
    assert len({c.config.seed for c in after.cells if c.axes[DIM] == 8}) > 3


def test_the_primary_comparison_is_never_given_up_and_until_adds_its_seeds(tiny_study: Study) -> None:
    primary = {"axis": "kernel", "treatment": "7", "baseline": "3"}
    plan, _ = run(make_plan(*racing(tiny_study, primary=primary)), loss)
    assert trained(plan, kernel=7, dim=16) == SEEDS
    until = {"width": 1e-9, "max_seeds": 10}
    plan, _ = run(make_plan(*racing(tiny_study, primary=primary, until=until)), loss)
    assert trained(plan, kernel=7, dim=16) == [*SEEDS, 8, 9]
    assert plan.look is not None
    assert plan.look.enough


def test_variants_are_raced_at_their_tuned_values(tiny_study: Study) -> None:
    def tuned(cell: Cell) -> float:
        noise = random.Random(cell.config_hash).gauss(0, 0.003)
        return loss(cell) if cell.phase is Phase.COMPARISON else within_the_grid(cell) + noise

    study = racing(tiny_study, tune={LR: RATES}, tuning={"seeds": [100, 101, 102]})
    plan, _ = run(make_plan(*study), tuned, at_once=9)
    assert trained(plan, kernel=7, dim=16) == [0, 1, 2]
    assert all(cell.phase is Phase.COMPARISON for cell in plan.cells if cell.config_hash in plan.raced.reasons)  # type: ignore[union-attr]


def test_one_seed_or_a_part_of_the_variants_on_the_command_line_is_trained_as_it_is(tiny_study: Study) -> None:
    study, base = racing(tiny_study)
    assert len(grown(make_plan(study, base | {"seed": 3}, ["seed"]), {}).cells) == 6
    base["model"]["dim"] = 8
    part = grown(make_plan(study, base, [DIM]), {})
    assert len(part.cells) == 3 * 8
    assert part.raced is None


def test_a_plan_says_what_waits_for_a_look(tiny_study: Study) -> None:
    plan = grown(make_plan(*racing(tiny_study)), {})
    lines = to_follow(plan, None).splitlines()
    assert lines[0] == "Racing: 30 cells wait for the looks at those before them, and may be given up."
    assert lines[1].startswith("In all at most 48 cells, ")


def raced_lab(lab: Lab, tiny_study: Study, **changes: Any) -> Lab:
    lab.plan = grown(make_plan(*racing(tiny_study, axes={**AXES, "size": {DIM: [16]}}, **changes)), {})

    def behaviour(config: Any) -> Any:
        bad = config.model.attention.conv_kernel == 7
        value = 0.5 + bad + random.Random(config.config_hash()).gauss(0, 0.01)
        return replace(RESULT, metrics={**RESULT.metrics, "val/loss_ema": value})

    lab.behaviour = behaviour
    return lab


def test_given_up_cells_are_recorded_and_never_trained(lab: Lab, tiny_study: Study) -> None:
    raced_lab(lab, tiny_study)
    assert lab.run().counts == {"done": 19, "pruned": 5}
    assert len(lab.trained) == 19
    store = store_at(lab.runs, lab.plan)
    pruned = {h: s for h, s in store.states().items() if s.status is CellStatus.PRUNED}
    assert all(
        str(state.error).startswith("never trained: 7 16 left the race after 3 seeds: ") for state in pruned.values()
    )
    runs = [run for run in lab.cell_runs() if run.data.tags["lina.status"] == "pruned"]
    assert len(runs) == 5
    assert {run.info.status for run in runs} == {"KILLED"}
    assert lab.run().counts == {"done": 19, "pruned": 5}
    assert len(lab.trained) == 19


def test_a_race_goes_on_after_a_kill_as_if_nothing_had_happened(lab: Lab, tiny_study: Study) -> None:
    raced_lab(lab, tiny_study)
    behaviour = lab.behaviour

    def stopped(config: Any) -> Any:
        if len(lab.trained) in (4, 11, 15):
            raise KeyboardInterrupt
        return behaviour(config)

    lab.behaviour = stopped
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            lab.run()
    assert lab.run().counts == {"done": 19, "pruned": 5}
    assert len(set(lab.trained)) == 19


@pytest.mark.parametrize(
    "changes",
    [{"seeds": list(range(10))}, {"pruning": {"rule": "racing", "options": {"level": 0.2}}}, {"pruning": None}],
)
def test_the_rule_stays_once_variants_were_judged(lab: Lab, tiny_study: Study, changes: dict[str, Any]) -> None:
    raced_lab(lab, tiny_study)
    lab.run()
    assert json.loads((lab.runs / "tiny" / COMPARED_FILE).read_text())["racing"]["block"] == 3
    raced_lab(lab, tiny_study, **changes)
    with pytest.raises(ChangedError, match=r"has judged variants by racing, .* or make this one a new version"):
        lab.run()


@pytest.fixture
def staged(tiny: Any) -> Any:
    """Makes a plan whose ways `interpolated` and `restarted` start from cells that are trained for them alone."""
    base = to_dict(tiny(data={"name": "shapes"}, model={"latent_channels": 3, "num_classes": None}))

    def make(**changes: Any) -> Any:
        return make_plan(from_dict(StudyConfig, {**WAYS, "name": "tiny", "seeds": SEEDS, **changes}), base)

    return make


def test_what_a_variant_would_have_started_from_is_not_trained_for_seeds_that_it_gives_up(
    lab: Lab, staged: Any
) -> None:
    def behaviour(config: Any) -> Any:
        bad = config.start.given and config.model.dim == 8
        value = 0.5 + bad + random.Random(config.config_hash()).gauss(0, 0.01)
        return replace(RESULT, metrics={**RESULT.metrics, "val/loss_ema": value})

    lab.plan, lab.behaviour = grown(staged(pruning=RACING), {}), behaviour
    counts = lab.run().counts
    assert counts == {"done": 8 * 8 - 5 * 3, "pruned": 2 * 5}
    states = store_at(lab.runs, lab.plan).states()
    small = [cell for cell in staged().cells if cell.phase is Phase.SOURCE]
    trained = {cell.label for cell in small if cell.config_hash in states}
    assert trained == {f"small 16 seed {seed}" for seed in SEEDS} | {f"small 8 seed {seed}" for seed in (0, 1, 2)}


def test_a_cell_that_others_start_from_is_never_given_up(staged: Any) -> None:
    stages = {
        "axis": "way",
        "starts": {"restarted": "interpolated", "interpolated": "small"},
        "not_compared": ["small"],
        "same_flops": {"scratch": "interpolated"},
    }
    make = staged(pruning=RACING, stages=stages)

    def bad(cell: Cell) -> float:
        label = cell.label.split()[0]
        return {"interpolated": 3.0, "restarted": 2.0}.get(label, 0.5) + random.Random(cell.config_hash).gauss(0, 0.01)

    plan, _ = run(make, bad, at_once=5)
    assert plan.raced is not None
    assert {cell.label.split()[0] for cell in plan.raced.given_up} == {"restarted"}
    assert not can_be_pruned(next(c for c in plan.cells if c.label.startswith("interpolated")), plan)
    assert can_be_pruned(next(c for c in plan.cells if c.label.startswith("restarted")), plan)


def test_cells_at_different_stages_do_not_train_alike_and_those_of_other_images_do_not_compare(staged: Any) -> None:
    plan = staged()
    one = {cell.label.split()[0]: cell for cell in plan.cells if cell.config.seed == 0 and cell.axes[DIM] == 8}
    assert contest(plan, one["interpolated"]) == contest(plan, one["scratch"])
    assert peers(plan, one["interpolated"]) != peers(plan, one["scratch"])
    assert contest(plan, one["small"]) != contest(plan, one["scratch"])
