"""Images to shards of latents: `python -m lina_lab.data.cache images=DIR out=DIR vae=NAME resolution=256`.

Images lie in a folder for each class, or beside captions (`x.jpg`, `x.txt`). A shard is whole and listed, or absent:
the same command goes on behind an interruption, and several processes (torchrun's ranks, or the same command again)
share the work. The last one measures the latents' mean and deviation and writes the manifest. `verify=true` reads
everything again and holds it against the manifest.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds
from filelock import FileLock, Timeout
from PIL import Image, UnidentifiedImageError
from pydantic.dataclasses import dataclass
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from lina_lab.config import CHECKS
from lina_lab.config.checks import PositiveInt
from lina_lab.data.shards import CAPTION, CLASS, FORMAT, MANIFEST, MOMENTS, ShardError, read_index, read_manifest
from lina_lab.data.vae import Autoencoder, load_vae
from lina_lab.dotlist import one_line, parse
from lina_lab.files import sha256, write_atomically

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PLAN = "plan.json"
ORDER_SEED = 0
"""Images are mixed before they fall to shards, the same way every time."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class CacheConfig:
    """What the command takes."""

    out: str
    """Folder of the shards."""
    images: str | None = None
    """Folder of the images; needed but for verify=true."""
    vae: str | None = None
    """Folder or hub name of a diffusers AutoencoderKL; needed but for verify=true."""
    resolution: PositiveInt = 256
    """Pixels of an image's side: the shorter one is scaled to it, and the middle cut out."""
    images_per_shard: PositiveInt = 1000
    """Images of a shard."""
    batch: PositiveInt = 32
    """Images encoded together."""
    verify: bool = False
    """Hold the shards in `out` against their manifest."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The images to encode, in their order in the shards."""

    files: tuple[Path, ...]
    classes: tuple[str, ...] | None
    """Names of the folders; None: captions."""


