"""What a job asks for, and how SLURM's answers are read; a cluster is in tests/system."""

import json
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lina_lab import run
from lina_lab.config import CommandConfig, ResourcesConfig, SlurmConfig, from_dict
from lina_lab.launch import slurm
from lina_lab.launch.contract import EngineName, LaunchSpec, write_outcome
from lina_lab.launch.machine import layout_cautions
from lina_lab.launch.slurm import (
    Slurm,
    executor_for,
    job_parameters,
    job_state,
    not_ended,
    submission_text,
    time_cautions,
    with_cores,
)
from lina_lab.records.status import TrialStatus
from lina_lab.training.stopping import StopSignals
from lina_lab.util.errors import StudyError
from tests.study.conftest import RESULT

FOUR_NODES = ResourcesConfig(nodes=4, devices=8, accelerator="gpu")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands that is all there is on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def says(folder: Path, name: str, answer: str, code: int = 0) -> None:
    (folder / name).write_text(f"#!/bin/sh\nprintf '%s\\n' '{answer}'\nexit {code}\n")
    (folder / name).chmod(0o755)


def test_the_controller_is_asked_and_then_the_accounting(commands: Path) -> None:
    assert job_state("7") is None
    says(commands, "sacct", "CANCELLED by 0")
    assert job_state("7") == "CANCELLED"
    says(commands, "scontrol", "slurm_load_jobs error: Invalid job id specified", 1)
    assert job_state("7") == "CANCELLED"
    says(commands, "scontrol", "JobId=7 JobName=x JobState=RUNNING Reason=None")
    assert job_state("7") == "RUNNING"


@pytest.mark.parametrize(
    ("state", "working"),
    [
        ("PENDING", True),
        ("RUNNING", True),
        ("REQUEUED", True),
        ("COMPLETED", False),
        ("NODE_FAIL", False),
        (None, False),
    ],
)
def test_states(state: str | None, working: bool) -> None:
    assert not_ended(state) is working


def test_a_job_has_the_cell_s_layout_and_the_user_s_lines(tmp_path: Path) -> None:
    setup = tmp_path / "setup.sh"
    setup.write_text("module load cuda\n")
    config = SlurmConfig(
        partition="gpu", account="me", mem_gib=64, setup=str(setup), sbatch={"exclude": "node7"}, time_minutes=30
    )
    lines = submission_text(config, FOUR_NODES, "study", Path("/runs/study/cell")).splitlines()
    wanted = ["nodes=4", "ntasks-per-node=8", "gpus-per-node=8", "partition=gpu", "account=me", "mem=64G", "time=30"]
    wanted += ["exclude=node7", "requeue", "signal=USR2@120", "job-name=study-cell"]
    assert {f"#SBATCH --{line}" for line in wanted} <= set(lines)
    assert "module load cuda" in lines
    assert "gpus_per_node" not in job_parameters(config, ResourcesConfig(nodes=2), "x", "logs/slurm")


def test_a_line_of_the_user_s_is_one_to_the_shell(tmp_path: Path) -> None:
    """The shell ends a line at a line feed alone; `str.splitlines` would cut this one in three."""
    setup, line = tmp_path / "setup.sh", "export TITLE='one\u2028two\x0cthree'"
    setup.write_text(f"{line}\nmodule load cuda\n", encoding="utf-8")
    config = SlurmConfig(setup=str(setup))
    assert job_parameters(config, FOUR_NODES, "x", "logs/slurm")["setup"] == [line, "module load cuda"]


def test_a_job_has_the_packaged_lines_where_the_working_directory_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "OMP_NUM_THREADS" in submission_text(SlurmConfig(), FOUR_NODES, "x", Path("/runs/x/cell"))
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/slurm.sh").write_text("module load mine\n")
    text = submission_text(SlurmConfig(), FOUR_NODES, "x", Path("/runs/x/cell"))
    assert "module load mine" in text
    assert "OMP_NUM_THREADS" not in text


