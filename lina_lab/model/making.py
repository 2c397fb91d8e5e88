"""Make the model of a configuration, whatever its task."""

from typing import Any

from lina_lab.config import LinaConfig


def make_model(config: LinaConfig) -> Any:
    """The model of the configuration's task (`Task.model`), with the initial weights of seed 0."""
    return config.kind.load_model()(config)
