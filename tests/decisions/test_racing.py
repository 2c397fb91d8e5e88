"""Racing over seeds: who leaves the race, and when."""

from math import nan

import numpy as np
import pytest

from lina_lab.decisions.racing import planned_looks, race
from lina_lab.decisions.sequential import sequential_interval

RNG = np.random.default_rng(0)
COMMON = RNG.normal(size=12)


def variant(shift: float, seeds: int = 12, noise: float = 0.1) -> list[float | None]:
    return list(shift + COMMON[:seeds] + noise * RNG.normal(size=seeds))


def unfinished(values: list[float | None], seeds: int) -> list[float | None]:
    return [*values[:seeds], *[None] * (len(values) - seeds)]


@pytest.mark.parametrize(
    ("seeds", "block", "looks"), [(9, 3, (3, 6)), (10, 3, (3, 6, 9)), (4, 3, (3,)), (3, 3, ()), (1, 3, ())]
)
def test_a_race_is_looked_at_after_each_block_but_the_last(seeds: int, block: int, looks: tuple[int, ...]) -> None:
    assert planned_looks(seeds, block) == looks


def test_a_variant_that_is_clearly_worse_leaves_after_the_first_block_and_the_others_go_on() -> None:
    found = race({"a": variant(0), "b": variant(5), "c": variant(0)}, block=4, level=0.05)
    assert found.due == 12
    assert found.dropped.keys() == {"b"}
    assert found.dropped["b"].seeds == 4
    assert found.dropped["b"].best in ("a", "c")


def test_its_interval_is_that_of_all_looks_at_the_level_of_each_pair() -> None:
    a, b, c = variant(0), variant(5), variant(0.001)
    left = race({"a": a, "b": b, "c": c}, block=4, level=0.06).dropped["b"]
    best = {"a": a, "c": c}[left.best]
    differences = [y - x for x, y in zip(best[:4], b[:4], strict=True) if x is not None and y is not None]
    assert left.interval == sequential_interval(differences, (4, 8), 1 - 0.06 / 3)


def test_no_seed_of_the_next_block_is_due_before_all_of_this_one_have_ended() -> None:
    a, b = variant(0), variant(5)
    assert race({"a": unfinished(a, 4), "b": unfinished(b, 3)}, block=4, level=0.05).due == 4
    after = race({"a": unfinished(a, 4), "b": unfinished(b, 4)}, block=4, level=0.05)
    assert (after.due, after.looked, set(after.dropped)) == (12, 1, {"b"})
    alike = race({"a": unfinished(a, 4), "b": unfinished(a, 4)}, block=4, level=0.05)
    assert (alike.due, alike.looked) == (8, 1)


def test_more_results_go_on_from_where_fewer_have_led() -> None:
    table = {name: variant(shift, noise=0.5) for name, shift in (("a", 0.0), ("b", 0.8), ("c", 5.0))}
    before: dict[str, int] = {}
    for seeds in range(13):
        found = race({name: unfinished(values, seeds) for name, values in table.items()}, block=3, level=0.05)
        now = {name: left.seeds for name, left in found.dropped.items()}
        assert now | before == now
        before = now
    # What a variant is trained on after it has left, by another command, changes nothing.
    assert race(table, block=3, level=0.05).dropped.keys() == before.keys()


def test_where_large_values_are_good_the_small_ones_leave() -> None:
    found = race({"a": variant(0), "b": variant(5)}, block=4, level=0.05, direction="maximize")
    assert found.dropped.keys() == {"a"}


def test_a_spared_variant_stays_and_others_are_compared_with_it() -> None:
    bad, good, other = variant(5), variant(0), variant(5)
    assert race({"a": bad, "b": good, "c": other}, block=4, level=0.05, spared={"a"}).dropped.keys() == {"c"}
    assert race({"a": good, "b": other}, block=4, level=0.05, spared={"a"}).dropped.keys() == {"b"}
    everyone = race({"a": unfinished(bad, 0), "b": unfinished(good, 0)}, block=4, level=0.05, spared={"a", "b"})
    assert everyone.due == 12  # nobody can leave, so nobody waits


def test_what_a_tuned_value_may_give_away_keeps_a_variant_in_the_race() -> None:
    table = {"a": variant(0), "b": variant(5)}
    assert race(table, block=4, level=0.05, regrets={"a": 0.0, "b": 6.0}).dropped == {}
    assert race(table, block=4, level=0.05, regrets={"a": 6.0, "b": 0.0}).dropped.keys() == {"b"}


def test_diverged_seeds_are_missing_and_a_variant_without_any_is_better() -> None:
    lame = variant(-5)
    lame[0] = nan
    found = race({"a": variant(0), "b": lame}, block=4, level=0.05)
    assert found.dropped == {}  # b is better where it does not diverge
    assert race({"a": [nan] * 12, "b": variant(0)}, block=4, level=0.05).dropped == {}


def test_seeds_that_agree_exactly_say_nothing() -> None:
    same = [float(seed) for seed in range(12)]
    assert race({"a": same, "b": [value + 1 for value in same]}, block=4, level=0.05).dropped == {}


def test_one_variant_alone_trains_all_its_seeds_at_once() -> None:
    assert race({"a": [None] * 9}, block=3, level=0.05).due == 9
