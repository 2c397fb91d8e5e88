"""Seeds for random generators, derived from all that a random number may depend on."""

import hashlib

from torch import Generator

from lina_lab.util.compat.torch import MERSENNE_WORDS, set_mersenne_state

RNG_VERSIONS = (1, 2)
"""How a generator is seeded. 1: torch takes the low 32 bits of its seed, so n^2 / 2^33 pairs of n generators are equal;
2: the whole state of the generator is filled from the parts."""


def derive(*parts: int | str) -> int:
    """A seed in 0..2^63 - 1 from the parts: equal parts, equal seed; any other part, an unrelated one.

    A torch generator uses 32 of its bits, see `seeded`.
    """
    digest = hashlib.sha256(_text(parts)).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seeded(version: int, *parts: int | str) -> Generator:
    """A generator on the CPU for the parts, see `seed_generator`."""
    return seed_generator(Generator(), version, *parts)


def seed_generator(generator: Generator, version: int, *parts: int | str) -> Generator:
    """Seed a generator of the CPU, which is returned, for the parts; `version` is one of RNG_VERSIONS."""
    if version == 1:
        return generator.manual_seed(derive(*parts))
    return set_mersenne_state(generator, hashlib.shake_256(_text(parts)).digest(4 * MERSENNE_WORDS))


def _text(parts: tuple[int | str, ...]) -> bytes:
    return "/".join(map(str, parts)).encode()
