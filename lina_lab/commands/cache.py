"""Encode images to shards of latents, which training then reads.

  lina cache images=FOLDER out=FOLDER vae=NAME resolution=256
  torchrun --nproc-per-node 8 -m lina_lab.cli cache images=FOLDER out=FOLDER vae=NAME
  lina cache out=FOLDER verify=true

Images lie in one folder for each class, or with captions (`x.jpg`, `x.txt`, perhaps `x.long.txt`), or in WebDataset
shards (a picture with `cls`, or with `txt` and perhaps `long.txt`). text=NAME also keeps the states of a text encoder
for each caption. The same command resumes after an interruption, and several processes share the work: the ranks of
torchrun, or the same command started again. verify=true reads everything again and compares it with the manifest.
"""

from pathlib import Path

from rich.console import Console

from lina_lab.config.grammar import Command, refuse
from lina_lab.data.shards.cache import cache, verify
from lina_lab.data.shards.writer import CacheConfig


def run(config: CacheConfig) -> int:
    """Encode, or verify; returns 0, or 2 after a sentence for each shard that is damaged.

    Raises:
        ValueError: images, autoencoder or folder are not what they should be.
    """
    if not config.verify:
        cache(config, Console())
        return 0
    problems = list(verify(Path(config.out)))
    for problem in problems:
        refuse(problem)
    if not problems:
        print(f"{config.out}: as the manifest says")
    return 2 if problems else 0


COMMAND = Command(config=CacheConfig, run=run, doc=__doc__, renamed={"batch": "batch_size", "portion": "batch_size"})
