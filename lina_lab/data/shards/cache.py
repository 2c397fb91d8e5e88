"""Encode images, and captions, to shards of latents (`lina cache`).

A shard is whole and listed, or absent. So an interrupted run resumes, and several processes share the work: each takes
the lock of the shards that it writes. The last one measures the latents' mean and standard deviation and writes the
manifest.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from lina_lab.data.pretrained import local_device
from lina_lab.data.shards.format import MANIFEST, ShardError, read_index, read_manifest
from lina_lab.data.shards.sources import find_images
from lina_lab.data.shards.writer import CacheConfig, ShardWriter
from lina_lab.data.text import load_text_encoder
from lina_lab.data.vae import load_vae
from lina_lab.util.files import sha256, write_atomically
from lina_lab.util.progress import image_progress

PLAN = "plan.json"
"""Notes what the shards of a folder are made of, before the first is written."""


def cache(config: CacheConfig, console: Console) -> None:
    """Write the shards that are not there yet, and the manifest once all are.

    Raises:
        ValueError: images, autoencoder or folder are not what they should be.
    """
    if config.images is None or config.vae is None:
        raise ValueError("images=DIR and vae=NAME are needed to make shards")
    out = Path(config.out)
    source = find_images(Path(config.images), out)
    if config.text is not None and source.classes is not None:
        raise ValueError(f"text={config.text} is for captions, and images={config.images} has classes")
    device = local_device()
    vae = load_vae(config.vae, device)
    text = None if config.text is None else load_text_encoder(config.text, config.text_dim)
    writer = ShardWriter(source, config, vae, text)
    plan = writer.plan()
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):
        _check_plan(out, plan)
    starts = range(0, len(source.names), config.images_per_shard)
    names = [f"shard-{number:06d}.tar" for number in range(len(starts))]
    with image_progress(console) as progress:
        task = progress.add_task("images", total=len(source.names))
        for name, start in zip(names, starts, strict=True):
            indices, path = range(len(source.names))[start : start + config.images_per_shard], out / name
            try:
                # Held while the shard is written; the system releases it if this process dies.
                with FileLock(out / f".{name}.lock", timeout=0):
                    if _is_whole(path):
                        progress.advance(task, len(indices))
                    else:
                        writer.write(indices, path, lambda n: progress.advance(task, n))
            except Timeout:
                continue
    with FileLock(out / ".lock"):
        whole = all(_is_whole(out / name) for name in names)
        if whole:
            writer.write_manifest(out, names, plan)
    done = f"{len(source.names):,} images in {len(names):,} shards: {out / MANIFEST}"
    console.print(done if whole else "other processes are still writing shards", soft_wrap=True, highlight=False)


def _is_whole(path: Path) -> bool:
    """Whether a shard agrees with its summary. One that is missing, or whose summary is damaged, is written again."""
    try:
        summary = json.loads(path.with_suffix(".json").read_text())
        return bool(summary["bytes"] == path.stat().st_size)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False


def _check_plan(out: Path, plan: dict[str, Any]) -> None:
    """Note what these shards are made of, or compare it with what is noted.

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
