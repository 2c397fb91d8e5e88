"""The page of a study: the answer on top, everything else folded, no line twice, one look for each variant."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis.load.runs import StudyRuns
from lina_lab.analysis.report import styles
from lina_lab.analysis.report.forest import multipliers_figure
from lina_lab.analysis.report.page import Section, provenance, write_report
from lina_lab.analysis.report.study_report import analyze_study, study_figures
from lina_lab.analysis.report.tables import difference_table, plain, rounded, signed
from lina_lab.analysis.report.writer import write_study_report
from lina_lab.analysis.stats.agreement import metric_agreement
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from lina_lab.config.datasets import DATA_SETS
from lina_lab.records.runstore import THREADS
from tests.analysis.simulated import ELEVEN, FOUR, PRIMARY, simulated

FID = {"metric": "eval/fid_pixels"}
TWO = {"normalization": FOUR["normalization"]}
CASES: dict[str, Callable[[], StudyRuns]] = {
    "four": lambda: simulated(primary=PRIMARY, objectives=[{"metric": "val/loss_ema"}, FID]),
    "one seed": lambda: simulated(seeds=1),
    "eleven": lambda: simulated(ELEVEN, sizes=(16, 32), seeds=2),
    "confounded": lambda: confounded(simulated(TWO, seeds=2)),
}


def confounded(runs: StudyRuns) -> StudyRuns:
    """Other batches for other sizes: no law is fitted."""
    return replace(runs, cells=runs.cells.assign(**{"batch in images": runs.cells["size"]}))


@pytest.fixture(scope="module", params=list(CASES))
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The Markdown of a report, and its HTML."""
    folder = tmp_path_factory.mktemp("page")
    write_study_report(analyze_study(CASES[request.param]()), folder)
    return (folder / "report.md").read_text(), (folder / "index.html").read_text()


def sentences(markdown: str) -> list[str]:
    """The lines of a report that say something: no tables, no tags, no empty ones."""
    return [line for line in markdown.splitlines() if line and line[0] not in "|<" and len(line) > 3]


def test_no_line_stands_twice_and_no_end_of_a_line_four_times(page: tuple[str, str]) -> None:
    lines = sentences(page[0])
    assert [line for line, number in Counter(lines).items() if number > 1] == []
    ends = Counter(line[-50:] for line in lines if "SHA-256" not in line)
    assert [end for end, number in ends.items() if number > 3] == []


def test_the_answer_is_first_and_all_else_is_folded(page: tuple[str, str]) -> None:
    markdown, html = page
    assert re.findall(r"^## (.*)", markdown, re.MULTILINE) == ["Answer"]
    assert markdown.index("## Answer") < markdown.index("<details>")
    titles = re.findall(r"<summary>(.*)</summary>", markdown)
    assert len(titles) >= 5
    assert titles[0] == "Rates were not tuned"
    assert titles[-1] == "Provenance"
    assert markdown.count("<details>") == markdown.count("</details>") == html.count("<details>") == len(titles)
    assert html.count("</details>") == len(titles)
    assert html.index("data:image/png") < html.index("<details>")


def test_numbers_have_a_plural_only_where_it_is_due(page: tuple[str, str]) -> None:
    assert not re.search(r"\b1 (seeds|sizes|cells|runs|differences)\b", page[0])
    assert not re.search(r"\bnan\b|-0\.0000\b|16\.0", page[0])


def figures(runs: StudyRuns) -> dict[str, Figure]:
    return {name: figure for name, (figure, _) in study_figures(analyze_study(runs)).items()}


@pytest.mark.parametrize("name", ["one seed", "eleven", "confounded"])
def test_no_panel_is_empty(name: str) -> None:
    for figure_name, figure in figures(CASES[name]()).items():
        for axes in figure.axes:
            values = [np.asarray(line.get_xdata(), dtype=float) for line in axes.lines]
            points = [v for v in values if len(v) and np.isfinite(v).any() and list(v) != [0, 1]]
            assert points or axes.collections, f"{figure_name} has an empty panel"
    plt.close("all")


def test_compute_has_no_second_row_where_no_budget_is_equal() -> None:
    assert len(figures(simulated(TWO, seeds=2))["compute"].axes) == 2
    plt.close("all")


