"""Encode images, and captions, to shards of latents (`lina cache`).

A shard is whole and listed, or absent. So an interrupted run resumes, and several processes share the work: each takes
the lock of the shards that it writes. The last one measures the latents' mean and standard deviation and writes the
manifest. A shard whose images or captions were changed since it was made is made again.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from lina_lab.data.pretrained import local_device
from lina_lab.data.shards.config import CacheConfig
from lina_lab.data.shards.format import MANIFEST, ShardError, read_index, read_manifest
from lina_lab.data.shards.listing import Damages
from lina_lab.data.shards.origins import contents_of, names_of, times_of
from lina_lab.data.shards.samples import Keys
from lina_lab.data.shards.sources import find_images
from lina_lab.data.shards.writer import ShardWriter
from lina_lab.data.text import load_text_encoder
from lina_lab.data.vae import load_vae
from lina_lab.util.files import sha256, write_atomically
from lina_lab.util.progress import image_progress

PLAN = "plan.json"
"""Notes what the shards of a folder are made of, before the first is written."""
FOLDER = "folder"
"""Where the plan notes the folder of the images, which `lina cache verify=true` looks at; it may move."""
KEYS = "keys"
"""Where the plan notes what captions and classes are called there."""


def cache(config: CacheConfig, console: Console) -> None:
    """Write the shards that are not there yet, and the manifest once all are.

    Raises:
        ValueError: images, autoencoder or folder are not what they should be.
    """
    if config.images is None:
        raise ValueError("images=DIR is needed to make shards")
    if config.vae is None and config.resolution is None:
        raise ValueError("vae=NAME is needed to make shards of latents, or resolution=NUMBER to make some of pixels")
    if config.vae is None and config.latent_statistics == "published":
        raise ValueError("latent_statistics=published are an autoencoder's, and vae=NAME is not given")
    out, damages = Path(config.out), Damages(config.max_skipped if config.on_error == "skip" else 0.0)
    source = find_images(Path(config.images), out, damages, config.keys)
    if config.text is not None and source.classes is not None:
        raise ValueError(f"text={config.text} is for captions, and images={config.images} has classes")
    vae = None if config.vae is None else load_vae(config.vae, local_device())
    if vae is not None and config.latent_statistics == "published":
        vae.published(None)  # refused before images are encoded
    text = None if config.text is None else load_text_encoder(config.text, config.text_dim)
    writer = ShardWriter(source, damages, config, vae, text)
    plan = writer.plan()
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):
        _check_plan(out, plan, {FOLDER: str(Path(config.images).resolve()), KEYS: asdict(config.keys)})
    starts = range(0, len(source.names), config.images_per_shard)
    names = [f"shard-{number:06d}.tar" for number in range(len(starts))]
    with image_progress(console) as progress:
        task = progress.add_task("images", total=len(source.names))
        for name, start in zip(names, starts, strict=True):
            indices, path = range(len(source.names))[start : start + config.images_per_shard], out / name
            try:
                # Held while the shard is written; the system releases it if this process dies.
                with FileLock(out / f".{name}.lock", timeout=0):
                    if _is_current(writer, indices, path, console):
                        progress.advance(task, len(indices))
                    else:
                        # It lists what is about to change.
                        (out / MANIFEST).unlink(missing_ok=True)
                        writer.write(indices, path, lambda n: progress.advance(task, n))
            except Timeout:
                continue
    with FileLock(out / ".lock"):
        whole = all(_summary(out / name) is not None for name in names)
        if whole:
            writer.write_manifest(out, names, plan)
    console.print(
        _done(writer, len(names), out) if whole else "other processes are still writing shards",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _done(writer: ShardWriter, shards: int, out: Path) -> str:
    """What was encoded, and what was not."""
    source, damaged = writer.source, writer.damages.found
    images = source.images - len(damaged)
    for problem in damaged.values():
        source.left_out.add("damaged images", problem)
    what = f"{images:,} images" if writer.vae is not None else f"pixels of {images:,} images"
    return f"{what} in {shards:,} shards, {source.condition_name}: {out / MANIFEST}; {source.left_out}"


def _summary(path: Path) -> dict[str, Any] | None:
    """The summary of a shard that is whole; None: it is missing or damaged, or its summary is."""
    try:
        summary: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
        return summary if summary["bytes"] == path.stat().st_size else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _is_current(writer: ShardWriter, indices: range, path: Path, console: Console) -> bool:
    """Whether a shard is whole, and its images and captions are those that it was made of."""
    if (summary := _summary(path)) is None:
        return False
    samples = writer.source.samples[indices.start : indices.stop]
    times = times_of(samples)
    if times is not None and times == summary.get("times"):
        return True
    if contents_of(samples) == summary.get("contents"):
        write_atomically(path.with_suffix(".json"), json.dumps({**summary, "times": times}) + "\n")
        return True
    # It is not whole from here on, for a process that would list it.
    path.with_suffix(".json").unlink()
    console.print(f"{path.name} is made again: its images or captions were changed", soft_wrap=True, highlight=False)
    return False


def _check_plan(out: Path, plan: dict[str, Any], where: dict[str, Any]) -> None:
    """Note what these shards are made of, or compare it with what is noted.

    Raises:
        ValueError: the folder holds shards of something else.
    """
    path = out / PLAN
    if not path.exists():
        write_atomically(path, json.dumps({**plan, **where}, indent=1) + "\n")
        return
    try:
        there = json.loads(path.read_text())
        other = [name for name in plan if there[name] != plan[name]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged, or of another version: choose another out=FOLDER ({error})") from error
    if other:
        raise ValueError(f"{out} holds shards of another {', '.join(other)}: choose another out=FOLDER")


def verify(folder: Path) -> Iterator[str]:
    """A sentence for each shard that differs from the manifest.

    Raises:
        ShardError: the manifest is missing or damaged.
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


def images_of(config: CacheConfig) -> tuple[Path | None, str]:
    """The folder of the images that shards were made of; None: it cannot be compared, and why, as a sentence's end."""
    out = Path(config.out)
    try:
        plan = json.loads((out / PLAN).read_text())
        noted, comparable = plan.get(FOLDER), all(name in plan for name in ("reading", "images", "images_per_shard"))
    except (OSError, ValueError, AttributeError):
        return None, f"{out / PLAN} cannot be read"
    if not comparable:
        return None, "an earlier version made the shards, and kept no hashes of the images"
    folder = Path(config.images or noted or "")
    if not folder.is_dir():
        return None, f"{folder} is not there: images=FOLDER says where they are"
    return folder, ""


def verify_images(out: Path, images: Path) -> Iterator[str]:
    """A sentence for each shard whose images, classes or captions are not those that it was made of.

    Raises:
        ValueError: the images cannot be listed.
    """
    plan = json.loads((out / PLAN).read_text())
    # Those that lack something were not encoded: their names are in no plan.
    samples = find_images(images, out, Damages(limit=1.0), Keys(**plan.get(KEYS, {}))).samples
    if names_of(samples) != plan["images"]:
        yield f"{images} holds other images than those that the shards were made of"
        return
    for number, shard in enumerate(read_manifest(out).shards):
        noted = (_summary(out / shard.name) or {}).get("contents")
        part = samples[number * plan["images_per_shard"] :][: plan["images_per_shard"]]
        if noted is None:
            yield f"{shard.name}: its summary (.json) is missing or damaged, so its images cannot be compared"
        elif contents_of(part) != noted:
            yield f"{shard.name}: its images or captions were changed since it was made"
