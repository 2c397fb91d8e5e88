"""Latents are those of the autoencoder that a folder says it holds, whatever its class, in its own scale."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from lina_lab.commands.cache import COMMAND
from lina_lab.data import pretrained
from lina_lab.data.shards.format import read_manifest
from lina_lab.data.shards.images import ShardImages
from lina_lab.data.shards.sources import find_images, load_image
from lina_lab.data.vae import CERTAIN, OF_FRAMES, OF_IMAGES, load_vae
from lina_lab.evaluation.decoding import decoder_of

BLOCKS: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 2,
    "norm_num_groups": 4,
}
USUAL = {**BLOCKS, "block_out_channels": [8, 8]}
FRAMES: dict[str, Any] = {
    "base_dim": 8,
    "z_dim": 2,
    "dim_mult": [1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [False],
    "latents_mean": [0.1, 0.2],
    "latents_std": [2.0, 3.0],
}
TINY: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {**USUAL, "scaling_factor": 0.5, "shift_factor": 0.1},
    "AsymmetricAutoencoderKL": {**BLOCKS, "down_block_out_channels": [8, 8], "up_block_out_channels": [8, 8]},
    "AutoencoderDC": {
        "latent_channels": 4,
        "attention_head_dim": 4,
        "encoder_block_types": ["ResBlock"] * 2,
        "decoder_block_types": ["ResBlock"] * 2,
        "encoder_block_out_channels": [8, 8],
        "decoder_block_out_channels": [8, 8],
        "encoder_layers_per_block": [1, 1],
        "decoder_layers_per_block": [1, 1],
        "encoder_qkv_multiscales": [[], []],
        "decoder_qkv_multiscales": [[], []],
        "scaling_factor": 0.25,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": [8, 8],
        "decoder_block_out_channels": [8, 8],
        "num_encoder_blocks": [1, 1],
        "num_decoder_blocks": [1, 1],
        "latent_channels": 3,
    },
    "AutoencoderKLFlux2": USUAL,
    "VQModel": {**USUAL, "num_vq_embeddings": 8},
    "AutoencoderKLQwenImage": FRAMES,
    "AutoencoderKLWan": FRAMES,
}
"""Class -> arguments of a small one."""
PUBLISHED = {
    "AutoencoderKL": ([0.1, 0.1], [2.0, 2.0]),
    "AutoencoderDC": ([0.0] * 4, [4.0] * 4),
    "AutoencoderTiny": ([0.0] * 3, [1.0] * 3),
    "AutoencoderKLQwenImage": ([0.1, 0.2], [2.0, 3.0]),
}
"""Class -> mean and standard deviation that the arguments above state."""


def saved(kind: str, folder: Path) -> Path:
    import diffusers

    torch.manual_seed(0)
    getattr(diffusers, kind)(**TINY[kind]).save_pretrained(folder)
    return folder


def cached(pictures: Path, vae: Path, out: Path, *more: str) -> Path:
    assert COMMAND.main([f"images={pictures}", f"vae={vae}", f"out={out}", "resolution=16", *more]) == 0
    return out


def test_each_class_is_tried_here() -> None:
    assert set(TINY) == {*OF_IMAGES, *OF_FRAMES}


@pytest.mark.parametrize("kind", TINY)
def test_latents_of_each_class_come_back_as_pictures(kind: str, pictures: Path, tmp_path: Path) -> None:
    """Encoded in shards, scaled to unit variance, and decoded in their own scale."""
    vae = saved(kind, tmp_path / "vae")
    out = cached(pictures, vae, tmp_path / "out")
    manifest, source, autoencoder = read_manifest(out), find_images(pictures), load_vae(str(vae))
    channels = manifest.latent_shape[0]
    assert (autoencoder.kind, manifest.certain, manifest.latent_shape[1:]) == (kind, kind in CERTAIN, (8, 8))
    images = torch.stack([load_image(source, index, 16) for index in range(6)])
    held_out = ShardImages(out, manifest, "label", first=0, images=6, seed=None)[torch.arange(6)][0]
    mean, std = (torch.tensor(each).reshape(-1, 1, 1) for each in (manifest.mean, manifest.std))
    expected = autoencoder.moments(images)[:, :channels]
    torch.testing.assert_close(held_out * std + mean, expected, rtol=2e-3, atol=2e-3)
    train = ShardImages(out, manifest, "label", first=0, images=manifest.images, seed=0)
    latents = train[torch.arange(4 * manifest.images)][0]
    assert latents.std(dim=(0, 2, 3)).sub(1).abs().max() < 0.05
    pixels = decoder_of(str(vae), out, "cpu")(held_out)
    assert pixels.shape == (6, 16, 16, 3)


def test_a_certain_latent_is_kept_once(pictures: Path, tmp_path: Path) -> None:
    """And so in a format that earlier versions refuse."""
    sizes = {}
    for kind in ("AutoencoderKL", "VQModel"):
        out = cached(pictures, saved(kind, tmp_path / kind), tmp_path / f"{kind}.out")
        manifest = json.loads((out / "manifest.json").read_text())
        sizes[kind] = (manifest["format"], read_manifest(out).stored_channels)
    assert sizes == {"AutoencoderKL": (2, 4), "VQModel": (4, 2)}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_statistics_scale_the_latents(kind: str, pictures: Path, tmp_path: Path) -> None:
    out = cached(pictures, saved(kind, tmp_path / "vae"), tmp_path / "out", "latent_statistics=published")
    manifest = read_manifest(out)
    assert (list(manifest.mean), list(manifest.std)) == tuple(map(pytest.approx, PUBLISHED[kind]))


def test_statistics_that_are_not_published_are_said_before_anything_is_encoded(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vae, out = saved("AutoencoderKLFlux2", tmp_path / "vae"), tmp_path / "out"
    line = [f"images={pictures}", f"out={out}", "resolution=16", "latent_statistics=published"]
    assert COMMAND.main([*line, f"vae={vae}"]) == 2
    assert "is an AutoencoderKLFlux2 that states no statistics of its latents" in capsys.readouterr().err
    assert not out.exists()
    assert COMMAND.main(line) == 2
    assert "latent_statistics=published are an autoencoder's, and vae=NAME is not given" in capsys.readouterr().err


def test_a_class_that_is_not_known_is_named(tmp_path: Path) -> None:
    saved("AutoencoderKL", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderOobleck"}))
    with pytest.raises(ValueError, match="is of the class AutoencoderOobleck: known are AutoencoderKL, "):
        load_vae(str(tmp_path))


def test_weights_of_another_shape_are_no_sentence_without_an_end(tmp_path: Path) -> None:
    """diffusers says that something does not fit, and what in the next line."""
    saved("AutoencoderKL", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"latent_channels": 3}))
    with pytest.raises(ValueError, match=r"is no autoencoder that can be loaded: .*weight") as found:
        load_vae(str(tmp_path))
    assert not str(found.value).endswith(":")


def test_diffusers_does_not_ask_for_accelerate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vae = saved("AutoencoderKL", tmp_path)
    logging.getLogger("diffusers").addHandler(caplog.handler)
    try:
        load_vae(str(vae))
    finally:
        logging.getLogger("diffusers").removeHandler(caplog.handler)
    assert "accelerate" not in caplog.text


def test_a_hub_that_is_away_is_said_within_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Asked once; a closed port stands for it. What is in the cache is used, and the hub may be kept away."""
    import huggingface_hub as hub

    asked: list[str] = []
    client = hub.get_session()
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(client, "head", lambda url, _head=client.head, **kw: (asked.append(url), _head(url, **kw))[1])
    with pytest.raises(ValueError, match=r"in the hub's cache, and http://127.0.0.1:9 cannot be reached .*: give a fo"):
        load_vae("nobody/vae-that-is-not-there")
    assert asked == ["http://127.0.0.1:9"]
    monkeypatch.setattr(hub, "snapshot_download", lambda name, *, local_files_only: str(tmp_path))
    assert pretrained.hub_options("nobody/vae", "vae") == {"local_files_only": True}
    monkeypatch.undo()
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE=1 keeps the hub away: give a folder, or run `hf download no"):
        load_vae("nobody/vae-that-is-not-there")
    with pytest.raises(ValueError, match="/a/b/c is not there: no folder has this name, and it is none of the hub"):
        load_vae("/a/b/c")