def test_the_axis_of_multipliers_ends_near_the_largest_and_the_smallest() -> None:
    report = analyze_study(CASES["four"]())
    assert report.fits is not None
    # Values so far apart that a linear axis begins below zero.
    wide = replace(report.fits.multipliers[0].pinned, value=8.0, low=0.5, high=60.0)
    found = [replace(one, pinned=wide, free=wide) for one in report.fits.multipliers]
    figure, _ = multipliers_figure(found, report.runs.variants)
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert 0.5 / 20 < low < 0.5
        assert 60 < high < 60 * 20
    plt.close(figure)


def test_each_variant_has_its_own_color_and_marker() -> None:
    looks = [styles.line_style(index) for index in range(40)]
    assert len({to_hex(look["color"]) for look in looks}) == 40
    assert len({look["marker"] for look in looks}) == 40
    runs = CASES["eleven"]()
    drawn = figures(runs)
    for name in ("scaling", "curves"):
        legend = drawn[name].legends[0]
        handles = {h.get_label(): (to_hex(h.get_color()), h.get_marker()) for h in legend.legend_handles}
        assert list(handles) == runs.variants
        assert len({color for color, _ in handles.values()}) == len({mark for _, mark in handles.values()}) == 11
    plt.close("all")


def test_colors_differ_for_color_blind_readers_too() -> None:
    """The distance of any two in OKLab is at least that of the closest two of Okabe and Ito's first seven colors."""
    deuteranopia = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    protanopia = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    rgb = np.array([to_rgb(color) for color in styles.COLORS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    first = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
    first.append([0.0883024619, 0.2817188376, 0.6299787005])
    second = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099]]
    second.append([0.0259040371, 0.7827717662, -0.8086757660])
    closest = {}
    for count in (7, len(rgb)):
        found = []
        for sight in (np.eye(3), np.array(deuteranopia), np.array(protanopia)):
            seen = np.clip(linear[:count] @ sight.T, 0, 1)
            lab = np.cbrt(seen @ np.array(first).T) @ np.array(second).T
            apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + np.eye(count) * 9
            found.append(apart.min())
        closest[count] = min(found)
    assert closest[len(rgb)] >= 0.99 * closest[7] > 0.05


@pytest.mark.parametrize(("low", "high"), [(5e4, 9e5), (600, 4000), (1e9, 3e13), (0.9, 1.4), (3.0, 3.3), (1, 1e9)])
def test_a_logarithmic_axis_has_a_tick_at_both_ends(low: float, high: float) -> None:
    figure, axes = plt.subplots()
    axes.plot([low, high], [1, 2])
    styles.log_x(axes)
    ticks, (left, right) = axes.get_xticks(), axes.get_xlim()
    assert ticks[0] == pytest.approx(left)
    assert ticks[-1] == pytest.approx(right)
    assert 2 <= len(ticks) <= 8
    assert left <= low < high <= right
    plt.close(figure)


def test_sizes_are_the_ticks_of_their_axis() -> None:
    runs = simulated(TWO, seeds=2)
    (axes, *_), sizes = figures(runs)["scaling"].axes, sorted(set(runs.cells["parameters"]))
    assert list(axes.get_xticks()) == pytest.approx(sizes)
    plt.close("all")


def test_numbers_have_sensible_digits() -> None:
    assert [signed(value) for value in (0.00014, -0.0123, 0.25, 2.69, -15.8, 1234.5)] == [
        *("+0.00014", "-0.01230", "+0.2500", "+2.69", "-15.8", "+1234")
    ]
    assert [plain(value) for value in (0.000049, 0.0063, 1.4, 12.0, 0)] == ["0.000049", "0.0063", "1.4", "12", "0"]
    table = pd.DataFrame({"difference": [-2.48], "95% CI low": [-4.0], "95% CI high": [0.2018], "p (Holm)": [1e-5]})
    assert rounded(table).iloc[0].tolist() == ["-2.48", "-4.00", "+0.20", "< 0.001"]


