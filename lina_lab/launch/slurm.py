"""SLURM as the engine: a job for each cell, submitted and described by submitit, one task a rank.

A job outlives the process that submitted it: its number lies in the cell's folder, and whoever takes the cell up next
follows that job. Preempted, or out of time, it saves its state and puts itself back into the queue (`job`); when a node
is lost SLURM does that.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lina_lab.config import ResourcesConfig, SlurmConfig
from lina_lab.launch.contract import Engine as EngineName
from lina_lab.launch.contract import LaunchSpec, read_outcome
from lina_lab.launch.group import GroupExit, Running
from lina_lab.records.files import JOB_FILE, LOGS, OUTCOME_FILE
from lina_lab.study.errors import StudyError
from lina_lab.util.files import write_atomically

LOOK_SECONDS = 2.0
AT_WORK = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING",
           "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED")  # fmt: skip
"""States of a job that has not ended for good."""
COMMAND_SECONDS = 60
STOP_SECONDS = 90.0
REQUEUE_SECONDS = 120.0
REFUSALS = 5
"""So often in a row SLURM may fail to answer before a job is taken for gone."""


def job(folder: str) -> None:
    """What each task of a job does: train as one rank; if it was asked to make room, have the job queued again.

    Not if it was terminated: SLURM queues again what it preempts itself, and what a person cancels is to end.
    """
    from lina_lab.launch import rank

    # Where a rank's own log begins, submitit's ends.
    result, requests = rank.main(Path(folder))
    if result.status != "preempted" or requests.terminated:
        return
    if os.environ["SLURM_PROCID"] == "0":
        (Path(folder) / OUTCOME_FILE).unlink()
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False, timeout=COMMAND_SECONDS)
    # To be queued again ends this process; ending by itself would end the job for good.
    time.sleep(REQUEUE_SECONDS)
    raise RuntimeError("the job was not queued again")


def executor_for(config: SlurmConfig, resources: ResourcesConfig, folder: Path | str, name: str) -> Any:
    """submitit's executor with the job's resources.

    Raises:
        StudyError: there is no SLURM here, or the file of the environment is missing.
    """
    from submitit.slurm.slurm import SlurmExecutor

    try:
        executor = SlurmExecutor(folder, max_num_timeout=config.requeues)
    except RuntimeError as error:
        raise StudyError("launcher=slurm: there is no srun on this machine; run it where jobs are submitted") from error
    executor.update_parameters(**job_parameters(config, resources, name))
    return executor


def job_parameters(config: SlurmConfig, resources: ResourcesConfig, name: str) -> dict[str, Any]:
    """submitit's parameters of a cell's job."""
    gpus = resources.devices if resources.accelerator == "gpu" else None
    given = {
        "partition": config.partition,
        "account": config.account,
        "qos": config.qos,
        "constraint": config.constraint,
        "cpus_per_task": config.cpus_per_task,
        "mem": None if config.mem_gib is None else f"{config.mem_gib}G",
        "gpus_per_node": gpus,
    }
    return {
        "job_name": name,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.devices,
        "time": config.time_minutes,
        "signal_delay_s": config.warning_seconds,
        "setup": setup_lines(config),
        "additional_parameters": {"requeue": True, **config.sbatch},
        **{name: value for name, value in given.items() if value is not None},
    }


def setup_lines(config: SlurmConfig) -> list[str]:
    """The lines of the job's environment.

    Raises:
        StudyError: the file is not there.
    """
    path = config.setup_file
    if path is None:
        return []
    try:
        return path.read_text().splitlines()
    except OSError as error:
        raise StudyError(f"slurm.setup={config.setup} cannot be read: {error.strerror}") from error


class Slurm:
    """Groups as jobs.

    Args:
        config: what the job asks for.
        resources: the layout.
        name: the study's.
        tell: is told which job a cell has.
    """

    name: EngineName = "slurm"

    def __init__(self, config: SlurmConfig, resources: ResourcesConfig, name: str, tell: Callable[[str], None]) -> None:
        self.config, self.resources, self.study, self.tell = config, resources, name, tell

    def start(self, folder: Path, order: LaunchSpec) -> Running:
        executor = executor_for(self.config, self.resources, folder / LOGS / "slurm", f"{self.study}-{folder.name}")
        try:
            submitted = executor.submit(job, str(folder))
        except Exception as error:
            reason = " ".join(str(getattr(error, "stderr", None) or error).split())
            raise StudyError(f"SLURM did not take the job: {reason[-500:]}") from error
        write_atomically(folder / JOB_FILE, json.dumps({"job": submitted.job_id, "attempt": order.attempt}))
        self.tell(f"{folder.name}: job {submitted.job_id}")
        return _Job(submitted.job_id, folder, order)

    def resume(self, folder: Path) -> tuple[Running, LaunchSpec] | None:
        found = job_of(folder)
        if found is None:
            return None
        order, number = LaunchSpec.read(folder), found["job"]
        alive = read_outcome(folder, order) is not None or at_work(job_state(number))
        if order.attempt != found["attempt"] or not alive:
            (folder / JOB_FILE).unlink()
            return None
        self.tell(f"{folder.name}: goes on with job {number}")
        return _Job(number, folder, order), order

    def close(self) -> None:
        pass


class _Job:
    def __init__(self, number: str, folder: Path, order: LaunchSpec) -> None:
        self.number, self.folder, self.order = number, folder, order
        self._looked, self._refusals = 0.0, 0

    def look(self) -> GroupExit | None:
        outcome = read_outcome(self.folder, self.order)
        if outcome is not None and outcome.status != "preempted":
            (self.folder / JOB_FILE).unlink(missing_ok=True)
            return GroupExit(well=True)
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return None
        self._looked = time.monotonic()
        state = job_state(self.number)
        if at_work(state):
            self._refusals = 0
            return None
        # A controller that is restarted knows nothing for a moment; a job that it says has ended has.
        self._refusals += state is None
        if state is None and self._refusals < REFUSALS:
            return None
        (self.folder / JOB_FILE).unlink(missing_ok=True)
        return GroupExit(sentence=f"job {self.number} ended as {state or 'unknown to SLURM'}")

    def stop(self) -> None:
        subprocess.run(["scancel", self.number], check=False, timeout=COMMAND_SECONDS)
        deadline = time.monotonic() + STOP_SECONDS
        while at_work(job_state(self.number)):
            if time.monotonic() > deadline:
                # Its number stays where the next command finds it.
                return
            time.sleep(LOOK_SECONDS)
        (self.folder / JOB_FILE).unlink(missing_ok=True)


def job_of(folder: Path) -> dict[str, str] | None:
    """The job that was last submitted for a cell, and its attempt; None: none is known."""
    try:
        found: dict[str, str] = json.loads((folder / JOB_FILE).read_text())
    except FileNotFoundError:
        return None
    return found


def at_work(state: str | None) -> bool:
    """Whether a job in this state has not ended for good."""
    return state in AT_WORK


def job_state(number: str) -> str | None:
    """The state of a job, as the controller or else the accounting says; None: neither knows it."""
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


def submission_text(config: SlurmConfig, resources: ResourcesConfig, name: str, folder: str) -> str:
    """The batch file of a cell's job, as submitit writes it."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{sys.executable} -u -m submitit.core._submit {folder}"
    text: str = _make_sbatch_string(command=command, folder=folder, **job_parameters(config, resources, name))
    return text
