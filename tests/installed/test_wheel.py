"""The wheel, installed in an environment of its own and used from an empty folder, without the checkout."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {"lina_lab": "lina_lab", "lina_lab/analysis": "analysis", "lina_lab/studies": "studies"}
"""Folder in the wheel -> folder in the repository."""

EVERY_PLAN = """
import sys
from itertools import product
from lina_lab.cli import main
from lina_lab.config.options import Options
import lina_lab

known = Options()
assert not [folder for folder in known.folders if not str(folder).startswith(sys.prefix)], known.folders
tasks, scales = (["null", *known.names(group)] for group in ("task", "scale"))
for study, task, scale in product(known.names("study"), tasks, scales):
    # What the other tasks refuse is known to tests/test_task_studies.py.
    if task in ("classification", "diffusion") and study != "normalization_scaling":
        continue
    arguments = [f"study={study}", f"task={task}", f"scale={scale}"]
    print("PLAN", *arguments, main(["plan", *arguments]))
print("FROM", lina_lab.__file__)
"""
REPORTS = """
from lina_lab.cli import main

for arguments in (["plots", "study=kv_gate"], ["plots", "source=published"], ["paper"]):
    print("REPORT", arguments[-1], main(arguments))
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def sources() -> set[str]:
    """Names in the wheel that the repository's files have."""
    found = set()
    for target, folder in SOURCES.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(f"{target}/{path.relative_to(ROOT / folder).as_posix()}")
    return found


def test_the_packages_that_are_named_are_the_folders() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["package-dir"] == {t.replace("/", "."): f for t, f in SOURCES.items() if t != f}
    folders = {name.rpartition("/")[0].replace("/", ".") for name in sources() if name.endswith(".py")}
    assert set(setuptools["packages"]) == folders


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools leaves folders where it builds."""
    source = tmp_path_factory.mktemp("source")
    for folder in SOURCES.values():
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(source / "dist"), str(source))
    (built,) = (source / "dist").glob("*.whl")
    return built


def pip(*arguments: str) -> None:
    line = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *arguments]
    subprocess.run(line, check=True)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command in an environment that has the wheel, in a folder that was empty.

    The dependencies are those of this environment. They come as plain folders, so that its editable install, which a
    .pth file of it would bring, stays outside.
    """
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv/bin/python"
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text("\n".join(p for p in sys.path if Path(p).name == "site-packages") + "\n")
    pip("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    (folder / "empty").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(python.parent / program), *arguments],
            cwd=folder / "empty",
            env={**environment, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.system
def test_the_wheel_holds_every_file_and_takes_no_other_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        (metadata,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        scripts = file.read(f"{metadata}/entry_points.txt").decode()
    assert {name for name in names if not name.startswith(f"{metadata}/")} == sources()
    assert "lina_lab/py.typed" in names
    assert "[console_scripts]\nlina = lina_lab.cli:main" in scripts


@pytest.mark.system
def test_every_study_task_and_scale_is_planned(installed: Run) -> None:
    assert installed("lina", "--help").stdout.startswith("Ablation and scaling studies")
    done = installed("python", "-c", EVERY_PLAN)
    plans = [line for line in done.stdout.splitlines() if line.startswith("PLAN")]
    assert len(plans) == 4 * len(list((ROOT / "studies/study").glob("*.yaml"))) + 4
    # At the paper's scale they are planned, and could not run here: neither its machines nor its data are.
    assert {line.rpartition(" ")[2] for line in plans if line.partition("scale=")[2].startswith("paper")} == {"2"}
    assert {line.rpartition(" ")[2] for line in plans if line.partition("scale=")[2].startswith("null")} == {"0"}
    assert {line.partition(": ")[2].partition(": ")[0] for line in done.stderr.splitlines()} == {
        "lina run would refuse this"
    }
    assert "site-packages/lina_lab/__init__.py" in done.stdout.splitlines()[-1]


@pytest.mark.system
def test_the_lines_of_a_job_are_found(installed: Run) -> None:
    done = installed("lina", "plan", "study=kv_gate", "launcher=slurm")
    assert (done.returncode, done.stderr) == (0, "")
    assert "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}" in done.stdout


@pytest.mark.system
def test_a_study_is_run_and_reported(installed: Run) -> None:
    gates = "study.axes.gate={model.attention.gate:[none,kv]}"
    tiny = ["model.dim=16", "seed=0", "trainer.max_images=128", "trainer.val_every_images=64"]
    tiny += ["ema.every_n_steps=1", "ema.decay=0.5"]
    done = installed("lina", "run", "study=kv_gate", gates, "sampling.images_per_class=0", *tiny)
    assert (done.returncode, done.stderr) == (0, "")
    assert "kv_gate: 2 done" in done.stdout
    assert "figures: lina plots study=kv_gate" in done.stdout
    reports = installed("python", "-c", REPORTS)
    assert reports.stderr == ""
    lines = reports.stdout.splitlines()
    assert [line for line in lines if line.startswith("REPORT")] == [
        "REPORT study=kv_gate 0",
        "REPORT source=published 0",
        "REPORT paper 0",
    ]
    assert "reports/kv_gate/report.md" in lines
    assert "reports/paper/report.md" in lines
