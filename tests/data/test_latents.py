"""Arrays of latents as training data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lina_lab.config import TrialConfig
from lina_lab.data.modules import latents as latents_module
from lina_lab.data.modules.digits import DigitsDataModule, digits
from lina_lab.data.modules.latents import LatentsDataModule
from lina_lab.training.trial import run_trial

Tiny = Callable[..., TrialConfig]


def write(folder: Path, **changes: Any) -> None:
    """The digits' own split as arrays, with changes."""
    images, labels = digits()
    arrays = {
        "train_latents": images[:200].numpy().astype(np.float16),
        "train_labels": labels[:200].numpy().astype(np.int32),
        "val_latents": images[200:300].numpy(),
        "val_labels": labels[200:300].numpy(),
    }
    for name, array in {**arrays, **changes}.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)


def config(tiny: Tiny, folder: Path, **changes: Any) -> TrialConfig:
    data = {"name": "latents", "path": str(folder), "batch_size": 16, "val_images": 40, "val_batch_size": 20}
    return tiny(data=data | changes)


def test_batches_are_the_arrays_in_the_stream_s_order(tiny: Tiny, tmp_path: Path) -> None:
    write(tmp_path)
    module = LatentsDataModule(config(tiny, tmp_path))
    loader = module.train_dataloader()
    images, labels = digits()
    for indices, (latents, condition) in zip(loader.sampler, loader, strict=True):
        assert latents.dtype == torch.float32
        assert torch.allclose(latents, images[indices])  # type: ignore[index]
        assert torch.equal(condition["label"], labels[indices])  # type: ignore[index]
    (raw, ema) = module.val_dataloader()
    assert torch.equal(torch.cat([batch[0] for batch in raw]), images[200:240])
    assert len(ema.dataset) == 40  # type: ignore[arg-type]
    other = DigitsDataModule(tiny())
    other.images = 200
    orders = [list(m.train_dataloader().sampler) for m in (module, other)]
    assert all(torch.equal(a, b) for a, b in zip(*orders, strict=True))


def test_a_trial_learns_from_arrays(tiny: Tiny, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "trial").mkdir()
    result = run_trial(config(tiny, tmp_path), tmp_path / "trial")
    assert (result.status, result.images_seen) == ("done", 64)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train_latents": None}, "train_latents.npy is not an array that can be read"),
        (
            {"train_latents": np.zeros((200, 2, 8, 8), np.float32)},
            r"holds float32\[200, 2, 8, 8\], and the labels and the",
        ),
        ({"train_latents": np.zeros((200, 1, 8, 8), np.int8)}, "need floats"),
        ({"val_labels": np.zeros(99, np.int64)}, r"holds float32\[100, 1, 8, 8\].* need floats \[99, 1, 8, 8\]"),
        ({"val_labels": np.full(100, 10)}, "holds classes 10 to 10, and model.num_classes=10"),
        ({"val_labels": np.zeros(100)}, r"holds float64\[100\], not \[n\]"),
        ({"train_labels": np.array([], np.int64)}, "holds nothing"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tiny: Tiny, tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(ValueError, match=sentence):
        LatentsDataModule(config(tiny, tmp_path))


def test_too_few_images_to_hold_out_are_named(tiny: Tiny, tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=r"holds 100 images for validation, and data\.val_images=200"):
        LatentsDataModule(config(tiny, tmp_path, val_images=200))


def test_a_file_that_carries_objects_is_not_unpickled(tiny: Tiny, tmp_path: Path) -> None:
    write(tmp_path)
    np.save(tmp_path / "train_labels.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"train_labels\.npy is not an array that can be read"):
        LatentsDataModule(config(tiny, tmp_path))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "latents"}, "data.name=latents needs data.path"),
        ({"path": "somewhere"}, "data.path=somewhere is not used by data.name=digits"),
    ],
)
def test_a_path_is_for_latents(tiny: Tiny, change: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        tiny(data=change)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("whole", [2**30, 100])
def test_a_trial_does_not_go_on_with_other_arrays_of_the_same_name(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, whole: int
) -> None:
    """Any number counts in arrays that are hashed whole, and most of an array's in larger ones."""
    monkeypatch.setattr(latents_module, "HASHED_WHOLE", whole)
    monkeypatch.setattr(latents_module, "PIECE", 64)
    images, labels = digits()
    latents = images[:200].numpy().astype(np.float16).copy(order=order)
    write(tmp_path, train_latents=latents)
    state = LatentsDataModule(config(tiny, tmp_path)).state_dict()
    write(tmp_path, train_latents=latents)
    LatentsDataModule(config(tiny, tmp_path)).load_state_dict(state)
    other = latents.copy(order=order)
    other[0 if whole == 100 else 117, 0, 0, 0] += 1
    swapped = labels[:200].numpy().astype(np.int32)
    swapped[0] = (swapped[0] + 1) % 10
    for changes in ({"train_latents": other}, {"train_latents": latents, "train_labels": swapped}):
        write(tmp_path, **changes)
        with pytest.raises(ValueError, match="holds other data than the checkpoint is of"):
            LatentsDataModule(config(tiny, tmp_path)).load_state_dict(state)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_latent_that_is_no_number_is_named(tiny: Tiny, tmp_path: Path, value: float) -> None:
    """The trial would be said to have diverged."""
    images, _ = digits()
    latents = images[:200].numpy().copy()
    latents[7, 0, 3, 3] = value
    write(tmp_path, train_latents=latents)
    module = LatentsDataModule(config(tiny, tmp_path))
    with pytest.raises(ValueError, match=r"train_latents\.npy: the latent with index 7 is not finite"):
        module.train_set[torch.arange(10)]
    module.train_set[torch.arange(8, 12)]


@pytest.mark.parametrize("damage", ["header", "archive", "text", "folder"])
def test_a_file_that_is_no_array_is_one_sentence(tiny: Tiny, tmp_path: Path, damage: str) -> None:
    write(tmp_path)
    path = tmp_path / "val_labels.npy"
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "archive":
        with path.open("wb") as file:
            np.savez(file, x=np.zeros(3))
    else:
        path.write_bytes(b"\x93NUMPY\x01\x00\x76\x00{'descr': (" + b" " * 200 if damage == "header" else b"\xff\xfe")
    with pytest.raises(ValueError, match=r"val_labels\.npy is not an array that can be read: .") as error:
        LatentsDataModule(config(tiny, tmp_path))
    assert "\n" not in str(error.value)
