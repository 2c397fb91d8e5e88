"""Shards of encoded images, and their manifest, on disk."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lina_lab.data.pretrained import local_device
from lina_lab.data.shards.config import CacheConfig
from lina_lab.data.shards.format import CAPTION, FORMAT, MANIFEST, MOMENTS, STATES, member
from lina_lab.data.shards.listing import Damages
from lina_lab.data.shards.origins import contents_of, names_of, times_of
from lina_lab.data.shards.samples import Source
from lina_lab.data.shards.sources import load_image
from lina_lab.data.text import TextEncoder
from lina_lab.data.vae import Autoencoder
from lina_lab.util.files import atomic, sha256, write_atomically

READING = 2
"""Version of how pictures are read: shards of another one are not continued."""


class ShardWriter(NamedTuple):
    """Encodes images and their captions, and writes them to shards."""

    source: Source
    damages: Damages
    """Gets images that cannot be read."""
    config: CacheConfig
    vae: Autoencoder | None
    """None: pixels are stored as they are."""
    text: TextEncoder | None
    """None: captions are stored without states."""

    @property
    def sampled(self) -> bool:
        """Whether mean and log variance are stored, from which training samples latents."""
        return self.vae is not None and not self.vae.certain

    def plan(self) -> dict[str, Any]:
        """What tells these shards from others."""
        return {
            "images": names_of(self.source.samples),
            "reading": READING,
            "classes": None if self.source.classes is None else list(self.source.classes),
            "long_captions": self.source.long_captions,
            "resolution": self.config.side,
            "images_per_shard": self.config.images_per_shard,
            # Not the encoders' names: one folder may be spelled in several ways.
            "vae": "" if self.vae is None else self.vae.sha256(),
            "text": None if self.text is None else [self.text.sha256(), self.text.dim, self.config.text_length],
        }

    def write(self, indices: range, path: Path, report: Callable[[int], None]) -> None:
        """Encode images and write them as one tar, and then its summary; each file is whole or absent.

        Args:
            indices: of the images.
            path: of the tar; the summary is the same with the ending .json.
            report: called with the number of images after each batch.

        Raises:
            ValueError: an image cannot be read, or float16 does not hold what the encoders give.
        """
        samples, sums, skipped = self.source.samples[indices.start : indices.stop], [], dict[str, str]()
        # Before they are encoded: a change meanwhile is then found later.
        times, contents = times_of(samples), contents_of(samples)
        with atomic(path) as draft:
            with tarfile.open(draft, "w", format=tarfile.USTAR_FORMAT) as tar:
                for start in range(0, len(indices), self.config.batch_size):
                    batch = indices[start : start + self.config.batch_size]
                    whole = self._readable(batch, skipped)
                    if whole:
                        moments = self._write_batch(tar, whole)
                        sums.append(_sums(moments, sampled=self.sampled))
                    report(len(batch))
            if not sums:
                first = next(iter(skipped.values()))
                raise ValueError(f"none of the {len(indices)} images of {path.name} can be read: {first}")
            summary = {
                "images": len(indices) - len(skipped),
                "bytes": draft.stat().st_size,
                "sha256": sha256(draft),
                "shape": list(moments.shape[2:]),
                "skipped": skipped,
                "contents": contents,
                "times": times,
            }
        total = sum(sums[1:], start=sums[0])
        write_atomically(path.with_suffix(".json"), json.dumps({**summary, "sums": total.tolist()}) + "\n")

    def _readable(self, batch: range, skipped: dict[str, str]) -> list[tuple[int, Tensor, dict[str, Any]]]:
        """Index, image and condition of those images that can be read; the others are added to `skipped`."""
        found = []
        for i in batch:
            try:
                found.append((i, load_image(self.source, i, self.config.side), self.source.condition(i)))
            except ValueError as error:
                name = self.source.names[i]
                self.damages.note(name, str(error))
                skipped[name] = str(error)
                self.damages.check(self.source.images)
        return found

    def _write_batch(
        self, tar: tarfile.TarFile, batch: Sequence[tuple[int, Tensor, dict[str, Any]]]
    ) -> "np.ndarray[Any, Any]":
        """Write the samples of some images; their moments, float16 [n, 2, 2C, h, w]."""
        images = torch.stack([image for _, image, _ in batch])
        encode = self.vae.moments if self.vae is not None else Tensor.float
        moments = torch.stack([encode(images), encode(images.flip(-1))], dim=1).cpu().to(torch.float16).numpy()
        if self.vae is not None and not np.isfinite(moments).all():
            worst = batch[int((~np.isfinite(moments)).reshape(len(batch), -1).any(axis=1).argmax())][0]
            name = self.source.names[worst]
            raise ValueError(f"vae={self.vae.name} gives moments that float16 does not hold for {name}")
        conditions = [condition for _, _, condition in batch]
        if self.text is not None:
            self._add_states(conditions, self.text)
        for (i, _, _), rows, members in zip(batch, moments, conditions, strict=True):
            for kind, value in sorted({MOMENTS: rows, **members}.items()):
                info, data = member(f"{i:09d}", kind, value)
                tar.addfile(info, io.BytesIO(data))
        return moments

    def _add_states(self, conditions: list[dict[str, Any]], encoder: TextEncoder) -> None:
        """Add to members of samples the states of their captions.

        Raises:
            ValueError: float16 does not hold the states.
        """
        for long, kind in CAPTION.items():
            if kind not in conditions[0]:
                continue
            captions = [members[kind] for members in conditions]
            text, present = encoder.encode(captions, self.config.text_length, local_device())
            for members, states, there in zip(conditions, text.to(torch.float16).cpu(), present.cpu(), strict=True):
                if not bool(states.isfinite().all()):
                    which = f"text={encoder.name} gives states that float16 does not hold"
                    raise ValueError(f"{which} for {members[kind]!r}")
                members[STATES[long]] = states[there].numpy()

    def write_manifest(self, folder: Path, names: Sequence[str], plan: dict[str, Any]) -> None:
        """Write the manifest from the shards' summaries.

        Raises:
            ValueError: more images were skipped than are allowed.
        """
        found = [json.loads((folder / name).with_suffix(".json").read_text()) for name in names]
        skipped = {name: problem for summary in found for name, problem in summary["skipped"].items()}
        self.damages.found.update(skipped)
        self.damages.check(self.source.images)
        count, total, squares = np.sum([summary["sums"] for summary in found], axis=0)
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
        channels, *grid = found[0]["shape"]
        channels //= 2 if self.sampled else 1
        if self.vae is None:
            # Pixels stay as they are shown.
            mean, std = np.zeros(channels), np.ones(channels)
        elif self.config.latent_statistics == "published":
            mean, std = (np.array(each) for each in self.vae.published(channels))
        text = None
        if self.text is not None:
            text = {"encoder": self.text.name, **dict(zip(("sha256", "dim", "length"), plan["text"], strict=True))}
        manifest = {
            # Earlier versions know neither shards of certain latents nor, the first, those of pixels.
            "format": 3 if self.vae is None else 2 if self.sampled else FORMAT,
            "images": sum(summary["images"] for summary in found),
            "latent_shape": [channels, *grid],
            "mean": mean.tolist(),
            "std": std.tolist(),
            "resolution": self.config.side,
            "vae": self.config.vae,
            "vae_sha256": plan["vae"],
            "classes": plan["classes"],
            "long_captions": plan["long_captions"],
            "text": text,
            **({"certain": True} if self.vae is not None and self.vae.certain else {}),
            "shards": [
                {"name": name, **{part: summary[part] for part in ("images", "bytes", "sha256")}}
                for name, summary in zip(names, found, strict=True)
            ],
        }
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _sums(moments: "np.ndarray[Any, Any]", *, sampled: bool) -> "np.ndarray[Any, Any]":
    """For each channel the count, sum and expected sum of squares of latents sampled from the posteriors: [3, C]."""
    mean, variance = moments.astype(np.float64), np.zeros(1)
    if sampled:
        mean, log_variance = np.split(mean, 2, axis=2)
        variance = np.exp(np.clip(log_variance, -30, 20))
    axes = (0, 1, 3, 4)
    count = np.full(mean.shape[2], mean.size / mean.shape[2])
    return np.stack([count, mean.sum(axis=axes), (mean**2 + variance).sum(axis=axes)])
