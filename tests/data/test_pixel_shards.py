"""Shards of pixels: pictures with captions or classes, from a folder to a trained model, without an autoencoder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lina_lab.commands.cache import COMMAND
from lina_lab.commands.sample import COMMAND as SAMPLE
from lina_lab.config import TrialConfig
from lina_lab.data.modules.shards import ShardsDataModule
from lina_lab.data.pixels import to_pixels
from lina_lab.data.shards.format import ShardError, read_manifest
from lina_lab.data.shards.sources import find_images, load_image
from lina_lab.evaluation.decoding import decoder_of
from lina_lab.training.trial import run_trial
from lina_lab.util.files import sha256
from tests.data.shard_tools import images_of

Tiny = Callable[..., TrialConfig]
IMAGES, SIDE = 30, 8
COLORS = {"red": (220, 30, 20), "green": (20, 160, 40), "blue": (30, 60, 210)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of one color each with a brighter left edge, and what their caption says."""
    folder, generator = tmp_path_factory.mktemp("captioned"), np.random.default_rng(0)
    for number in range(IMAGES):
        name, color = list(COLORS.items())[number % 3]
        pixels = np.full((20, 20 + number % 4, 3), color) + generator.integers(-9, 10, (20, 20 + number % 4, 3))
        pixels[:, :5] += 20
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(f"a {name} picture")
    return folder


def command(folder: Path, out: Path, *others: str) -> list[str]:
    return [f"images={folder}", f"out={out}", f"resolution={SIDE}", "images_per_shard=8", "batch_size=3", *others]


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    assert COMMAND.main(command(folder, out)) == 0
    return out


def trial(tiny: Tiny, shards: Path, data: dict[str, Any] | None = None, **changes: Any) -> TrialConfig:
    model = {"latent_channels": 3, "latent_size": [SIDE, SIDE], "patch_size": 2, "num_classes": None}
    usual = {
        "model": {**model, "text_dim": 8, "text_length": 4},
        "data": {
            **{"name": "shards", "path": str(shards), "encoder": "words", "val_images": 6, "val_batch_size": 3},
            **(data or {}),
        },
        "sampling": {"images_per_class": 1, "ar_steps": 2, "ode_steps": 2, "quality_images": 6},
    }
    return tiny(**(usual | changes))


def test_the_shards_hold_the_pictures_own_pixels(folder: Path, made: Path) -> None:
    manifest, source = read_manifest(made), find_images(folder)
    assert (manifest.format, manifest.vae, manifest.vae_sha256) == (3, None, "")
    assert (manifest.latent_shape, manifest.mean, manifest.std) == ((3, SIDE, SIDE), (0, 0, 0), (1, 1, 1))
    images, _ = images_of(made, seed=None, kind="captions", first=0, images=IMAGES)[torch.arange(IMAGES)]
    own = torch.stack([load_image(source, index, SIDE) for index in range(IMAGES)])
    assert np.array_equal(to_pixels(images), to_pixels(own))
    assert (images - own).abs().max() < 1 / 1024
    assert images.abs().max() <= 1


def test_each_picture_keeps_its_caption(made: Path) -> None:
    held = images_of(made, seed=None, kind="captions", first=0, images=IMAGES)
    images, condition = held[torch.arange(IMAGES)]
    brightest = images.mean(dim=(2, 3)).argmax(dim=1).tolist()
    assert condition["captions"] == [f"a {list(COLORS)[channel]} picture" for channel in brightest]
    assert set(condition["captions"]) == {f"a {name} picture" for name in COLORS}


def test_training_pictures_have_no_noise_and_are_mirrored_where_asked(made: Path) -> None:
    plain, mirrored = (images_of(made, kind="captions", flip=flip) for flip in (False, True))
    first, again = (plain[torch.arange(24) + passed * 24][0] for passed in (0, 5))
    assert torch.equal(first, again)
    flipped = mirrored[torch.arange(24)][0]
    turned = [bool((one == other.flip(-1)).all()) for one, other in zip(flipped, first, strict=True)]
    kept = [bool((one == other).all()) for one, other in zip(flipped, first, strict=True)]
    assert all(a != b for a, b in zip(turned, kept, strict=True))
    assert 4 < sum(turned) < 20


def test_what_is_read_does_not_depend_on_how_it_is_batched(made: Path) -> None:
    images = images_of(made, kind="captions")
    whole = images[torch.arange(24)][0]
    mixed = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    for part in mixed.split(5):
        assert torch.equal(images[part][0], whole[part])


@pytest.mark.parametrize("stored", [False, True], ids=["words encoded in training", "words stored"])
def test_a_folder_of_pictures_with_captions_becomes_a_trained_model(
    tiny: Tiny, folder: Path, tmp_path: Path, stored: bool
) -> None:
    shards = tmp_path / "shards"
    text = ["text=words", "text_dim=8", "text_length=4"] if stored else []
    assert COMMAND.main(command(folder, shards, *text)) == 0
    config = trial(tiny, shards, {"encoder": None if stored else "words"})
    result = run_trial(config, tmp_path / "cell")
    assert (result.status, result.problems) == ("done", ())
    assert {"val/loss_ema", "eval/fid_pixels"} <= result.metrics.keys()
    assert (tmp_path / "cell" / "samples.png").is_file()
    again = run_trial(config, tmp_path / "again")
    assert again.metrics["val/loss_ema"] == result.metrics["val/loss_ema"]


