"""ADM's metrics against independent float64 implementations, and in cases whose answer is known."""

import numpy as np
import pytest
import torch

from lina_lab.evaluation import metrics
from lina_lab.evaluation.metrics import (
    bootstrap_std,
    extrapolate,
    inception_score,
    kernel_distance,
    precision_recall,
)
from lina_lab.evaluation.moments import frechet_distance, moments_of

RNG = np.random.default_rng(0)


def test_inception_score_by_loops() -> None:
    logits = RNG.normal(size=(103, 7))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = []
    for part in np.array_split(p, 10):
        marginal = part.mean(axis=0)
        divergence = [sum(row[j] * np.log(row[j] / marginal[j]) for j in range(7)) for row in part]
        scores.append(np.exp(np.mean(divergence)))
    assert inception_score(p) == pytest.approx((np.mean(scores), np.std(scores)))


def test_inception_score_of_known_cases() -> None:
    """All alike: 1. Certain, and as many of each class: the number of classes. The splits are not shuffled."""
    assert inception_score(np.full((20, 4), 0.25))[0] == pytest.approx(1)
    certain = np.tile(np.eye(4), (10, 1))
    assert inception_score(certain, splits=10)[0] == pytest.approx(4)
    assert inception_score(np.repeat(np.eye(4), 10, axis=0), splits=4)[0] == pytest.approx(1)
    with pytest.raises(ValueError, match="the rows are not probabilities"):
        inception_score(np.ones((20, 4)))
    with pytest.raises(ValueError, match="needs as many images, not 3"):
        inception_score(np.full((3, 2), 0.5))


def share_within(manifold: np.ndarray, points: np.ndarray, k: int = 3) -> float:
    """As the paper's equation 1 has it, in loops."""
    radii = [np.sort(np.linalg.norm(manifold - row, axis=1))[k] for row in manifold]
    inside = [any(np.linalg.norm(row - m) <= r for m, r in zip(manifold, radii, strict=True)) for row in points]
    return float(np.mean(inside))


def test_precision_and_recall_by_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number of rows is looked at at a time."""
    reference, generated = RNG.normal(size=(60, 3)), RNG.normal(size=(45, 3)) * 0.6 + 0.5
    expected = (share_within(reference, generated), share_within(generated, reference))
    assert expected[0] != expected[1]
    for rows in (1024, 7):
        monkeypatch.setattr(metrics, "ROWS", rows)
        assert precision_recall(torch.from_numpy(reference), torch.from_numpy(generated)) == pytest.approx(expected)


def test_precision_is_not_recall() -> None:
    """Images of half the reference: precise, and half recalled. Twice as wide: the other way round."""
    reference = torch.from_numpy(RNG.normal(size=(400, 2)))
    half = reference[reference[:, 0] > 0]
    precision, recall = precision_recall(reference, half)
    assert precision == 1.0
    assert 0.4 < recall < 0.75
    both = torch.cat([reference, reference + 50])
    precision, recall = precision_recall(reference, both)
    assert precision == 0.5
    assert recall == 1.0
    with pytest.raises(ValueError, match="3 generated images have no 3rd nearest neighbor"):
        precision_recall(reference, reference[:3])


def test_kernel_distance_by_loops_and_without_bias() -> None:
    x, y = RNG.normal(size=(12, 4)), RNG.normal(size=(12, 4)) + 0.5

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 4 + 1) ** 3)

    within = sum(kernel(s[i], s[j]) for s in (x, y) for i in range(12) for j in range(12) if i != j) / (12 * 11)
    across = sum(kernel(a, b) for a in x for b in y) / 144
    assert kernel_distance(x, y, subsets=1)[0] == pytest.approx(within - 2 * across)
    pool = RNG.normal(size=(4000, 4))
    mean, deviation = kernel_distance(pool[:2000], pool[2000:], subsets=50, size=200)
    assert deviation is not None
    assert abs(mean) < 2 * deviation
    assert deviation > 0


@pytest.mark.parametrize(("images", "known"), [(40, False), (99, False), (100, True)])
def test_the_deviation_of_a_kernel_distance_is_not_that_of_one_subset_with_itself(images: int, known: bool) -> None:
    """Subsets of 50 images: of 40 each is the same whole set, and the deviation of equal numbers was given as 0."""
    x, y = RNG.normal(size=(200, 4)), RNG.normal(size=(images, 4))
    for sides in ((x, y), (y, x)):
        assert (kernel_distance(*sides, subsets=5, size=50)[1] is not None) == known


def test_extrapolation_takes_away_what_few_images_add() -> None:
    """Two samples of one law: their distance is all bias."""
    features = RNG.normal(size=(20_000, 16))
    reference = moments_of(features[:18_000]).gaussian
    few = features[18_000:]
    biased = frechet_distance(reference, moments_of(few).gaussian)
    found = extrapolate(reference, few)
    assert biased > 0.03
    assert abs(found.infinite) < biased / 3
    assert found.slope > 0
    with pytest.raises(ValueError, match="3 images are too few to extrapolate from"):
        extrapolate(reference, few[:3])


def test_the_bootstrap_s_deviation_is_that_of_new_images() -> None:
    law = np.random.default_rng(3)
    reference = moments_of(law.normal(size=(50_000, 4))).gaussian
    fresh = [frechet_distance(reference, moments_of(law.normal(size=(500, 4)) + 0.5).gaussian) for _ in range(60)]
    resampled = bootstrap_std(reference, law.normal(size=(500, 4)) + 0.5, samples=60)
    assert resampled == pytest.approx(np.std(fresh), rel=0.4)
