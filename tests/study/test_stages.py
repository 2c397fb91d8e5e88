"""Cells that start from other cells of the study: which, in what order, and what happens when a source fails."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from lina_lab.config import CommandConfig, StudyConfig, TrialConfig, from_dict, to_dict
from lina_lab.records.status import CellStatus, Phase, TrialStatus
from lina_lab.study.cost import training_flops
from lina_lab.study.forecast import to_follow
from lina_lab.study.grid import Begun, Cell, Plan, make_plan
from lina_lab.study.lineage import critical_flops, own_flops, total_flops
from lina_lab.study.preflight import problems
from lina_lab.study.rounds import grown
from tests.study.conftest import RESULT, Lab, store_at

WAYS: dict[str, Any] = {
    "question": "Does a start help?",
    "axes": {
        "way": {
            "model.latent_size": [[4, 4], [8, 8], [8, 8], [8, 8]],
            "trainer.max_images": [64, 128, 128, 16],
            "start.gates": ["interpolate", "interpolate", "restart", "interpolate"],
        },
        "size": {"model.dim": [8, 16]},
    },
    "labels": {"way": ["small", "interpolated", "restarted", "scratch"]},
    "size_axis": "size",
    "seeds": [0, 1],
    "stages": {
        "axis": "way",
        "starts": {"interpolated": "small", "restarted": "small"},
        "not_compared": ["small"],
        "same_flops": {"scratch": "interpolated"},
    },
}


@pytest.fixture
def base(tiny: Any) -> dict[str, Any]:
    return to_dict(tiny(data={"name": "shapes"}, model={"latent_channels": 3, "num_classes": None}))


def plan_of(base: dict[str, Any], **changes: Any) -> Plan:
    return make_plan(from_dict(StudyConfig, {**WAYS, "name": "tiny", **changes}), base)


def cell_of(plan: Plan, way: str, dim: int = 8, seed: int = 0) -> Cell:
    (found,) = (cell for cell in plan.cells if cell.label == f"{way} {dim} seed {seed}")
    return found


def test_a_cell_starts_from_the_cell_of_its_seed_and_size_at_the_stage_that_is_named(base: dict[str, Any]) -> None:
    plan = plan_of(base)
    assert len(plan.cells) == 16
    for cell in plan.cells:
        way = cell.label.split()[0]
        if way in ("small", "scratch"):
            assert not cell.config.start.given
            continue
        source = next(other for other in plan.cells if other.config_hash == cell.config.start.cell)
        assert source.label == cell.label.replace(way, "small")
        assert (source.config.seed, source.config.model.dim) == (cell.config.seed, cell.config.model.dim)
    assert {cell.label.split()[0] for cell in plan.cells if cell.phase is Phase.SOURCE} == {"small"}


def test_cells_of_other_seeds_and_ways_to_start_are_other_cells(base: dict[str, Any]) -> None:
    plan = plan_of(base)
    assert len({cell.config_hash for cell in plan.cells}) == len(plan.cells)
    one, other = cell_of(plan, "interpolated"), cell_of(plan, "restarted")
    assert replace(one.config.start, gates="restart") == other.config.start


def test_the_identity_of_a_cell_follows_what_it_starts_from(base: dict[str, Any]) -> None:
    before, after = plan_of(base), plan_of({**base, "optimizer": {**base["optimizer"], "lr": 5e-4}})
    assert cell_of(before, "interpolated").config.start.cell != cell_of(after, "interpolated").config.start.cell


def test_what_starts_from_drawn_weights_keeps_the_hash_of_a_trial_without_a_start(base: dict[str, Any]) -> None:
    alone = make_plan(
        from_dict(
            StudyConfig,
            {
                **WAYS,
                "name": "tiny",
                "stages": None,
                "labels": {},
                "axes": {
                    "way": {"model.latent_size": [[4, 4]], "trainer.max_images": [64]},
                    "size": WAYS["axes"]["size"],
                },
            },
        ),
        base,
    )
    assert {cell.config_hash for cell in alone.cells} <= {cell.config_hash for cell in plan_of(base).cells}


def test_the_budget_from_scratch_is_that_of_the_stages_together(base: dict[str, Any]) -> None:
    plan = plan_of(base)
    for dim in (8, 16):
        staged, scratch = cell_of(plan, "interpolated", dim), cell_of(plan, "scratch", dim)
        small = cell_of(plan, "small", dim)
        assert total_flops(staged) == training_flops(small.config) + training_flops(staged.config)
        image = training_flops(scratch.config) / scratch.config.images_seen
        # Whole images, then whole batches.
        assert abs(scratch.config.trainer.max_images * image - total_flops(staged)) <= image / 2
        assert scratch.config.trainer.max_images > 128


def test_a_cell_that_goes_on_counts_only_what_it_trains_itself(base: dict[str, Any]) -> None:
    axes = {
        "budget": {"trainer.max_images": [64, 128], "start.state": ["training", "training"]},
        "size": WAYS["axes"]["size"],
    }
    stages = {"axis": "budget", "starts": {"long": "short"}}
    plan = plan_of(base, axes=axes, labels={"budget": ["short", "long"]}, stages=stages)
    short, long = cell_of(plan, "short"), cell_of(plan, "long")
    assert long.images_before == 64
    assert own_flops(long) == own_flops(short) == training_flops(short.config)
    assert total_flops(long) == training_flops(long.config)
    assert not short.config.start.given


def test_a_source_that_the_grid_leaves_out_is_trained_all_the_same(base: dict[str, Any]) -> None:
    plan = plan_of(base, exclude=[{"trainer.max_images": 64}])
    assert len(plan.cells) == 16
    order = [cell.config_hash for cell in plan.cells]
    for cell in plan.cells:
        if cell.config.start.cell is not None:
            assert order.index(cell.config.start.cell) < order.index(cell.config_hash)


def test_the_cells_of_a_study_that_was_begun_with_other_places_know_their_sources_there(base: dict[str, Any]) -> None:
    plan = plan_of(base)
    begun = plan.as_begun(Begun(places={"data.workers": 7}))
    assert not {cell.config_hash for cell in plan.cells} & {cell.config_hash for cell in begun.cells}
    sources = {cell.config_hash for cell in begun.cells if cell.phase is Phase.SOURCE}
    assert {cell.config.start.cell for cell in begun.cells if cell.config.start.given} == sources
    assert [c.config_hash for c in make_again(begun).cells] == [c.config_hash for c in begun.cells]


def make_again(plan: Plan) -> Plan:
    cells = tuple(plan.cell(cell.axes, cell.config.seed, {}) for cell in plan.cells)
    return replace(plan, cells=cells)


def test_seeds_that_are_added_bring_their_sources(base: dict[str, Any]) -> None:
    primary = {"axis": "way", "treatment": "restarted", "baseline": "interpolated"}
    plan = plan_of(base, primary=primary, until={"primary": "resolved", "max_seeds": 4})
    states = {cell.config_hash: State(CellStatus.DONE, [0.5 + 0.1 * i]) for i, cell in enumerate(plan.cells)}
    more = grown(plan, states)  # type: ignore[arg-type]
    added = [cell for cell in more.cells if cell.config_hash not in states]
    ways = ("small", "interpolated", "restarted")
    assert {cell.label for cell in added} == {f"{way} 16 seed {seed}" for way in ways for seed in (2, 3)}


class State:
    def __init__(self, status: CellStatus, values: list[float] | None) -> None:
        self.status, self.values = status, values


def test_sources_come_first_by_the_costliest_chain(base: dict[str, Any]) -> None:
    plan = plan_of(base)
    flops = critical_flops(plan.cells)
    small, staged = cell_of(plan, "small", 16), cell_of(plan, "interpolated", 16)
    assert flops[small.config_hash] == own_flops(small) + own_flops(staged) > flops[staged.config_hash]


def staged_lab(lab: Lab, base: dict[str, Any], **changes: Any) -> Lab:
    lab.plan = plan_of(base, seeds=[0], **changes)
    return lab


def test_no_cell_is_trained_before_its_source(lab: Lab, base: dict[str, Any]) -> None:
    staged_lab(lab, base)
    # As a queue has them that was filled in another order.
    lab.plan = replace(lab.plan, cells=lab.plan.cells[::-1])
    assert lab.run().counts == {"done": 8}
    for cell in lab.plan.cells:
        if (source := cell.config.start.cell) is not None:
            assert lab.trained.index(source) < lab.trained.index(cell.config_hash)


def small_fails(config: TrialConfig) -> Any:
    if config.model.latent_size == (4, 4) and config.model.dim == 8:
        raise RuntimeError("out of luck")
    return RESULT


def test_what_starts_from_a_cell_that_failed_is_refused_with_a_sentence_and_tried_again_with_it(
    lab: Lab, base: dict[str, Any]
) -> None:
    staged_lab(lab, base).behaviour = small_fails
    summary = lab.run()
    assert summary.counts == {"done": 5, "failed": 3}
    sentences = [error for label, error in summary.failures.items() if not label.startswith("small")]
    assert sentences == ["it starts from small 8 seed 0, which failed"] * 2
    assert "interpolated 8 seed 0: it starts from small 8 seed 0, which failed" in lab.lines
    lab.behaviour = lambda config: RESULT
    assert lab.run().counts == {"done": 8}


@pytest.mark.parametrize(("status", "word"), [(TrialStatus.DIVERGED, "diverged"), (TrialStatus.CANCELLED, "cancelled")])
def test_nothing_starts_from_a_cell_that_ended_without_weights(
    status: TrialStatus, word: str, lab: Lab, base: dict[str, Any]
) -> None:
    def behaviour(config: TrialConfig) -> Any:
        return replace(RESULT, status=status, error=word) if config.model.latent_size == (4, 4) else RESULT

    staged_lab(lab, base).behaviour = behaviour
    summary = lab.run()
    assert summary.counts == {word: 2, "done": 2, "failed": 4}
    assert all(word in error for error in summary.failures.values())


def test_a_chain_goes_on_where_it_was_killed(lab: Lab, base: dict[str, Any]) -> None:
    def stops(config: TrialConfig) -> Any:
        if config.start.given:
            raise KeyboardInterrupt
        return RESULT

    staged_lab(lab, base).behaviour = stops
    with pytest.raises(KeyboardInterrupt):
        lab.run()
    done = len(lab.trained)
    lab.behaviour = lambda config: RESULT
    assert lab.run().counts == {"done": 8}
    again = [name for name in lab.trained[done:] if name in lab.trained[: done - 1]]
    assert again == []


def test_two_workers_wait_for_a_source_in_the_other_s_hands(lab: Lab, base: dict[str, Any]) -> None:
    staged_lab(lab, base)
    one, other = store_at(lab.runs, lab.plan), store_at(lab.runs, lab.plan)
    one.enqueue()
    first = one.claim()
    assert first is not None
    while (claim := other.claim()) is not None:
        assert claim.cell.config.start.cell != first.cell.config_hash
        other.end(claim, CellStatus.DONE, values=[0.5])
    assert other.any_open()
    one.end(first, CellStatus.DONE, values=[0.5])
    left = 0
    while (claim := other.claim()) is not None:
        left += 1
        other.end(claim, CellStatus.DONE, values=[0.5])
    assert left == 2
    assert not other.any_open()


BAD = [
    ({"stages": {"axis": "size", "starts": {"8": "16"}}}, "stages.axis=size is not an axis that makes variants"),
    ({"stages": {"axis": "way", "starts": {"scratch": "smal"}}}, "way has no value smal; it has small, interpolated"),
    (
        {"stages": {"axis": "way", "starts": {"small": "scratch", "scratch": "small"}}},
        "small from scratch from small is a circle",
    ),
    (
        {"stages": {"axis": "way", "starts": {"scratch": "small"}, "not_compared": ["restarted"]}},
        "no point starts from restarted",
    ),
    (
        {"stages": {"axis": "way", "starts": {"scratch": "small"}, "same_flops": {"scratch": "restarted"}}},
        "scratch starts from drawn weights",
    ),
    ({"tune": {"optimizer.lr": [1e-3, 2e-3, 4e-3]}, "tuning": {"seeds": [7]}}, "stages and tune do not go together"),
    (
        {"primary": {"axis": "way", "treatment": "scratch", "baseline": "small"}},
        "not_compared: small is in the primary comparison",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_stages_that_cannot_be_are_refused_with_a_sentence(
    changes: dict[str, Any], sentence: str, base: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=sentence):
        plan_of(base, **changes)


def test_the_queue_says_what_a_cell_waits_for(lab: Lab, base: dict[str, Any], tmp_path: Path) -> None:
    staged_lab(lab, base)
    store_at(lab.runs, lab.plan).enqueue()
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{lab.runs / 'optuna.db'}")
    waiting = {trial.user_attrs["cell"]: trial.user_attrs.get("starts_from") for trial in study.get_trials()}
    assert waiting == {cell.config_hash: cell.config.start.cell for cell in lab.plan.cells}


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"model.latent_channels": [3, 1, 1, 1]}, "cannot start from small 8: weights of the source do not fit the model"),
    ({"start.state": ["weights", "training", "weights", "weights"]}, "goes on with the same trial, and this one"),
    (
        {"start.state": ["weights", "optimizer", "weights", "weights"], "optimizer.name": ["adamw", *3 * ["muon"]]},
        "start.state=optimizer needs the source's optimizer.name=adamw",
    ),
]


@pytest.mark.parametrize(("fields", "sentence"), MISFITS, ids=[sentence for _, sentence in MISFITS])
def test_a_source_that_does_not_fit_is_refused_before_anything_is_trained(
    fields: dict[str, list[Any]], sentence: str, base: dict[str, Any]
) -> None:
    if "model.latent_channels" in fields:
        base = {**base, "data": {**base["data"], "name": "latents", "path": "nowhere"}}
    plan = plan_of(base, axes={**WAYS["axes"], "way": {**WAYS["axes"]["way"], **fields}}, seeds=[0])
    found = [problem for problem in problems(plan, CommandConfig()) if "nowhere" not in problem]
    assert any(sentence in problem for problem in found)


def test_the_stages_of_a_sound_study_have_no_problem(base: dict[str, Any]) -> None:
    assert list(problems(plan_of(base), CommandConfig())) == []


def test_a_plan_counts_the_sources_of_the_seeds_that_may_follow(base: dict[str, Any]) -> None:
    primary = {"axis": "way", "treatment": "restarted", "baseline": "interpolated"}
    plan = plan_of(base, primary=primary, until={"primary": "resolved", "max_seeds": 5})
    text = to_follow(plan, None)
    # Both ways and their common source, three seeds more.
    assert "at most 9 cells more" in text
    assert f"In all at most {16 + 9} cells" in text
