"""Which machine a study may run on."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lina_lab.config import CommandConfig, ResourcesConfig, SlurmConfig, TorchrunConfig, TrialConfig
from lina_lab.launch import machine
from lina_lab.launch.contract import EngineName, LaunchContext, LaunchSpec
from lina_lab.launch.local import in_this_process
from lina_lab.launch.select import agreement_digest, describe_launch, is_leader
from lina_lab.launch.torchrun import OneMachine
from lina_lab.records.runstore import TrackingRun
from lina_lab.study.pool import _Pool
from lina_lab.util.errors import StudyError


@pytest.mark.parametrize(
    ("gpus", "resources", "command", "data_workers", "expected"),
    [
        ([], {}, {}, 0, 1),
        ([], {}, {"workers": None}, 0, 8),
        ([], {"threads": 2}, {"workers": None}, 1, 2),
        ([], {"threads": 16}, {"workers": None}, 0, 1),
        ([], {"devices": 2}, {"workers": None, "launcher": "torchrun"}, 0, 1),
        ([], {}, {"workers": None, "launcher": "slurm"}, 0, 1),
        (["0", "1"], {}, {"workers": None}, 0, 2),
        (["0", "1"], {"accelerator": "cpu"}, {"workers": None}, 0, 8),
        (["0", "1"], {}, {"workers": 5}, 0, 5),
    ],
)
def test_as_many_workers_as_the_machine_has_processors_or_gpus_for(
    monkeypatch: pytest.MonkeyPatch,
    gpus: list[str],
    resources: dict[str, Any],
    command: dict[str, Any],
    data_workers: int,
    expected: int,
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert machine.workers_of(CommandConfig(**command), ResourcesConfig(**resources), data_workers) == expected


@pytest.mark.parametrize(
    ("gpus", "resources", "command", "sentence"),
    [
        ([], {"devices": 2}, {}, "launcher=local trains in one process; give launcher=torchrun or launcher=slurm"),
        ([], {"nodes": 2}, {}, "study.resources has nodes=2 x devices=1: launcher=local trains in one process"),
        ([], {"devices": 9}, {"launcher": "torchrun"}, "devices=9 is more than .* has: no GPU, and 8 processors"),
        (
            [],
            {"accelerator": "gpu"},
            {"launcher": "torchrun"},
            "accelerator=gpu: .* has no GPU that this process",
        ),
        (["0", "1"], {"devices": 3}, {"launcher": "torchrun"}, "devices=3 is more than the 2 GPUs of "),
        (["0", "1"], {}, {"workers": 3}, "workers=3 x study.resources.devices=1 is more than the 2 GPUs"),
        (["0"], {"nodes": 2}, {"launcher": "torchrun", "workers": 2}, "a study over several nodes has one worker"),
        ([], {}, {"workers": 3}, None),
        (["0", "1"], {}, {"workers": 2}, None),
        (["0", "1"], {"devices": 2}, {"launcher": "torchrun"}, None),
        (["0", "1"], {"devices": 8, "accelerator": "cpu"}, {"launcher": "torchrun"}, None),
        ([], {"devices": 8, "nodes": 4, "accelerator": "gpu"}, {"launcher": "slurm", "workers": 9}, None),
    ],
)
def test_more_than_the_machine_has_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    gpus: list[str],
    resources: dict[str, Any],
    command: dict[str, Any],
    sentence: str | None,
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    checked = (ResourcesConfig(**resources), CommandConfig(**command))
    if sentence is None:
        machine.check_machine(*checked)
        return
    with pytest.raises(ValueError, match=sentence):
        machine.check_machine(*checked)


def test_a_cell_that_a_job_has_is_left_alone(tmp_path: Path, tiny: Callable[..., TrialConfig]) -> None:
    (tmp_path / "job.json").write_text('{"job": "17", "attempt": "a"}')
    sentence = f"the cell {tmp_path.name} was given to job 17 of a cluster: continue with launcher=slurm, or scancel 17"
    with in_this_process(ResourcesConfig()) as train, pytest.raises(StudyError, match=sentence):
        train(tiny(), tmp_path, tracking=TrackingRun(uri="sqlite://", run_id="run"), report=lambda progress: None)
    spec = LaunchSpec(attempt="a", engine=EngineName.TORCHRUN, tracking=None, resources=ResourcesConfig())
    with pytest.raises(StudyError, match=sentence):
        OneMachine().start(tmp_path, spec)


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    ResourcesConfig(nodes=2, devices=2, accumulate_grad_batches=4).check_batch(32)
    with pytest.raises(ValueError, match=r"batch_size=32 cannot be divided evenly.* = 12 micro-batches"):
        ResourcesConfig(devices=3, accumulate_grad_batches=4).check_batch(32)


def test_devices_are_those_that_the_process_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine.gpus.cache_clear()
    assert machine.gpus() == ("0", "1", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    machine.gpus.cache_clear()
    assert machine.gpus() == ("GPU-a", "GPU-b")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    machine.gpus.cache_clear()
    assert machine.gpus() == ()
    machine.gpus.cache_clear()


def test_workers_share_the_devices_and_have_the_threads_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    pool = _Pool(tmp_path, 3, ["true"], ["0", "1", "2", "3", "4", "5"])
    environments = [pool._environment(index) for index in range(3)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in environments] == ["0,3", "1,4", "2,5"]
    assert [one["OMP_NUM_THREADS"] for one in environments] == ["1", "1", "1"]
    assert {one["LINA_PARENT"] for one in environments} == {str(os.getpid())}
    assert _Pool(tmp_path, 2, ["true"], [], threads=2)._environment(0)["OMP_NUM_THREADS"] == "2"


DEAF = """
import pathlib, signal, sys, time
heard = []
def hear(*_):
    heard.append(True)
    if len(heard) == 2:
        sys.exit(7)
