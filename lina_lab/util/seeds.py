"""Seeds for random generators, derived from all that a random number may depend on."""

import hashlib


def derive(*parts: int | str) -> int:
    """A seed in 0..2^63 - 1 from the parts: equal parts, equal seed; any other part, an unrelated one."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
