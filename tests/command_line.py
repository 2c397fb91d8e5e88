"""What tests of the study command share: an empty folder, the composed plan, a refusal."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lina_lab import run
from lina_lab.config import CommandConfig, PathsConfig
from lina_lab.config.command_line import CommandLine
from lina_lab.config.compose import compose
from lina_lab.study.grid import Plan, make_plan

OURS = Path(__file__).parents[1] / "studies"
STUDIES = sorted(path.stem for path in (OURS / "study").glob("*.yaml"))
HEADER = "# @package _global_\n"
QUESTION = """\
study:
  question: Is it so?
  axes: {size: {model.dim: [16, 32]}}
  size_axis: size
  seeds: [0]
model: {latent_channels: 1, latent_size: [8, 8], num_classes: 10, num_heads: 4, condition_depth: 1, depth: 2}
ema: {decay: 0.9, every_n_steps: 1}
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder, where whatever is started would leave something."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "runs").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"studies"}


def composed(*arguments: str) -> tuple[Plan, PathsConfig, CommandConfig]:
    found = compose(CommandLine(arguments))
    return make_plan(found.study, found.base, found.overridden, found.paths.folder), found.paths, found.command


def write(folder: Path, name: str, text: str) -> None:
    """A file of the user's, such as `study/mine`."""
    path = folder / "studies" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]
