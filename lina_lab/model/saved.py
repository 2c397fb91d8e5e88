"""Read the weights that `lina_lab.records.weights` finds, whatever they are stored as."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from torch import Tensor

from lina_lab.config import LinaConfig, from_stored
from lina_lab.model.folder import CONFIG, load_model, not_finite
from lina_lab.model.making import make_model
from lina_lab.model.official import official_model
from lina_lab.model.shards import damaged, open_checkpoint
from lina_lab.records.weights import Kind, Located, hash_of_file
from lina_lab.util.errors import first_line

Which = Literal["ema", "raw"]
PREFIX = "model."
"""What a trial's checkpoint puts before the names of the model's parameters."""
STATES = {"ema": "state_dict", "raw": "current_model_state"}
"""Lightning's averaging callbacks keep the averaged weights under the usual name, and the raw ones beside them."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A model's weights and configuration, and what else is stored with them."""

    config: LinaConfig
    weights: Mapping[str, Tensor]
    """By the names that our model gives them."""
    which: str
    """ema or raw; "as saved" where there is one kind."""
    assumptions: tuple[str, ...] = ()
    """One sentence for each field of the configuration that official weights do not show."""
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    """All of a trial's checkpoint; its tensors are read from the disk when they are used."""

    def model(self) -> Any:
        """The model, in eval mode."""
        model = make_model(self.config)
        model.load_state_dict(self.weights)
        return model.eval()


def read_saved(
    located: Located,
    which: Which = "ema",
    *,
    known: Mapping[str, object] | None = None,
    like: LinaConfig | None = None,
) -> Saved:
    """Read weights.

    Args:
        located: where they are.
        which: the averaged or the raw weights of a checkpoint.
        known: fields of the configuration that official weights do not show.
        like: a model that official weights are assumed to be like where they do not show it; see `detect`.

    Raises:
        ValueError: they cannot be read, are not what was written, or are not all numbers.
    """
    saved = _read(located, which, known, like)
    if broken := not_finite(saved.weights):
        raise ValueError(f"{located.path}: weights are not finite ({broken})")
    return saved


def _read(located: Located, which: Which, known: Mapping[str, object] | None, like: LinaConfig | None) -> Saved:
    if located.kind == Kind.OFFICIAL:
        model, found = official_model(located.path, known, like)
        assumed = found.assumptions
        return Saved(config=found.config, weights=model.state_dict(), which="as saved", assumptions=assumed)
    if located.kind == Kind.MODEL:
        model = load_model(located.path)
        return Saved(config=model.config, weights=model.state_dict(), which="as saved")
    if hash_of_file(located.path) != (located.contents or located.sha256):
        raise ValueError(f"{located.path} is not a whole checkpoint of a trial: its contents are not what was written")
    checkpoint, config = opened(located)
    if (shard := damaged(checkpoint)) is not None:
        raise ValueError(f"{located.path} is not a whole checkpoint of a trial: {shard} is not what was written")
    state = {n.removeprefix(PREFIX): v for n, v in checkpoint[STATES[which]].items() if n.startswith(PREFIX)}
    return Saved(config=config, weights=state, which=which, checkpoint=checkpoint)


def saved_config(located: Located, like: LinaConfig | None = None) -> LinaConfig:
    """The configuration of the model alone, without reading the weights where they need not be read.

    Raises:
        ValueError: see `read_saved`.
    """
    if located.kind == Kind.CHECKPOINT:
        return opened(located)[1]
    if located.kind == Kind.MODEL:
        try:
            data = yaml.safe_load((located.path / CONFIG).read_text())
            return from_stored(LinaConfig, data, within="model")
        except (OSError, yaml.YAMLError) as error:
            raise ValueError(f"{located.path} does not hold a model: {first_line(error)}") from error
    return official_model(located.path, like=like)[1].config


def opened(located: Located) -> tuple[Mapping[str, Any], LinaConfig]:
    """A trial's checkpoint, and its model's configuration; the contents are not verified.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        saved = open_checkpoint(located.path)
        return saved, from_stored(LinaConfig, saved["hyper_parameters"]["model"], within="model")
    except Exception as error:
        raise ValueError(f"{located.path} is not a whole checkpoint of a trial: {first_line(error)}") from error
