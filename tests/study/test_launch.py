"""Which machine a study may run on."""

from pathlib import Path

import pytest

from lina_lab.study import launch
from lina_lab.study.pool import _Pool


@pytest.mark.parametrize(
    ("gpus", "devices", "workers", "sentence"),
    [
        ([], 2, 1, "study.resources.devices=2: a cell is trained on one device so far, and this machine has no GPU"),
        (["0", "1"], 2, 1, "has 2 GPUs; give study.resources.devices=1"),
        (["0", "1"], 1, 3, "workers=3 is more than the 2 GPUs of this machine"),
        ([], 1, 3, None),
        (["0", "1"], 1, 2, None),
    ],
)
def test_more_devices_than_there_are_is_refused(
    monkeypatch: pytest.MonkeyPatch, gpus: list[str], devices: int, workers: int, sentence: str | None
) -> None:
    monkeypatch.setattr(launch, "gpus", lambda: gpus)
    if sentence is None:
        launch.check_devices(devices, workers)
        return
    with pytest.raises(ValueError, match=sentence.replace(".", r"\.")):
        launch.check_devices(devices, workers)


def test_devices_are_those_that_the_process_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert launch.gpus() == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert launch.gpus() == ["GPU-a", "GPU-b"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert launch.gpus() == []


def test_workers_share_the_devices_and_the_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    pool = _Pool(tmp_path, 3, ["true"], ["0", "1", "2", "3", "4", "5"])
    environments = [pool._environment(place) for place in range(3)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in environments] == ["0,3", "1,4", "2,5"]
    assert [one["OMP_NUM_THREADS"] for one in environments] == ["2", "2", "2"]
