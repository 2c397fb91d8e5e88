"""A study goes on when things moved, fields were added or a first try failed, and not with other numbers."""

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS, TrialConfig, from_dict, to_dict
from lina_lab.config.history import ADDED, added_fields, recorded
from lina_lab.records.record import Record, write_record
from lina_lab.records.runstore import CELL, CONTENTS, config_from_tags
from lina_lab.records.status import CellStatus, TrialStatus
from lina_lab.study import identity
from lina_lab.study.backend import open_storage
from lina_lab.study.contents import fingerprint
from lina_lab.study.display import display
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.identity import BASE, check_configuration
from lina_lab.study.store import Store
from lina_lab.study.worker import run_study
from lina_lab.util.errors import ChangedError
from tests.study.conftest import RESULT, Lab, raising, store_at, workspace_at


def on_latents(tiny_study: Any, path: str, **changes: Any) -> Plan:
    """A study on the latents in a folder, with other changes as `section__field=value`."""
    study, base = tiny_study()
    base["data"] |= {"name": "latents", "path": path}
    for name, value in changes.items():
        section, _, field = name.partition("__")
        base[section][field] = value
    return make_plan(study, base)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of something that is read."""
    folder = tmp_path / "latents"
    folder.mkdir()
    np.save(folder / "train_latents.npy", np.arange(5000.0))
    return folder


def hash_before(config: TrialConfig) -> str:
    """The hash of a cell up to version 0.2: of every field."""
    then = recorded(asdict(config), added_fields(TrialConfig))
    return hashlib.sha256(json.dumps(then, sort_keys=True).encode()).hexdigest()[:12]


def begun_before(lab: Lab) -> list[str]:
    """Leave what version 0.2 left of a finished study; returns its cells."""
    study = optuna.create_study(study_name="tiny", storage=open_storage(None, lab.runs), directions=["minimize"])
    shared = {"objectives": ["val/loss_ema"], "size_axis": "size", "budget": None}
    study.set_user_attr(BASE, {**lab.plan.base, "study": shared})
    hashes = [hash_before(cell.config) for cell in lab.plan.cells]
    for config_hash, cell in zip(hashes, lab.plan.cells, strict=True):
        attributes = {"cell": config_hash, "seed": 0, "status": "done", **cell.axes}
        study.add_trial(create_trial(state=TrialState.COMPLETE, values=[0.5], user_attrs=attributes))
        record = Record(
            config_hash=config_hash, axes=cell.axes, seed=0, status=CellStatus.DONE, mlflow_run="lost", result=RESULT
        )
        folder = lab.runs / "tiny" / config_hash
        folder.mkdir(parents=True)
        write_record(folder, record)
    return hashes


MOVES = [
    {"data__workers": 3},
    {"trainer__log_every_n_steps": 5},
    {"slash": "/"},
    {"moved": "elsewhere"},
    {"data__workers": 1, "trainer__log_every_n_steps": 7, "moved": "elsewhere"},
]


def moved(tiny_study: Any, data: Path, move: dict[str, Any]) -> Plan:
    changes = dict(move)
    path = f"{data}{changes.pop('slash', '')}"
    if (name := changes.pop("moved", None)) is not None:
        path = str(data.rename(data.parent / name))
    return on_latents(tiny_study, path, **changes)


@pytest.mark.parametrize("move", MOVES, ids=str)
def test_a_finished_study_is_not_trained_again_where_only_place_or_speed_changes(
    move: dict[str, Any], lab: Lab, tiny_study: Any, data: Path
) -> None:
    lab.plan = on_latents(tiny_study, str(data))
    lab.run()
    assert len(lab.trained) == 4
    lab.plan = moved(tiny_study, data, move)
    assert lab.run().counts == {"done": 4}
    assert len(lab.trained) == 4


@pytest.mark.parametrize("move", MOVES[:3], ids=str)
def test_a_study_that_version_0_2_finished_is_not_trained_again(
    move: dict[str, Any], lab: Lab, tiny_study: Any, data: Path
) -> None:
    lab.plan = on_latents(tiny_study, str(data), data__workers=2, trainer__log_every_n_steps=2)
    old = begun_before(lab)
    assert not set(old) & {cell.config_hash for cell in lab.plan.cells}
    for plan in (lab.plan, moved(tiny_study, data, move)):
        lab.plan = plan
        assert lab.run().counts == {"done": 4}
        assert [cell.config_hash for cell in store_at(lab.runs, plan).plan.cells] == old
    assert lab.trained == []


def test_a_study_that_version_0_2_began_is_moved_by_a_link_at_the_old_place(
    lab: Lab, tiny_study: Any, data: Path
) -> None:
    lab.plan = on_latents(tiny_study, str(data))
    begun_before(lab)
    new = data.rename(data.parent / "elsewhere")
    lab.plan = on_latents(tiny_study, str(new))
    with pytest.raises(ChangedError, match=rf"data.path was {data} and is {new}, .* let {data} be a link to {new}"):
        lab.run()
    data.symlink_to(new)
    assert lab.run().counts == {"done": 4}
    data.unlink()
    assert lab.run().counts == {"done": 4}
    assert lab.trained == []


def test_data_that_were_exchanged_are_refused_at_the_same_place_and_at_another(
    lab: Lab, tiny_study: Any, data: Path
) -> None:
    lab.plan = on_latents(tiny_study, str(data))
    lab.run()
    other = data.parent / "other"
    shutil.copytree(data, other)
    lab.plan = on_latents(tiny_study, str(other))
    lab.run()
    for folder in (other, data):
        np.save(folder / "train_latents.npy", np.arange(5000.0)[::-1])
        lab.plan = on_latents(tiny_study, str(folder))
        with pytest.raises(ChangedError, match="which holds something else than when the study began"):
            lab.run()
    assert len(lab.trained) == 4


def test_a_cell_is_resumed_where_its_data_are_now(lab: Lab, tiny_study: Any, data: Path) -> None:
    lab.plan = on_latents(tiny_study, str(data))
    lab.behaviour = lambda config: raising(KeyboardInterrupt())()
    with pytest.raises(KeyboardInterrupt):
        lab.run()
    lab.behaviour = lambda config: RESULT
    lab.plan = moved(tiny_study, data, {"moved": "elsewhere", "data__workers": 2})
    assert lab.run().counts == {"done": 4}
    for run in lab.cell_runs():
        config = config_from_tags(run.data.tags)
        assert config is not None
        assert (config["data"]["path"], config["data"]["workers"]) == (str(data.parent / "elsewhere"), 2)
        assert json.loads(run.data.tags[CONTENTS]).keys() == {"data.path"}
    assert len(lab.cell_runs()) == 4


def test_a_place_that_an_axis_varies_tells_cells_apart(tiny_study: Any, tmp_path: Path) -> None:
    study, base = tiny_study(axes={"size": {"model.dim": [8]}, "data": {"data.path": ["a", "b"]}})
    base["data"] |= {"name": "latents", "path": "a"}
    cells = make_plan(study, base).cells
    assert len({cell.config_hash for cell in cells}) == 2
    assert [cell.config_hash for cell in cells] == [hash_before(cell.config) for cell in cells]


def test_a_fingerprint_follows_contents_and_not_places(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "deep").mkdir(parents=True)
    (first / "deep/weights").write_bytes(bytes(200_000))
    (first / ".cache").mkdir()
    (first / ".cache/date").write_text("today")
    shutil.copytree(first, second)
    (second / ".cache/date").write_text("tomorrow")
    assert fingerprint(first) == fingerprint(second)
    changed = bytearray(200_000)
    changed[-1] = 1
    (second / "deep/weights").write_bytes(changed)
    assert fingerprint(first) != fingerprint(second)
    (second / "manifest.json").write_text("{}")
    manifest = fingerprint(second)
    (second / "deep/weights").unlink()
    assert fingerprint(second) == manifest
    assert fingerprint(tmp_path / "nowhere") is None


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class WiderConfig(TrialConfig):
    """A trial as a later version, or a copy with a field of its own, has it."""

    scale: float = 1.0
    """A new field."""


def test_a_new_field_at_its_default_leaves_the_hash_alone(tiny: Any) -> None:
    assert "scale" not in ADDED
    plain = to_dict(tiny())
    assert from_dict(WiderConfig, plain).config_hash() == tiny().config_hash()
    assert from_dict(WiderConfig, {**plain, "scale": 2.0}).config_hash() != tiny().config_hash()


def test_a_begun_study_takes_a_new_field_at_its_default_and_no_other_value(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(lab.runs, lab.plan)
    monkeypatch.setattr(identity, "added_fields", lambda cls: {"ema.scale": 1.0})
    wider = {
        scale: replace(lab.plan, base={**lab.plan.base, "ema": {**lab.plan.base["ema"], "scale": scale}})
        for scale in (1.0, 2.0)
    }
    check_configuration(store.study, wider[1.0], store.folder)
    with pytest.raises(ChangedError, match=r"ema\.scale was 1\.0 and is 2\.0"):
        check_configuration(store.study, wider[2.0], store.folder)


def corrected(lab: Lab) -> Store:
    """Run the study as the command does."""
    store = Store(workspace_at(lab.runs, lab.plan), corrects=True)
    run_study(store, lab.launcher, display())
    return store


@pytest.mark.parametrize("objectives", [["val/loss_ema"], ["val/loss_ema", "val/loss_raw"]])
def test_a_first_try_that_failed_does_not_take_the_study_s_name(
    objectives: list[str], lab: Lab, tiny_study: Any
) -> None:
    lab.behaviour = lambda config: raising(ValueError("the model does not fit the data"))()
    lab.run()
    assert lab.states() == ["failed"] * 4
    study, base = tiny_study(objectives=[{"metric": name} for name in objectives])
    base["data"]["batch_size"] = 8
    lab.plan, lab.behaviour = make_plan(study, base), lambda config: RESULT
    # Looking does not begin anything again.
    with pytest.raises(ChangedError, match="batch_size was 16 and is 8"):
        store_at(lab.runs, lab.plan)
    assert "data.batch_size was 16 and is 8" in corrected(lab).corrected
    assert lab.states() == ["done"] * 4
    assert {run.data.tags[CELL] for run in lab.cell_runs()} == {cell.config_hash for cell in lab.plan.cells}
    assert corrected(lab).corrected == ""
    assert len(lab.cell_runs()) == 4


def test_a_configuration_that_comes_back_is_trained_and_kept(lab: Lab, tiny_study: Any) -> None:
    first = lab.plan
    lab.behaviour = lambda config: raising(ValueError("once"))()
    lab.run()
    study, base = tiny_study()
    base["data"]["batch_size"] = 8
    lab.plan = make_plan(study, base)
    corrected(lab)
    lab.plan, lab.behaviour = first, lambda config: RESULT
    corrected(lab)
    corrected(lab)
    assert lab.states() == ["done"] * 4
    assert {run.data.tags[CELL] for run in lab.cell_runs()} == {cell.config_hash for cell in first.cells}


@pytest.mark.parametrize("work", ["a result", "a divergence", "a checkpoint", "a cell that runs"])
def test_a_study_that_holds_work_keeps_its_configuration(work: str, lab: Lab, tiny_study: Any) -> None:
    def once(config: TrialConfig) -> Any:
        if config != lab.plan.cells[0].config:
            raise ValueError("failed")
        if work == "a checkpoint":
            raise KeyboardInterrupt
        return replace(RESULT, status=TrialStatus.DIVERGED if work == "a divergence" else TrialStatus.DONE)

    lab.behaviour = once
    store = store_at(lab.runs, lab.plan)
    claim = None
    if work == "a cell that runs":
        store.enqueue()
        claim = store.claim()
    elif work == "a checkpoint":
        with pytest.raises(KeyboardInterrupt):
            lab.run()
        (store.folder / lab.plan.cells[0].config_hash / "step-00000002.ckpt").touch()
    else:
        lab.run()
    study, base = tiny_study()
    base["data"]["batch_size"] = 8
    with pytest.raises(ChangedError, match="batch_size was 16 and is 8"):
        Store(workspace_at(lab.runs, make_plan(study, base)), corrects=True)
    if claim is not None:
        store.end(claim, CellStatus.INTERRUPTED)


def test_another_number_of_threads_is_refused(lab: Lab, tiny_study: Any) -> None:
    lab.run()
    lab.plan = make_plan(*tiny_study(resources={"threads": 2}))
    with pytest.raises(ChangedError, match=r"study\.resources\.threads was 1 and is 2"):
        lab.run()


def test_a_study_of_before_goes_on_with_the_threads_of_its_cells_alone(lab: Lab, tiny_study: Any) -> None:
    lab.behaviour = lambda config: replace(RESULT, threads=2)
    lab.run()
    study = store_at(lab.runs, lab.plan).study
    shared = {"objectives": ["val/loss_ema"], "size_axis": "size", "budget": None}
    study.set_user_attr(BASE, {**lab.plan.base, "study": shared})
    with pytest.raises(ChangedError, match=r"study\.resources\.threads was 2 and is 1"):
        lab.run()
    lab.plan = make_plan(*tiny_study(resources={"threads": 2}))
    assert lab.run().counts == {"done": 4}
    assert len(lab.trained) == 4
