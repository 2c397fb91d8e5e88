"""Encode images to shards of latents, which training then reads, or write their pixels as they are.

  lina cache images=FOLDER out=FOLDER vae=NAME resolution=256
  lina cache images=FOLDER out=FOLDER resolution=32
  torchrun --nproc-per-node 8 -m lina_lab.cli cache images=FOLDER out=FOLDER vae=NAME
  lina cache out=FOLDER verify=true

Images lie in one folder for each class, or with captions (`x.jpg` with `x.txt` and perhaps `x.long.txt`, or with
`x.json`), or in a folder with metadata.jsonl or metadata.csv, or in WebDataset shards (a picture with `cls`, with `txt`
and perhaps `long.txt`, or with `json`), or in tables: Parquet, and Arrow as `datasets` saves it. caption_key and so on
name keys and columns. text=NAME also keeps the states of a text encoder
for each caption. Without vae=NAME the shards hold pixels in -1..1. The same command resumes after an interruption, and
several processes share the work: the ranks of torchrun, or the same command started again. Shards whose images or
captions were changed since are made again. What lies in the folder and is not used is counted in the last line;
on_error=skip leaves damaged images out, up to a limit.

verify=true reads everything again, and compares shards with the manifest and images with those that were encoded.
"""

from pathlib import Path

from lina_lab.config.grammar import Command, refuse
from lina_lab.data.shards.config import CacheConfig


def run(config: CacheConfig) -> int:
    """Encode, or verify; returns 0, or 2 after a sentence for each shard that is damaged.

    Raises:
        ValueError: images, autoencoder or folder are not what they should be.
    """
    from rich.console import Console

    from lina_lab.data.shards.cache import cache, images_of, verify, verify_images

    if not config.verify:
        cache(config, Console())
        return 0
    out = Path(config.out)
    problems = list(verify(out))
    images, why = images_of(config)
    if images is not None:
        problems += verify_images(out, images)
    for problem in problems:
        refuse(problem)
    if not problems:
        compared = f"{images}, as they were encoded" if images is not None else f"not compared ({why})"
        print(f"{out}: as the manifest says; its images: {compared}")
    return 2 if problems else 0


COMMAND = Command(config=CacheConfig, run=run, doc=__doc__, renamed={"batch": "batch_size", "portion": "batch_size"})
