"""Laws that a study's cells show, and the page that reports them."""

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis.load.runs import StudyRuns
from lina_lab.analysis.plots import COMMAND
from lina_lab.analysis.report.fit_narrative import estimate_table, fit_sentences, fit_table
from lina_lab.analysis.report.page import Section, provenance, write_report
from lina_lab.analysis.stats import compute, fit, irreducible, isoflop
from lina_lab.analysis.stats.irreducible import EStatus
from lina_lab.analysis.stats.paired import holm
from lina_lab.analysis.stats.status import Refusal
from lina_lab.analysis.stats.study_fits import StudyFits, fit_study

from lina_lab.config.factors import LawKind
from tests.analysis.test_compare import subtraction_is_worse

Planted = Callable[..., StudyRuns]
AMOUNTS = {
    "division, no convolution": 30.0,
    "division, depthwise": 24.0,
    "subtraction, no convolution": 33.0,
    "subtraction, depthwise": 26.0,
}


def of_a_law(planted: Planted, noise: float = 1e-4) -> StudyRuns:
    """Three sizes, three seeds, one exponent and offset; variants differ by their coefficient."""
    generator, rows = np.random.default_rng(0), []
    for variant, amount in AMOUNTS.items():
        for size in (1e6, 4e6, 16e6):
            for seed in range(3):
                loss = (0.5 + amount * size**-0.3) * np.exp(noise * generator.standard_normal())
                rows.append({"variant": variant, "size": int(size), "parameters": size, "seed": seed, "loss": loss})
    made = planted(subtraction_is_worse)
    objective = made.study.objective
    fields = made.cells.drop_duplicates("variant").set_index("variant")[
        ["model.attention.normalization", "model.attention.conv"]
    ]
    cells = pd.DataFrame(rows).rename(columns={"loss": objective}).join(fields, on="variant")
    cells["body_parameters"] = cells["parameters"] * 0.9
    return replace(made, cells=cells, checkpoints=made.checkpoints.iloc[:0])


def test_a_planted_law_is_found_by_the_pooled_fit_and_refused_to_each_variant_alone(planted: Planted) -> None:
    """Three sizes never identify E: the exponent is a range over E that holds the truth."""
    fits = fit_study(of_a_law(planted))
    assert fits.shared is not None
    assert fits.shared.profile is not None
    assert fits.exponent is not None
    assert fits.shared.profile.status is EStatus.UNDETERMINED
    assert fits.shared.profile.low == 0
    assert fits.shared.profile.high > 0.49
    assert fits.exponent.free.low < fits.exponent.at_low < 0.3 < fits.exponent.at_high < fits.exponent.free.high
    worth = {(m.treatment, m.baseline): m for m in fits.multipliers}
    assert len(worth) == 6
    found = worth[("subtraction, depthwise", "subtraction, no convolution")].free
    assert found.contains((33 / 26) ** (1 / 0.3))
    table = fit_table(fits).set_index(["variant", "law"])
    assert table.loc[("division, no convolution", "E + A parameters^-alpha"), "status"] == "not identifiable"
    lines = fit_sentences(fits)
    assert lines[0] == "CI: 90%, Student's t over 3 seeds, each of which is fitted by itself."
    assert any(re.search(r"alpha 0\.\d+ at E = 0 to 0\.\d+ at E = 0\.\d+ \(CI", line) for line in lines)
    assert not any("flatten" in line for line in lines)
    estimates = estimate_table(fits).set_index(["quantity", "variant", "baseline"])
    row = estimates.loc[("worth in parameters", "subtraction, depthwise", "subtraction, no convolution")]
    assert row["90% CI low (E free)"] == found.low


def test_one_seed_gives_numbers_and_no_interval(planted: Planted) -> None:
    runs = of_a_law(planted)
    fits = fit_study(replace(runs, cells=runs.cells[runs.cells["seed"] == 0]))
    assert fits.exponent is not None
    for number in (fits.exponent, *fits.exponent_differences.values(), *fits.multipliers):
        for estimate in (number.pinned, number.free):
            assert (estimate.seeds, estimate.known) == (1, False)
            assert estimate.reason == "one seed, so no interval"
            assert np.isfinite(estimate.value)
    assert estimate_table(fits).filter(like="CI").isna().all(axis=None)
    assert fit_sentences(fits)[0] == "There is one seed, so no number of a law has an interval."


def test_two_sizes_give_slopes_and_a_refusal(planted: Planted) -> None:
    fits = fit_study(planted(subtraction_is_worse))
    assert fits.shared is not None
    assert fits.shared.refusal is Refusal.TOO_FEW_SIZES
    assert not fits.shared.holds
    assert len(fits.slopes) == 4
    lines = fit_sentences(fits)
    assert sum("values of parameters, and there are 2" in line for line in lines) == 3
    assert any("a best size needs at least 3 sizes to compare" in line for line in lines)
    assert sum(line.startswith("Law of the frontier, all variants: not identifiable") for line in lines) == 1
    assert estimate_table(fits).empty


