"""A study that grows while workers run it: nothing is lost, and nothing is done twice."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from lina_lab.config import TrialConfig
from lina_lab.records.result import TrialResult
from lina_lab.records.runstore import FORMAT, KIND, PHASE, TUNED_FILE
from lina_lab.records.status import CellStatus, Phase, TrialStatus
from lina_lab.study.forecast import known_so_far
from lina_lab.study.grid import make_plan
from lina_lab.study.rounds import grown
from lina_lab.study.store import Store
from lina_lab.study.stored import StoredStudy
from lina_lab.study.versions import newest_version
from lina_lab.util.errors import ChangedError
from tests.study.conftest import RESULT, Lab, store_at, workspace_at

RATES = [0.001, 0.002, 0.004, 0.008]
PRIMARY = {"axis": "normalization", "treatment": "subtraction", "baseline": "division"}
GROWING: dict[str, Any] = {
    "axes": {
        "normalization": {"model.attention.normalization": ["division", "subtraction"]},
        "size": {"model.dim": [8]},
    },
    "tune": {"optimizer.lr": RATES},
    "tuning": {"seeds": [100]},
    "primary": PRIMARY,
    "seeds": [0, 1],
    "until": {"width": 1e-9, "max_seeds": 4},
}
TUNING, COMPARED = 8, 8


def planted(config: TrialConfig) -> TrialResult:
    own = int(config.config_hash()[:4], 16) / 16**4
    loss = 0.5 + log(config.optimizer.lr / 0.0029) ** 2 + 1e-3 * own
    return replace(RESULT, metrics=RESULT.metrics | {"val/loss_ema": loss})


@pytest.fixture
def growing(tiny_study: Any, tmp_path: Path, empty_mlflow: Path) -> Callable[..., Lab]:
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_mlflow, tmp_path / "runs/mlflow.db")
    return lambda **changes: Lab(make_plan(*tiny_study(**(GROWING | changes))), tmp_path / "runs", planted)


def test_a_worker_tunes_compares_and_adds_seeds_and_a_later_command_finds_all_done(growing: Callable[..., Lab]) -> None:
    lab = growing()
    summary = lab.run()
    assert summary.counts == {CellStatus.DONE: TUNING + COMPARED}
    assert (summary.stopped, summary.failures) == ("", {})
    assert set(Counter(lab.trained).values()) == {1}
    assert "8/8  " in lab.lines
    assert "16/16  subtraction 8 seed 3: done" in lab.lines
    assert lab.lines.count("division 8: optimizer.lr 0.00") == 1
    assert "primary comparison with 4 seeds: " in lab.lines
    assert lab.run().counts == {CellStatus.DONE: TUNING + COMPARED}
    assert len(lab.trained) == TUNING + COMPARED


def test_mlflow_has_the_phase_of_each_cell_and_the_chosen_values(growing: Callable[..., Lab], tmp_path: Path) -> None:
    lab = growing()
    lab.run()
    assert Counter(run.data.tags[PHASE] for run in lab.cell_runs()) == {"tuning": TUNING, "comparison": COMPARED}
    client = MlflowClient(f"sqlite:///{lab.runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    (study,) = client.search_runs([experiment.experiment_id], f"tags.`{KIND}` = 'study'")
    assert study.data.tags[FORMAT] == "2"
    tuned = json.loads(Path(client.download_artifacts(study.info.run_id, TUNED_FILE, str(tmp_path))).read_text())
    assert [entry["axes"]["model.attention.normalization"] for entry in tuned] == ["division", "subtraction"]
    assert {(entry["status"], *entry["tried"]) for entry in tuned} == {("ok", *RATES)}
    used = {
        run.data.tags["lina.axis.model.attention.normalization"]: float(run.data.params["optimizer.lr"])
        for run in lab.cell_runs()
        if run.data.tags[PHASE] == "comparison"
    }
    assert used == {entry["axes"]["model.attention.normalization"]: entry["value"] for entry in tuned}


def test_a_study_without_tuning_keeps_the_format_of_before(growing: Callable[..., Lab]) -> None:
    lab = growing(tune={}, until=None)
    lab.run()
    client = MlflowClient(f"sqlite:///{lab.runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    (study,) = client.search_runs([experiment.experiment_id], f"tags.`{KIND}` = 'study'")
    assert study.data.tags[FORMAT] == "1"
    assert {run.data.tags[PHASE] for run in lab.cell_runs()} == {"comparison"}


def finish(store: Store, count: int = 10**6) -> list[str]:
    """Work as a worker does, without training; returns the cells."""
    done: list[str] = []
    while len(done) < count:
        claim = store.claim()
        if claim is None:
            if not store.grow():
                break
            continue
        values = [planted(claim.cell.config).metrics["val/loss_ema"]]
        store.end(claim, CellStatus.DONE, values=values)
        done.append(claim.cell.config_hash)
    return done


def test_two_workers_grow_one_study_together(growing: Callable[..., Lab]) -> None:
    lab = growing()
    one, two = store_at(lab.runs, lab.plan), store_at(lab.runs, lab.plan)
    one.enqueue()
    two.join()
    done: list[str] = []
    while part := finish(one, 1) + finish(two, 1):
        done += part
    assert set(Counter(done).values()) == {1}
    assert len(done) == TUNING + COMPARED
    assert not one.any_open()
    assert not two.any_open()
    assert {cell.config_hash for cell in one.plan.cells} == set(done)


def test_a_worker_that_dies_before_it_queues_what_follows_is_replaced(
    growing: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = growing()
    first, second = store_at(lab.runs, lab.plan), store_at(lab.runs, lab.plan)
    first.enqueue()
    second.join()
    assert len(finish(first, TUNING)) == TUNING
    # It dies while it holds the plan of the comparison, and before the queue has it.
    with monkeypatch.context() as patch:
        patch.setattr("lina_lab.study.store.add_cells", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finish(first)
    assert len(first.states()) == TUNING
    second.join()
    assert second.any_open()
    assert len(finish(second)) == COMPARED


def test_a_worker_without_a_cell_does_not_leave_while_others_still_tune(growing: Callable[..., Lab]) -> None:
    lab = growing()
    one, two = store_at(lab.runs, lab.plan), store_at(lab.runs, lab.plan)
    one.enqueue()
    finish(one, TUNING - 1)
    claim = one.claim()
    assert claim is not None
    assert two.claim() is None
    assert not two.grow()
    assert two.any_open()
    one.end(claim, CellStatus.DONE, values=[planted(claim.cell.config).metrics["val/loss_ema"]])
    assert two.claim() is None
    assert two.grow()
    assert two.claim() is not None


def test_a_command_that_joins_queues_what_follows_and_nothing_of_its_own(growing: Callable[..., Lab]) -> None:
    lab = growing()
    store = store_at(lab.runs, lab.plan)
    store.join()
    assert finish(store) == []
    store.enqueue()
    joined = store_at(lab.runs, lab.plan)
    joined.join()
    assert len(finish(joined)) == TUNING + COMPARED


def test_an_optimum_at_the_edge_ends_the_study_and_a_wider_grid_goes_on(growing: Callable[..., Lab]) -> None:
    lab = growing(tune={"optimizer.lr": RATES[:3]})
    lab.behaviour = lambda config: planted_at(config, 0.0081)
    summary = lab.run()
    assert summary.counts == {CellStatus.DONE: 6}
    assert summary.stopped.startswith("no optimum of optimizer.lr was found: division 8 is best at 0.004, the largest")
    wide = growing(tune={"optimizer.lr": [*RATES, 0.016]})
    wide.behaviour = lab.behaviour
    assert wide.run().counts == {CellStatus.DONE: 10 + COMPARED}
    assert len(wide.trained) == 4 + COMPARED


def planted_at(config: TrialConfig, best: float) -> TrialResult:
    loss = log(config.optimizer.lr / best) ** 2 + int(config.config_hash()[:4], 16) / 16**8
    return replace(RESULT, metrics=RESULT.metrics | {"val/loss_ema": loss})


def test_a_failed_cell_of_tuning_is_retried_by_the_same_command(growing: Callable[..., Lab]) -> None:
    lab = growing()
    broken = grown(lab.plan, {}).cells[2]

    def behaviour(config: TrialConfig) -> TrialResult:
        if config == broken.config:
            raise RuntimeError("planted")
        return planted(config)

    lab.behaviour = behaviour
    summary = lab.run()
    assert summary.counts == {CellStatus.DONE: TUNING - 1, CellStatus.FAILED: 1}
    assert summary.stopped == (
        f"the tuning cell {broken.label} failed, so the comparison cannot start: the same command retries it"
    )
    lab.behaviour = planted
    summary = lab.run()
    assert summary.counts == {CellStatus.DONE: TUNING + COMPARED}
    assert summary.stopped == ""


def test_cancelled_cells_of_tuning_stop_the_study_until_they_are_queued_again(growing: Callable[..., Lab]) -> None:
    lab = growing()
    store = store_at(lab.runs, lab.plan)
    store.enqueue()
    finish(store, 3)
    stored = StoredStudy(lab.plan.study.name, lab.runs, None)
    left = [cell.config_hash for cell in store.plan.cells][3:]
    stored.cancel([cell for cell in stored.cells() if cell.state.config_hash in left])
    summary = lab.run(joins=True)
    assert summary.counts == {CellStatus.DONE: 3, CellStatus.CANCELLED: 5}
    assert "(and 4 more) was cancelled, so the comparison cannot start" in summary.stopped
    assert len(stored.retry(stored.cells())) == len(left)
    assert lab.run(joins=True).counts == {CellStatus.DONE: TUNING + COMPARED}


def test_a_rate_that_diverges_is_as_bad_as_can_be(growing: Callable[..., Lab]) -> None:
    lab = growing()
    diverged = replace(RESULT, status=TrialStatus.DIVERGED, error="the loss is nan")
    lab.behaviour = lambda config: diverged if config.optimizer.lr > 0.007 else planted(config)
    summary = lab.run()
    assert summary.counts == {CellStatus.DIVERGED: 2, CellStatus.DONE: TUNING - 2 + COMPARED}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tune": {"optimizer.lr": [0.001, 0.002, 0.004, 0.008, 0.016]}}, r"tune.optimizer.lr was \[0.001"),
        ({"tuning": {"seeds": [100, 101]}}, r"tuning.seeds was \[100\]"),
    ],
)
def test_another_tuning_after_the_comparison_began_is_refused(
    growing: Callable[..., Lab], changes: dict[str, Any], said: str
) -> None:
    lab = growing()
    lab.run()
    other = growing(**changes)
    with pytest.raises(ChangedError, match=said):
        other.run()
    # A new version tunes anew, and the same command finds it again.
    for open_before in (True, False):
        store = newest_version(workspace_at(lab.runs, other.plan))
        assert store.plan.study.name == "tiny-v2"
        assert {cell.phase for cell in store.plan.cells} == {Phase.TUNING, *([] if open_before else [Phase.COMPARISON])}
        store.enqueue()
        finish(store)
    assert newest_version(workspace_at(lab.runs, lab.plan)).plan.study.name == "tiny"


def sized(sizes: list[int]) -> dict[str, Any]:
    return {"axes": GROWING["axes"] | {"size": {"model.dim": sizes}}}


def test_a_size_that_is_added_moves_no_value_that_was_compared_at(growing: Callable[..., Lab]) -> None:
    """The noise of all variants and sizes is pooled, so without the record each value would move."""
    before = growing(**sized([8]))
    before.behaviour = noisy
    before.run()
    lab = growing(**sized([8, 16]))
    lab.behaviour = noisy
    assert lab.run().counts == {CellStatus.DONE: 2 * TUNING + COMPARED + 4}
    assert not set(lab.trained) & set(before.trained)
    whole, alone = (store_at(lab.runs, one.plan).plan for one in (lab, before))
    values = {one.name: one.value for one in alone.tuned}
    assert {one.name: one.value for one in whole.tuned if one.name in values} == values
    fresh = grown(lab.plan, store_at(lab.runs, lab.plan).states()).tuned
    assert {one.name: one.value for one in fresh if one.name in values} != values
    planned, _ = known_so_far(workspace_at(lab.runs, grown(lab.plan, {})))
    assert planned.plan.digest() == whole.digest()


def test_values_that_another_command_compares_at_meanwhile_are_taken(growing: Callable[..., Lab]) -> None:
    whole = store_at((lab := growing(**sized([8, 16]))).runs, lab.plan)
    whole.enqueue()
    finish(whole, 2 * TUNING - 1)
    part = growing(**sized([8]))
    part.behaviour = noisy
    part.run()
    finish(whole)
    assert {one.value for one in whole.plan.tuned[::2]} == {
        one.value for one in store_at(part.runs, part.plan).plan.tuned
    }
    assert not whole.any_open()


def noisy(config: TrialConfig) -> TrialResult:
    result = planted(config)
    loss = result.metrics["val/loss_ema"] + random.Random(config.config_hash()).gauss(0, 0.1)
    return replace(result, metrics=result.metrics | {"val/loss_ema": loss})


def test_a_grid_may_be_let_grow_further_after_the_comparison_began(growing: Callable[..., Lab]) -> None:
    lab = growing()
    lab.run()
    assert growing(tuning={"seeds": [100], "extend": 2}).run().counts == {CellStatus.DONE: TUNING + COMPARED}


def test_a_study_that_was_not_tuned_is_another_one(growing: Callable[..., Lab]) -> None:
    growing(tune={}, until=None).run()
    with pytest.raises(ChangedError, match=r"optimizer.lr was 0.001 and is None"):
        growing().run()


def test_more_seeds_than_before_go_on_where_the_study_was(growing: Callable[..., Lab]) -> None:
    lab = growing()
    lab.run()
    more = growing(until={"width": 1e-9, "max_seeds": 6})
    assert more.run().counts == {CellStatus.DONE: TUNING + COMPARED + 4}
    assert len(more.trained) == 4


RESOLVED = {"primary": "resolved", "max_seeds": 4}


@pytest.mark.parametrize("changed", [None, {"primary": "resolved", "max_seeds": 6}, {"width": 1e-9, "max_seeds": 4}])
def test_seeds_that_were_added_until_it_is_resolved_keep_their_rule(
    growing: Callable[..., Lab], changed: dict[str, Any] | None
) -> None:
    plain = {"tune": {}, "primary": PRIMARY | {"margin": 1e-9}}
    lab = growing(**plain, until=RESOLVED)
    lab.behaviour = noisy
    lab.run()
    other = growing(**plain, until=changed)
    with pytest.raises(
        ChangedError, match=r"has added seeds under study.until \(max_seeds 4, primary resolved, step 2\)"
    ):
        other.run()
    assert lab.run().counts == {CellStatus.DONE: COMPARED}


def test_a_rule_may_change_before_seeds_were_added(growing: Callable[..., Lab]) -> None:
    plain = {"tune": {}, "primary": PRIMARY}
    growing(**plain, until={"width": 1e9, "max_seeds": 4}).run()
    assert growing(**plain, until=None).run().counts == {CellStatus.DONE: 4}


def test_cells_of_tuning_are_tried_before_any_of_the_comparison(growing: Callable[..., Lab]) -> None:
    lab = growing()
    lab.run()
    phases = {cell.config_hash: cell.phase for cell in store_at(lab.runs, lab.plan).plan.cells}
    assert [phases[cell] for cell in lab.trained] == [Phase.TUNING] * TUNING + [Phase.COMPARISON] * COMPARED
