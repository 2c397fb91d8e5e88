"""Checkpoints as version 0.1, or another trial, wrote them."""

from pathlib import Path
from typing import Any

import torch

from lina_lab.config import TrialConfig, to_dict
from lina_lab.records.checkpoints import write_hashes
from lina_lab.training.checkpoints import SavedStep, newest
from lina_lab.util.files import sha256


def last(folder: Path) -> SavedStep:
    """The newest checkpoint of a trial; none is damaged."""
    found, problems = newest(folder)
    assert problems == []
    assert found is not None
    return found


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


def write(path: Path, saved: dict[str, Any]) -> None:
    """Write a checkpoint's file again, changed, and seal it."""
    torch.save(saved, path)
    write_hashes(path, sha256(path), saved.get("shards", {}))


def as_of(config: TrialConfig, path: Path) -> None:
    """Rewrite a checkpoint as that of another trial, such as one with a larger budget."""
    saved = load(path)
    saved["hyper_parameters"] = to_dict(config)
    write(path, saved)


def as_version_0_1_wrote_it(path: Path, data_name: str = "DigitsDataModule") -> None:
    """Rewrite a checkpoint in layout 2: the optimizer's state by the parameters' indices in the module."""
    saved = load(path)
    (state,) = saved["optimizer_states"]
    index = {name: number for number, name in enumerate(n for n in saved["state_dict"] if n.startswith("model."))}
    groups = [{**group, "params": [index[name] for name in group["params"]]} for group in state["param_groups"]]
    saved["optimizer_states"] = [{"state": {index[n]: v for n, v in state["state"].items()}, "param_groups": groups}]
    saved["layout"] = 2
    saved[data_name] = saved.pop("data")
    write(path, saved)
