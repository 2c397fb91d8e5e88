"""CONTRIBUTING.md is true: its files and commands are executed as written, in a project and in a copy of lina_lab."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.extension.conftest import ROOT, Project, blocks

pytestmark = pytest.mark.system


def shell(word: str) -> str:
    """The shell block with this word."""
    (found,) = [text for language, _, text in blocks() if language == "bash" and word in text]
    return found


def test_every_block_is_a_file_or_is_run() -> None:
    for language, title, text in blocks():
        assert title or language == "bash", text
    commands = [text for language, _, text in blocks() if language == "bash"]
    assert sorted(commands) == sorted(
        shell(word) for word in ("lina count", "lina plots", "optimizer.name", "model.task")
    )


def test_a_package_s_gate_is_installed_tested_and_counted(project: Project) -> None:
    done = project.run(shell("lina count"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    with_gate, plain = (
        project.run(f"lina count size=cpu32 model.attention.gate={gate}").stdout.splitlines()[4].split()
        for gate in ("head", "none")
    )
    assert with_gate[0] == plain[0] == "decoder"
    assert with_gate[2:] == plain[2:]
    # Two decoder blocks with one weight for each of four heads, in millions with three decimals.
    assert float(with_gate[1]) == pytest.approx(float(plain[1]) + 8e-6, abs=1e-3)


def test_a_study_of_a_package_s_gate_is_planned_trained_and_reported(package: Project) -> None:
    done = package.run(shell("lina plots"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| head " in done.stdout
    results = [json.loads(path.read_text()) for path in (package.folder / "try/head_gate").glob("*/result.json")]
    assert [result["status"] for result in results] == ["done"] * 4
    report = (package.folder / "report/head_gate/report.md").read_text()
    assert "head" in report
    assert "head vs. no gate" in report


def test_a_package_s_data_optimizer_schedule_metric_callback_and_logger_are_used(package: Project) -> None:
    done = package.run(shell("optimizer.name"))
    assert done.returncode == 0, done.stdout + done.stderr
    cells = [path.parent for path in (package.folder / "try/all").glob("*/result.json")]
    assert len(cells) == 2
    for cell in cells:
        result = json.loads((cell / "result.json").read_text())
        metrics = result.get("result", result)["metrics"]
        assert metrics["eval/contrast"] > 0
        steps = (cell / "steps.txt").read_text().split()
        assert steps == [str(step) for step in range(1, len(steps) + 1)]
        logged = (cell / "csv/metrics.csv").read_text().splitlines()
        assert {"train/loss", "watch/lr", "val/loss_ema"} <= set(logged[0].split(","))


def test_a_package_s_task_is_trained_and_says_what_it_lacks(package: Project) -> None:
    done = package.run(shell("model.task"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(path.read_text()) for path in (package.folder / "try/margin").glob("*/result.json")]
    assert [result["status"] for result in found] == ["done"] * 2
    for result in found:
        metrics = result.get("result", result)["metrics"]
        assert 0 <= metrics["val/accuracy_ema"] <= 1
        assert 0 < metrics["val/loss_ema"] < 1.2  # a hinge of ten equal logits is 0.9
    lacking = package.run(shell("model.task").strip() + " model.num_classes=null")
    assert (lacking.returncode, lacking.stderr) == (2, "error: model: task=margin needs num_classes\n")


def test_a_gate_in_lina_lab_itself_passes_the_tests_that_walk_the_entries(tmp_path: Path) -> None:
    files = {title: text for _, title, text in blocks() if title}
    for folder in ("lina_lab", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "lina_lab/model/head.py").write_text(files["lina_extras/head.py"])
    entry = files["lina_extras/variants.py"].replace("lina_extras.head", "lina_lab.model.head").partition("\n\n")[2]
    with (tmp_path / "lina_lab/variants/gates.py").open("a") as gates:
        gates.write(f"\n\n{entry}\nGATES.register(HEAD)\n")
    tests = [f"tests/model/test_{name}.py" for name in ("attention", "count", "variants")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", "head or rules"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 20
