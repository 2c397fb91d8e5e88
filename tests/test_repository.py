"""What the files beside the code promise."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


EXTRAS = [
    entry
    for entries in PROJECT["optional-dependencies"].values()
    for entry in entries
    if not entry.startswith("lina_lab[")
]


def test_environment_is_in_step_with_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert f"python{PROJECT['requires-python']}" in conda
    assert sorted(entry for entry in pip if not entry.startswith("--")) == sorted(PROJECT["dependencies"] + EXTRAS)
    assert "--editable ." in pip


def test_every_dependency_is_pinned_to_a_version_that_it_allows() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    for entry in PROJECT["dependencies"] + EXTRAS:
        name, lowest, bound = _parsed(entry)
        pinned = _numbers(pins[name])
        assert pinned >= _numbers(lowest), entry
        assert bound is None or pinned < _numbers(bound), entry


def _parsed(entry: str) -> tuple[str, str, str | None]:
    """Name, lowest version and the first version that is too new, of `name>=a` and `name>=a,<b`."""
    found = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(?:>=([\d.]+)(?:,<([\d.]+))?)?", entry)
    assert found is not None, entry
    return found[1].lower().replace("_", "-"), found[2] or "0", found[3]


def test_a_requirement_with_two_bounds_is_read() -> None:
    assert _parsed("torch>=2.14,<3") == ("torch", "2.14", "3")
    assert _parsed("psycopg[binary]>=3.2") == ("psycopg", "3.2", None)
    assert _parsed("types_pyyaml") == ("types-pyyaml", "0", None)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def test_make_help_lists_every_target() -> None:
    listed = subprocess.check_output(["make", "--no-print-directory", "help"], cwd=ROOT, text=True)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert targets
    assert all(re.search(rf"^{target} ", listed, flags=re.MULTILINE) for target in targets)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_documents_name_files_that_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    paths = set(re.findall(r"`((?:lina_lab|analysis|studies|tests)/[\w/.*]+)`", text))
    assert paths
    for path in paths:
        assert list(ROOT.glob(path)), path


def test_ci_runs_the_readme_s_test_command() -> None:
    assert "make test" in (ROOT / "README.md").read_text()
    assert re.search(r"^make test$", (ROOT / ".ci/run").read_text(), flags=re.MULTILINE)


def test_no_module_is_too_long_to_hold_in_the_head() -> None:
    lengths = {
        path: len(path.read_text().splitlines())
        for folder in ("lina_lab", "analysis")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert max(lengths.values()) <= 350, max(lengths, key=lambda path: lengths[path])
