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
from lina_lab.analysis.stats import bootstrap, compute, fit
from lina_lab.analysis.stats.paired import holm
from lina_lab.analysis.stats.status import Refusal
from lina_lab.analysis.stats.study_fits import StudyFits, fit_study

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


def steep(planted: Planted) -> StudyRuns:
    """Losses that do not flatten."""
    made = of_a_law(planted)
    objective = made.study.objective
    cells = made.cells.assign(**{objective: made.cells[objective] - 0.55})
    return replace(made, cells=cells, checkpoints=planted(subtraction_is_worse).checkpoints)


def test_a_planted_law_is_found_by_the_pooled_fit_and_refused_to_each_variant_alone(planted: Planted) -> None:
    fits = fit_study(of_a_law(planted), resamples=60)
    (pooled,) = fits.shared.attempts
    assert pooled is fits.shared.fit
    assert pooled.exponents["division, no convolution"][0] == pytest.approx(0.3, abs=0.02)
    assert fits.exponent is not None
    assert fits.exponent.interval.contains(0.3)
    factor = fits.size_factors["division, depthwise"]
    assert factor.value == pytest.approx((30 / 24) ** (1 / 0.3), rel=0.01)
    assert factor.interval.contains(factor.value)
    table = fit_table(fits).set_index(["variant", "law"])
    assert table.loc[("division, no convolution", "E + A parameters^-alpha"), "status"] == "not identifiable"
    lines = fit_sentences(fits)
    assert lines[0] == "CI: 90% percentile interval of 60 bootstrap refits over seeds and blocks."
    assert lines[1].startswith("E + A parameters^-alpha, shared E and exponents, all variants: alpha 0.3")
    estimates = estimate_table(fits).set_index(["quantity", "variant"])
    row = estimates.loc[("size factor", "division, depthwise")]
    assert row["90% CI low"] < row["estimate"] == factor.value < row["90% CI high"]


def test_two_sizes_give_slopes_and_a_refusal(planted: Planted) -> None:
    fits = fit_study(planted(subtraction_is_worse))
    assert [found.status for found in fits.shared.attempts] == ["not identifiable"]
    assert fits.shared.fit is None
    assert len(fits.slopes) == 4
    lines = fit_sentences(fits)
    assert sum("values of parameters, and there are 2" in line for line in lines) == 3
    assert any("a best size needs at least 3 sizes to compare" in line for line in lines)
    assert sum(line.startswith("Law of the frontier, all variants: not identifiable") for line in lines) == 1
    assert estimate_table(fits).empty


def test_losses_that_do_not_flatten_are_pooled_without_an_irreducible_loss(planted: Planted) -> None:
    fits = fit_study(steep(planted), resamples=40)
    assert [found.status for found in fits.shared.attempts] == ["at an edge", "ok"]
    lines = fit_sentences(fits)
    assert "E ends at zero" in lines[1]
    assert lines[2].startswith("A parameters^-alpha, shared exponents, all variants: alpha 0.")
    assert ", E " not in lines[2]


def test_no_decision_depends_on_the_wording_of_a_reason(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reason is replaced by nothing: the same laws are fitted, with the same numbers and intervals."""
    cases = [steep(planted), planted(subtraction_is_worse)]
    before = [decisions(fit_study(runs, resamples=10)) for runs in cases]

    def silent(function: Callable[..., tuple[Refusal, str] | None]) -> Callable[..., tuple[Refusal, str] | None]:
        def call(*arguments: object) -> tuple[Refusal, str] | None:
            found = function(*arguments)
            return None if found is None else (found[0], "")

        return call

    monkeypatch.setattr(fit, "_verdict", silent(fit._verdict))
    monkeypatch.setattr(fit, "not_identifiable", silent(fit.not_identifiable))
    sliced, optimum, without, refused = compute._slices, compute._no_optimum, bootstrap._no_interval, compute.refused
    monkeypatch.setattr(compute, "_slices", lambda curves: (sliced(curves)[0], ""))
    monkeypatch.setattr(compute, "_no_optimum", lambda refusal, _: optimum(refusal, ""))
    monkeypatch.setattr(compute, "refused", lambda law, names, refusal, _: refused(law, names, refusal, ""))
    monkeypatch.setattr(
        bootstrap, "_no_interval", lambda level, resamples, failed, _: without(level, resamples, failed, "")
    )
    fits = [fit_study(runs, resamples=10) for runs in cases]
    assert not any(found.reason for case in fits for found in (*case.separate, *case.shared.attempts))
    for case, expected in zip(fits, before, strict=True):
        assert decisions(case) == expected


def decisions(fits: StudyFits) -> str:
    """Which laws were fitted and refused, with which numbers, and which intervals there are."""
    pooled = (fits.shared, fits.own, fits.surface)
    laws = [*fits.separate, *(found for part in pooled for found in part.attempts)]
    assert fits.compute is not None
    laws += fits.compute.frontier_laws.values()
    table = fit_table(fits).drop(columns="error at the largest size")
    estimates = estimate_table(fits).drop(columns="note")
    codes = [(found.law.name, found.status, found.refusal) for found in laws]
    return f"{codes}\n{table.to_csv()}\n{estimates.to_csv()}\n{fits.compute.comparable}"


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
    assert "Not fitted: a law in size and data, which is confounded with batch in images, batch in tokens" in text
    assert text.count("data:image/png;base64,") == 3
