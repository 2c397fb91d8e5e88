"""Small autoencoders, text encoders, pictures, and shards made of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lina_lab.commands.cache import COMMAND
from tests.data.shard_tools import IMAGES, command


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random autoencoder of the same class as real ones."""
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    model = AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=down, up_block_types=up, latent_channels=2, norm_num_groups=4
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two classes, of several shapes."""
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(IMAGES):
        kind = folder / ("cat", "dog")[number % 2]
        kind.mkdir(exist_ok=True)
        size = (16, 16 + 3 * (number % 4), 3)
        pixels = np.full(size, number * 5) + generator.integers(0, 30, size)
        Image.fromarray(pixels.astype(np.uint8)).save(kind / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def made(pictures: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    assert COMMAND.main(command(pictures, vae, out)) == 0
    return out


@pytest.fixture
def shards(made: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    out = tmp_path / "shards"
    out.mkdir()
    for file in made.iterdir():
        if file.suffix in (".tar", ".json"):
            (out / file.name).write_bytes(file.read_bytes())
    return out
