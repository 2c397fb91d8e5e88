"""A worker with other code or packages than a study was trained with does not join without a word."""

import json
from pathlib import Path
from typing import Any

import pytest

from lina_lab.config import ResourcesConfig
from lina_lab.launch import rank
from lina_lab.launch.contract import EngineName, LaunchSpec
from lina_lab.records.record import read_record
from lina_lab.records.runstore import VERSIONS
from lina_lab.study import code
from lina_lab.study.grid import make_plan
from lina_lab.util import code_versions as versions
from lina_lab.util.errors import RefusedError
from tests.study.conftest import Lab


def have(monkeypatch: pytest.MonkeyPatch, **packages: str) -> None:
    found = versions.code_versions() | packages
    monkeypatch.setattr(code, "code_versions", lambda: found)
    monkeypatch.setattr("lina_lab.study.origin.code_versions", lambda: found)


@pytest.mark.parametrize("joins", [False, True], ids=["run", "work"])
def test_a_worker_with_other_code_is_refused_before_it_trains(
    lab: Lab, tiny_study: Any, monkeypatch: pytest.MonkeyPatch, joins: bool
) -> None:
    lab.run()
    lab.plan = make_plan(*tiny_study(seeds=[0, 1]))
    have(monkeypatch, lina_lab="0123456789ab", torch="9.9")
    with pytest.raises(
        RefusedError, match=r"tiny is trained with other code or packages: lina_lab \w+ there and 01234567"
    ):
        lab.run(joins=joins)
    assert len(lab.trained) == 4
    with pytest.raises(RefusedError, match=r"torch [\d.+a-z]+ there and 9\.9 here; .*\(other_code=true\)"):
        lab.run(joins=joins)


def test_a_study_goes_on_with_other_code_on_request_and_each_cell_says_which(
    lab: Lab, tiny_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.run()
    lab.plan = make_plan(*tiny_study(seeds=[0, 1]))
    with monkeypatch.context() as patch:
        have(patch, torch="9.9")
        assert lab.run(other_code=True).counts == {"done": 8}
        assert lab.run().counts == {"done": 8}
    with pytest.raises(RefusedError, match=r"torch 9\.9 there"):
        lab.run()
    old = versions.code_versions()["torch"]
    found = [json.loads(run.data.tags[VERSIONS])["torch"] for run in lab.cell_runs()]
    assert sorted(found) == sorted(["9.9"] * 4 + [old] * 4)
    record = read_record(lab.runs / "tiny" / lab.trained[-1], lab.trained[-1])
    assert record is not None
    assert record.source is not None
    assert json.loads(record.source[VERSIONS])["torch"] == "9.9"


def test_a_rank_that_starts_after_the_code_was_edited_refuses_to_train(tmp_path: Path) -> None:
    other = versions.code_versions() | {"lina_lab": "0123456789ab"}
    spec = LaunchSpec(attempt="a", engine=EngineName.SLURM, tracking=None, resources=ResourcesConfig(), versions=other)
    with pytest.raises(RuntimeError, match=r"other code or packages than the command .* lina_lab 0123456789ab there"):
        rank._train(tmp_path, spec, 0)


def test_the_hash_of_the_code_is_that_of_what_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout has the analysis elsewhere than a wheel, and a report decides no result."""
    for name in ("model", "analysis", "util"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("1")
    monkeypatch.setattr(versions, "__file__", str(tmp_path / "util" / "code_versions.py"))

    def digest() -> str:
        versions.code_versions.cache_clear()
        return versions.code_versions()["lina_lab"]

    try:
        before = digest()
        (tmp_path / "analysis" / "a.py").write_text("2")
        assert digest() == before
        (tmp_path / "model" / "a.py").write_text("2")
        assert digest() != before
    finally:
        versions.code_versions.cache_clear()
