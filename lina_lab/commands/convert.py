"""Convert a checkpoint that the authors published to a model folder of ours.

  lina convert source=DOWNLOADED out=FOLDER [model.FIELD=VALUE ...]

The configuration is read off the weights. What the weights do not show is assumed, and each assumption is printed.
"""

from pathlib import Path

from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS, to_dict
from lina_lab.config.grammar import Command


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class ConvertConfig:
    """Fields of `lina convert`."""

    source: str
    """Downloaded weights: a folder with `diffusion_pytorch_model.safetensors` or `.bin`, whole or in parts with their
    index; the folder of a pipeline; or a file of weights."""
    out: str
    """Folder to write the model to."""
    model: dict[str, object] | None = None
    """Fields of the model that the weights do not show, each as model.FIELD=VALUE."""


def run(config: ConvertConfig) -> int:
    """Convert, and print the configuration and what was assumed; returns 0.

    Raises:
        ValueError: the weights cannot be read, or do not fit the configuration.
        OSError: the folder holds a model already, or cannot be written.
    """
    import yaml

    from lina_lab.model.folder import CONFIG, WEIGHTS
    from lina_lab.model.official import convert

    target = Path(config.out)
    found = convert(Path(config.source), target, config.model)
    print(yaml.safe_dump(to_dict(found.config), sort_keys=False), end="")
    for assumption in found.assumptions:
        print(f"assumed, not in the weights: {assumption}")
    print(f"written: {target / CONFIG}, {target / WEIGHTS}")
    return 0


COMMAND = Command(config=ConvertConfig, run=run, doc=__doc__)
