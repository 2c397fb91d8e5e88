"""Which machine a study may run on."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lina_lab.config import CommandConfig, ResourcesConfig, TrialConfig
from lina_lab.launch import select as launch
from lina_lab.launch.contract import LaunchSpec
from lina_lab.launch.torchrun import OneMachine
from lina_lab.study.errors import StudyError
from lina_lab.study.pool import _Pool


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
    monkeypatch.setattr(launch, "gpus", lambda: gpus)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    checked = (ResourcesConfig(**resources), CommandConfig(**command))
    if sentence is None:
        launch.check_machine(*checked)
        return
    with pytest.raises(ValueError, match=sentence):
        launch.check_machine(*checked)


def test_a_cell_that_a_job_has_is_left_alone(tmp_path: Path, tiny: Callable[..., TrialConfig]) -> None:
    (tmp_path / "job.json").write_text('{"job": "17", "attempt": "a"}')
    sentence = f"the cell {tmp_path.name} was given to job 17 of a cluster: go on with launcher=slurm, or scancel 17"
    with launch.in_this_process(ResourcesConfig()) as train, pytest.raises(StudyError, match=sentence):
        train(tiny(), tmp_path, tracking=("sqlite://", "run"), report=lambda images, loss: None)
    order = LaunchSpec(attempt="a", engine="torchrun", tracking=None, resources=ResourcesConfig())
    with pytest.raises(StudyError, match=sentence):
        OneMachine().start(tmp_path, order)


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    ResourcesConfig(nodes=2, devices=2, accumulate_grad_batches=4).check_batch(32)
    with pytest.raises(ValueError, match=r"batch_size=32 cannot be shared out evenly.* = 12 portions"):
        ResourcesConfig(devices=3, accumulate_grad_batches=4).check_batch(32)


def test_devices_are_those_that_the_process_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    launch.gpus.cache_clear()
    assert launch.gpus() == ("0", "1", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    launch.gpus.cache_clear()
    assert launch.gpus() == ("GPU-a", "GPU-b")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    launch.gpus.cache_clear()
    assert launch.gpus() == ()
    launch.gpus.cache_clear()


def test_workers_share_the_devices_and_the_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    pool = _Pool(tmp_path, 3, ["true"], ["0", "1", "2", "3", "4", "5"])
    environments = [pool._environment(place) for place in range(3)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in environments] == ["0,3", "1,4", "2,5"]
    assert [one["OMP_NUM_THREADS"] for one in environments] == ["2", "2", "2"]
    groups = _Pool(tmp_path, 2, ["true"], [], ranks=2)
    assert groups._environment(0)["OMP_NUM_THREADS"] == "2"


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