def test_options_of_srun_and_a_container_s_python_reach_the_batch_file(tmp_path: Path) -> None:
    command = "apptainer exec --nv lab.sif python"
    options = ["--container-image=lab image.sqsh", "--cpu-bind=cores"]
    config = from_dict(SlurmConfig, {"setup": None, "srun_args": options, "python": command})
    text = submission_text(config, FOUR_NODES, "tiny", tmp_path / "cell")
    (line,) = [line for line in text.splitlines() if line.startswith("srun ")]
    words = shlex.split(line)
    start = words.index(options[0])
    assert words[start : start + 9] == [*options, *command.split(), "-u", "-m"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"srun_args": ["cores"]}, "srun_args: 'cores' is no option of srun"),
        ({"srun_args": ["--x\nrm"]}, "is no option of srun"),
        ({"python": "python\nrm"}, "has a control character"),
    ],
)
def test_what_would_be_another_line_of_the_batch_file_is_refused(changes: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        from_dict(SlurmConfig, changes)


@pytest.mark.parametrize(
    ("hours", "limits", "sentence"),
    [
        (23.9, {}, None),
        (31, {}, "and a job at most 24 (slurm.time_minutes=1440): it is requeued about 1 time, each time from its"),
        (100, {}, "it is requeued about 4 times"),
        (100, {"requeues": 4}, "it is requeued about 4 times"),
        (100, {"requeues": 3}, "slurm.requeues=3 ends it without a result"),
        (1, {"time_minutes": 2, "warning_seconds": 120}, "slurm.requeues=1000 ends it without a result"),
    ],
)
def test_a_cell_that_is_longer_than_its_job_is_planned_with_its_requeues(
    hours: float, limits: dict[str, int], sentence: str | None
) -> None:
    command = from_dict(CommandConfig, {"launcher": "slurm", "slurm": limits})
    found = list(time_cautions(command, ResourcesConfig(), hours * 3600))
    assert len(found) == (sentence is not None)
    assert sentence is None or sentence in found[0]
    assert list(time_cautions(CommandConfig(), ResourcesConfig(), hours * 3600)) == []


def test_a_cell_that_its_own_limit_cancels_is_said_with_every_launcher() -> None:
    resources = ResourcesConfig(max_minutes=90)
    (sentence,) = time_cautions(CommandConfig(), resources, 2 * 3600)
    assert sentence.startswith("The longest cell takes about 2 hours, and study.resources.max_minutes=90 cancels it")
    assert list(time_cautions(CommandConfig(), resources, 1.4 * 3600)) == []


def cautions(resources: ResourcesConfig, data_workers: int = 0, **command: Any) -> list[str]:
    return list(layout_cautions(resources, from_dict(CommandConfig, command), data_workers))


def test_a_job_without_a_gpu_is_said_where_none_was_refused_or_asked_for() -> None:
    auto, cpu = ResourcesConfig(devices=2), ResourcesConfig(accelerator="cpu")
    (sentence,) = cautions(auto, launcher="slurm")
    assert "asks for no GPU, since study.resources.accelerator=auto" in sentence
    assert "study.resources.accelerator=gpu asks for 2 on each node" in sentence
    assert cautions(auto) == cautions(cpu, launcher="slurm") == cautions(FOUR_NODES, launcher="slurm") == []
    for option in ("gres", "gpus-per-node", "gpus_per_task"):
        assert cautions(auto, launcher="slurm", slurm={"sbatch": {option: "gpu:1"}}) == []


def test_data_loaders_without_a_core_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    (sentence,) = cautions(FOUR_NODES, 4, launcher="slurm", slurm={"cpus_per_task": 3})
    assert "data.workers=4 is more than the 3 cores that a rank has by slurm.cpus_per_task=3" in sentence
    assert "slurm.cpus_per_task=5 also leaves one" in sentence
    assert cautions(FOUR_NODES, 4, launcher="slurm", slurm={"cpus_per_task": 4}) == []
    assert cautions(FOUR_NODES, 4, launcher="slurm") == []
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    two = ResourcesConfig(devices=2, accelerator="cpu")
    (sentence,) = cautions(two, 4, launcher="torchrun", workers=2)
    assert "the 2 cores that a rank has of this machine, which has 8 for 4 ranks: data.workers=2" in sentence
    assert cautions(two, 4, launcher="torchrun") == []


@pytest.mark.parametrize(
    ("changes", "workers", "cores"),
    [({}, 4, 5), ({}, 0, None), ({"cpus_per_task": 2}, 4, 2), ({"sbatch": {"cpus_per_gpu": "8"}}, 4, None)],
)
def test_a_rank_has_a_core_for_itself_and_for_each_data_loader_unless_the_user_says_how_many(
    changes: Any, workers: int, cores: int | None
) -> None:
    config = with_cores(from_dict(SlurmConfig, changes), workers)
    assert config.cpus_per_task == cores
    lines = submission_text(config, FOUR_NODES, "x", Path("/runs/x/cell")).splitlines()
    (srun,) = [line for line in lines if line.startswith("srun ")]
    assert (f"#SBATCH --cpus-per-task={cores}" in lines) is (f"--cpus-per-task={cores}" in srun) is (cores is not None)


@pytest.mark.parametrize("asked", [False, True])
def test_the_batch_file_requeues_the_job_of_a_container_that_asks_and_keeps_the_exit_code_of_srun(
    tmp_path: Path, commands: Path, asked: bool
) -> None:
    """The ranks' container has no `scontrol`; the batch file, outside of it, has."""
    cell = tmp_path / "two words"
    cell.mkdir()
    for name in ("rm", "touch"):
        (commands / name).symlink_to(f"/bin/{name}")
    (commands / "sleep").symlink_to("/bin/true")
    (commands / "scontrol").write_text(f"#!/bin/sh\necho $1 $2 > '{tmp_path}/said'\n")
    (commands / "srun").write_text(f"#!/bin/sh\n{'touch' if asked else ':'} '{cell}/requeue'\nexit 3\n")
    for name in ("scontrol", "srun"):
        (commands / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(submission_text(SlurmConfig(setup=None), FOUR_NODES, "x", cell))
    environment = {"PATH": str(commands), "SLURM_JOB_ID": "7"}
    done = subprocess.run(["/bin/bash", tmp_path / "job.sh"], env=environment, check=False)
    assert done.returncode == 3
    assert not (cell / "requeue").exists()
    assert (tmp_path / "said").exists() is asked
    assert not asked or (tmp_path / "said").read_text() == "requeue 7\n"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_in_a_container_leaves_its_requeueing_to_the_batch_file(
    tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    made_room = replace(RESULT, status=TrialStatus.PREEMPTED)
    monkeypatch.setattr("lina_lab.launch.rank.main", lambda folder: (made_room, StopSignals(signals=())))
    monkeypatch.setenv("SLURM_PROCID", rank)
    (tmp_path / "outcome.json").touch()
    slurm.job(str(tmp_path))
    assert (tmp_path / "requeue").exists() is (rank == "0")
    assert (tmp_path / "outcome.json").exists() is (rank != "0")


def test_an_earlier_attempt_s_request_to_be_requeued_is_not_one_of_the_next(tmp_path: Path) -> None:
    (tmp_path / "requeue").touch()
    LaunchSpec(attempt="a", engine=EngineName.SLURM, tracking=None, resources=FOUR_NODES).write(tmp_path)
    assert not (tmp_path / "requeue").exists()


def test_the_plan_ends_with_what_its_jobs_lack(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["study=kv_gate", "launcher=slurm", "data.workers=4", "action=plan", f"paths.runs={tmp_path}"]
    assert run.main([*arguments, "slurm.cpus_per_task=2"]) == 0
    printed = capsys.readouterr().out
    assert "gpus-per-node" not in printed
    assert "The job asks for no GPU" in printed
    assert "data.workers=4 is more than the 2 cores" in printed
    assert run.main([*arguments, "study.resources.accelerator=gpu"]) == 0
    printed = capsys.readouterr().out
    assert "--gpus-per-node=1" in printed
    assert "#SBATCH --cpus-per-task=5" in printed
    assert "asks for no GPU" not in printed
    assert "is more than" not in printed


def test_what_a_job_lacks_is_said(tmp_path: Path, commands: Path) -> None:
    with pytest.raises(StudyError, match=r"slurm.setup=.*/none.sh cannot be read: No such file"):
        job_parameters(SlurmConfig(setup=str(tmp_path / "none.sh")), FOUR_NODES, "x", "logs/slurm")
    with pytest.raises(StudyError, match="there is no srun on this machine"):
        executor_for(SlurmConfig(setup=None), FOUR_NODES, tmp_path, "x")
    says(commands, "srun", "")
    says(commands, "sbatch", "sbatch: error: invalid partition specified: nowhere", 1)
    engine = Slurm(SlurmConfig(setup=None), FOUR_NODES, "tiny", [].append)
    spec = LaunchSpec(attempt="a", engine=EngineName.SLURM, tracking=None, resources=FOUR_NODES)
    spec.write(tmp_path)
    with pytest.raises(StudyError, match="SLURM did not take the job"):
        engine.start(tmp_path, spec)


def test_a_job_that_does_not_end_stays_known(tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by hand while SLURM is slow: the next command must not submit a second job beside it."""
    monkeypatch.setattr(slurm, "STOP_SECONDS", 0.0)
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.01)
    says(commands, "scancel", "")
    spec = LaunchSpec(attempt="a", engine=EngineName.SLURM, tracking=None, resources=FOUR_NODES)
    spec.write(tmp_path)
    record = tmp_path / "job.json"
    record.write_text(json.dumps({"job": "7", "attempt": "a"}))
    says(commands, "scontrol", "JobState=RUNNING")
    engine = Slurm(SlurmConfig(setup=None), FOUR_NODES, "tiny", [].append)
    found = engine.resume(tmp_path)
    assert found is not None
    found[0].stop()
    assert record.exists()
    says(commands, "scontrol", "JobState=CANCELLED")
    found[0].stop()
    assert not record.exists()


def test_a_job_that_is_at_work_is_followed_and_one_that_is_not_is_forgotten(tmp_path: Path, commands: Path) -> None:
    says(commands, "scancel", "")
    lines: list[str] = []
    engine = Slurm(SlurmConfig(setup=None), FOUR_NODES, "tiny", lines.append)
    assert engine.resume(tmp_path) is None
    spec = LaunchSpec(attempt="a", engine=EngineName.SLURM, tracking=None, resources=FOUR_NODES)
    spec.write(tmp_path)
    record = tmp_path / "job.json"
    record.write_text(json.dumps({"job": "7", "attempt": "a"}))
    says(commands, "scontrol", "JobState=PENDING")
    found = engine.resume(tmp_path)
    assert found is not None
    assert found[1] == spec
    assert found[0].look() is None
    assert lines == [f"{tmp_path.name}: continues with job 7"]
    says(commands, "scontrol", "JobState=FAILED")
    assert engine.resume(tmp_path) is None
    assert not record.exists()
    record.write_text(json.dumps({"job": "7", "attempt": "a"}))
    write_outcome(tmp_path, spec, RESULT)
    # A worker that is killed between the result and its record leaves the result to the next one.
    for _ in range(2):
        found = engine.resume(tmp_path)
        assert found is not None
        ended = found[0].look()
        assert ended is not None
        assert ended.well
        found[0].stop()
    record.write_text(json.dumps({"job": "7", "attempt": "before"}))
    assert engine.resume(tmp_path) is None
