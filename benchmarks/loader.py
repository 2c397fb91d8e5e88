"""Throughput of reading shards: `python benchmarks/loader.py [images=8000] [batch_size=256]`.

Images a second from shards of ImageNet's latent shape as training reads them (in any order, sampled from the posterior,
in batches), compared with reading the same tar files from end to end and decoding their arrays: the least work that
there is.
"""

import hashlib
import io
import json
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from pydantic.dataclasses import dataclass
from torch.utils.data import DataLoader

from lina_lab.config import CHECKS
from lina_lab.config.checks import NonNegativeInt, PositiveInt
from lina_lab.config.grammar import Command
from lina_lab.data.order import StepBatches
from lina_lab.data.shards.format import CLASS, FORMAT, MANIFEST, MOMENTS, read_manifest
from lina_lab.data.shards.images import ShardImages

SHAPE = (16, 16, 16)
IMAGES_PER_SHARD, ROUNDS = 1000, 3


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class LoaderBenchConfig:
    """Fields of the benchmark."""

    images: PositiveInt = 8000
    """Images in the shards."""
    batch_size: PositiveInt = 256
    """Images in a batch."""
    workers: NonNegativeInt = 0
    """Worker processes that read."""


def make_shards(folder: Path, images: int) -> None:
    """Write shards of random moments."""
    generator, shards = np.random.default_rng(0), []
    for start in range(0, images, IMAGES_PER_SHARD):
        path, count = folder / f"shard-{start // IMAGES_PER_SHARD:06d}.tar", min(IMAGES_PER_SHARD, images - start)
        with wds.TarWriter(str(path)) as tar:
            for i in range(start, start + count):
                moments = generator.standard_normal((2, 2 * SHAPE[0], *SHAPE[1:]), dtype=np.float32).astype(np.float16)
                tar.write({"__key__": f"{i:09d}", MOMENTS: moments, CLASS: i % 10})
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        shards.append({"name": path.name, "images": count, "bytes": path.stat().st_size, "sha256": digest})
    numbers = {"mean": [0.0] * SHAPE[0], "std": [1.0] * SHAPE[0], "latent_shape": SHAPE, "resolution": 256}
    rest = {"format": FORMAT, "images": images, "vae": "none", "vae_sha256": "", "classes": [str(i) for i in range(10)]}
    (folder / MANIFEST).write_text(json.dumps({**rest, **numbers, "shards": shards}))


def read_alone(folder: Path) -> int:
    """Read the tar files from end to end and decode their arrays."""
    count = 0
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                data = file.read()
                if member.name.endswith(MOMENTS):
                    np.load(io.BytesIO(data), allow_pickle=False)
                    count += 1
    return count


def read_as_training(folder: Path, config: LoaderBenchConfig) -> int:
    """Read batches in the order of a seed."""
    manifest = read_manifest(folder)
    data = ShardImages(folder, manifest, "label", first=0, images=manifest.images, seed=0, flip=True)
    steps = range(manifest.images // config.batch_size)
    batches = StepBatches(
        images=len(data), batch_size=config.batch_size, steps=steps, seed=0, order=data.order, numbered=True
    )
    loader = DataLoader(data, sampler=batches, batch_size=None, num_workers=config.workers)
    return sum(len(latents) for latents, _ in loader)


def rate(read: Callable[[], int]) -> float:
    """Images a second."""
    start = time.perf_counter()
    return read() / (time.perf_counter() - start)


def run(config: LoaderBenchConfig) -> int:
    """Measure and print; returns 0."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_shards(folder, config.images)
        # By turns: the speed of the machine may change.
        pairs = [
            (rate(lambda: read_alone(folder)), rate(lambda: read_as_training(folder, config))) for _ in range(ROUNDS)
        ]
    for alone, training in pairs:
        print(f"tar and npy alone {alone:,.0f} images/s, as training {training:,.0f}: {training / alone:.2f}")
    print(f"median ratio {np.median([training / alone for alone, training in pairs]):.2f}")
    return 0


COMMAND = Command(config=LoaderBenchConfig, run=run, doc=__doc__, errors=())

if __name__ == "__main__":
    sys.exit(COMMAND.main(sys.argv[1:]))
