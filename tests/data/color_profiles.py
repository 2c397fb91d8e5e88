"""Small ICC profiles (ICC.1:2001-04), for tests: with numbers that are known, and in no system's folder."""

import struct

import numpy as np

SRGB = ((0.43607, 0.22250, 0.01393), (0.38515, 0.71688, 0.09708), (0.14307, 0.06061, 0.71410))
"""X, Y, Z of sRGB's red, green and blue, adapted to D50."""
D50 = (0.9642, 1.0, 0.8249)


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def _xyz(*numbers: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*numbers)


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(value * 256))


def _profile(space: bytes, kind: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"wtpt": _xyz(*D50), **tags}
    table, data = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, contents in tags.items():
        table += name + struct.pack(">II", start + len(data), len(contents))
        data += contents + b"\0" * (-len(contents) % 4)
    size = start + len(data)
    header = (
        struct.pack(">I4sI", size, b"test", 0x02100000) + kind + space + connection + struct.pack(">6H", 2026, *[1] * 5)
    )
    header += b"acsp" + bytes(28) + _fixed(*D50) + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + data


def rgb(gamma: float, primaries: tuple[tuple[float, ...], ...] = SRGB) -> bytes:
    """A profile of RGB with a gamma."""
    curves = {channel + b"TRC": _gamma(gamma) for channel in (b"r", b"g", b"b")}
    colors = {channel + b"XYZ": _xyz(*xyz) for channel, xyz in zip((b"r", b"g", b"b"), primaries, strict=True)}
    return _profile(b"RGB ", b"mntr", b"XYZ ", {**colors, **curves})


def grey(gamma: float) -> bytes:
    """A profile of grey with a gamma."""
    return _profile(b"GRAY", b"mntr", b"XYZ ", {b"kTRC": _gamma(gamma)})


def cmyk() -> bytes:
    """A profile of CMYK in which cyan, magenta and yellow do nothing, and black makes grey."""
    identity = bytes(range(256))
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    # Lab in 8 bits: L of 255 is white, and a and b of 128 are neutral.
    lab = b"".join(bytes((255 if black == 0 else 0, 128, 128)) for *_, black in corners.tolist())
    table = (
        b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + identity * 4 + lab + identity * 3
    )
    return _profile(b"CMYK", b"prtr", b"Lab ", {b"A2B0": table, b"A2B1": table})