def test_the_primary_row_is_on_top_of_table_and_figure() -> None:
    report = analyze_study(CASES["four"]())
    assert report.verdict is not None
    main = report.exploratory["metric"] == "val/loss_ema"
    table = difference_table(report.exploratory[main], report.verdict)
    assert table["kind"].iloc[0] == "PRIMARY difference"
    assert table["difference"].iloc[0] == report.verdict.interval.value
    same = (table["comparison"] == report.verdict.label) & (table["size"].astype(str) == "64")
    assert same.sum() == 1
    primary, _ = study_figures(report)["primary"]
    labels = [label.get_text() for label in primary.axes[0].get_yticklabels()]
    assert labels[0].startswith("PRIMARY: subtraction vs. division (depthwise), size 64")
    assert sum(label.startswith("size 64") for label in labels) == 3
    plt.close("all")


def test_empty_sections_and_tables_are_left_out(tmp_path: Path) -> None:
    empty, full = pd.DataFrame({"a": []}), pd.DataFrame({"a": [1]})
    sections = [
        Section(title="Nothing", tables=[empty]),
        Section(title="Open", tables=[full, empty]),
        Section(title="Closed", lines=["A line."], folded=True),
    ]
    page, text = write_report(tmp_path, "title", [], sections)
    assert "Nothing" not in page.read_text() + text.read_text()
    assert page.read_text().count("<table") == 1
    assert "<summary>Closed</summary>\n\nA line.\n\n</details>" in text.read_text()


def test_a_table_with_sentences_wraps_them_and_one_of_numbers_does_not(tmp_path: Path) -> None:
    for cell, wraps in (
        ("a sentence that is far too long to stand in one line of a table's column", True),
        ("no", False),
    ):
        write_report(tmp_path, "x", [], [Section(title="t", tables=[pd.DataFrame({"claim": [cell]})])])
        assert ('class="dataframe prose"' in (tmp_path / "index.html").read_text()) == wraps


def test_the_number_of_threads_is_stated_and_a_mixture_is_pointed_out(tmp_path: Path) -> None:
    runs = simulated(TWO, seeds=2)
    count = len(runs.cells)
    one, mixed = [1.0] * count, [1.0, 2.0] * (count // 2)
    part, said = [np.nan, *one[1:]], {}
    for name, threads in {"one": one, "mixed": mixed, "unknown": [np.nan] * count, "part": part}.items():
        known = replace(runs, cells=runs.cells.assign(**{THREADS: threads}))
        said[name] = [line for line in provenance(known, []).lines if "Threads" in line]
    assert said["one"] == [f"Threads of a process: 1 ({count} cells)."]
    assert said["mixed"] == [
        f"Threads of a process: 1 ({count // 2} cells), 2 ({count // 2} cells); rounding differs between them, so "
        "their losses may too."
    ]
    assert said["unknown"] == []
    assert f"1 ({count - 1} cells), not recorded (1 cell); rounding differs" in said["part"][0]


def test_the_authors_and_the_licence_of_the_data_are_stated() -> None:
    runs = simulated(TWO, seeds=2)
    for name, entry in DATA_SETS.builtin.items():
        known = replace(runs, cells=runs.cells.assign(data_name=name))
        lines = [line for line in provenance(known, []).lines if line.startswith("Data")]
        assert lines == ([f"Data ({name}): {entry.attribution}."] if entry.attribution else []), name
    assert "licence: CC BY-SA 4.0" in str(DATA_SETS["emoji"].attribution)


def test_metrics_disagree_by_sign_or_by_size() -> None:
    rows = [("a", -1.0, -10.0), ("b", -2.0, -22.0), ("c", 0.01, 8.0), ("d", 1.0, -9.0)]
    means = pd.DataFrame(
        [
            {
                "comparison": name,
                "axis": "x",
                "treatment": name,
                "baseline": "z",
                "size": 1,
                "metric": m,
                "difference": d,
            }
            for name, loss, fid in rows
            for m, d in (("loss", loss), ("fid", fid))
        ]
    )
    found = metric_agreement(means, "loss", "fid").set_index("comparison")
    assert list(found["disagree"]) == [False, False, True, True]
    assert list(found["opposite"]) == [False, False, False, True]
    assert found.loc["c", "ratio"] == pytest.approx(800 / 10.5)
    turned = metric_agreement(means, "loss", "fid", same_direction=False).set_index("comparison")
    assert list(turned["opposite"]) == [True, True, True, False]
