"""Finds weights by what a user names: a cell, a checkpoint, a model's folder, a download, a run in MLflow.

Imports no torch: a plan finds weights and hashes them without reading a tensor.
"""

import hashlib
import re
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from lina_lab.records.checkpoints import WEIGHTS, digest_file, known_as, shard_hashes, written_hash
from lina_lab.records.files import CHECKPOINTS, CONFIG_FILE, RUN_FILE
from lina_lab.records.record import noted_run
from lina_lab.util.files import read_json, sha256

MODEL_FILE = "model.safetensors"
"""Weights in a model's folder, beside its configuration."""
RUN = "runs:/"
"""What a run in MLflow is named with: runs:/ID."""
STEM = "diffusion_pytorch_model"
ENDINGS = (".safetensors", ".bin")
"""Endings of official weights; the first is preferred, since nothing in it is unpickled."""
OTHER_ENDINGS = (".pt", ".pth", ".ckpt")
"""Endings of other pickled weights, which are read if the file itself is named."""
INDEX = ".index.json"
PIPELINE_PART = "transformer"
"""Folder of the model within a pipeline of diffusers."""


class Kind(StrEnum):
    """What weights are stored as."""

    CHECKPOINT = "checkpoint"
    """A trial's state after a step: averaged and raw weights, and the optimizer's state."""
    MODEL = "model"
    """A folder that `save_model` wrote."""
    OFFICIAL = "official"
    """Weights that the authors published, in their layout."""


@dataclass(frozen=True)
class Located:
    """Weights on disk."""

    path: Path
    """The checkpoint's file; the model's folder; the file of official weights, or of the index of their parts."""
    kind: Kind
    sha256: str
    """SHA-256 of the file of the weights; for weights in parts, of the hashes of all parts; for weights alone that were
    taken out of a checkpoint, of that checkpoint, so that trials which start from them stay the same."""
    contents: str | None = None
    """SHA-256 of the file, where it is another one."""


def locate(source: str, runs: Path = Path("runs")) -> Located:
    """Find weights.

    Args:
        source: a cell's folder, of which the newest checkpoint is meant; a checkpoint; a folder of `save_model`; a
            download of the authors' weights, as a file or a folder; or runs:/ID for a cell's run in MLflow.
        runs: the folder of all results, where the folder of such a cell is.

    Raises:
        ValueError: there are no weights, or half a checkpoint, or it is not clear which weights are meant.
    """
    if source.startswith(RUN):
        return _in_folder(_folder_of_run(source.removeprefix(RUN), runs))
    path = Path(source)
    if path.is_dir():
        return _in_folder(path)
    if not path.is_file() and (alone := path.with_suffix(WEIGHTS)).is_file():
        path = alone  # all that a finished cell has kept of this checkpoint
    if not path.is_file():
        raise ValueError(f"{source} is not there: no file and no folder has this name")
    if path.name == MODEL_FILE and (path.parent / CONFIG_FILE).exists():
        return _in_folder(path.parent)
    return _checkpoint(path) if _is_checkpoint(path) else _official(path)


def hash_of_file(path: Path) -> str:
    """The SHA-256 of a file's contents, which are read once in this process while size and time stay the same."""
    found = path.stat()
    return _hashed(path.resolve(), found.st_size, found.st_mtime_ns)


@cache
def _hashed(path: Path, size: int, modified: int) -> str:
    return sha256(path)


def official_file(folder: Path) -> Path:
    """The one file in a folder that holds the authors' weights or the index of their parts.

    Raises:
        ValueError: there is none, or there are several.
    """
    names = sorted(file.name for file in folder.iterdir())
    for ending in ENDINGS:
        for name in (f"{STEM}{ending}", f"{STEM}{ending}{INDEX}"):
            if name in names:
                return folder / name
    for ending in ENDINGS:
        # diffusers wrote a variant's index as `.safetensors.index.fp16.json` before `.safetensors.fp16.index.json`.
        form = rf"{STEM}(\.[^.]+{ending}|{ending}\.[^.]+\.index\.json|{ending}\.index\.[^.]+\.json)"
        variants = [name for name in names if re.fullmatch(form, name)]
        if len(variants) > 1:
            raise ValueError(f"{folder} holds several variants of the weights: give one file of {', '.join(variants)}")
        if variants:
            return folder / variants[0]
    if (folder / PIPELINE_PART).is_dir():
        return official_file(folder / PIPELINE_PART)
    missing = f"{folder} has neither {STEM}{ENDINGS[0]} nor {STEM}{ENDINGS[1]}"
    if parts := [name for name in names if re.search(r"-\d+-of-\d+\.", name)]:
        raise ValueError(f"{missing}, and parts such as {parts[0]} without their index: download the file *{INDEX} too")
    if others := [name for name in names if name.endswith((*ENDINGS, *OTHER_ENDINGS))]:
        raise ValueError(f"{missing}: if {others[0]} holds the weights, give that file")
    raise ValueError(f"{missing}, nor an index of their parts, nor a folder {PIPELINE_PART}")


