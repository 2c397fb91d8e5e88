"""Loss against compute, on a planted surface whose best size is known."""

import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis.stats.compute import analyze_compute

E, A, B, ALPHA, BETA = 0.5, 400.0, 900.0, 0.34, 0.3
SIZES = np.geomspace(1e6, 1e9, 9)


def planted(sizes: np.ndarray = SIZES, images: np.ndarray | None = None, sign: float = 1.0) -> pd.DataFrame:
    """Checkpoints of `L = E + A N^-alpha + B D^-beta`, 6 N D FLOPs each."""
    rows = []
    for size in sizes:
        for seen in np.geomspace(1e5, 1e11, 60) if images is None else images:
            for seed in range(2):
                loss = E + sign * (A * size**-ALPHA + B * seen**-BETA) + 1e-6 * (seed - 0.5)
                rows.append(
                    {"variant": "a", "size": size, "parameters": size, "seed": seed, "images": seen, "loss": loss}
                )
    table = pd.DataFrame(rows)
    return table.assign(flops=6 * table["parameters"] * table["images"])


def best_size(flops: float) -> float:
    """Of the planted surface, in closed form (Hoffmann et al. 2022, equation 4)."""
    ratio = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    return float(ratio * (flops / 6) ** (BETA / (ALPHA + BETA)))


def test_the_best_size_and_its_growth_are_found() -> None:
    found = analyze_compute(planted())
    assert found.reason == ""
    ok = found.optima[found.optima["status"] == "ok"]
    assert len(ok) >= 3
    for row in ok.itertuples():
        # A parabola is no surface.
        assert row.parameters == pytest.approx(best_size(float(row.flops)), rel=0.2)  # type: ignore[arg-type]
    (growth,) = found.size_exponents["exponent"]
    assert growth == pytest.approx(BETA / (ALPHA + BETA), abs=0.04)


def test_the_frontier_is_what_nothing_beats() -> None:
    found = analyze_compute(planted())
    curves = found.curves.drop_duplicates(["parameters", "images"])
    for row in curves.sample(60, random_state=0).itertuples():
        cheaper = curves[(curves["flops"] <= row.flops) & (curves.index != row.Index)]
        assert row.frontier == bool((cheaper["loss"] > row.loss).all())
    law = found.frontier_laws["a"]
    assert law.status == "ok"
    assert law.irreducible_loss == pytest.approx(E, abs=0.1)
    # What is best at each amount falls as C^-(alpha beta / (alpha + beta)).
    assert law.exponents["a"][0] == pytest.approx(ALPHA * BETA / (ALPHA + BETA), abs=0.04)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (planted(SIZES[:2]), "a best size needs at least 3 sizes to compare"),
        (planted(np.array([1e3, 1e6, 1e9]), np.array([1e7, 2e7])), "no compute budget is covered by 3 sizes"),
    ],
)
def test_sizes_that_share_no_compute_are_not_compared(points: pd.DataFrame, reason: str) -> None:
    found = analyze_compute(points)
    assert reason in found.reason
    assert found.optima.empty
    assert found.frontier_laws["a"].status == "not identifiable"


def test_a_best_size_at_the_edge_is_none() -> None:
    """So much data that the largest size is best; and a surface that bends the wrong way."""
    edge = analyze_compute(planted(images=np.geomspace(1e13, 1e15, 30)))
    assert set(edge.optima["status"]) == {"at an edge"}
    assert "the largest size is best" in edge.optima["reason"].iloc[0]
    assert np.isnan(edge.size_exponents["exponent"]).all()
    wrong = analyze_compute(planted(sign=-1.0).assign(loss=lambda t: t["loss"] + 2000))
    assert set(wrong.optima["status"]) == {"wrong curvature"}
