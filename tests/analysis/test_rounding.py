"""The deviation by rounding beside that of the seeds, on planted numbers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from lina_lab.analysis.load.cells import KEYS
from lina_lab.analysis.load.runs import StudyRuns
from lina_lab.analysis.report.narrative import rounding_sentences
from lina_lab.analysis.report.sections import study_sections
from lina_lab.analysis.report.study_report import analyze_study, study_tables
from lina_lab.analysis.stats.rounding import rounding_deviations

from lina_lab.config import RoundingConfig


def trained_again(runs: StudyRuns, shifts: dict[str, list[float]]) -> StudyRuns:
    """Second trainings whose loss is off by so much for each seed, by the variant's first word."""
    again = runs.cells[[*KEYS, "val/loss_ema"]].copy()
    offsets = [
        shifts[variant.partition(",")[0]][seed] for variant, seed in zip(again["variant"], again["seed"], strict=True)
    ]
    again["val/loss_ema"] += np.array(offsets)
    again["cell"] += " again"
    study = replace(runs.study, rounding=RoundingConfig(threads=2))
    return replace(runs, study=study, again=again)


SHIFTS = {"division": [0.03, -0.03, 0.03], "subtraction": [0.0, 0.001, -0.001]}


def test_rounding_is_half_the_mean_square_of_the_pairs_beside_the_seeds(planted: Any) -> None:
    runs = trained_again(planted(lambda normalization, conv, size, seed: 0.1 * seed), SHIFTS)
    table = rounding_deviations(runs).set_index(["variant", "size"])
    assert len(table) == 8
    for (variant, _), row in table.iterrows():
        shifts = np.array(SHIFTS[variant.partition(",")[0]])
        assert row["pairs"] == 3
        assert row["SD of rounding"] == pytest.approx(np.sqrt((shifts**2).mean() / 2))
        assert row["largest change"] == pytest.approx(np.abs(shifts).max())
        assert row["SD of seeds"] == pytest.approx(0.1)
        assert row["rounding / seeds"] == pytest.approx(row["SD of rounding"] / 0.1)


def test_second_trainings_of_some_seeds_and_a_loss_that_is_missing_are_left_out_of_the_pairs(planted: Any) -> None:
    runs = trained_again(planted(lambda *_: 0.0), SHIFTS)
    some = runs.again[runs.again["seed"] != 1].copy()
    some.loc[some["seed"] == 2, "val/loss_ema"] = np.nan
    table = rounding_deviations(replace(runs, again=some))
    assert set(table["pairs"]) == {1}


def test_the_report_shows_it_with_the_variant_that_rounding_moves_the_most(planted: Any) -> None:
    runs = trained_again(planted(lambda normalization, conv, size, seed: 0.1 * seed), SHIFTS)
    report = analyze_study(runs)
    tables = study_tables(report)
    section = next(one for one in study_sections(report, tables, {}) if one.title.startswith("Rounding"))
    assert [len(table) for table in section.tables] == [8]
    text = " ".join(section.lines)
    assert "with the same seed and threads=2" in text
    assert "rounding alone moves division" in text
    assert "standard deviation of 0.021, 0.10 over seeds" in text


def test_trainings_that_are_equal_and_trainings_that_are_missing_are_said(planted: Any) -> None:
    runs = planted(lambda *_: 0.0)
    equal = trained_again(runs, {name: [0.0, 0.0, 0.0] for name in SHIFTS})
    assert "equal bit for bit" in rounding_sentences(rounding_deviations(equal), {"threads": 2})[-1]
    assert "No cell has been trained a second time" in rounding_sentences(rounding_deviations(runs), {"threads": 2})[0]
    titles = [one.title for one in study_sections(analyze_study(runs), {}, {}) if not one.empty]
    assert not any(title.startswith("Rounding") for title in titles)