def places_of_parts(index: Path) -> dict[str, str]:
    """Name of a tensor -> the file beside the index that holds it.

    Raises:
        ValueError: the file is no index, or a part that it names is not there.
    """
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{index} is not an index of weights: it has no weight_map")
    for part in sorted(set(map(str, places.values()))):
        if Path(part).name != part or not part.endswith(ENDINGS):
            raise ValueError(f"{index} names {part!r}, which is not a file of weights beside it")
        if not (index.parent / part).exists():
            raise ValueError(f"{index.parent} lacks {part}, a part of the weights that {index.name} names: download it")
    return {str(name): str(part) for name, part in places.items()}


def _in_folder(folder: Path) -> Located:
    if (folder / MODEL_FILE).exists():
        return Located(folder, Kind.MODEL, hash_of_file(folder / MODEL_FILE))
    # Of one step, a whole checkpoint before its weights alone.
    checkpoints = sorted(
        folder.glob(f"{CHECKPOINTS}.ckpt"),
        key=lambda p: (p.name.partition(".")[0], len(WEIGHTS) - len(p.name)),
        reverse=True,
    )
    if checkpoints:
        # A torn file, or one without a hash, passes for no checkpoint where an older one is whole.
        return _checkpoint(next((c for c in checkpoints if written_hash(c) and _complete(c)), checkpoints[0]))
    if _looks_official(folder):
        return _official(official_file(folder))
    raise ValueError(
        f"{folder} holds neither a model nor a checkpoint ({CHECKPOINTS}.ckpt), nor weights that the authors published"
    )


def _looks_official(folder: Path) -> bool:
    """Whether a message about a download says more than one about a folder without any weights."""
    part = folder / PIPELINE_PART
    names = [file.name for file in folder.iterdir()]
    return part.is_dir() or any(name.startswith(STEM) or name.endswith((*ENDINGS, *OTHER_ENDINGS)) for name in names)


def _checkpoint(path: Path) -> Located:
    if not _complete(path):
        missing = "its end is missing" if not zipfile.is_zipfile(path) else "a shard of it is missing"
        raise ValueError(f"{path} is not a whole checkpoint of a trial: {missing}")
    return Located(path, Kind.CHECKPOINT, known_as(path) or hash_of_file(path), written_hash(path))


def _complete(path: Path) -> bool:
    """Whether all shards are there, and the end of the file, which torch writes last; a read shows other damage."""
    return zipfile.is_zipfile(path) and all(shard.is_file() for shard in shard_hashes(path))


def _is_checkpoint(path: Path) -> bool:
    """Whether a file is a trial's checkpoint, or was to become one, and not other pickled weights."""
    if path.suffix != ".ckpt":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            return pickled is not None and b"hyper_parameters" in archive.read(pickled)
    except (zipfile.BadZipFile, OSError):
        return re.fullmatch(r"step-\d+(\.weights)?\.ckpt", path.name) is not None or digest_file(path).exists()


def _official(path: Path) -> Located:
    if path.suffix != ".json":
        return Located(path, Kind.OFFICIAL, hash_of_file(path))
    parts = sorted(set(places_of_parts(path).values()))
    hashes = "".join(f"{hash_of_file(path.parent / part)}\n" for part in parts)
    return Located(path, Kind.OFFICIAL, hashlib.sha256(hashes.encode()).hexdigest())


def _folder_of_run(run_id: str, runs: Path) -> Path:
    """The folder of the cell that a run in MLflow is of, which notes the run's id."""
    for noted in runs.glob(f"*/*/{RUN_FILE}"):
        if noted_run(noted.parent) == run_id:
            return noted.parent
    raise ValueError(
        f"{RUN}{run_id} is not the run of a cell under {runs}: the run is another tool's, or its cell's folder is on "
        "another machine"
    )
