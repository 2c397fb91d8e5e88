"""A report counts the cells that were given up, and averages none of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lina_lab.analysis.load.runs import StudyRuns
from lina_lab.analysis.report.pruned import EXPLORATORY, RACED, pruned_sentences

from lina_lab.config import PruningConfig
from lina_lab.records.runstore import CELL, ERROR, STATUS
from tests.analysis.test_cells import Store, store
from tests.analysis.test_compare import subtraction_is_worse
from tests.analysis.test_report import written

__all__ = ["store"]
Planted = Callable[..., StudyRuns]


def with_pruned(runs: StudyRuns, pruning: PruningConfig | None, *, trained: bool) -> StudyRuns:
    """The study in which two seeds of one variant at one size were given up."""
    cells = runs.cells
    lost = (cells["variant"] == "subtraction, depthwise") & (cells["size"] == 16) & (cells["seed"] > 0)
    pruned = cells.loc[lost, ["cell", "variant", "size", "seed"]].assign(trained=trained).reset_index(drop=True)
    rows = pruned[["cell"]].assign(label=[f"one {i}" for i in range(len(pruned))], status="pruned", reason="given up")
    return replace(
        runs,
        study=replace(runs.study, pruning=pruning),
        cells=cells[~lost].reset_index(drop=True),
        excluded=rows[["cell", "label", "status", "reason"]],
        pruned=pruned,
    )


@pytest.mark.parametrize(
    ("rule", "trained", "meaning"), [("median", True, EXPLORATORY), ("racing", False, RACED), (None, True, EXPLORATORY)]
)
def test_the_answer_begins_with_what_was_given_up(
    planted: Planted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rule: Any,
    trained: bool,
    meaning: str,
) -> None:
    options = {"block": 2} if rule == "racing" else {}
    pruning = None if rule is None else PruningConfig(rule=rule, options=options)
    _, text = written(with_pruned(planted(subtraction_is_worse), pruning, trained=trained), tmp_path, monkeypatch)
    by = "a rule that the study no longer has" if rule is None else f"study.pruning.rule={rule}"
    assert (
        f"Pruned: 2 cells by {by}, which no average counts: “subtraction, depthwise” at size 16 lacks 2 and has 1 seed."
    ) in text
    assert meaning in text
    assert "one 0 (subtractiondepthwise161) and 1 more: pruned, given up." in text
    assert text.count(": pruned, given up.") == 1  # those of one reason together
    assert text.index("Pruned: ") < text.index("Exploratory: ")


def test_a_study_without_pruned_cells_says_nothing_of_them(planted: Planted) -> None:
    assert pruned_sentences(planted(subtraction_is_worse)) == []


def test_a_pruned_run_is_read_as_one_and_counts_nowhere(store: Store) -> None:
    run, other = store.runs()[:2]
    for each, seconds in ((run, 3.0), (other, 0.0)):
        store.client.set_tag(each.info.run_id, STATUS, "pruned")
        store.client.set_tag(each.info.run_id, ERROR, "given up")
        store.client.log_metric(each.info.run_id, "fit_seconds", seconds)
    runs = store.read()
    trained = dict(zip(runs.pruned["cell"], runs.pruned["trained"], strict=True))
    assert trained == {run.data.tags[CELL]: True, other.data.tags[CELL]: False}
    assert set(runs.excluded["cell"]) == set(trained)
    assert not set(trained) & set(runs.cells["cell"])
    assert runs.diverged.empty
