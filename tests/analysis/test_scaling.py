"""Laws on planted surfaces and on published points, and refusals."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis.stats.extrapolation import held_out_error, slopes
from lina_lab.analysis.stats.fit import fit_law
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
    found = fit_law(points.assign(parameters=points["parameters"] * scale), law)
    assert (found.status, found.reason) == ("ok", "")
    assert found.exponents["a"][0] == pytest.approx(0.31, abs=1e-4)
    assert found.coefficients["a"][0] == pytest.approx(30 * scale**0.31, rel=1e-4)
    assert found.irreducible_loss == pytest.approx(offset, abs=1e-6)
    assert found.gradient < 1e-6
    assert max(map(abs, found.residuals)) < 1e-6
    assert found.predict("a", parameters=1e8 * scale) == pytest.approx(offset + 30 * 1e8**-0.31, rel=1e-5)
    assert held_out_error(points, law) < 1e-6


def test_a_planted_surface_is_found() -> None:
    found = fit_law(planted_surface(), surface())
    assert found.status == "ok"
    assert found.exponents["a"] == pytest.approx((0.31, 0.42), abs=1e-4)
    assert found.coefficients["a"] == pytest.approx((30, 90), rel=1e-3)
    assert found.irreducible_loss == pytest.approx(0.8, abs=1e-5)


def test_planted_variants_that_share_are_found() -> None:
    amounts = {"a": 30.0, "b": 33.0, "c": 25.0}
    few = pd.concat([planted(v, offset=0.8, a=a, sizes=SIZES[:4]) for v, a in amounts.items()])
    found = fit_law(few, POOLED)
    assert found.status == "ok"
    for variant, amount in amounts.items():
        assert found.exponents[variant][0] == pytest.approx(0.31, abs=1e-4)
        assert found.coefficients[variant][0] == pytest.approx(amount, rel=1e-3)
    own = pd.concat([planted("a", offset=0.8, alpha=0.3), planted("b", offset=0.8, alpha=0.35)])
    found = fit_law(own, power(pooling=Pooling.OWN_EXPONENTS))
    assert found.exponents["a"][0] == pytest.approx(0.30, abs=1e-4)
    assert found.exponents["b"][0] == pytest.approx(0.35, abs=1e-4)


def test_a_planted_line_is_found() -> None:
    points = pd.DataFrame({"variant": "a", "parameters": SIZES, "loss": 3 - 0.1 * np.log(SIZES)})
    assert fit_law(points[:3], log_line()).status == "ok"
    found = fit_law(points, log_line())
    assert found.status == "ok"
    assert found.irreducible_loss == pytest.approx(3, abs=1e-6)
    assert found.coefficients["a"][0] == pytest.approx(-0.1, abs=1e-7)
    assert found.predict("a", parameters=1e7) == pytest.approx(3 - 0.1 * math.log(1e7))


def test_one_point_far_off_changes_little() -> None:
    points = planted(offset=0.8, sizes=np.geomspace(1e6, 1e9, 12))
    points.loc[5, "loss"] *= 1.2
    assert fit_law(points, power()).exponents["a"][0] == pytest.approx(0.31, abs=0.01)


def test_the_right_form_has_the_smaller_aicc() -> None:
    generator = np.random.default_rng(0)
    noise = np.exp(1e-3 * generator.standard_normal(12))
    points = planted(offset=0.8, sizes=np.geomspace(1e6, 1e9, 12))
    points = points.assign(loss=points["loss"] * noise)
    assert fit_law(points, power()).aicc < fit_law(points, power(irreducible_loss=False)).aicc


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
        (
            pd.concat([planted(v, offset=0.8, a=a, sizes=SIZES[:3]) for v, a in (("a", 30.0), ("b", 33.0))]),
            POOLED,
            Refusal.TOO_FEW_SIZES,
            "it needs 4 values of parameters, and there are 3",
        ),
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
    found = fit_law(points, law)
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


def test_two_sizes_have_slopes() -> None:
    table = slopes(planted(sizes=SIZES[:3]))
    assert list(table["slope"]) == pytest.approx([-0.31, -0.31])


def test_points_that_cannot_be_fitted_are_counted() -> None:
    points = planted()
    points.loc[1, "loss"] = np.nan
    points.loc[2, "loss"] = -1.0
    found = fit_law(points, power(irreducible_loss=False))
    assert found.num_points == 4
    assert found.dropped == (
        "1 points that are not finite (runs that diverged or did not end)",
        "1 points that are not positive",
    )
    with pytest.raises(ValueError, match=r"no point is left to fit: 6 points that are not finite"):
        fit_law(points.assign(loss=np.nan), power())
    with pytest.raises(ValueError, match="no column images"):
        fit_law(points, surface())
    with pytest.raises(ValueError, match="is for one variant, and there are 2: a, b"):
        fit_law(pd.concat([planted("a"), planted("b")]), power())


def test_columns_have_any_names_and_one_variant_needs_no_column() -> None:
    points = planted_surface().rename(columns={"parameters": "N", "images": "tokens"}).drop(columns="variant")
    found = fit_law(points, surface("N", "tokens"))
    assert found.status == "ok"
    assert found.law.name == "E + A N^-alpha + B tokens^-beta"
    assert found.exponents["all"] == pytest.approx((0.31, 0.42), abs=1e-4)
    assert found.predict("all", N=SIZES[0], tokens=IMAGES[0]) == pytest.approx(points["loss"].iloc[0], rel=1e-5)


def test_e_can_be_pinned() -> None:
    found = fit_law(planted(offset=0.8), power(irreducible_loss=False), floor=0.8)
    assert found.exponents["a"][0] == pytest.approx(0.31, abs=1e-5)
    assert found.irreducible_loss == 0.8
    assert found.predict("a", parameters=1e8) == pytest.approx(0.8 + 30 * 1e8**-0.31, rel=1e-6)


@pytest.mark.parametrize("noise", [1e-4, 0.02])
def test_delta_follows_the_noise(noise: float) -> None:
    """So that all points count: the curve passes through none of them."""
    points = planted(offset=0.8, sizes=np.geomspace(1e6, 1e9, 60))
    points["loss"] *= np.exp(noise * np.random.default_rng(0).standard_normal(len(points)))
    found = fit_law(points, power())
    assert found.huber == pytest.approx(1.345 * noise, rel=0.3)
    assert np.abs(found.residuals).min() > 1e-4 * noise
    assert fit_law(points, power(), huber=1e-3).huber == 1e-3


@pytest.mark.parametrize("huber", [1e-7, 1e-3, 10.0])
def test_aicc_is_of_the_likelihood_that_is_maximized(huber: float) -> None:
    """Normal where delta is large, Laplace where it is small: n log of the mean square, 2 n log of the mean size."""
    points = planted(sizes=np.geomspace(1e6, 1e9, 40))
    points["loss"] *= np.exp(0.02 * np.random.default_rng(0).standard_normal(len(points)))
    found = fit_law(points, power(irreducible_loss=False), huber=huber)
    residuals, n, free = np.array(found.residuals), len(points), 3
    normal = n * np.log(2 * np.pi * np.mean(residuals**2)) + n
    laplace = 2 * n * np.log(2 * np.mean(np.abs(residuals))) + 2 * n
    correction = 2 * free + 2 * free * (free + 1) / (n - free - 1)
    expected = (normal if huber == 10.0 else laplace) + correction
    assert found.aicc == pytest.approx(expected, abs=2.0 if huber == 1e-3 else 0.01)


def test_the_engine_finds_the_published_fit_of_chinchilla() -> None:
    """Epoch AI's best of 4,500 starts on 240 of their points costs 0.00101827403 (arXiv 2404.10102)."""
    table = foreign("chinchilla_epoch.csv").nsmallest(240, "loss")
    found = fit_law(table, surface("params", "tokens"), huber=1e-3)
    assert found.status == "ok"
    assert found.cost == pytest.approx(0.00101827402, abs=1e-11)
    assert found.irreducible_loss == pytest.approx(1.81724, abs=1e-4)
    assert found.exponents["all"] == pytest.approx((0.34731, 0.36718), abs=1e-4)


def foreign(name: str) -> pd.DataFrame:
    """Read a table of other people's data, which is not part of the repository."""
    folder = os.environ.get("LINA_FOREIGN_DATA")
    path = (Path(folder) if folder else Path(__file__).parents[3] / "shared/reference/foreign") / name
    if not path.is_file():
        pytest.skip(f"{name} is not here: set LINA_FOREIGN_DATA to the folder that has it")
    return pd.read_csv(path)