signal.signal(signal.SIGTERM, hear)
pathlib.Path(sys.argv[1]).touch()
while True:
    time.sleep(0.05)
"""


def test_a_worker_that_does_not_hear_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose SystemExit came within a destructor."""
    monkeypatch.setattr("lina_lab.study.pool.ASK_AGAIN_SECONDS", 0.3)
    made = _Pool(tmp_path, 1, [sys.executable, "-c", DEAF, str(tmp_path / "ready")], ())
    made.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    made.stop()
    (worker,) = made.workers
    assert worker is not None
    assert worker.returncode == 7


def context(**resources: Any) -> LaunchContext:
    return LaunchContext(
        study="tiny", resources=ResourcesConfig(**resources), folder=Path("/runs/tiny"), cells="4 (0123)"
    )


def test_a_launch_is_described_to_the_command_line() -> None:
    command = CommandConfig(launcher="torchrun", torchrun=TorchrunConfig(rendezvous="10.0.0.1:29500"))
    text = describe_launch(context(nodes=2, devices=4), command, "abc")
    assert "For each cell 8 processes (ddp)" in text
    assert "-m lina_lab.launch.agent /runs/tiny/abc 1 10.0.0.1 PORT PARENT" in text
    assert "torchrun --nnodes=2 --nproc-per-node=4 --max-restarts=0 -m lina_lab.launch.rank /runs/tiny/abc" in text
    jobs = describe_launch(context(devices=4), CommandConfig(launcher="slurm", slurm=SlurmConfig(setup=None)), "abc")
    assert "#SBATCH --job-name=tiny-abc" in jobs
    assert "/runs/tiny/abc/logs/slurm" in jobs


def test_machines_agree_on_cells_layout_folder_and_code() -> None:
    digest = agreement_digest(context(nodes=2))
    assert digest["study.name"] == "tiny"
    assert (digest["cells"], digest["paths.runs"]) == ("4 (0123)", "/runs")
    assert digest["study.resources.nodes"] == "2"
    assert {"lina_lab", "torch", "python"} <= digest.keys()


def test_the_machine_that_has_the_rendezvous_address_leads() -> None:
    command = CommandConfig(launcher="torchrun", torchrun=TorchrunConfig(rendezvous="192.0.2.1:29500"))
    assert not is_leader(ResourcesConfig(nodes=2), command)
    assert is_leader(ResourcesConfig(nodes=1, devices=2), command)
    with pytest.raises(ValueError, match=r"several nodes need torchrun\.rendezvous=HOST:PORT"):
        is_leader(ResourcesConfig(nodes=2), CommandConfig(launcher="torchrun"))
