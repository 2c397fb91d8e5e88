"""Loss and image quality against the length of the averaged weights, on planted numbers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from lina_lab.analysis.load.runs import StudyRuns
from lina_lab.analysis.report.ema_report import lengths_figure, lengths_sentences, lengths_table
from lina_lab.analysis.report.sections import study_sections
from lina_lab.analysis.report.study_report import analyze_study, study_figures, study_tables
from lina_lab.analysis.stats.ema_lengths import POINT, best_lengths, chosen_on_others, length_curves, length_values
from matplotlib.figure import Figure
from scipy import stats

from lina_lab.config.ema import at_length, length_of

LENGTHS = (0.04, 0.05, 0.07, 0.1, 0.13)
BEST = {"division": 0.07, "subtraction": 0.1}


def with_lengths(
    runs: StudyRuns, own: float = 0.002, lengths: tuple[float, ...] = LENGTHS, fid: bool = True
) -> StudyRuns:
    """The runs with a loss, and a distance, that are lowest at the BEST length of a variant's first word."""
    rng, cells = np.random.default_rng(0), runs.cells.copy()
    first = cells["variant"].str.partition(",")[0]
    for length in lengths:
        over = np.log(length / first.map(BEST).to_numpy(float)) ** 2
        cells[at_length("val/loss", length)] = (
            cells["val/loss_ema"] - 0.05 + 0.1 * over + own * rng.normal(size=len(cells))
        )
        if fid:
            cells["eval/fid_pixels"] = 10.0
            cells[at_length("eval/fid_pixels", length)] = 9 + over + 0.01 * rng.normal(size=len(cells))
    return replace(runs, cells=cells)


@pytest.fixture
def runs(planted: Any) -> StudyRuns:
    return with_lengths(planted(lambda normalization, conv, size, seed: 0.1 * seed + (conv == "none"), seeds=4))


def test_the_name_of_a_metric_says_the_length_and_back() -> None:
    assert at_length("val/loss", 0.1) == "val/loss_ema_0.100"
    assert length_of("eval/fid_pixels_ema_0.050") == ("eval/fid_pixels", 0.05)
    assert length_of("val/loss_ema") is None
    assert length_of("val/loss_ema_0.100x") is None


def test_means_over_seeds_and_the_paired_difference_to_the_exponential_average(runs: StudyRuns) -> None:
    curves = length_curves(length_values(runs))
    assert len(curves) == 4 * 2 * 2 * len(LENGTHS)
    row = curves[(curves["metric"] == "val/loss") & (curves["length"] == 0.07)].iloc[0]
    cells = runs.cells[(runs.cells["variant"] == row["variant"]) & (runs.cells["size"] == row["size"])]
    values = cells["val/loss_ema_0.070"]
    assert row["value"] == pytest.approx(values.mean())
    assert row["high"] - row["value"] == pytest.approx(3.182 * values.std() / 2, rel=1e-3)  # t of 3 degrees of freedom
    gains = values - cells["val/loss_ema"]
    assert row["gain"] == pytest.approx(gains.mean())
    assert row["gain high"] - row["gain"] == pytest.approx(3.182 * gains.std() / 2, rel=1e-3)
    assert (row["gain high"] - row["gain low"]) < 0.1 * (row["high"] - row["low"])


def test_the_best_length_of_each_variant_is_found_in_both_metrics(runs: StudyRuns) -> None:
    best = best_lengths(length_values(runs))
    assert len(best) == 4 * 2 * 2
    for row in best.to_dict("records"):
        assert row["length"] == BEST[row["variant"].partition(",")[0]]
        assert (row["looks"], row["seeds"], row["edge"]) == (5, 4, "")
        assert row["low"] < row["value"] < row["high"]