def find_images(folder: Path) -> Source:
    """Look through a folder.

    Raises:
        ValueError: no images, or some with captions and some without.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)
    if not files:
        raise ValueError(f"images={folder} holds no pictures ({', '.join(PICTURES)})")
    captioned = [file.with_suffix(".txt").is_file() for file in files]
    if any(captioned) and not all(captioned):
        raise ValueError(f"{files[captioned.index(False)]} has no caption beside it, and others have")
    top = [file for file in files if file.parent == folder]
    if not all(captioned) and top:
        raise ValueError(f"{top[0]} has neither a caption beside it nor a folder of its class")
    classes = None if all(captioned) else tuple(sorted({file.relative_to(folder).parts[0] for file in files}))
    order = np.random.default_rng(ORDER_SEED).permutation(len(files))
    return Source(files=tuple(files[i] for i in order), classes=classes)


def load_image(file: Path, resolution: int) -> Tensor:
    """An image in -1..1, [3, resolution, resolution]: the middle of what is scaled to fit.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with Image.open(file) as picture:
            image = picture.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file} is no picture that can be read: {error}") from error
    # Halved first, which keeps what a bicubic filter would alias (as ADM prepares ImageNet).
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = resolution / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - resolution) // 2, (image.height - resolution) // 2
    pixels = np.asarray(image.crop((left, top, left + resolution, top + resolution)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def write_shard(source: Source, folder: Path, places: range, vae: Autoencoder, config: CacheConfig, path: Path) -> None:
    """Encode images and write them as one tar with its summary beside it; both are there whole or not at all."""
    draft, total = path.with_suffix(".draft"), None
    with wds.TarWriter(str(draft), mtime=0, user="", group="") as tar:
        for start in range(places.start, places.stop, config.batch):
            batch = range(start, min(start + config.batch, places.stop))
            images = torch.stack([load_image(source.files[i], config.resolution) for i in batch])
            both = [vae.moments(images), vae.moments(images.flip(-1))]
            moments = torch.stack(both, dim=1).cpu().to(torch.float16).numpy()
            if not np.isfinite(moments).all():
                raise ValueError(f"vae={vae.name} gives moments that float16 does not hold for {source.files[start]}")
            for i, rows in zip(batch, moments, strict=True):
                tar.write({"__key__": f"{i:09d}", MOMENTS: rows, **_condition(source, folder, source.files[i])})
            sums = _sums(moments)
            total = sums if total is None else total + sums
    assert total is not None
    shape = moments.shape[2:]
    summary = {"images": len(places), "bytes": draft.stat().st_size, "sha256": sha256(draft), "shape": list(shape)}
    draft.replace(path)
    write_atomically(path.with_suffix(".json"), json.dumps({**summary, "sums": total.tolist()}) + "\n")


def _condition(source: Source, folder: Path, file: Path) -> dict[str, Any]:
    if source.classes is None:
        return {CAPTION: file.with_suffix(".txt").read_text().strip()}
    return {CLASS: source.classes.index(file.relative_to(folder).parts[0])}


def _sums(moments: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """For each channel: count, sum and sum of squares of latents drawn from the posteriors: [3, C]."""
    mean, log_variance = np.split(moments.astype(np.float64), 2, axis=2)
    squares = mean**2 + np.exp(np.clip(log_variance, -30, 20))
    axes = (0, 1, 3, 4)
    count = np.full(mean.shape[2], mean.size / mean.shape[2])
    return np.stack([count, mean.sum(axis=axes), squares.sum(axis=axes)])


def write_manifest(source: Source, folder: Path, names: Sequence[str], config: CacheConfig, vae_sha256: str) -> None:
    """Put the shards' summaries together."""
    found = [json.loads((folder / name).with_suffix(".json").read_text()) for name in names]
    count, total, squares = np.sum([summary["sums"] for summary in found], axis=0)
    mean = total / count
    channels, *grid = found[0]["shape"]
    manifest = {
        "format": FORMAT,
        "images": len(source.files),
        "latent_shape": [channels // 2, *grid],
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(squares / count - mean**2, 1e-12)).tolist(),
        "resolution": config.resolution,
        "vae": config.vae,
        "vae_sha256": vae_sha256,
        "classes": None if source.classes is None else list(source.classes),
        "shards": [
            {"name": name, **{part: summary[part] for part in ("images", "bytes", "sha256")}}
            for name, summary in zip(names, found, strict=True)
        ],
    }
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def cache(config: CacheConfig, console: Console) -> None:
    """Write what is not there yet.

    Raises:
        ValueError: images, autoencoder or folder are not what they should be.
    """
    if config.images is None or config.vae is None:
        raise ValueError("images=DIR and vae=NAME are needed to make shards")
    folder, out = Path(config.images), Path(config.out)
    source = find_images(folder)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else "cpu"
    vae = load_vae(config.vae, device)
    identity = vae.sha256()
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):
        _check_plan(out, source, folder, config, identity)
    starts = range(0, len(source.files), config.images_per_shard)
    names = [f"shard-{number:06d}.tar" for number in range(len(starts))]
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("images", total=len(source.files))
        for name, start in zip(names, starts, strict=True):
            places = range(start, min(start + config.images_per_shard, len(source.files)))
            path = out / name
            try:
                # Held while it is written, and let go by the system if this process dies.
                with FileLock(out / f".{name}.lock", timeout=0):
                    if not path.with_suffix(".json").exists():
                        write_shard(source, folder, places, vae, config, path)
                progress.advance(task, len(places))
            except Timeout:
                continue
    with FileLock(out / ".lock"):
        whole = all((out / name).with_suffix(".json").exists() for name in names)
        if whole and not (out / MANIFEST).exists():
            write_manifest(source, out, names, config, identity)
    said = (
        f"{len(source.files):,} images in {len(names):,} shards: {out / MANIFEST}"
        if whole
        else "others are still at it"
    )
    console.print(said, soft_wrap=True, highlight=False)


def _check_plan(out: Path, source: Source, folder: Path, config: CacheConfig, identity: str) -> None:
    """Note what these shards are made of, or hold it against what is noted.

    Raises:
        ValueError: the folder holds shards of something else.
    """
    names = "\n".join(str(file.relative_to(folder)) for file in source.files)
    plan = {
        "images": hashlib.sha256(names.encode()).hexdigest(),
        "resolution": config.resolution,
        "images_per_shard": config.images_per_shard,
        "vae": identity,
    }
    path = out / PLAN
    if not path.exists():
        write_atomically(path, json.dumps(plan, indent=1) + "\n")
    elif (there := json.loads(path.read_text())) != plan:
        other = [name for name in plan if there.get(name) != plan[name]]
        raise ValueError(f"{out} holds shards of another {', '.join(other)}: choose another out=FOLDER")


def verify(folder: Path) -> Iterator[str]:
    """A sentence for each shard that is not what the manifest says.

    Raises:
        ShardError: the manifest itself is not.
    """
    for shard in read_manifest(folder).shards:
        path = folder / shard.name
        if sha256(path) != shard.sha256:
            yield f"{shard.name}: its contents are not those of the manifest"
            continue
        try:
            read_index(path, shard.images)
        except ShardError as error:
            yield str(error)


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0, or 2 with a sentence for each thing that is wrong."""
    console = Console()
    if {"-h", "--help"} & set(arguments):
        console.print(__doc__)
        return 0
    try:
        config = parse(CacheConfig, arguments)
        problems = list(verify(Path(config.out))) if config.verify else []
        if not config.verify:
            cache(config, console)
    except (ValueError, OSError) as error:
        problems = [one_line(error)]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if not problems and config.verify:
        console.print(f"{config.out}: as the manifest says", soft_wrap=True, highlight=False)
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
