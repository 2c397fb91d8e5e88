"""Seeds of random streams: what torch takes of them, and streams that no two parts share."""

import hashlib

import numpy as np
import pytest
import torch

from lina_lab.util.compat.torch import MERSENNE_WORDS, set_mersenne_state
from lina_lab.util.seeds import RNG_VERSIONS, derive, seed_generator, seeded


def test_torch_takes_32_bits_of_a_seed() -> None:
    """Why there is a second version. Where this fails, a release of torch takes more: versions may become one."""
    one, other = (torch.Generator().manual_seed(seed) for seed in (5, 5 + 2**32))
    assert torch.equal(torch.rand(8, generator=one), torch.rand(8, generator=other))


def test_a_filled_state_is_that_of_the_mersenne_twister() -> None:
    """The same numbers as numpy's generator of that state, over several of its periods of 624."""
    words = hashlib.shake_256(b"x").digest(4 * MERSENNE_WORDS)
    found = torch.empty(2000, dtype=torch.int32).random_(generator=set_mersenne_state(torch.Generator(), words))
    twister = np.random.MT19937()
    state = twister.state
    state["state"] = {"key": np.frombuffer(words, "<u4"), "pos": MERSENNE_WORDS}
    twister.state = state
    assert found.tolist() == (twister.random_raw(2000) % 2**31).tolist()


@pytest.mark.parametrize("version", RNG_VERSIONS)
def test_equal_parts_give_equal_numbers_and_other_parts_others(version: int) -> None:
    def normal(*parts: int | str) -> torch.Tensor:
        return torch.randn(16, generator=seeded(version, *parts))

    assert torch.equal(normal(1, "step", 2), normal(1, "step", 2))
    assert not torch.equal(normal(1, "step", 2), normal(1, "step", 3))
    used = torch.Generator()
    torch.randn(7, generator=used)
    assert torch.equal(torch.randn(16, generator=seed_generator(used, version, 1, "step", 2)), normal(1, "step", 2))


def test_the_first_version_is_the_one_of_earlier_releases() -> None:
    found = torch.rand(4, generator=seeded(1, 3, "step", 7))
    assert torch.equal(found, torch.rand(4, generator=torch.Generator().manual_seed(derive(3, "step", 7))))


def test_parts_that_collide_in_32_bits_have_streams_of_their_own() -> None:
    parts = [(1, "sample", 6187), (1, "sample", 38634)]
    assert len({derive(*each) % 2**32 for each in parts}) == 1
    first, second = (torch.rand(4, generator=seeded(2, *each)) for each in parts)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["validation", "captions", "word"])
def test_streams_that_keep_32_bits_are_too_few_to_collide(name: str) -> None:
    """Those that are the same for every trial: batches of validation, held-out captions, words."""
    assert len({derive(name, number) % 2**32 for number in range(10_000)}) == 10_000
