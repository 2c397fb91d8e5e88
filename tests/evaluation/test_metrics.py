"""ADM's metrics against independent float64 implementations, and in cases whose answer is known."""

import itertools

import numpy as np
import pytest
import torch

from lina_lab.evaluation import metrics
from lina_lab.evaluation.features import Features
from lina_lab.evaluation.metrics import (
    adm_splits,
    bootstrap_std,
    equal_splits,
    extrapolate,
    inception_score,
    kernel_distance,
    precision_recall,
)
from lina_lab.evaluation.moments import frechet_distance, moments_of
from lina_lab.evaluation.quality import Reference, quality, rules

RNG = np.random.default_rng(0)


def score_by_loops(p: np.ndarray) -> float:
    marginal = p.mean(axis=0)
    divergence = [sum(row[j] * np.log(row[j] / marginal[j]) for j in range(p.shape[1])) for row in p]
    return float(np.exp(np.mean(divergence)))


def random_probabilities(images: int) -> np.ndarray:
    logits = 3 * np.random.default_rng(1).normal(size=(images, 7))
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_the_inception_score_of_adm_has_splits_of_5000_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ADM's evaluator cuts them: consecutive, the last one shorter, and each of the same weight in the mean."""
    assert adm_splits(12_000) == [slice(0, 5000), slice(5000, 10_000), slice(10_000, 15_000)]
    monkeypatch.setattr(metrics, "SPLIT_IMAGES", 50)
    p = random_probabilities(103)
    scores = [score_by_loops(p[start : start + 50]) for start in (0, 50, 100)]
    assert inception_score(p, adm_splits(103)) == pytest.approx((np.mean(scores), np.std(scores)))


def test_the_inception_score_of_salimans_has_ten_equal_splits() -> None:
    """As the first publication cuts them; the rules agree for 50,000 images alone."""
    p = random_probabilities(103)
    bounds = [i * 103 // 10 for i in range(11)]
    scores = [score_by_loops(p[start:end]) for start, end in itertools.pairwise(bounds)]
    assert inception_score(p, equal_splits(103)) == pytest.approx((np.mean(scores), np.std(scores)))
    assert equal_splits(50_000) == adm_splits(50_000)
    with pytest.raises(ValueError, match="needs as many images, not 9"):
        equal_splits(9)


def test_the_two_rules_differ_for_10000_images_of_many_classes() -> None:
    """Certain images of 500 classes: few of each class are in a split of 1,000."""
    certain = np.eye(500)[np.random.default_rng(0).integers(500, size=10_000)]
    adm, equal = (inception_score(certain, splits(10_000))[0] for splits in (adm_splits, equal_splits))
    assert adm > 470
    assert equal < 0.85 * adm


def test_inception_score_of_known_cases() -> None:
    """All alike: 1. Certain, and as many of each class: the number of classes. The splits are not shuffled."""
    assert inception_score(np.full((20, 4), 0.25), equal_splits(20))[0] == pytest.approx(1)
    certain = np.tile(np.eye(4), (10, 1))
    assert inception_score(certain, equal_splits(40))[0] == pytest.approx(4)
    in_order = np.repeat(np.eye(4), 10, axis=0)
    assert inception_score(in_order, [slice(i, i + 10) for i in range(0, 40, 10)])[0] == pytest.approx(1)
    with pytest.raises(ValueError, match="the rows are not probabilities"):
        inception_score(np.ones((20, 4)), adm_splits(20))


def test_one_split_has_no_deviation() -> None:
    """A deviation of 0 would say that the score is certain."""
    assert np.isnan(inception_score(random_probabilities(20), adm_splits(20))[1])
    pool = np.random.default_rng(2).normal(size=(30, 3)).astype(np.float32)
    features = Features(pool=pool, probabilities=random_probabilities(30).astype(np.float32))
    reference = Reference(pool=moments_of(features.pool).gaussian, spatial=None, images=None)
    found = quality(features, reference)
    scores = {name for name in found if name.startswith("inception")}
    assert scores == {"inception_score", "inception_score_10_splits", "inception_score_10_splits_std"}
    assert found["inception_score"] == pytest.approx(score_by_loops(random_probabilities(30)), rel=1e-5)


def test_each_inception_score_names_its_rule_and_a_short_split() -> None:
    found = {"inception_score": 3.0, "inception_score_10_splits": 2.0, "images": 50_000.0}
    assert rules(found)["inception_score"].endswith("consecutive splits of 5,000 images")
    assert "Salimans et al. 2016" in rules(found)["inception_score_10_splits"]
    assert "here the last one has 1, and fewer" in rules(found | {"images": 5001.0})["inception_score"]
    assert "here one of 300, and fewer" in rules(found | {"images": 300.0})["inception_score"]
    assert rules({"fid": 1.0, "images": 10.0}) == {}


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
