"""Moments are the same in any batch size, and the Fréchet distance is the closed form's."""

import numpy as np
import pytest
import torch
from scipy import linalg
from torchmetrics.image.fid import FrechetInceptionDistance

from lina_lab.evaluation.moments import Gaussian, distances_to, frechet_distance, merged, moments_of

RNG = np.random.default_rng(0)


def gaussian(features: np.ndarray) -> Gaussian:
    return moments_of(features).gaussian


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e6])
@pytest.mark.parametrize("cuts", [[], [1], [59], [7, 8, 30], [10, 20, 30, 40, 50]], ids=str)
def test_portions_do_not_matter(cuts: list[int], offset: float) -> None:
    features = np.random.default_rng(1).normal(size=(60, 5)) + offset
    found = merged(moments_of(part) for part in np.split(features, cuts)).gaussian
    assert np.allclose(found.mean, features.mean(axis=0), rtol=1e-12)
    assert np.allclose(found.covariance, np.cov(features, rowvar=False), rtol=1e-6, atol=1e-8)


def test_closed_forms() -> None:
    """One dimension: `(m - n)^2 + (s - t)^2`; commuting covariances: the sum of it over the axes."""
    one = Gaussian(mean=np.array([1.0]), covariance=np.array([[4.0]]))
    two = Gaussian(mean=np.array([-2.0]), covariance=np.array([[9.0]]))
    assert frechet_distance(one, two) == pytest.approx(9 + 1)
    turn, _ = linalg.qr(RNG.normal(size=(6, 6)))
    s, t, gap = RNG.uniform(0.1, 3, 6), RNG.uniform(0.1, 3, 6), RNG.normal(size=6)
    a = Gaussian(mean=np.zeros(6), covariance=turn @ np.diag(s**2) @ turn.T)
    b = Gaussian(mean=gap, covariance=turn @ np.diag(t**2) @ turn.T)
    assert frechet_distance(a, b) == pytest.approx(gap @ gap + ((s - t) ** 2).sum())
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_as_scipy_has_it_in_float64() -> None:
    """Against the root of the product by Schur's method, the definition."""
    x, y = RNG.normal(size=(500, 64)) @ RNG.normal(size=(64, 64)), RNG.normal(size=(500, 64)) + 0.1
    a, b = gaussian(x), gaussian(y)
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    gap = a.mean - b.mean
    expected = gap @ gap + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_as_torchmetrics_has_it() -> None:
    """A second, independent implementation, with an extractor of our own."""
    from torch import nn

    images = torch.randint(0, 256, (2, 100, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    class Flat(nn.Module):
        num_features = 48

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).double()

    metric = FrechetInceptionDistance(feature=Flat(), input_img_size=(3, 4, 4)).set_dtype(torch.float64)
    metric.update(images[0], real=True)
    metric.update(images[1], real=False)
    ours = frechet_distance(*(gaussian(part.flatten(1).double().numpy()) for part in images))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-6)


def test_fewer_images_than_numbers_have_a_distance() -> None:
    """Singular covariances: the one of a set with itself is zero, and a shift counts in full."""
    few = gaussian(RNG.normal(size=(10, 40)))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    moved = Gaussian(mean=few.mean + 1, covariance=few.covariance)
    assert frechet_distance(few, moved) == pytest.approx(40, rel=1e-6)


@pytest.mark.parametrize("count", [10, 40, 41, 300])
def test_many_distances_to_one_reference_are_the_same(count: int) -> None:
    """With fewer images than numbers, as many, and more."""
    reference, rows = gaussian(RNG.normal(size=(200, 40))), RNG.normal(size=(count, 40)) * 1.3 + 0.2
    assert distances_to(reference)(rows) == pytest.approx(frechet_distance(reference, gaussian(rows)), rel=1e-7)


def test_what_has_no_distance_is_said() -> None:
    with pytest.raises(ValueError, match="1 of 3 features are not finite"):
        moments_of(np.array([[1.0], [np.nan], [2.0]]))
    with pytest.raises(ValueError, match="one image has no covariance"):
        gaussian(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="of 2 and of 3 numbers have no distance"):
        frechet_distance(gaussian(RNG.normal(size=(4, 2))), gaussian(RNG.normal(size=(4, 3))))
    with pytest.raises(ValueError, match="of 2 and of 3 numbers do not belong together"):
        merged([moments_of(np.zeros((4, 2))), moments_of(np.zeros((4, 3)))])
    with pytest.raises(ValueError, match="there are no features"):
        merged([])
    with pytest.raises(ValueError, match="features need rows"):
        moments_of(np.zeros(3))
