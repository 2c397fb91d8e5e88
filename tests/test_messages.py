"""What users of Hydra, Lightning and Optuna write first is answered by one sentence that says what to write."""

from pathlib import Path

import pytest

from lina_lab import cli, run
from lina_lab.study import patience
from tests.command_line import empty_folder, refused  # noqa: F401

WHOLE = "study.axes.NAME={FIELD:[A,B]}"
ANSWERS = {
    # Several values
    "slurm.sbatch.exclude=node1,node3": "in quotes: 'slurm.sbatch.exclude=\"node1,node3\"'",
    "slurm.account=a,b": "give a command for each, or put a text with a comma in quotes: 'slurm.account=\"a,b\"'",
    "workers=1,2": "workers takes one value: give a command for each",
    "study.seeds=0,1": "study.seeds takes a list: write 'study.seeds=[0,1]'",
    "cells=3326,7e10": "cells takes a list: write 'cells=[3326,7e10]'",
    "optimizer.betas=0.9,0.95": "optimizer.betas takes a list: write 'optimizer.betas=[0.9,0.95]'",
    "optimizer.lr=1e-3,2e-3": "make an axis: 'study.axes.lr={optimizer.lr:[1e-3,2e-3]}'",
    # One value for a list, a mapping or a section
    "study.seeds=3": "study.seeds=3: input should be a list, as in [3]",
    "study.seeds=[]": "study.seeds=[]: list should have at least 1 item",
    "study.seeds.0=3": "study.seeds is a list, which is given whole: 'study.seeds=[VALUE,...]'",
    "study.axes=3": "study.axes=3 is no dictionary: write 'study.axes={NAME:VALUE}'",
    "study.axes.lr={optimizer.lr:1e-3}": "study.axes.lr.optimizer.lr=0.001: input should be a list, as in [0.001]",
    "study.axes={lr:{optimizer.lr:[1,2]}}": "size_axis=size is not one of the axes lr; study.axes.NAME={...} adds one",
    "study.exclude={model.dim:16}": "'study.exclude=[{FIELD:VALUE},...]'",
    "study.objectives.metric=val/loss_raw": "'study.objectives=[{FIELD:VALUE},...]'",
    "study.objectives=val/loss_raw": "give its fields, as 'study.objectives=[{FIELD:VALUE},...]'",
    "study.pruning=median": "give its fields, as 'study.pruning={FIELD:VALUE,...}'",
    "study.resources=null": "study.resources=null is a section: give its fields, as study.resources.FIELD=VALUE",
    "model.attention=kv": "model.attention=kv is a section: give its fields, as model.attention.FIELD=VALUE",
    "model.dim={a:16}": "model.dim={a:16} has fields, and model.dim has none: write model.dim=VALUE",
    "model={dimm:16}": "model.dimm is not a field (did you mean model.dim?)",
    "slurm.sbatch.x=[a]": "slurm.sbatch.x=['a']: input should be text, true, false or null",
    # Values
    "trainer.max_images=1e6": "trainer.max_images=1000000.0: input should be a valid integer, which is written 1000000",
    "new_version=maybe": "new_version='maybe': input should be true or false",
    "study.name='a b'": "study.name='a b': input should be letters, digits, _ and -, up to 100",
    "paths.tracking_uri=databricks": "input should be http://HOST:PORT of an MLflow server, sqlite:///FILE, or",
    "paths.storage=redis://x": "input should be sqlite:///FILE, journal:FILE, or the URL of a PostgreSQL or MySQL",
    # Names
    "pruner=median": "study.pruning={rule:NAME}",
    "sampler=tpe": "study.tuning.sampler",
    "logger=wandb": "trainer.loggers=[tensorboard,wandb]",
    "callbacks=mine": "trainer.callbacks=[NAME]",
    "lr=1e-3": "lr is not a field (did you mean optimizer.lr?)",
    "trainer.batch_size=8": "trainer.batch_size is not a field (did you mean data.batch_size?)",
    "nonsense=3": "nonsense is not a field; the fields are study, task, scale, size, data, paths",
    "hydra/sweeper=optuna": WHOLE,
    "hydra.sweeper.n_trials=3": WHOLE,
    "hydra.run.dir=x": "paths.runs=FOLDER says where this command writes",
    "hydra.job.chdir=true": "Hydra composes the configuration here, and runs nothing",
    "task=t2": "there is no task t2 (did you mean t2i?)",
    # Flags
    "--config-path=x": "write --config-dir FOLDER",
    "--config-name=x": "write study=NAME, or study=FILE.yaml",
    "-cn": "write study=NAME, or study=FILE.yaml",
    "--cfg=all": "as in --cfg job",
    "--config-dir": "--config-dir needs a folder",
    "--json=3": "--json takes no value",
    "--hydra-help": "write --help",
    "--shell-completion": "there is no completion",
    "--run": "leave it out",
}


@pytest.mark.parametrize("argument", ANSWERS)
def test_what_is_wrong_is_answered_with_what_to_write(capsys: pytest.CaptureFixture[str], argument: str) -> None:
    sentence = refused(capsys, "study=kv_gate", argument)
    assert ANSWERS[argument] in sentence
    for foreign in ("Traceback", "full_key", "object_type", "struct", "pattern '", "argparse", "DictConfig", "Sweep("):
        assert foreign not in sentence


def test_nothing_is_proposed_that_is_only_a_little_like_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean" not in refused(capsys, "study=kv_gate", "tuner=3")


def test_status_names_what_it_takes_instead_of_hydra_s_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert "study takes one value: give a command for each study" in refused(capsys, "study=a,b", "action=status")
    assert "optimizer.lr takes one value" in refused(capsys, "study=a", "optimizer.lr=1,2", "action=retry")


def test_a_flag_at_the_end_of_an_action_has_no_hidden_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "study=kv_gate", "--config-dir"]) == 2
    assert capsys.readouterr().err == "error: --config-dir needs a folder, as in --config-dir FOLDER\n"


def test_the_attentions_of_each_block_are_a_list() -> None:
    assert run.main(["study=locality", "model.attention=[{gate:kv},{gate:none}]", "--cfg", "job"]) == 0


def test_a_server_that_is_away_is_named_with_the_reason_and_how_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own message is a page that ends within an address."""
    from mlflow.tracking import MlflowClient

    said: list[str] = []
    monkeypatch.setattr(patience, "sleep", lambda seconds: None)
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.0)
    client = MlflowClient("http://127.0.0.1:1")
    with pytest.raises(patience.StudyError, match="did not answer"):
        patience.patiently(lambda: client.get_experiment_by_name("x"), said.append, tmp_path)
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 600.0)
    monkeypatch.setattr(patience, "stop_if_asked", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        patience.patiently(lambda: client.get_experiment_by_name("x"), said.append, tmp_path)
    assert said == ["waiting for the tracking store at http://127.0.0.1:1 (connection refused), for up to 10 minutes"]
