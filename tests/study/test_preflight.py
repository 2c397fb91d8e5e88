"""What is refused before anything is queued, and that a plan says so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lina_lab import run
from lina_lab.config import CommandConfig, from_dict
from lina_lab.data.modules.latents import LatentsDataModule
from lina_lab.records.status import CellStatus
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.preflight import problem_of_store, problems
from tests.study.conftest import store_at, workspace_at

MANIFEST = {
    "format": 2,
    "images": 100,
    "latent_shape": [1, 8, 8],
    "mean": [0.0],
    "std": [1.0],
    "resolution": 16,
    "vae": "none",
    "vae_sha256": "",
    "classes": [str(i) for i in range(10)],
    "shards": [{"name": "a.tar", "images": 100, "bytes": 3, "sha256": ""}],
}


def planned(tiny_study: Any, changes: dict[str, Any] | None = None, **study: Any) -> Plan:
    config, base = tiny_study(**study)
    for field, value in (changes or {}).items():
        section, _, name = field.partition(".")
        base[section][name] = value
    return make_plan(config, base)


def shards(folder: Path, **changes: Any) -> dict[str, Any]:
    """A folder with a manifest and no image; the fields that name it."""
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(MANIFEST | changes))
    (folder / "a.tar").write_bytes(b"tar")
    return {"data.name": "shards", "data.path": str(folder)}


def found(plan: Plan, **command: Any) -> list[str]:
    return list(problems(plan, from_dict(CommandConfig, command)))


def test_data_that_fit_are_no_problem(tiny_study: Any, tmp_path: Path) -> None:
    assert found(planned(tiny_study)) == []
    assert found(planned(tiny_study, shards(tmp_path / "shards"))) == []


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        ({"latent_shape": [4, 8, 8], "mean": [0.0] * 4, "std": [1.0] * 4}, "holds latents [4, 8, 8], and the model"),
        ({"classes": ["cat", "dog"]}, "holds 2 classes, and model.num_classes=10"),
        ({"classes": None}, "holds captions and no classes, which model.num_classes=10 needs"),
        ({"images": 30, "shards": [MANIFEST["shards"][0] | {"images": 30}]}, "holds 30 images, and data.val_images=40"),
        ({"shards": [MANIFEST["shards"][0] | {"bytes": 4}]}, "has 3 bytes, and 4 in the manifest"),
    ],
)
def test_shards_that_do_not_fit_are_one_problem_for_all_cells(
    tiny_study: Any, tmp_path: Path, manifest: dict[str, Any], sentence: str
) -> None:
    (problem,) = found(planned(tiny_study, shards(tmp_path / "shards", **manifest)))
    assert sentence in problem


def test_text_that_shards_do_not_hold_is_a_problem(tiny_study: Any, tmp_path: Path) -> None:
    text = {"model.num_classes": None, "model.text_dim": 8, "model.text_length": 4}
    (problem,) = found(planned(tiny_study, shards(tmp_path / "classes") | text))
    assert "holds classes and no captions, which model.text_dim=8 needs" in problem
    (problem,) = found(planned(tiny_study, shards(tmp_path / "captions", classes=None) | text))
    assert "holds captions without states: give data.encoder" in problem
    states = {"encoder": "t5", "sha256": "", "dim": 16, "length": 4}
    (problem,) = found(planned(tiny_study, shards(tmp_path / "wide", classes=None, text=states) | text))
    assert "holds up to 4 states of 16 channels" in problem


def test_each_data_set_is_looked_at_once(tiny_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(LatentsDataModule, "check_data", lambda config: looked.append(config.data.val_images))
    one = planned(tiny_study, {"data.name": "latents", "data.path": "here"})
    assert found(one) == []
    assert looked == [40]
    two = {"number": {"data.val_images": [40, 60]}, "size": {"model.dim": [8, 16]}}
    assert found(planned(tiny_study, {"data.name": "latents", "data.path": "here"}, axes=two)) == []
    assert sorted(looked[1:]) == [40, 60]


def test_arrays_of_another_shape_are_a_problem(tiny_study: Any, tmp_path: Path) -> None:
    for split in ("train", "val"):
        np.save(tmp_path / f"{split}_latents.npy", np.zeros((100, 2, 8, 8), np.float32))
        np.save(tmp_path / f"{split}_labels.npy", np.zeros(100, np.int64))
    (problem,) = found(planned(tiny_study, {"data.name": "latents", "data.path": str(tmp_path)}))
    assert "holds float32[100, 2, 8, 8], and the labels and the model need floats [100, 1, 8, 8]" in problem


def test_files_of_the_evaluation_that_are_not_there_are_problems(tiny_study: Any, tmp_path: Path) -> None:
    wanted = {"sampling.quality_images": 20, "sampling.quality_reference": str(tmp_path / "none.npz")}
    assert found(planned(tiny_study, wanted)) == [f"sampling.quality_reference={tmp_path}/none.npz is not there"]
    wanted = {"sampling.quality_images": 20, "sampling.quality_features": "inception"}
    (problem,) = found(planned(tiny_study, wanted | {"sampling.inception": str(tmp_path / "none.pth")}))
    assert problem == f"inception={tmp_path}/none.pth: there is no such file"


def test_the_layout_is_a_problem_beside_the_data(tiny_study: Any, tmp_path: Path) -> None:
    missing = {"data.name": "shards", "data.path": str(tmp_path / "nowhere")}
    plan = planned(tiny_study, missing, resources={"devices": 3})
    machine, batch, data = found(plan)
    assert "launcher=local trains in one process" in machine
    assert "data.batch_size=16 cannot be divided evenly" in batch
    assert "nowhere/manifest.json is not there: make shards with lina cache" in data
    # The machines of a cluster are not looked at: they are elsewhere.
    assert found(plan, launcher="slurm") == [batch, data]


def test_a_study_with_another_configuration_is_a_problem(tiny_study: Any, tmp_path: Path) -> None:
    plan = planned(tiny_study)
    workspace = workspace_at(tmp_path / "runs", plan)
    assert problem_of_store(workspace) is None
    assert not (tmp_path / "runs").exists()
    store = store_at(tmp_path / "runs", plan)
    store.enqueue()
    assert problem_of_store(workspace) is None
    changed = workspace_at(tmp_path / "runs", planned(tiny_study, {"optimizer.lr": 0.5}))
    # Nothing is trained yet, so the run would begin the study again.
    assert problem_of_store(changed) is None
    claim = store.claim()
    assert claim is not None
    store.end(claim, CellStatus.DONE, values=[0.5])
    assert "was run with another configuration: optimizer.lr was 0.001 and is 0.5" in str(problem_of_store(changed))


def test_a_plan_ends_as_the_run_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["study=kv_gate", "data=shards", f"data.path={tmp_path}/none", f"paths.runs={tmp_path}/runs"]
    sentence = f"{tmp_path}/none/manifest.json is not there: make shards with lina cache, and let it end"
    assert run.main([*arguments, "action=plan"]) == 2
    printed = capsys.readouterr()
    assert "18 cells of 1 device" not in printed.err
    assert "cells of 1 device" in printed.out
    assert printed.err == f"error: lina run would refuse this: {sentence}\n"
    for action in ("run", "work"):
        assert run.main([*arguments, f"action={action}"]) == 2
        assert capsys.readouterr().err == f"error: {sentence}\n"
    assert not (tmp_path / "runs").exists()
