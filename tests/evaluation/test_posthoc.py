"""Averages of any length, rebuilt from snapshots of two."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate

from lina_lab.config import ema
from lina_lab.evaluation.posthoc import Snapshot, damage, rebuild, write_snapshot
from lina_lab.util import power_ema
from lina_lab.util.power_ema import Combination, Profile, combine, decay_of, gamma_of, inner_products, refusal

WIDTHS = (0.05, 0.1)
STEPS, EVERY, SIZE = 4096, 256, 200
LENGTHS = (0.02, 0.04, 0.05, 0.06, 0.075, 0.1, 0.13, 0.16, 0.2, 0.25)
TIMES = (STEPS // 2, 3 * STEPS // 4, STEPS)
Array = np.ndarray[Any, np.dtype[np.float64]]


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, 0.279])
def test_the_relative_width_is_the_deviation_of_the_profile(width: float) -> None:
    gamma = gamma_of(width)

    def moment(power: int) -> float:
        return float(integrate.quad(lambda t: (gamma + 1) * t ** (gamma + power), 0, 1)[0])

    assert moment(0) == pytest.approx(1)
    assert np.sqrt(moment(2) - moment(1) ** 2) == pytest.approx(width)


def test_two_published_exponents() -> None:
    """Karras et al. 2024, section 3.1: relative widths 0.05 and 0.10 are gamma = 16.97 and 6.94."""
    assert [round(gamma_of(width), 2) for width in WIDTHS] == [16.97, 6.94]


def test_updates_weigh_each_step_by_the_integral_of_the_profile_over_it() -> None:
    steps, gamma = 50, gamma_of(0.1)
    weights = np.zeros(steps)
    for step in range(1, steps + 1):
        weights *= decay_of(0.1, step)
        weights[step - 1] += 1 - decay_of(0.1, step)
    edges = (np.arange(steps + 1) / steps) ** (gamma + 1)
    assert weights == pytest.approx(np.diff(edges), rel=1e-9)


@pytest.mark.parametrize("pair", [((0.05, 100), (0.1, 100)), ((0.05, 40), (0.1, 100)), ((0.1, 30), (0.2, 70))])
def test_inner_products_are_integrals(pair: tuple[tuple[float, int], tuple[float, int]]) -> None:
    (a, t), (b, u) = ((gamma_of(width), step) for width, step in pair)
    end = min(t, u)
    found = integrate.quad(lambda x: (a + 1) * x**a / t ** (a + 1) * (b + 1) * x**b / u ** (b + 1), 0, end)[0]
    one, other = (Profile(*each) for each in pair)
    assert inner_products([one], [other])[0, 0] == pytest.approx(found, rel=1e-6)


def trajectory(seed: int) -> Iterator[Array]:
    """Weights that drift, walk at random, and carry a noise that decays with the learning rate."""
    rng = np.random.default_rng(seed)
    start, drift = rng.normal(size=SIZE), rng.normal(size=SIZE)
    walk = np.zeros(SIZE)
    for step in range(1, STEPS + 1):
        walk += 0.02 * rng.normal(size=SIZE)
        noise = 0.5 / np.sqrt(1 + step / 100) * rng.normal(size=SIZE)
        yield start + drift * np.sqrt(step / STEPS) + walk + noise


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Snapshot], dict[tuple[float, int], Array]]:
    """A folder with snapshots of two profiles, and averages that were tracked directly at each of LENGTHS."""
    folder = tmp_path_factory.mktemp("planted")
    averages = {width: np.zeros(SIZE) for width in (*WIDTHS, *LENGTHS)}
    snapshots, tracked = [], {}
    for step, weights in enumerate(trajectory(0), start=1):
        for width, average in averages.items():
            averages[width] = average + (1 - decay_of(width, step)) * (weights - average)
        if step % EVERY == 0:
            kept = {w: {"a": torch.tensor(averages[w][:150]), "b": torch.tensor(averages[w][150:])} for w in WIDTHS}
            snapshots.append(write_snapshot(folder, step, kept))
            tracked |= {(width, step): averages[width] for width in LENGTHS}
    return folder, snapshots, tracked


def rebuilt(folder: Path, snapshots: Sequence[Snapshot], wanted: Profile) -> Array:
    known = [each for each in snapshots if each.step <= wanted.step]
    found: Array = torch.cat([value for _, value in rebuild(folder, known, WIDTHS, wanted)]).double().numpy()
    return found


def error(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("step", TIMES)
@pytest.mark.parametrize("length", [0.05, 0.06, 0.075, 0.1, 0.13])
def test_a_rebuilt_average_is_the_one_that_was_tracked_at_that_length(planted: Any, length: float, step: int) -> None:
    folder, snapshots, tracked = planted
    assert error(rebuilt(folder, snapshots, Profile(length, step)), tracked[length, step]) < 1e-3


def test_what_is_allowed_is_right_and_what_is_wrong_is_refused(planted: Any) -> None:
    """Also outside of the two profiles: at some times 0.04 and 0.16 are allowed; 0.02 and 0.25 never are."""
    folder, snapshots, tracked = planted
    allowed = set()
    for length, step in itertools.product(LENGTHS, TIMES):
        known = tuple(Profile(width, each.step) for each in snapshots if each.step <= step for width in WIDTHS)
        if refusal(known, Profile(length, step)) is None:
            allowed.add(length)
            assert error(rebuilt(folder, snapshots, Profile(length, step)), tracked[length, step]) < 1e-3, (
                length,
                step,
            )
    assert allowed == set(LENGTHS) - {0.02, 0.2, 0.25}


def test_the_nearest_profile_in_its_place_would_not_do(planted: Any) -> None:
    """The bound tells lengths apart: averages of neighboring lengths differ by more."""
    *_, tracked = planted
    for one, other in itertools.pairwise(LENGTHS):
        assert error(tracked[one, STEPS], tracked[other, STEPS]) > 2e-3, (one, other)


@pytest.mark.parametrize("change", ["moved", "wrong gamma", "unsolved"])
def test_wrong_coefficients_are_seen(planted: Any, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    folder, snapshots, tracked = planted

    def wrong(known: tuple[Profile, ...], wanted: Profile) -> Combination:
        if change == "wrong gamma":
            return combine(known, Profile(wanted.width * 1.2, wanted.step))
        right = combine(known, wanted)
        values = np.array(right.coefficients)
        if change == "moved":  # to the snapshot before
            values = np.roll(values, -len(WIDTHS))
        else:  # projections in place of the solution
            values = inner_products(known, [wanted])[:, 0]
            values /= values.sum()
        return Combination(coefficients=tuple(values), missed=right.missed)

    monkeypatch.setattr("lina_lab.evaluation.posthoc.combine", wrong)
    assert error(rebuilt(folder, snapshots, Profile(0.075, STEPS)), tracked[0.075, STEPS]) > 2e-3


def test_a_kept_profile_is_found_again_as_it_is(planted: Any) -> None:
    folder, snapshots, tracked = planted
    found = rebuilt(folder, snapshots, Profile(0.1, STEPS))
    assert error(found, tracked[0.1, STEPS]) < 1e-7
    known = tuple(Profile(width, each.step) for each in snapshots for width in WIDTHS)
    assert sum(combine(known, Profile(0.13, STEPS)).coefficients) == pytest.approx(1, abs=1e-9)


def test_averages_in_memory_stand_for_a_snapshot(planted: Any, tmp_path: Path) -> None:
    """At a checkpoint between two snapshots, the checkpoint's own averages are used."""
    folder, snapshots, _ = planted
    with_file = rebuilt(folder, snapshots, Profile(0.13, STEPS))
    averages = {width: dict(rebuild(folder, snapshots, WIDTHS, Profile(width, STEPS))) for width in WIDTHS}
    found = dict(rebuild(folder, snapshots[:-1], WIDTHS, Profile(0.13, STEPS), averages))
    assert error(torch.cat([found["a"], found["b"]]).double().numpy(), with_file) < 1e-6