def test_seeds_that_are_not_whole_are_left_out_and_counted(planted: Planted) -> None:
    runs = of_a_law(planted)
    lost = runs.cells.index[runs.cells["seed"] == 1][0]
    fits = fit_study(replace(runs, cells=runs.cells.drop(index=lost)))
    assert fits.exponent is not None
    assert fits.exponent.pinned.seeds == 2
    assert "2 of 3 seeds have every variant and size; the others are left out." in fit_sentences(fits)


def test_a_law_that_is_confounded_is_not_fitted(planted: Planted) -> None:
    runs = of_a_law(planted)
    fits = fit_study(runs, {LawKind.SIZE: "images", LawKind.SIZE_AND_DATA: "batch", LawKind.COMPUTE: "batch"})
    assert fits.shared is fits.own is fits.surface is fits.compute is None
    assert not fits.forms
    assert not fits.multipliers
    assert fit_table(fits).empty
    assert fit_sentences(fits) == []


def test_no_decision_depends_on_the_wording_of_a_reason(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reason is replaced by nothing: the same laws are fitted, with the same numbers and intervals."""
    cases = [of_a_law(planted), planted(subtraction_is_worse)]
    before = [decisions(fit_study(runs)) for runs in cases]

    def silent(function: Callable[..., tuple[Refusal, str] | None]) -> Callable[..., tuple[Refusal, str] | None]:
        def call(*arguments: object) -> tuple[Refusal, str] | None:
            found = function(*arguments)
            return None if found is None else (found[0], "")

        return call

    monkeypatch.setattr(fit, "_verdict", silent(fit._verdict))
    monkeypatch.setattr(fit, "not_identifiable", silent(fit.not_identifiable))
    monkeypatch.setattr(irreducible, "not_identifiable", silent(irreducible.not_identifiable))
    budgets, growth, refused, none = compute.common_budgets, compute.growth, compute.refused, isoflop._none
    monkeypatch.setattr(compute, "common_budgets", lambda curves: (budgets(curves)[0], ""))
    monkeypatch.setattr(compute, "growth", lambda found: (growth(found)[0], ""))
    monkeypatch.setattr(compute, "refused", lambda law, names, refusal, _: refused(law, names, refusal, ""))
    monkeypatch.setattr(isoflop, "_none", lambda refusal, _: none(refusal, ""))
    fits = [fit_study(runs) for runs in cases]
    assert not any(found.reason for case in fits for found in case.forms)
    for case, expected in zip(fits, before, strict=True):
        assert decisions(case) == expected


def decisions(fits: StudyFits) -> str:
    """Which laws were fitted and refused, with which numbers, and which intervals there are."""
    pooled = [law for law in (fits.shared, fits.own, fits.surface) if law is not None]
    laws = [*fits.forms, *(fits.compute.frontier_laws.values() if fits.compute else ())]
    table = fit_table(fits).drop(columns="error at the largest size", errors="ignore")
    estimates = estimate_table(fits).drop(columns="note")
    codes = [(found.law.name, found.refusal) for found in (*laws, *pooled)]
    return f"{codes}\n{table.to_csv()}\n{estimates.to_csv()}"


def test_holm_by_hand() -> None:
    adjusted = holm(pd.Series([0.01, 0.04, np.nan, 0.03]))
    assert adjusted.tolist()[:2] == pytest.approx([0.03, 0.06])
    assert np.isnan(adjusted[2])
    assert adjusted[3] == pytest.approx(0.06)


def test_the_page_is_whole_and_tells_where_it_comes_from(planted: Planted, tmp_path: Path) -> None:
    picture = tmp_path / "curves.png"
    picture.write_bytes(b"not really a picture")
    picture.with_suffix(".csv").write_text("a,b\n1,2\n")
    runs = planted(subtraction_is_worse)
    table = pd.DataFrame({"name": ["a & b"], "value": [0.25]})
    sections = [Section(title="One <two>", lines=["A sentence."], tables=[table], pictures=[picture])]
    parts = [*sections, provenance(runs, [picture])]
    text = write_report(tmp_path, "a title", ["a question"], parts)[0].read_text()
    assert base64.b64encode(b"not really a picture").decode() in text
    assert "One &lt;two&gt;" in text
    assert "a &amp; b" in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert "24 cells: commit abc, without uncommitted changes." in text
    assert "A sentence." in text
    assert re.search(r"curves\.csv: SHA-256 [0-9a-f]{64}", text)


def test_the_published_report_has_a_page(tmp_path: Path) -> None:
    assert COMMAND.main(["source=published", f"out={tmp_path}"]) == 0
    text = (tmp_path / "published/index.html").read_text()
    assert "Not fitted, because other factors change with size (see the audit): " in text
    assert text.count("data:image/png;base64,") == 4
