"""SLURM as the engine: a job for each cell, submitted and described by submitit, one task a rank.

A job outlives the process that submitted it: its number is in the cell's folder, and the next worker that takes the
cell follows that job. On preemption, or at its time limit, it saves its state and requeues itself (`job`, or the end of
the batch file where the ranks run in a container without SLURM's commands); when a node is lost, SLURM requeues it.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil, inf
from pathlib import Path
from typing import Any

from lina_lab.config import CommandConfig, ResourcesConfig, SlurmConfig
from lina_lab.launch import rank
from lina_lab.launch.contract import Engine, EngineName, GroupExit, LaunchSpec, Running, read_outcome
from lina_lab.launch.machine import CORE_OPTIONS
from lina_lab.records.files import JOB_FILE, LOGS, OUTCOME_FILE, REQUEUE_FILE
from lina_lab.records.status import TrialStatus
from lina_lab.util.compat.submitit import batch_script
from lina_lab.util.errors import StudyError
from lina_lab.util.files import read_json, write_atomically

LOOK_SECONDS = 2.0
NOT_ENDED = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING",
           "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED")  # fmt: skip
"""States of a job that has not ended for good."""
COMMAND_SECONDS = 60
STOP_SECONDS = 90.0
REQUEUE_SECONDS = 120.0
UNKNOWN_LOOKS = 5
"""How often in a row SLURM may not know a job before the job counts as gone."""


def job(folder: str) -> None:
    """Run a task of a job: train as one rank; on preemption, have the job requeued.

    Not on SIGTERM: SLURM requeues what it preempts itself, and a job that a person cancels must end.
    """
    # The rank's output goes to its own log from here on, and no longer to submitit's.
    result, signals = rank.main(Path(folder))
    if result.status is not TrialStatus.PREEMPTED or signals.terminated:
        return
    first, outside = os.environ["SLURM_PROCID"] == "0", shutil.which("scontrol") is None
    if first:
        (Path(folder) / OUTCOME_FILE).unlink()
    if outside:
        if first:
            (Path(folder) / REQUEUE_FILE).touch()
        return
    if first:
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False, timeout=COMMAND_SECONDS)
    # Requeueing ends this process; if it ended by itself, the job would end for good.
    time.sleep(REQUEUE_SECONDS)
    raise RuntimeError("SLURM did not requeue the job")


def requeue_lines(folder: Path | str) -> list[str]:
    """Shell lines after `srun` that requeue the job if its ranks, in a container, asked for it.

    Args:
        folder: of the job's logs, within the cell's.
    """
    request = shlex.quote(str(Path(folder).parents[1] / REQUEUE_FILE))
    requeue = f'rm {request}; scontrol requeue "$SLURM_JOB_ID" && sleep {REQUEUE_SECONDS:.0f}'
    return ["status=$?", f"if [ -e {request} ]; then {requeue}; fi", "exit $status"]


def with_cores(config: SlurmConfig, data_workers: int) -> SlurmConfig:
    """The configuration with a core for each data loader and for the rank, unless the user says what a rank gets."""
    asked = {name.replace("_", "-") for name in config.sbatch}
    if config.cpus_per_task is not None or asked & CORE_OPTIONS or not data_workers:
        return config
    return replace(config, cpus_per_task=data_workers + 1)


def executor_for(config: SlurmConfig, resources: ResourcesConfig, folder: Path | str, name: str) -> Any:
    """submitit's executor with the job's resources.

    Raises:
        StudyError: there is no SLURM on this machine, or `slurm.setup` cannot be read.
    """
    from submitit.slurm.slurm import SlurmExecutor

    try:
        executor = SlurmExecutor(folder, max_num_timeout=config.requeues, python=config.python)
    except RuntimeError as error:
        raise StudyError("launcher=slurm: there is no srun on this machine; run it where jobs are submitted") from error
    executor.update_parameters(**job_parameters(config, resources, name, folder))
    return executor


def job_parameters(config: SlurmConfig, resources: ResourcesConfig, name: str, folder: Path | str) -> dict[str, Any]:
    """submitit's parameters of a cell's job, whose logs are in `folder`."""
    # Since SLURM 22.05, `srun` does not inherit the number from the job (man srun).
    cores = [] if config.cpus_per_task is None else [f"--cpus-per-task={config.cpus_per_task}"]
    parameters = {
        **{name: getattr(config, name) for name in ("partition", "account", "qos", "constraint", "cpus_per_task")},
        "mem": None if config.mem_gib is None else f"{config.mem_gib}G",
        "gpus_per_node": resources.devices if resources.accelerator == "gpu" else None,
        "job_name": name,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.devices,
        "time": config.time_minutes,
        "signal_delay_s": config.warning_seconds,
        "setup": setup_lines(config),
        "srun_args": [*cores, *config.srun_args] or None,
        "teardown": requeue_lines(folder),
        "additional_parameters": {"requeue": True, **config.sbatch},
    }
    return {name: value for name, value in parameters.items() if value is not None}


def setup_lines(config: SlurmConfig) -> list[str]:
    """The shell lines that make the job's environment.

    Raises:
        StudyError: the file cannot be read.
    """
    path = config.setup_file
    if path is None:
        return []
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StudyError(f"slurm.setup={config.setup} cannot be read: {reason}") from error


class Slurm(Engine):
    """Groups as jobs.

    Args:
        config: what the job asks for.
        resources: the layout.
        name: the study's.
        tell: called with a line that says which job a cell has.
    """

    name = EngineName.SLURM

    def __init__(self, config: SlurmConfig, resources: ResourcesConfig, name: str, tell: Callable[[str], None]) -> None:
        self.config, self.resources, self.study, self.tell = config, resources, name, tell

    def start(self, folder: Path, spec: LaunchSpec) -> Running:
        executor = executor_for(self.config, self.resources, folder / LOGS / "slurm", f"{self.study}-{folder.name}")
        try:
            submitted = executor.submit(job, str(folder))
        except Exception as error:
            reason = " ".join(str(getattr(error, "stderr", None) or error).split())
            raise StudyError(f"SLURM did not take the job: {reason[-500:]}") from error
        write_atomically(folder / JOB_FILE, json.dumps({"job": submitted.job_id, "attempt": spec.attempt}))
        self.tell(f"{folder.name}: job {submitted.job_id}")
        return _Job(submitted.job_id, folder, spec)

    def resume(self, folder: Path) -> tuple[Running, LaunchSpec] | None:
        try:
            submitted = read_json(folder / JOB_FILE)
        except FileNotFoundError:
            return None
        spec, number = LaunchSpec.read(folder), submitted["job"]
        alive = read_outcome(folder, spec) is not None or not_ended(job_state(number))
        if spec.attempt != submitted["attempt"] or not alive:
            (folder / JOB_FILE).unlink()
            return None
        self.tell(f"{folder.name}: continues with job {number}")
        return _Job(number, folder, spec), spec


class _Job:
    def __init__(self, number: str, folder: Path, spec: LaunchSpec) -> None:
        self.number, self.folder, self.spec = number, folder, spec
        self._looked, self._unknown = 0.0, 0

    def look(self) -> GroupExit | None:
        if self._has_result():
            return GroupExit(well=True)
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return None
        self._looked = time.monotonic()
        state = job_state(self.number)
        if not_ended(state):
            self._unknown = 0
            return None
        # A restarted controller knows no job for a moment; a job that it calls ended has ended.
        self._unknown += state is None
        if state is None and self._unknown < UNKNOWN_LOOKS:
            return None
        self._forget()
        return GroupExit(sentence=f"job {self.number} ended as {state or 'unknown to SLURM'}")

    def stop(self) -> None:
        subprocess.run(["scancel", self.number], check=False, timeout=COMMAND_SECONDS)
        deadline = time.monotonic() + STOP_SECONDS
        while not_ended(job_state(self.number)):
            if time.monotonic() > deadline:
                # Its number stays in the cell's folder, where the next command finds it.
                return
            time.sleep(LOOK_SECONDS)
        self._forget()

    def _has_result(self) -> bool:
        outcome = read_outcome(self.folder, self.spec)
        return outcome is not None and outcome.status is not TrialStatus.PREEMPTED

    def _forget(self) -> None:
        """Forget a job that has ended, unless it left a result: that is found by its number until it is recorded."""
        if not self._has_result():
            (self.folder / JOB_FILE).unlink(missing_ok=True)


def not_ended(state: str | None) -> bool:
    """Whether a job in this state has not ended for good."""
    return state in NOT_ENDED


def job_state(number: str) -> str | None:
    """The state of a job by the controller, or else by the accounting; None: neither knows it."""
    for command, pattern in (
        (["scontrol", "show", "job", "--oneliner", number], r"JobState=(\w+)"),
        (["sacct", "--noheader", "--parsable2", "--allocations", "--format=State", "--jobs", number], r"^(\w+)"),
    ):
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
        except (FileNotFoundError, subprocess.TimeoutExpired):
            continue
        found = re.search(pattern, answer.stdout)
        if answer.returncode == 0 and found:
            return found[1]
    return None


def submission_text(config: SlurmConfig, resources: ResourcesConfig, study: str, folder: Path) -> str:
    """The batch file of a cell's job, as submitit writes it."""
    logs = folder / LOGS / "slurm"
    return batch_script(logs, job_parameters(config, resources, f"{study}-{folder.name}", logs), config.python)


def time_cautions(command: CommandConfig, resources: ResourcesConfig, seconds: float) -> Iterator[str]:
    """Sentences on time limits that the longest cell of a study meets.

    Args:
        command: the launcher and its options.
        resources: the ranks of a cell.
        seconds: what the longest cell takes.
    """
    hours = f"The longest cell takes about {seconds / 3600:,.3g} hours"
    if resources.max_minutes is not None and seconds > 60 * resources.max_minutes:
        yield f"{hours}, and study.resources.max_minutes={resources.max_minutes:g} cancels it before: it gets no result"
    config = command.slurm
    seen = 60 * config.time_minutes - config.warning_seconds
    if command.launcher != "slurm" or seconds <= seen:
        return
    jobs = ceil(seconds / seen) if seen > 0 else inf
    limit = f"{hours}, and a job at most {config.time_minutes / 60:,.3g} (slurm.time_minutes={config.time_minutes})"
    if jobs - 1 > config.requeues:
        yield f"{limit}: slurm.requeues={config.requeues} ends it without a result"
    else:
        yield f"{limit}: it is requeued about {jobs - 1} time{'s' if jobs > 2 else ''}, each time from its checkpoint"
