"""Versions of the code that determines results. Imports none of it."""

import hashlib
import importlib.metadata
import platform
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

PACKAGES = ("torch", "lightning", "numpy", "einops", "webdataset", "pillow", "transformers", "tokenizers", "diffusers")

ENTRY_POINTS = "lina_lab."
"""Start of the groups by which packages of others add variants, data sets, optimizers and metrics."""


@lru_cache
def code_versions() -> dict[str, str]:
    """Name -> version of what determines results: this package's own sources by hash, Python, and libraries."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for source in sorted(package.rglob("*.py")):
        digest.update(source.relative_to(package).as_posix().encode() + source.read_bytes())
    found = {"lina_lab": digest.hexdigest()[:12], "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    for package_of_others in importlib.metadata.distributions():
        if any(point.group.startswith(ENTRY_POINTS) for point in package_of_others.entry_points):
            found[package_of_others.name] = package_of_others.version
    return found