def test_each_seed_is_judged_at_the_length_that_is_best_for_the_others(planted: Any) -> None:
    """Seed 0 alone likes another length: it is judged at that of the others, and the others at one without its vote."""
    runs = with_lengths(planted(lambda *_: 0.0), own=0.0, lengths=(0.05, 0.07), fid=False)
    cells = runs.cells
    cells.loc[cells["seed"] == 0, "val/loss_ema_0.050"] = -9.0
    held = chosen_on_others(length_values(runs))
    divided = held[held["variant"].str.startswith("division")].set_index(["variant", "size", "seed"])
    for (variant, size, seed), row in divided.iterrows():
        assert row["length"] == (0.07 if seed == 0 else 0.05)
        own = cells[(cells["variant"] == variant) & (cells["size"] == size) & (cells["seed"] == seed)]
        assert row["value"] == own[at_length("val/loss", row["length"])].item()


def test_one_seed_has_a_best_length_and_nothing_that_says_how_far_it_holds(planted: Any) -> None:
    runs = with_lengths(planted(lambda *_: 0.0, seeds=1), fid=False)
    best = best_lengths(length_values(runs))
    assert best["others"].isna().all()
    assert best["low"].isna().all()
    assert best["length"].notna().all()
    (line, *_) = lengths_sentences(runs)
    assert line == "Each best length is the best of 5 that were measured on one seed: nothing says how far it holds."
    assert lengths_figure(runs) is not None
    assert "on other seeds" not in lengths_table(runs)


def test_a_best_length_at_an_end_is_said(planted: Any) -> None:
    runs = with_lengths(planted(lambda *_: 0.0), lengths=(0.04, 0.05, 0.07), own=1e-4, fid=False)
    (line,) = (line for line in lengths_sentences(runs) if "may be better" in line)
    start = "Validation loss: the best length is the longest that was measured, and a longer one may be better, for "
    assert line.startswith(start)
    # Of subtraction 0.1 is best, and of division 0.07.
    assert line.count(" at size ") == 8
    assert "subtraction, no convolution at size 16" in line


def test_a_seed_that_lacks_a_length_does_not_take_part_in_the_choice(runs: StudyRuns) -> None:
    runs.cells.loc[runs.cells["seed"] == 2, "val/loss_ema_0.130"] = np.nan
    best = best_lengths(length_values(runs))
    losses = best[best["metric"] == "val/loss"]
    assert set(losses["seeds"]) == {3}
    assert set(losses["looks"]) == {5}


def test_the_interval_of_the_best_length_is_corrected_for_the_looks(runs: StudyRuns) -> None:
    """It is wider than that of the same length in the curve by the ratio of the two quantiles (5 looks, 4 seeds)."""
    values = length_values(runs)
    best = best_lengths(values).iloc[0]
    curves = length_curves(values)
    own = curves[(curves[POINT] == best[POINT]).all(axis=1) & (curves["length"] == best["length"])].iloc[0]
    assert best["value"] == pytest.approx(own["value"])
    ratio = stats.t.ppf(1 - 0.025 / 5, 3) / stats.t.ppf(0.975, 3)
    for value, high in (("value", "high"), ("gain", "gain high")):
        assert best[high] - best[value] == pytest.approx(ratio * (own[high] - own[value]))


def test_the_report_has_a_section_where_lengths_were_measured_and_none_elsewhere(runs: StudyRuns, planted: Any) -> None:
    report = analyze_study(runs)
    figure, numbers = study_figures(report)["ema_lengths"]
    assert isinstance(figure, Figure)
    assert len(numbers) == 4 * 2 * 2 * len(LENGTHS)
    section = next(s for s in study_sections(report, study_tables(report), {}) if s.title.startswith("EMA length"))
    assert section.lines[0].startswith("Each best length is the best of 5 that were measured. The best of several")
    assert [len(table) for table in section.tables] == [16]
    assert {"best length", "looks", "interval low", "on other seeds", "difference"} <= set(section.tables[0])
    without = planted(lambda *_: 0.0)
    assert lengths_figure(without) is None
    plain = replace(report, runs=without)
    assert "ema_table" not in study_tables(plain)
    sections = study_sections(plain, study_tables(plain), {})
    assert all(each.empty for each in sections if each.title.startswith("EMA length"))
