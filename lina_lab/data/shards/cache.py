"""Encode images, and captions, to shards of latents (`lina cache`).

A shard is whole and listed, or absent. So an interrupted run resumes, and several processes share the work: each takes
the lock of the shards that it writes. The last one measures the latents' mean and standard deviation and writes the
manifest.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import webdataset as wds
from filelock import FileLock, Timeout
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from lina_lab.config import CHECKS
from lina_lab.config.checks import PositiveInt
from lina_lab.data.shards.format import (
    CAPTION,
    FORMAT,
    MANIFEST,
    MOMENTS,
    STATES,
    ShardError,
    TextOrigin,
    read_index,
    read_manifest,
)
from lina_lab.data.shards.sources import Source, find_images, load_image
from lina_lab.data.text import TextEncoder, load_text_encoder
from lina_lab.data.vae import Autoencoder, load_vae
from lina_lab.util.files import sha256, write_atomically
from lina_lab.util.progress import image_progress

PLAN = "plan.json"


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class CacheConfig:
    """Fields of `lina cache`."""

    out: str
    """Folder of the shards."""
    images: str | None = None
    """Folder of the images, or of WebDataset shards of them; needed but for verify=true."""
    vae: str | None = None
    """Folder or hub name of a diffusers AutoencoderKL; needed but for verify=true."""
    resolution: PositiveInt = 256
    """Pixels of an image's side: the shorter one is scaled to it, and the middle cut out."""
    text: str | None = None
    """For captions: text encoder whose states are kept beside them, a folder or hub name of transformers, or `words`;
    null: captions as they are, which training encodes as they come."""
    text_length: Annotated[int, Field(gt=0, le=512, strict=True)] = 256
    """States of a caption at most: a longer one is cut off."""
    text_dim: PositiveInt | None = None
    """For text=words: channels of a state; others have a number of their own."""
    images_per_shard: PositiveInt = 1000
    """Images of a shard."""
    batch_size: PositiveInt = 32
    """Images encoded together."""
    verify: bool = False
    """Hold the shards in `out` against their manifest."""


class Encoders(NamedTuple):
    """What pictures and captions are encoded by."""

    vae: Autoencoder
    text: TextEncoder | None
    """None: captions are kept as they are."""

    def identity(self, config: CacheConfig) -> dict[str, Any]:
        """What tells shards of these from those of others."""
        # Not the names: one folder may be written in several ways.
        text = None if self.text is None else [self.text.sha256(), self.text.dim, config.text_length]
        return {"vae": self.vae.sha256(), "text": text}


def write_shard(
    source: Source,
    places: range,
    encoders: Encoders,
    config: CacheConfig,
    path: Path,
    report: Callable[[int], None] = lambda _: None,
) -> None:
    """Encode images and write them as one tar with its summary beside it; both are there whole or not at all.

    Args:
        source: the images.
        places: which of them.
        encoders: of pictures and captions.
        config: resolution, and images at a time.
        path: of the tar.
        report: called with the number of images behind each batch.
    """
    draft, total, vae = path.with_suffix(".draft"), None, encoders.vae
    with draft.open("wb") as file, wds.TarWriter(file, mtime=0, user="", group="") as tar:
        for start in range(places.start, places.stop, config.batch_size):
            batch = range(start, min(start + config.batch_size, places.stop))
            images = torch.stack([load_image(source, i, config.resolution) for i in batch])
            both = [vae.moments(images), vae.moments(images.flip(-1))]
            moments = torch.stack(both, dim=1).cpu().to(torch.float16).numpy()
            if not np.isfinite(moments).all():
                worst = source.names[batch[int((~np.isfinite(moments)).reshape(len(batch), -1).any(axis=1).argmax())]]
                raise ValueError(f"vae={vae.name} gives moments that float16 does not hold for {worst}")
            said = _with_states([source.said(i) for i in batch], encoders.text, config, vae.device)
            for i, rows, members in zip(batch, moments, said, strict=True):
                tar.write({"__key__": f"{i:09d}", MOMENTS: rows, **members})
            sums = _sums(moments)
            total = sums if total is None else total + sums
            report(len(batch))
    assert total is not None
    shape = moments.shape[2:]
    with draft.open("rb") as written:
        os.fsync(written.fileno())
    summary = {"images": len(places), "bytes": draft.stat().st_size, "sha256": sha256(draft), "shape": list(shape)}
    draft.replace(path)
    write_atomically(path.with_suffix(".json"), json.dumps({**summary, "sums": total.tolist()}) + "\n")


def _with_states(
    said: list[dict[str, Any]], encoder: TextEncoder | None, config: CacheConfig, device: torch.device
) -> list[dict[str, Any]]:
    """Members of samples with the states of their captions, where an encoder is given.

    Raises:
        ValueError: states that float16 does not hold.
    """
    if encoder is None:
        return said
    made = [dict(members) for members in said]
    for long, kind in CAPTION.items():
        if kind not in said[0]:
            continue
        text, present = encoder.encode([members[kind] for members in said], config.text_length, device)
        for members, states, there in zip(made, text.to(torch.float16).cpu(), present.cpu(), strict=True):
            if not bool(states.isfinite().all()):
                raise ValueError(f"text={encoder.name} gives states that float16 does not hold for {members[kind]!r}")
            members[STATES[long]] = states[there].numpy()
    return made


