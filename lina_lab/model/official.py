"""Read a checkpoint that the authors published, and convert it to a model folder of ours (`lina convert`)."""

from collections.abc import Mapping
from pathlib import Path

from lina_lab.config import LinaConfig
from lina_lab.model.detect import Found, detect
from lina_lab.model.download import read_official
from lina_lab.model.folder import CONFIG, WEIGHTS, not_finite, save_model
from lina_lab.model.layout import load_official
from lina_lab.model.lina import LINA


def convert(source: Path, target: Path, known: Mapping[str, object] | None = None) -> Found:
    """Convert downloaded weights to a model folder of ours, see `lina_lab.model.folder`.

    Args:
        source: folder or file with the authors' weights, see `lina_lab.model.download.read_official`.
        target: where to write.
        known: fields of the configuration that do not follow from the weights.

    Raises:
        ValueError: the weights cannot be read, are not all numbers, or do not fit the configuration that was detected.
        FileExistsError: `target` holds a model already.
        OSError: `target` cannot be written.
    """
    if (target / CONFIG).exists() or (target / WEIGHTS).exists():
        raise FileExistsError(f"{target} holds a model already")
    model, found = official_model(source, known)
    save_model(model, target)
    return found


def official_model(
    source: Path, known: Mapping[str, object] | None = None, like: LinaConfig | None = None
) -> tuple[LINA, Found]:
    """The model of downloaded weights, and what was found and assumed of it.

    Args:
        source: see `convert`.
        known: see `convert`.
        like: see `detect`.

    Raises:
        ValueError: see `convert`.
    """
    weights = read_official(source)
    if broken := not_finite(weights):
        raise ValueError(f"the weights in {source} are not finite ({broken}): the download or the training is damaged")
    found = detect(weights, known, like)
    model = LINA(found.config)
    load_official(model, weights)
    return model, found
