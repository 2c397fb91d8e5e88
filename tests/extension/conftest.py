"""The package that CONTRIBUTING.md describes, as it is written there."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str, str]]:
    """Language, title and text of each code block, in their order."""
    return BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())


@dataclass(frozen=True)
class Project:
    """A folder with the files of CONTRIBUTING.md, and where its package is installed."""

    folder: Path
    installed: Path

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run shell lines in the folder, with the tested lina and Python before any other."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(self.installed), "PIP_TARGET": str(self.installed)}
        return subprocess.run(
            ["bash", "-e", "-c", command], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The files are written; pip installs the package when a test runs the line that says so."""
    folder = tmp_path_factory.mktemp("project")
    made = Project(folder, folder / "installed")
    for _, title, text in blocks():
        if title:
            (folder / title).parent.mkdir(parents=True, exist_ok=True)
            (folder / title).write_text(text)
    return made


@pytest.fixture(scope="session")
def package(project: Project) -> Project:
    """The package is installed."""
    done = project.run("python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation .")
    assert done.returncode == 0, done.stderr
    return project