def _sums(moments: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """For each channel: count, sum and sum of squares of latents drawn from the posteriors: [3, C]."""
    mean, log_variance = np.split(moments.astype(np.float64), 2, axis=2)
    squares = mean**2 + np.exp(np.clip(log_variance, -30, 20))
    axes = (0, 1, 3, 4)
    count = np.full(mean.shape[2], mean.size / mean.shape[2])
    return np.stack([count, mean.sum(axis=axes), squares.sum(axis=axes)])


def write_manifest(
    source: Source,
    folder: Path,
    names: Sequence[str],
    config: CacheConfig,
    encoders: Encoders,
    plan: dict[str, Any],
) -> None:
    """Put the shards' summaries together."""
    found = [json.loads((folder / name).with_suffix(".json").read_text()) for name in names]
    count, total, squares = np.sum([summary["sums"] for summary in found], axis=0)
    mean = total / count
    channels, *grid = found[0]["shape"]
    manifest = {
        "format": FORMAT,
        "images": len(source.names),
        "latent_shape": [channels // 2, *grid],
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(squares / count - mean**2, 1e-12)).tolist(),
        "resolution": config.resolution,
        "vae": config.vae,
        "vae_sha256": plan["vae"],
        "classes": plan["classes"],
        "long_captions": plan["long_captions"],
        "text": None if encoders.text is None else _text_origin(encoders.text, plan),
        "shards": [
            {"name": name, **{part: summary[part] for part in ("images", "bytes", "sha256")}}
            for name, summary in zip(names, found, strict=True)
        ],
    }
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _text_origin(encoder: TextEncoder, plan: dict[str, Any]) -> dict[str, Any]:
    sha256, dim, length = plan["text"]
    return asdict(TextOrigin(encoder=encoder.name, sha256=sha256, dim=dim, length=length))


def load_encoders(config: CacheConfig, source: Source) -> Encoders:
    """The autoencoder, and where captions are to become states the text encoder.

    Raises:
        ValueError: one of them cannot be loaded, or there are no captions.
    """
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else "cpu"
    if config.text is not None and source.classes is not None:
        raise ValueError(f"text={config.text} is for captions, and images={config.images} has classes")
    assert config.vae is not None
    vae = load_vae(config.vae, device)
    return Encoders(vae=vae, text=None if config.text is None else load_text_encoder(config.text, config.text_dim))


def cache(config: CacheConfig, console: Console) -> None:
    """Write what is not there yet.

    Raises:
        ValueError: images, autoencoder or folder are not what they should be.
    """
    if config.images is None or config.vae is None:
        raise ValueError("images=DIR and vae=NAME are needed to make shards")
    out = Path(config.out)
    source = find_images(Path(config.images), out)
    encoders = load_encoders(config, source)
    plan = _plan(source, config, encoders)
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):
        _check_plan(out, plan)
    starts = range(0, len(source.names), config.images_per_shard)
    names = [f"shard-{number:06d}.tar" for number in range(len(starts))]
    with image_progress(console) as progress:
        task = progress.add_task("images", total=len(source.names))
        for name, start in zip(names, starts, strict=True):
            places = range(start, min(start + config.images_per_shard, len(source.names)))
            path = out / name
            try:
                # Held while it is written, and let go by the system if this process dies.
                with FileLock(out / f".{name}.lock", timeout=0):
                    if _is_whole(path):
                        progress.advance(task, len(places))
                    else:
                        write_shard(source, places, encoders, config, path, lambda n: progress.advance(task, n))
            except Timeout:
                continue
    with FileLock(out / ".lock"):
        whole = all(_is_whole(out / name) for name in names)
        if whole:
            write_manifest(source, out, names, config, encoders, plan)
    said = (
        f"{len(source.names):,} images in {len(names):,} shards: {out / MANIFEST}"
        if whole
        else "others are still at it"
    )
    console.print(said, soft_wrap=True, highlight=False)


def _is_whole(path: Path) -> bool:
    """Whether a shard is there as its summary says; one that was taken away, or whose summary is damaged, is remade."""
    try:
        summary = json.loads(path.with_suffix(".json").read_text())
        return bool(summary["bytes"] == path.stat().st_size)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False


def _plan(source: Source, config: CacheConfig, encoders: Encoders) -> dict[str, Any]:
    """What shards are made of."""
    return {
        "images": hashlib.sha256("\n".join(source.names).encode()).hexdigest(),
        "classes": None if source.classes is None else list(source.classes),
        "long_captions": source.long_captions,
        "resolution": config.resolution,
        "images_per_shard": config.images_per_shard,
        **encoders.identity(config),
    }


def _check_plan(out: Path, plan: dict[str, Any]) -> None:
    """Note what these shards are made of, or hold it against what is noted.

    Raises:
        ValueError: the folder holds shards of something else.
    """
    path = out / PLAN
    if not path.exists():
        write_atomically(path, json.dumps(plan, indent=1) + "\n")
        return
    try:
        there = json.loads(path.read_text())
        other = [name for name in plan if there[name] != plan[name]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged, or of another version: choose another out=FOLDER ({error})") from error
    if other:
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
