"""Images of a model of latents are decoded, and judged by what one gives to judge them by, at stated budgets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lina_lab.config import TrialConfig
from lina_lab.data.pixels import to_pixels
from lina_lab.data.shards.format import read_manifest
from lina_lab.data.vae import load_vae
from lina_lab.evaluation.decoding import decoder_of
from lina_lab.evaluation.images import read_images
from lina_lab.evaluation.moments import moments_of
from lina_lab.training.callbacks.fid import METRICS
from lina_lab.training.trial import run_trial
from tests.data.shard_tools import Tiny, trial

METRIC = METRICS["pixels"]


def judged(tiny: Tiny, shards: Path, vae: Path | None, **sampling: Any) -> TrialConfig:
    usual = {"quality_images": 20, "ar_steps": 2, "ode_steps": 2, "images_per_class": 0}
    config = trial(tiny, shards)
    sections = {"model": {"latent_channels": 2, "latent_size": [8, 8], "num_classes": 2}, "sampling": usual | sampling}
    sections["sampling"] |= {} if vae is None else {"vae": str(vae)}
    data = {name: getattr(config.data, name) for name in ("name", "path", "val_images", "val_batch_size")}
    return tiny(data=data, **sections)


def trained(config: TrialConfig, folder: Path) -> dict[str, float]:
    folder.mkdir()
    return run_trial(config, folder).metrics


def test_latents_are_decoded_and_held_against_a_reference(tiny: Tiny, made: Path, vae: Path, tmp_path: Path) -> None:
    """Pictures in a folder, the same in an npz, or the training images, decoded too."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    generator = np.random.default_rng(0)
    for number in range(12):
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number:02d}.png")
    images = np.concatenate(list(read_images(pictures)))
    np.savez(tmp_path / "reference.npz", arr_0=images)
    distances = {
        name: trained(judged(tiny, made, vae, quality_reference=reference), tmp_path / name)[METRIC]
        for name, reference in (
            ("folder", str(pictures)),
            ("npz", str(tmp_path / "reference.npz")),
            ("training", None),
        )
    }
    assert distances["folder"] == pytest.approx(distances["npz"], rel=1e-9)
    # Noise is further away than what the autoencoder makes of latents.
    assert 0 < distances["training"] < distances["folder"]


def test_latents_are_scaled_back_before_they_are_decoded(made: Path, vae: Path, tmp_path: Path) -> None:
    manifest, autoencoder = read_manifest(made), load_vae(str(vae))
    latents = torch.randn(40, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (manifest.mean, manifest.std))
    expected = to_pixels(autoencoder.decode(latents * std + mean))
    assert np.abs(decoder_of(str(vae), made, "cpu")(latents).astype(int) - expected).max() <= 1
    (tmp_path / "manifest.json").write_text(
        json.dumps(
            json.loads((made / "manifest.json").read_text()) | {"vae_sha256": "other", "shards": [], "images": 0}
        )
    )
    with pytest.raises(ValueError, match="is not the autoencoder that made"):
        decoder_of(str(vae), tmp_path, "cpu")


def test_what_cannot_be_judged_is_said_before_training(
    tiny: Tiny, made: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr("lina_lab.training.module.LinaModule.training_step", never)
    with pytest.raises(ValueError, match=r"sampling\.vae names the autoencoder that decodes them"):
        judged(tiny, made, None)
    with pytest.raises(ValueError, match=r"sampling\.vae needs data\.name=shards"):
        tiny(sampling={"vae": "somewhere"})
    stored = moments_of(np.random.default_rng(0).normal(size=(30, 768))).gaussian
    np.savez(tmp_path / "stored.npz", mu=stored.mean, sigma=stored.covariance)
    for name, side in (("wide", 32), ("large", 64)):
        np.savez(tmp_path / f"{name}.npz", arr_0=np.zeros((3, side, side, 3), np.uint8))
    for number, (sampling, sentence) in enumerate(
        [
            ({"quality_reference": str(tmp_path / "stored.npz")}, "quality_features=pixels needs images"),
            ({"quality_reference": str(tmp_path / "nowhere.npz")}, "there is no such file"),
            ({"quality_features": "inception"}, "the Inception network's weights are not here"),
            (
                {"quality_reference": str(tmp_path / "wide.npz")},
                "32 x 32 pixels and generated images have 16 x 16",
            ),
            ({"quality_reference": str(tmp_path / "large.npz")}, "64 x 64 pixels and generated images have 16 x 16"),
        ]
    ):
        with pytest.raises(ValueError, match=sentence):
            trained(judged(tiny, made, vae, **sampling), tmp_path / str(number))
    with pytest.raises(ValueError, match="is no autoencoder that can be loaded"):
        trained(judged(tiny, made, tmp_path), tmp_path / "vae")
