"""What a study's cells say of a law, and the page that tells it."""

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
from lina_lab.analysis.report.fit_narrative import fit_sentences, fit_table
from lina_lab.analysis.report.page import Section, provenance, write_report
from lina_lab.analysis.stats.paired import holm
from lina_lab.analysis.stats.study_fits import fit_study

from tests.analysis.test_compare import subtraction_is_worse

Planted = Callable[..., StudyRuns]
AMOUNTS = {
    "division, none": 30.0,
    "division, depthwise": 24.0,
    "subtraction, none": 33.0,
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
    fits = fit_study(of_a_law(planted), draws=60)
    (pooled,) = fits.pooled.tried
    assert pooled is fits.pooled.found
    assert pooled.exponents["division, none"][0] == pytest.approx(0.3, abs=0.02)
    assert fits.exponent is not None
    assert fits.exponent[1].low < 0.3 < fits.exponent[1].high
    factor, ends = fits.speed_ups["division, depthwise"]
    assert factor == pytest.approx((30 / 24) ** (1 / 0.3), rel=0.01)
    assert ends.low < factor < ends.high
    table = fit_table(fits).set_index(["variant", "law"])
    assert table.loc[("division, none", "E + A parameters^-alpha"), "status"] == "not identifiable"
    said = fit_sentences(fits)
    assert said[0].startswith("- E + A parameters^-alpha, shared E and exponents, all variants: alpha 0.3")
    assert any(line.startswith("- division, depthwise is worth 2.") for line in said)


def test_two_sizes_give_slopes_and_a_refusal(planted: Planted) -> None:
    fits = fit_study(planted(subtraction_is_worse))
    assert [found.status for found in fits.pooled.tried] == ["not identifiable"]
    assert fits.pooled.found is None
    assert len(fits.slopes) == 4
    said = fit_sentences(fits)
    assert sum("2 values of parameters do not identify" in line for line in said) == 3
    assert any("fewer than 3 sizes have no lowest point between them" in line for line in said)


def test_losses_that_do_not_flatten_are_pooled_without_an_offset(planted: Planted) -> None:
    made = of_a_law(planted)
    objective = made.study.objective
    steep = made.cells.assign(**{objective: made.cells[objective] - 0.55})
    fits = fit_study(replace(made, cells=steep), draws=40)
    assert [found.status for found in fits.pooled.tried] == ["at an edge", "ok"]
    said = fit_sentences(fits)
    assert "the offset ends at zero" in said[0]
    assert said[1].startswith("- A parameters^-alpha, shared exponents, all variants: alpha 0.")
    assert "; E " not in said[1]


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
    sections = [Section(title="One <two>", lines=["- said"], tables=[table], pictures=[picture])]
    parts = [*sections, provenance(runs, [picture])]
    text = write_report(tmp_path, "a title", ["a question"], parts)[0].read_text()
    assert base64.b64encode(b"not really a picture").decode() in text
    assert "One &lt;two&gt;" in text
    assert "a &amp; b" in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert "24 cells at commit abc, uncommitted changes: false" in text
    assert re.search(r"curves\.csv: SHA-256 [0-9a-f]{64}", text)


def test_the_published_report_has_a_page(tmp_path: Path) -> None:
    assert COMMAND.main(["source=published", f"out={tmp_path}"]) == 0
    text = (tmp_path / "published/index.html").read_text()
    assert "More than size differs between the sizes: no law of size is fitted to them." in text
    assert text.count("data:image/png;base64,") == 3