def test_images_are_sampled_for_captions_with_the_shards_own_encoder(
    tiny: Tiny, folder: Path, made: Path, vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, cell, out = (tmp_path / name for name in ("shards", "cell", "out"))
    assert COMMAND.main(command(folder, shards, "text=words", "text_dim=8", "text_length=4")) == 0
    run_trial(trial(tiny, shards, {"encoder": None}), cell)
    (tmp_path / "prompts.txt").write_text("a red picture\na blue picture\n")
    arguments = [f"checkpoint={cell}", f"out={out}", f"prompts={tmp_path / 'prompts.txt'}", "images=3", "ode_steps=2"]
    assert SAMPLE.main(arguments) == 0
    moved = shards.rename(tmp_path / "moved")
    assert SAMPLE.main(arguments) == 2
    assert "encoder=NAME is needed: neither the checkpoint nor shards=FOLDER says" in capsys.readouterr().err
    assert SAMPLE.main([*arguments, f"shards={moved}"]) == 0
    with np.load(out / "samples.npz", allow_pickle=False) as arrays:
        assert arrays["arr_0"].shape == (3, SIDE, SIDE, 3)
    assert COMMAND.main(command(folder, tmp_path / "latents", f"vae={vae}")) == 0
    capsys.readouterr()
    assert SAMPLE.main([*arguments, f"shards={tmp_path / 'latents'}"]) == 2
    assert "holds latents: vae=NAME is the autoencoder that decodes them" in capsys.readouterr().err


def test_the_distance_to_real_pictures_is_measured_on_their_pixels(tiny: Tiny, made: Path) -> None:
    data = ShardsDataModule(trial(tiny, made))
    real = to_pixels(data.train_set[torch.arange(data.images)][0])
    assert real.reshape(-1, 3).max(axis=0).tolist() > [200, 150, 200]
    assert real.mean() == pytest.approx(np.mean([*COLORS.values()]) + 5, abs=6)


def test_pictures_in_folders_of_classes_can_be_stored_as_pixels(tiny: Tiny, pictures: Path, tmp_path: Path) -> None:
    assert COMMAND.main(command(pictures, tmp_path / "shards")) == 0
    model = {"latent_channels": 3, "latent_size": [SIDE, SIDE], "patch_size": 2, "num_classes": 2}
    data = {"name": "shards", "path": str(tmp_path / "shards"), "val_images": 6, "val_batch_size": 3}
    assert run_trial(tiny(model=model, data=data), tmp_path / "cell").status == "done"


def test_a_shard_that_was_lost_is_made_again_equal_in_every_bit(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    assert COMMAND.main(command(folder, out)) == 0
    before = {path.name: sha256(path) for path in out.glob("*.tar")}
    (out / "shard-000001.tar").unlink()
    assert COMMAND.main(command(folder, out)) == 0
    assert {path.name: sha256(path) for path in out.glob("*.tar")} == before
    assert COMMAND.main([f"out={out}", "verify=true"]) == 0


def test_a_bit_that_a_disk_changed_is_found(made: Path, tmp_path: Path) -> None:
    for path in made.iterdir():
        if path.suffix in (".tar", ".json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    images = images_of(tmp_path, seed=None, kind="captions", first=0, images=IMAGES)
    at = images.reader.at(0)
    offset = int(at.shard.members["moments.npy"][0][0]) + len(images.reader.header) + 10
    data = bytearray((tmp_path / "shard-000000.tar").read_bytes())
    data[offset] ^= 1
    (tmp_path / "shard-000000.tar").write_bytes(data)
    with pytest.raises(ShardError, match=r"shard-000000\.tar, key 000000000: moments\.npy is not what was written"):
        images[torch.tensor([0])]


def test_the_last_line_says_that_pixels_were_stored(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    COMMAND.main(command(folder, tmp_path / "shards"))
    assert "pixels of 30 images in 4 shards, with captions" in capsys.readouterr().out


def test_neither_an_autoencoder_nor_a_size_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert COMMAND.main([f"images={folder}", f"out={tmp_path / 'shards'}"]) == 2
    assert "vae=NAME is needed to make shards of latents, or resolution=NUMBER" in capsys.readouterr().err
    assert not (tmp_path / "shards").exists()


def test_latents_are_not_added_to_a_folder_of_pixels(
    folder: Path, made: Path, vae: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert COMMAND.main(command(folder, made, f"vae={vae}")) == 2
    assert f"{made} holds shards of another vae" in capsys.readouterr().err


def test_shards_of_latents_stay_readable_by_earlier_versions(folder: Path, vae: Path, tmp_path: Path) -> None:
    assert COMMAND.main(command(folder, tmp_path, f"vae={vae}")) == 0
    found = json.loads((tmp_path / "manifest.json").read_text())
    assert (found["format"], found["latent_shape"]) == (2, [2, SIDE // 2, SIDE // 2])


def test_an_autoencoder_for_pixels_is_refused(tiny: Tiny, made: Path, vae: Path) -> None:
    config = trial(tiny, made)
    with pytest.raises(ShardError, match=r"holds pixels, which need no autoencoder: leave sampling\.vae=some out"):
        ShardsDataModule.check_data(replace(config, sampling=replace(config.sampling, vae="some")))
    with pytest.raises(ValueError, match="holds pixels, which vae=some does not decode"):
        decoder_of("some", made, "cpu")


def test_pixels_of_another_size_than_the_model_s_are_refused(tiny: Tiny, made: Path) -> None:
    model = {"latent_channels": 3, "latent_size": [16, 16], "num_classes": None, "text_dim": 8, "text_length": 4}
    with pytest.raises(ShardError, match=r"holds latents \[3, 8, 8\], and the model needs \[3, 16, 16\]"):
        ShardsDataModule.check_data(trial(tiny, made, model={**model, "patch_size": 2}))
