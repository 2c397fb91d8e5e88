"""Numbers of laws over seeds: whole ladders, Student's t, the profile of E, multipliers."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis.stats.fit import fit_prepared, prepared
from lina_lab.analysis.stats.irreducible import EStatus, fit_ladders, fit_seedwise
from lina_lab.analysis.stats.laws import Pooling, ScalingLaw, power, surface
from lina_lab.analysis.stats.multipliers import Resource, size_multipliers, training_multipliers
from lina_lab.analysis.stats.pinned import fit_pinned
from lina_lab.analysis.stats.seedwise import ladders, over_seeds
from scipy import stats

SHARED, OWN = (power(pooling=pooling) for pooling in (Pooling.SHARED_EXPONENTS, Pooling.OWN_EXPONENTS))
SURFACE = surface(pooling=Pooling.OWN_EXPONENTS)


def planted(
    *, offset: float = 0.5, noise: float = 0.01, sizes: int = 5, seeds: int = 3, b: float = 27.0, images: Any = None
) -> pd.DataFrame:
    """Two variants; a has the coefficient 30 in its power of N, and b `b`. `images`: checkpoints of each run."""
    generator, rows = np.random.default_rng(0), []
    for variant, amount in (("a", 30.0), ("b", b)):
        for size in np.geomspace(1e6, 1e9, sizes):
            for seed in range(seeds):
                for seen in (math.inf,) if images is None else images:
                    data = 0.0 if images is None else 90 * seen**-0.42
                    loss = (offset + amount * size**-0.31 + data) * np.exp(noise * generator.standard_normal())
                    rows.append((variant, size, seed, seen, 6 * size * seen, loss))
    return pd.DataFrame(rows, columns=["variant", "parameters", "seed", "images", "flops", "loss"])


def test_the_interval_is_students_t_over_seeds() -> None:
    values = [0.2, 0.3, 0.5]
    found = over_seeds(values)
    low, high = stats.t.interval(0.9, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert (found.seeds, found.level, found.reason) == (3, 0.9, "")
    logs = over_seeds(np.log(values), log=True)
    assert logs.value == pytest.approx(np.prod(values) ** (1 / 3))
    assert logs.low < logs.value < logs.high


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0.3], "one seed, so no interval"),
        ([0.3, math.nan, 0.2], "2 of 3 seeds give it, so no interval"),
        ([0.3, 0.3, 0.3], "all seeds give the same, so no interval"),
    ],
)
def test_there_is_no_interval_without_a_spread_of_seeds(values: list[float], reason: str) -> None:
    found = over_seeds(values, 0.3)
    assert not found.known
    assert found.value == pytest.approx(0.3)
    assert found.reason == reason


def test_only_whole_ladders_count() -> None:
    points = planted(seeds=4)
    lost = (points["seed"] == 1) & (points["parameters"] == 1e9) & (points["variant"] == "b")
    points.loc[lost, "loss"] = math.nan
    found = ladders(points, ["parameters"])
    assert found.seeds == 3
    assert found.losses.shape == (3, 10)
    assert found.left_out == ("3 of 4 seeds have every variant and size; the others are left out",)
    whole = points[points["seed"] != 1]
    expected = whole.groupby(["variant", "parameters"], sort=False)["loss"].mean()
    assert list(found.points["loss"]) == pytest.approx(list(expected))


def test_a_variant_that_diverged_leaves_the_others() -> None:
    points = pd.concat([planted(), planted().assign(variant=lambda t: t["variant"].map({"a": "c", "b": "d"}))])
    sizes = sorted(points["parameters"].unique())
    for seed in range(3):
        lost = (points["variant"] == "b") & (points["parameters"] == sizes[seed]) & (points["seed"] == seed)
        points.loc[lost, "loss"] = math.inf
    points = points[~((points["variant"] == "d") & (points["parameters"] == sizes[-1]))]
    found = ladders(points, ["parameters"])
    assert found.seeds == 3
    assert list(dict.fromkeys(found.points["variant"])) == ["a", "c", "d"]
    assert found.left_out == (
        "b is left out: none of its seeds has every size",
        "d has no loss at 1 of the 5 sizes",
    )


def test_a_checkpoint_that_one_seed_lacks_is_left_out_for_all() -> None:
    points = planted(images=np.geomspace(1e7, 1e9, 5))
    extra = points[(points["seed"] == 0) & (points["images"] == 1e9)].assign(images=2e9)
    found = ladders(pd.concat([points, extra]), SURFACE.inputs)
    assert found.seeds == 3
    assert found.points["images"].nunique() == 5


def test_many_seeds_are_grouped_without_a_change_of_the_mean() -> None:
    points = planted(seeds=50)
    few = ladders(points, ["parameters"], max_seeds=10)
    assert few.losses.shape == (10, 10)
    assert few.seeds == 50
    assert list(few.points["loss"]) == pytest.approx(list(ladders(points, ["parameters"], 50).points["loss"]))
    assert len(few.table()) == 100


@pytest.mark.parametrize("law", [SHARED, OWN, SURFACE], ids=["shared", "own", "surface"])
@pytest.mark.parametrize("pinned", [0.0, 0.4])
def test_fits_of_many_seeds_at_once_are_those_of_each_seed(law: ScalingLaw, pinned: float) -> None:
    """Both engines find the same minimum."""
    points = planted(images=np.geomspace(1e7, 1e9, 5) if law is SURFACE else None)
    found, rest = ladders(points, law.inputs), law.pinned()
    fits = fit_ladders(found, rest, [pinned])
    for seed in range(3):
        data = prepared(found.points.assign(loss=found.losses[seed]), rest)
        one = fit_prepared(data.__class__(**{**vars(data), "floor": pinned}), rest, huber=fits.huber)
        assert fits.costs[0, seed] == pytest.approx(one.cost, rel=1e-5)
        assert fits.exponents[0, seed, 1] == pytest.approx(one.exponents["b"], abs=2e-3)


def test_the_score_is_the_derivative_of_the_profile() -> None:
    found, rest = ladders(planted(), SHARED.inputs), SHARED.pinned()
    step = 1e-5
    fits = fit_pinned(prepared(found.points, rest), rest, found.losses, 0.3 + step * np.array([-1, 0, 1]), 0.02)
    slopes = (fits.costs[2] - fits.costs[0]) / (2 * step)
    assert fits.scores[1] == pytest.approx(slopes, rel=1e-2)


def test_e_is_identified_where_the_losses_show_it() -> None:
    law = fit_seedwise(ladders(planted(noise=1e-3), SHARED.inputs), SHARED)
    assert law.profile is not None
    assert law.profile.status is EStatus.IDENTIFIED
    assert law.profile.low < 0.5 < law.profile.high
    assert law.profile.high - law.profile.low < 0.05
    number = law.number(lambda fits: fits.exponent("a"))
    assert number.free.contains(0.31)
    assert number.free.value == pytest.approx(0.31, abs=0.02)
    assert not number.pinned.contains(0.31)


def test_a_plain_power_has_e_near_zero_only() -> None:
    law = fit_seedwise(ladders(planted(offset=0.0, noise=1e-3, sizes=6, seeds=5), SHARED.inputs), SHARED)
    assert law.profile is not None
    assert law.profile.low == 0
    assert law.profile.high < 0.005
    assert law.number(lambda fits: fits.exponent("a")).free.contains(0.31)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (planted(noise=1e-3, sizes=3), "3 sizes cannot tell E from a bend of the law; 4 are needed"),
        (planted(noise=1e-3, seeds=1), "one seed, so nothing says which E the losses are compatible with"),
    ],
    ids=["three sizes", "one seed"],
)
def test_e_stays_undetermined_whatever_the_losses_are(points: pd.DataFrame, reason: str) -> None:
    law = fit_seedwise(ladders(points, SHARED.inputs), SHARED)
    assert law.profile is not None
    assert (law.profile.status, law.profile.low) == (EStatus.UNDETERMINED, 0)
    assert law.profile.reason == reason
    number = law.number(lambda fits: fits.exponent("a"))
    assert number.at_low < 0.31 < number.at_high


def test_worth_in_parameters_is_relative_to_the_baseline_that_is_named() -> None:
    (found,) = size_multipliers(fit_seedwise(ladders(planted(noise=1e-3), SHARED.inputs), SHARED))
    assert (found.treatment, found.baseline, found.resource) == ("b", "a", Resource.PARAMETERS)
    assert found.free.contains((30 / 27) ** (1 / 0.31))
    assert found.free.value > 1


def test_worth_in_images_and_flops_follows_from_the_surface() -> None:
    """b's images cost half as much, so b is worth twice as many FLOPs."""
    points = planted(noise=1e-4, images=np.geomspace(1e7, 1e9, 6))
    points.loc[points["variant"] == "b", "flops"] /= 2
    images, flops = training_multipliers(fit_seedwise(ladders(points, SURFACE.inputs), SURFACE))
    assert (images.resource, flops.resource) == (Resource.IMAGES, Resource.FLOPS)
    left = 90 * 1e9**-0.42 + (27 - 30) * 1e9**-0.31
    assert images.free.value == pytest.approx((left / 90) ** (-1 / 0.42) / 1e9, rel=0.02)
    assert images.free.contains((left / 90) ** (-1 / 0.42) / 1e9)
    assert flops.free.value == pytest.approx(2 * images.free.value)


def test_no_amount_of_images_may_suffice() -> None:
    """b's lead is larger than all that more data can give a."""
    points = planted(noise=1e-4, b=18.0, images=np.geomspace(1e7, 1e9, 6))
    images, _ = training_multipliers(fit_seedwise(ladders(points, SURFACE.inputs), SURFACE))
    assert images.free.reason == "0 of 3 seeds give it, so no interval"