@pytest.mark.parametrize(
    ("width", "sentence"),
    [
        (0.005, r"ema=0.005 cannot be rebuilt from 16 snapshots of the profiles \[0.05, 0.1\]: the closest combination "
         r"misses \d+\.\d% of its profile, and 2% are allowed"),
        (0.3, "ema=0.3 is not a relative width between 0 and 0.28"),
    ],
)  # fmt: skip
def test_a_length_out_of_reach_is_refused(planted: Any, width: float, sentence: str) -> None:
    folder, snapshots, _ = planted
    with pytest.raises(ValueError, match=sentence):
        list(rebuild(folder, snapshots, WIDTHS, Profile(width, STEPS)))


def test_a_snapshot_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    snapshots = [write_snapshot(tmp_path, step, {0.05: {"a": torch.full((9,), float(step))}}) for step in (1, 2)]
    assert damage(tmp_path, snapshots) is None
    path = snapshots[1].file(tmp_path)
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)
    assert damage(tmp_path, snapshots) == f"{path} is damaged: its contents are not what was written"
    path.unlink()
    assert (damage(tmp_path, snapshots) or "").startswith(f"{path} is missing")
    assert damage(tmp_path, snapshots[:1]) is None


def test_snapshots_of_equal_averages_are_equal_files(tmp_path: Path) -> None:
    values = {width: {name: torch.arange(5.0) * width for name in ("b", "a", "c")} for width in WIDTHS}
    (tmp_path / "other").mkdir()
    one, other = (write_snapshot(folder, 3, values) for folder in (tmp_path, tmp_path / "other"))
    assert one.sha256 == other.sha256
    assert not list(tmp_path.rglob("*.draft"))


def test_the_configuration_knows_the_same_range_without_numpy() -> None:
    assert ema.WIDEST == power_ema.WIDEST
