"""What all tests share."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Workers times threads must not exceed the cores; before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"
# A name that is no folder is one of the hub, which would be asked for it several times.
os.environ["HF_HUB_OFFLINE"] = "1"

# Below a shell in the background Ctrl-C is ignored, and would be by all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import torch
from safetensors import safe_open

# Triton's kernels run in its interpreter where there is no GPU; before Triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from lina_lab.config import StudyConfig, TrialConfig, from_dict, to_dict

DATA = Path(__file__).parent / "data"
TINY: dict[str, Any] = {
    "model": {
        "latent_channels": 1,
        "latent_size": [8, 8],
        "dim": 8,
        "num_heads": 2,
        "condition_depth": 1,
        "depth": 2,
        "flow_depth": 1,
        "noise_samples_per_token": 1,
        "num_classes": 10,
    },
    "data": {"batch_size": 16, "val_images": 40, "val_batch_size": 20},
    "optimizer": {"lr": 1e-3},
    "ema": {"decay": 0.5, "every_n_steps": 1},
    "trainer": {"max_images": 64, "val_every_images": 32},
    "sampling": {"images_per_class": 1, "ar_steps": 2, "ode_steps": 2},
    "start": {},
    "checkpoint": {},
}


STUDY: dict[str, Any] = {
    "question": "Does it run?",
    "axes": {
        "normalization": {"model.attention.normalization": ["division", "subtraction"]},
        "size": {"model.dim": [8, 16]},
    },
    "size_axis": "size",
    "seeds": [0],
}


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    """Close what a test drew: figures stay until then, and too many are a warning of whichever test is next."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes first: with the short ones behind them, two workers end at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("system") is None or "system" not in item.path.parts)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def tiny() -> Callable[..., TrialConfig]:
    """Makes a trial that takes a second, with changes given as `section={field: value}`."""

    def make(**changes: Any) -> TrialConfig:
        sections = {
            name: {**TINY.get(name, {}), **change} if isinstance(change, dict) else change
            for name, change in changes.items()
        }
        return from_dict(TrialConfig, {**TINY, **sections})

    return make


@pytest.fixture
def tiny_study(tiny: Callable[..., TrialConfig]) -> Callable[..., tuple[StudyConfig, dict[str, Any]]]:
    """Makes a study of four cells and the plain data of its trials."""

    def make(**changes: Any) -> tuple[StudyConfig, dict[str, Any]]:
        return from_dict(StudyConfig, STUDY | {"name": "tiny"} | changes), to_dict(tiny())

    return make


class Parity:
    """One file of numbers that the authors' modules computed (see tests/data/parity/README.md)."""

    def __init__(self, name: str) -> None:
        with safe_open(DATA / "parity" / f"{name}.safetensors", "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
        self.values = {k: v for k, v in tensors.items() if not k.startswith("weights.")}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.values[name]


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    ours = ours.detach()
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())
