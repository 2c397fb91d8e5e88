"""The way of an own study by docs/own-study.md: a gate of a package, tuned rates, a report, a notebook."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pandas as pd
import pytest

from tests.docs.markdown import ROOT, blocks, titled
from tests.docs.test_docs import install

pytestmark = pytest.mark.system
PAGE = (ROOT / "docs/own-study.md").read_text()
BRIEF = [
    "trainer.max_images=160",
    "trainer.val_every_images=160",
    "optimizer.warmup_images=32",
    # Of so few steps the best of the page's rates is their largest.
    "study.tune={optimizer.lr:[1e-6,0.01,10.0]}",
    "study.tuning.seeds=[100]",
    "study.tuning.extend=0",
    "study.seeds=[0,1]",
]
"""A training of seconds in the place of the page's."""


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with the page's study, and an environment in which the package of the gate is installed."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "site").mkdir()
    install("own-variant.md", folder / "site")
    (folder / "studies/study").mkdir(parents=True)
    (folder / "studies/study/mine.yaml").write_text(titled(PAGE)["studies/study/mine.yaml"])
    return folder, {**os.environ, "PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}


def test_an_own_gate_is_tuned_compared_and_read_in_a_notebook(
    user: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, environment = user
    (lines,) = [body.splitlines() for body in blocks(PAGE, "text") if "study=mine" in body]
    said = {}
    for line in lines:
        name, *words = shlex.split(line)[1:]
        brief = BRIEF if name in ("plan", "run") else []
        command = [sys.executable, "-m", "lina_lab.cli", name, *words, *brief]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        said[name] = done.stdout
    assert "Tuning of optimizer.lr: at most" in said["plan"]
    assert re.search(r"^head 16: optimizer.lr \S+ of 1e-06, 0.01, 10$", said["run"], re.MULTILINE)
    assert "mine: 10 done" in said["run"]
    tuned = pd.read_csv(folder / "reports/mine/tuned_table.csv")
    assert len(tuned) == 2
    cells = [nbformat.v4.new_code_cell(body) for body in blocks(PAGE, "python")]
    assert len(cells) == 2
    shown = nbformat.v4.new_code_cell("print(len(weights), tuple(images.shape), sorted({*last.columns}) != [])")
    notebook: Any = nbformat.v4.new_notebook(cells=[*cells, shown])
    # The kernel is a process of its own, with the folder and the package of the user.
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    first, _, last = notebook.cells
    table = first.outputs[0]["data"]["text/plain"]
    assert re.search(r"model.attention.gate +head +none\nseed", table), table
    (printed,) = [output["text"] for output in last.outputs]
    assert re.match(r"[1-9]\d* \(10, 1, 8, 8\) True", printed)
