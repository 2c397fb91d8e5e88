"""Laws on planted surfaces, refusals, and intervals that cover as often as they claim."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis.stats.bootstrap import (
    HierarchicalBootstrap,
    grouped,
    held_out_error,
    interval,
    refit,
    size_factor,
    slopes,
)
from lina_lab.analysis.stats.fit import fit, profile
from lina_lab.analysis.stats.laws import Pooling, ScalingLaw, log_line, power, surface
from lina_lab.analysis.stats.status import FitStatus, Refusal

SIZES = np.geomspace(1e6, 1e9, 6)
IMAGES = np.geomspace(1e7, 1e9, 5)
POOLED = power(pooling=Pooling.SHARED_EXPONENTS)


def planted(
    variant: str = "a", *, offset: float = 0.0, a: float = 30.0, alpha: float = 0.31, sizes: Any = SIZES
) -> pd.DataFrame:
    return pd.DataFrame({"variant": variant, "parameters": sizes, "loss": offset + a * np.asarray(sizes) ** -alpha})


def planted_surface() -> pd.DataFrame:
    grid = [(n, d) for n in SIZES for d in IMAGES]
    rows = [{"parameters": n, "images": d, "loss": 0.8 + 30 * n**-0.31 + 90 * d**-0.42} for n, d in grid]
    return pd.DataFrame(rows).assign(variant="a")


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e6])
@pytest.mark.parametrize(
    ("law", "offset"), [(power(), 0.8), (power(irreducible_loss=False), 0.0)], ids=["offset", "plain"]
)
def test_a_planted_power_is_found(law: ScalingLaw, offset: float, scale: float) -> None:
    """Whatever the unit of the size."""
    points = planted(offset=offset)
    found = fit(points.assign(parameters=points["parameters"] * scale), law)
    assert (found.status, found.reason) == ("ok", "")
    assert found.exponents["a"][0] == pytest.approx(0.31, abs=1e-4)
    assert found.coefficients["a"][0] == pytest.approx(30 * scale**0.31, rel=1e-4)
    assert found.irreducible_loss == pytest.approx(offset, abs=1e-6)
    assert found.gradient < 1e-6
    assert max(map(abs, found.residuals)) < 1e-6
    assert found.predict("a", parameters=1e8 * scale) == pytest.approx(offset + 30 * 1e8**-0.31, rel=1e-5)
    assert held_out_error(points, law) < 1e-6


def test_a_planted_surface_is_found() -> None:
    found = fit(planted_surface(), surface())
    assert found.status == "ok"
    assert found.exponents["a"] == pytest.approx((0.31, 0.42), abs=1e-4)
    assert found.coefficients["a"] == pytest.approx((30, 90), rel=1e-3)
    assert found.irreducible_loss == pytest.approx(0.8, abs=1e-5)


def test_planted_variants_that_share_are_found() -> None:
    amounts = {"a": 30.0, "b": 33.0, "c": 25.0}
    few = pd.concat([planted(v, offset=0.8, a=a, sizes=SIZES[:3]) for v, a in amounts.items()])
    found = fit(few, POOLED)
    assert found.status == "ok"
    for variant, amount in amounts.items():
        assert found.exponents[variant][0] == pytest.approx(0.31, abs=1e-4)
        assert found.coefficients[variant][0] == pytest.approx(amount, rel=1e-3)
    losses = (few[few["variant"] == v]["loss"].iloc[0] for v in ("a", "b"))
    assert size_factor(found, *losses) == pytest.approx((33 / 30) ** (1 / 0.31), rel=1e-3)
    own = pd.concat([planted("a", offset=0.8, alpha=0.3), planted("b", offset=0.8, alpha=0.35)])
    found = fit(own, power(pooling=Pooling.OWN_EXPONENTS))
    assert found.exponents["a"][0] == pytest.approx(0.30, abs=1e-4)
    assert found.exponents["b"][0] == pytest.approx(0.35, abs=1e-4)


def test_a_planted_line_is_found() -> None:
    points = pd.DataFrame({"variant": "a", "parameters": SIZES, "loss": 3 - 0.1 * np.log(SIZES)})
    assert fit(points[:3], log_line()).status == "ok"
    found = fit(points, log_line())
    assert found.status == "ok"
    assert found.irreducible_loss == pytest.approx(3, abs=1e-6)
    assert found.coefficients["a"][0] == pytest.approx(-0.1, abs=1e-7)
    assert found.predict("a", parameters=1e7) == pytest.approx(3 - 0.1 * math.log(1e7))


def test_one_point_far_off_changes_little() -> None:
    points = planted(offset=0.8, sizes=np.geomspace(1e6, 1e9, 12))
    points.loc[5, "loss"] *= 1.2
    assert fit(points, power()).exponents["a"][0] == pytest.approx(0.31, abs=0.01)


def test_the_right_form_has_the_smaller_aicc() -> None:
    generator = np.random.default_rng(0)
    noise = np.exp(1e-3 * generator.standard_normal(12))
    points = planted(offset=0.8, sizes=np.geomspace(1e6, 1e9, 12))
    points = points.assign(loss=points["loss"] * noise)
    assert fit(points, power()).aicc < fit(points, power(irreducible_loss=False)).aicc


@pytest.mark.parametrize(
    ("points", "law", "refusal", "reason"),
    [
        (
            planted(offset=0.8, sizes=SIZES[:3]),
            power(),
            Refusal.TOO_FEW_SIZES,
            "it needs 4 values of parameters, and there are 3",
        ),
        (
            planted(sizes=SIZES[:2]),
            power(irreducible_loss=False),
            Refusal.TOO_FEW_SIZES,
            "values of parameters, and there are 2",
        ),
        (planted(offset=0.8, sizes=SIZES[:2]), POOLED, Refusal.TOO_FEW_SIZES, "values of parameters, and there are 2"),
        (planted(), power(), Refusal.NO_IRREDUCIBLE_LOSS, "E ends at zero"),
        (
            planted(a=1.0, alpha=3.5, sizes=np.geomspace(1, 30, 6)),
            power(irreducible_loss=False),
            Refusal.EXPONENT_AT_BOUND,
            "the bound of its range",
        ),
        (
            planted(a=1.0, alpha=-0.2),
            power(irreducible_loss=False),
            Refusal.EXPONENT_AT_BOUND,
            "the bound of its range",
        ),
        (
            planted_surface().query("images < 2e7"),
            surface(),
            Refusal.TOO_FEW_DATA_AMOUNTS,
            "it needs 4 values of images, and there are",
        ),
    ],
)
def test_what_the_points_do_not_show_is_refused(
    points: pd.DataFrame, law: ScalingLaw, refusal: Refusal, reason: str
) -> None:
    found = fit(points, law)
    assert found.refusal is refusal
    assert found.status is refusal.status
    assert reason in found.reason


def test_every_refusal_has_a_status_that_is_not_ok() -> None:
    assert all(refusal.status is not FitStatus.OK for refusal in Refusal)
    assert {str(status) for status in FitStatus} == {
        "ok",
        "not identifiable",
        "wrong curvature",
        "at an edge",
        "not converged",
    }


def test_three_sizes_have_slopes_and_no_interval() -> None:
    points = planted(offset=0.8, sizes=SIZES[:3]).assign(seed=0)
    refused = interval(refit(points, power()), lambda found: found.exponents["a"][0])
    assert math.isnan(refused.low)
    assert refused.reason.startswith("not identifiable: it needs 4 values of parameters")
    table = slopes(planted(sizes=SIZES[:3]))
    assert list(table["slope"]) == pytest.approx([-0.31, -0.31])


def test_points_that_cannot_be_fitted_are_counted() -> None:
    points = planted()
    points.loc[1, "loss"] = np.nan
    points.loc[2, "loss"] = -1.0
    found = fit(points, power(irreducible_loss=False))
    assert found.num_points == 4
    assert found.dropped == (
        "1 points that are not finite (runs that diverged or did not end)",
        "1 points that are not positive",
    )
    with pytest.raises(ValueError, match=r"no point is left to fit: 6 points that are not finite"):
        fit(points.assign(loss=np.nan), power())
    with pytest.raises(ValueError, match="no column images"):
        fit(points, surface())
    with pytest.raises(ValueError, match="is for one variant, and there are 2: a, b"):
        fit(pd.concat([planted("a"), planted("b")]), power())


def test_variants_stay_paired_when_seeds_are_drawn_again() -> None:
    """The same seeds for both, so that their difference stays what it is."""
    rows = [
        {"variant": v, "parameters": n, "seed": s, "loss": 1.0 + 0.1 * s + (v == "b")}
        for v in "ab"
        for n in (1.0, 2.0)
        for s in range(4)
    ]
    points = pd.DataFrame(rows)
    again = points.assign(loss=HierarchicalBootstrap(points).losses(np.random.default_rng(0)))
    wide = again.assign(place=again.groupby(["variant", "parameters"]).cumcount()).pivot(
        index=["parameters", "place"], columns="variant", values="loss"
    )
    assert np.allclose(wide["b"] - wide["a"], 1.0)
    assert not np.allclose(again["loss"], points["loss"])
    with pytest.raises(ValueError, match="do not have the same seeds: they are not paired"):
        HierarchicalBootstrap(points.iloc[1:])


def test_blocks_are_drawn_within_runs() -> None:
    points = planted(offset=0.8).assign(seed=0, blocks=[np.array([-1e-3, 0.0, 1e-3])] * len(SIZES))
    found = interval(refit(points, power(), resamples=50), lambda f: f.exponents["a"][0])
    assert found.reason == ""
    assert found.low < 0.31 < found.high
    assert found.high - found.low < 0.05


def curves(noise: float = 1e-3, variants: str = "ab") -> pd.DataFrame:
    """Six checkpoints of four sizes and three seeds, a level for each run."""
    generator, rows = np.random.default_rng(0), []
    for n in SIZES[:4]:
        for seed in range(3):
            level = 0.01 * generator.standard_normal()
            for d in np.geomspace(1e7, 1e9, 6):
                common = noise * generator.standard_normal()
                for place, v in enumerate(variants):
                    loss = (0.8 + (30 - 2 * place) * n**-0.31 + 90 * d**-0.42) * np.exp(level + common)
                    rows.append({"variant": v, "parameters": n, "seed": seed, "images": d, "loss": loss})
    return pd.DataFrame(rows)


def test_checkpoints_of_a_run_are_drawn_together() -> None:
    """The levels of runs stay levels of runs, and variants stay paired."""
    points = curves(noise=0.0)
    whole = fit(points, surface(pooling=Pooling.OWN_EXPONENTS))
    again = points.assign(
        loss=HierarchicalBootstrap(points, np.array(whole.residuals)).losses(np.random.default_rng(0))
    )
    off = np.log(again["loss"]) - np.log(points["loss"]) + np.array(whole.residuals)
    by_run = off.groupby([points["variant"], points["parameters"], points["seed"]])
    assert by_run.std().max() < 1e-3
    assert by_run.mean().std() > 3e-3
    wide = off.groupby([points["parameters"], points["seed"], points["variant"]]).mean().unstack()
    assert np.allclose(wide["a"], wide["b"], atol=1e-3)


def test_exponents_of_planted_checkpoints_lie_in_their_intervals() -> None:
    refits = refit(curves(), surface(pooling=Pooling.OWN_EXPONENTS), resamples=60)
    assert refits.whole.status == "ok"
    for variant in "ab":
        for place, truth in enumerate((0.31, 0.42)):
            found = interval(refits, lambda f, v=variant, p=place: f.exponents[v][p])  # type: ignore[misc]
            assert found.low < truth < found.high
    same = interval(refits, lambda f: f.exponents["a"][1] - f.exponents["b"][1])
    assert same.low < 0 < same.high
    assert same.high - same.low < 0.01


def test_a_law_that_misses_more_than_noise_has_no_interval() -> None:
    points = pd.concat([planted(sizes=np.geomspace(1e4, 1e9, 9)).assign(seed=s) for s in range(3)])
    bent = points.assign(loss=points["loss"] * np.exp(0.02 * np.sin(np.log(points["parameters"]))))
    refits = refit(bent, power(irreducible_loss=False), resamples=40)
    low = max(found.exponents["a"][0] for found in refits.resampled if found is not None)
    shifted = interval(refits, lambda f: f.exponents["a"][0] + (f is refits.whole) * (low + 1))
    assert math.isnan(shifted.low)
    assert "the residuals have structure" in shifted.reason


def test_many_seeds_are_grouped_without_a_change_of_the_mean() -> None:
    rows = [
        {"variant": v, "parameters": n, "seed": s, "loss": s + n} for v in "ab" for n in (1.0, 2.0) for s in range(50)
    ]
    points = pd.DataFrame(rows)
    few = grouped(points, max_seeds=10)
    assert len(few) == 2 * 2 * 10
    keys = ["variant", "parameters"]
    assert few.groupby(keys)["loss"].mean().to_dict() == points.groupby(keys)["loss"].mean().to_dict()
    assert grouped(points, max_seeds=50) is points


def test_the_profile_is_lowest_at_the_fitted_offset_and_costs_what_the_fit_costs() -> None:
    points = planted(offset=0.8, sizes=np.geomspace(1e4, 1e9, 12))
    points["loss"] *= np.exp(1e-3 * np.random.default_rng(0).standard_normal(len(points)))
    whole = fit(points, power())
    offsets = np.sort([0.0, 0.4, whole.irreducible_loss, 0.81, 5.0])
    costs = profile(points, power(), offsets)
    assert np.nanargmin(costs) == list(offsets).index(whole.irreducible_loss)
    assert np.nanmin(costs) == pytest.approx(whole.cost, rel=1e-3)
    assert costs[0] > 10 * whole.cost
    assert math.isnan(costs[-1])


@pytest.mark.system
def test_nine_in_ten_intervals_cover_the_planted_exponent() -> None:
    """80 studies of six sizes and four seeds: a share of so many has a standard deviation of 0.034."""
    generator, hits = np.random.default_rng(1), 0
    studies = 80
    for number in range(studies):
        rows = planted().loc[np.repeat(range(len(SIZES)), 4)].assign(seed=np.tile(range(4), len(SIZES)))
        noisy = rows.assign(loss=rows["loss"] * np.exp(0.01 * generator.standard_normal(len(rows))))
        fits = refit(noisy, power(irreducible_loss=False), resamples=60, seed=number)
        found = interval(fits, lambda f: f.exponents["a"][0])
        hits += found.low <= 0.31 <= found.high
    assert 0.82 <= hits / studies <= 0.98
