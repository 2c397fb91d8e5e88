"""The published runs: paired differences, what is confounded with size, and the figures."""

from pathlib import Path

import pandas as pd
import pytest
from lina_lab.analysis.load.published import parameters, published_metrics, read_published
from lina_lab.analysis.plots import COMMAND
from lina_lab.analysis.stats.budgets import TAIL, audit_runs, iso_flop, iso_image, iso_step
from lina_lab.analysis.stats.paired import paired_differences

from lina_lab.config.factors import FactorKind, LawKind

CONVOLUTION = {"division": (-0.01227, -0.01264, -0.01593), "subtraction": (-0.01263, -0.01112, -0.00847)}
NORMALIZATION = {"no convolution": (0.00014, -0.00164, -0.00364), "depthwise5": (-0.00023, -0.00011, 0.00381)}
"""Mean paired differences over the last 50,000 steps, recomputed from the authors' step-by-step logs."""


def differences() -> pd.DataFrame:
    table = paired_differences(read_published(), TAIL)
    table = table[table["metric"] == "train/loss"]
    return table.set_index(["treatment", "baseline", "size"])


@pytest.mark.parametrize("index", range(3))
def test_paired_differences_are_those_of_the_step_by_step_logs(index: int) -> None:
    """Same signs, and values within 2e-4 of them."""
    width, found = (768, 1024, 1536)[index], differences()
    for normalization, expected in CONVOLUTION.items():
        row = found.loc[(f"{normalization}, depthwise5, no gate", f"{normalization}, no convolution, no gate", width)]
        assert row["difference"] == pytest.approx(expected[index], abs=2e-4)
    for conv, expected in NORMALIZATION.items():
        row = found.loc[(f"subtraction, {conv}, no gate", f"division, {conv}, no gate", width)]
        assert row["difference"] == pytest.approx(expected[index], abs=2e-4)
        assert (row["difference"] > 0) == (expected[index] > 0)
    assert (found["block_se"] < 5e-4).all()


def test_batch_and_images_are_confounded_with_width() -> None:
    runs = read_published()
    found = audit_runs(runs)
    training = found.changing_of(FactorKind.TRAINING)
    assert list(training) == [
        "batch in images",
        "batch in tokens",
        "images seen",
        "images that the average reaches back",
    ]
    assert training["batch in images"] == "2,048 at 768, 1,536 at 1024, 768 at 1536"
    assert training["images seen"] == "409,600,000 at 768, 307,200,000 at 1024, 153,600,000 at 1536"
    assert found.changing["channels of a head"] == "64 at 768, 64 at 1024, 96 at 1536"
    assert {"optimizer steps": "200,000", "learning rate": "0.0008"}.items() <= found.equal.items()
    assert set(found.confounded) == set(LawKind)
    for view in (iso_step(runs), iso_image(runs), iso_flop(runs)):
        assert not view.isolates_size
        assert "not a scaling comparison" in view.title
    assert set(iso_image(runs).points["images"]) <= set(range(150_000_000, 153_600_001))
    each = runs.cells.set_index("cell")["flops_per_image"]
    points = iso_flop(runs).points
    flops = points["images"] * each.reindex(points["cell"]).to_numpy()
    # The last window ends at most one window before.
    assert flops.max() / flops.min() < 1.04
    assert points.groupby("size")["images"].max().is_monotonic_decreasing


def test_a_diverged_run_is_excluded_with_its_reason() -> None:
    runs = read_published()
    assert len(runs.cells) == 20
    (excluded,) = runs.excluded.to_dict("records")
    assert excluded["status"] == "diverged"
    assert excluded["label"] == "division, depthwise5, kv_data 768"
    assert "the loss is not finite in the window that ends at iteration" in excluded["reason"]


def test_published_figures_are_there() -> None:
    metrics = published_metrics()
    assert metrics[metrics["model"] == "LINA c2i"]["value"].item() == 2.18
    assert parameters()[(1536, True)] == 1448.2e6


def test_figures_and_report_need_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMAND.main(["source=published", f"out={tmp_path}"]) == 0
    folder = tmp_path / "published"
    for name in ("views", "curves", "primary", "differences"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
        assert not pd.read_csv(folder / f"{name}.csv").empty
    assert not (folder / "scaling.png").exists()
    assert not (folder / "fits.csv").exists()
    text = (folder / "report.md").read_text()
    factors = "batch in images, batch in tokens, images seen, images that the average reaches back"
    assert f"iso-step: not a scaling comparison (confounded with size: {factors})" in text
    assert text.count("Every cell has one seed, so no difference can be judged against seeds.") == 1
    assert "Training loss and FID disagree in 1 of 4 differences that have both." in text
    assert "(15.81 against 13.13)" in text
    assert COMMAND.main([f"out={tmp_path}"]) == 2
    assert COMMAND.main(["source=published", "study=x", f"out={tmp_path}"]) == 2
    assert "name a study with study=NAME, or set source=published" in capsys.readouterr().err
