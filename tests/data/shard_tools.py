"""What tests of shards share: small ones made of pictures, read, and damaged."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from lina_lab.config import TrialConfig
from lina_lab.data.shards.format import read_manifest
from lina_lab.data.shards.images import ShardImages
from lina_lab.util.files import sha256

Tiny = Callable[..., TrialConfig]
IMAGES, IMAGES_PER_SHARD = 46, 8


def command(pictures: Path, vae: Path, out: Path) -> list[str]:
    return [
        f"images={pictures}",
        f"vae={vae}",
        f"out={out}",
        "resolution=16",
        f"images_per_shard={IMAGES_PER_SHARD}",
        "batch_size=4",
    ]


def images_of(folder: Path, seed: int | None = 0, **options: Any) -> ShardImages:
    manifest = read_manifest(folder)
    usual = {"kind": "label", "first": 6, "images": manifest.images - 6, "flip": True} | options
    return ShardImages(folder, manifest, seed=seed, **usual)


def as_webdataset_reads(tar: Path) -> list[dict[str, Any]]:
    with tar.open("rb") as file:
        members = wds.tariterators.tar_file_expander([{"url": tar.name, "stream": file}])
        return list(wds.tariterators.group_by_keys(members))


def trial(tiny: Tiny, folder: Path, **data: Any) -> TrialConfig:
    model = {"latent_channels": 2, "latent_size": [8, 8], "num_classes": 2}
    data = {"name": "shards", "path": str(folder), "val_images": 6, "val_batch_size": 3} | data
    return tiny(model=model, data=data, sampling={"images_per_class": 0})


def rewrite(path: Path, change: Callable[[tarfile.TarInfo, bytes], Iterator[tuple[str, bytes]]]) -> None:
    """Write a shard's members again, changed, and note its new size and hash in the manifest."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for member, data in members:
            for name, contents in change(member, data):
                info = tarfile.TarInfo(name)
                info.size = len(contents)
                tar.addfile(info, io.BytesIO(contents))
    note(path, bytes=path.stat().st_size, sha256=sha256(path))


def note(path: Path, **values: Any) -> None:
    """Change what the manifest says of a shard."""
    manifest = path.with_name("manifest.json")
    found = json.loads(manifest.read_text())
    for shard in found["shards"]:
        if shard["name"] == path.name:
            shard.update(values)
    manifest.write_text(json.dumps(found))


def note_size(path: Path) -> None:
    note(path, bytes=path.stat().st_size)


def only(key: str, kind: str, contents: bytes | None, name: str | None = None) -> Any:
    """A change of one member of one sample; None takes it out."""

    def change(member: tarfile.TarInfo, data: bytes) -> Iterator[tuple[str, bytes]]:
        if member.name != f"{key}.{kind}":
            yield member.name, data
        elif contents is not None:
            yield name or member.name, contents

    return change


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
