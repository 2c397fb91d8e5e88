"""A picture is read as people see it, for training and for metrics alike."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lina_lab.commands.evaluate import COMMAND as EVALUATE
from lina_lab.data.pictures import read_picture
from lina_lab.data.shards.sources import find_images, load_image
from lina_lab.evaluation.images import read_images
from tests.data import color_profiles

COLORS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def stored(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def seen(image: Image.Image, kind: str = "png", **options: Any) -> np.ndarray:
    return np.asarray(read_picture(stored(image, kind, **options)))


def srgb(light: np.ndarray) -> np.ndarray:
    """8-bit levels of linear light in 0..1 (IEC 61966-2-1)."""
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["png", "bmp", "webp"])
def test_an_ordinary_picture_is_read_as_it_is_stored(kind: str) -> None:
    options = {"lossless": True} if kind == "webp" else {}
    assert np.array_equal(seen(Image.fromarray(COLORS), kind, **options), COLORS)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.transpose(1, 0, 2)),
        (6, lambda p: np.rot90(p, -1)),
        (7, lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
        (8, np.rot90),
        (9, lambda p: p),
    ],
)
def test_a_picture_of_a_turned_camera_is_upright(
    kind: str, orientation: int, upright: Callable[[np.ndarray], np.ndarray]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(COLORS)
    assert np.array_equal(seen(image, kind, exif=exif), upright(seen(image, kind)))


def test_damaged_exif_data_turns_nothing() -> None:
    assert np.array_equal(seen(Image.fromarray(COLORS), exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), COLORS)


def test_hidden_colors_under_transparency_are_white() -> None:
    """In each of the ways in which a file may say what is transparent."""
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    red.putalpha(0)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    files = {
        "RGBA": stored(red),
        "WebP": stored(red, "webp", lossless=True, exact=True),
        "LA": stored(Image.new("LA", (2, 2), (10, 0))),
        "a color": stored(Image.new("RGB", (2, 2), (255, 0, 0)), transparency=(255, 0, 0)),
        "a grey": stored(Image.new("L", (2, 2), 10), transparency=10),
        "an entry of a palette": stored(palette, transparency=1),
        "opacities of a palette": stored(palette, transparency=bytes([255, 0])),
        "a grey of 16 bits": stored(Image.fromarray(np.full((2, 2), 900, np.uint16)), transparency=900),
        "black of one bit": stored(Image.new("1", (2, 2), 0), transparency=0),
    }
    for name, data in files.items():
        assert np.asarray(read_picture(data)).min() == 255, name


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    half = Image.new("RGBA", (2, 2), (255, 0, 100, 51))
    assert seen(half)[0, 0].tolist() == [255, 204, 224]
    assert seen(Image.new("LA", (2, 2), (100, 51)))[0, 0].tolist() == [224] * 3


def test_grey_of_16_bits_keeps_its_levels() -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert np.array_equal(seen(Image.fromarray(levels * 257))[..., 1], levels)
    assert seen(Image.fromarray(np.array([[128, 129, 65406, 65535]], np.uint16)))[0, :, 0].tolist() == [0, 1, 254, 255]


def test_grey_of_more_than_16_bits_is_refused() -> None:
    for wide in (np.full((2, 2), 65536, np.int32), np.zeros((2, 2), np.float32)):
        with pytest.raises(ValueError, match=r"more than 16 bits|floating-point"):
            read_picture(stored(Image.fromarray(wide), "tiff"))


def test_colors_of_another_profile_become_those_of_srgb() -> None:
    image = Image.fromarray(COLORS)
    linear = seen(image, icc_profile=color_profiles.rgb(1.0))
    assert np.abs(linear - srgb(COLORS / 255)).max() <= 1.5
    red, green, blue = color_profiles.SRGB
    swapped = seen(image, icc_profile=color_profiles.rgb(2.2, (green, blue, red)))
    assert np.abs(swapped.astype(int) - COLORS[..., [2, 0, 1]]).max() <= 9
    transparent = image.copy()
    transparent.putalpha(Image.new("L", image.size, 51))
    mixed = seen(transparent, icc_profile=color_profiles.rgb(1.0))
    assert np.abs(mixed - (204 + srgb(COLORS / 255) / 5)).max() <= 1.5


def test_grey_has_a_profile_of_grey_or_of_colors() -> None:
    image = Image.fromarray(COLORS[..., 0])
    for profile in (color_profiles.rgb(1.4), color_profiles.grey(1.4)):
        found = seen(image, icc_profile=profile)
        assert np.abs(found - srgb((COLORS[..., :1] / 255) ** 1.4)).max() <= 2
    deep = Image.fromarray(COLORS[..., 0].astype(np.uint16) * 257)
    assert np.array_equal(seen(deep, icc_profile=color_profiles.grey(1.4)), found)


def test_a_profile_of_inks_is_used() -> None:
    """One in which cyan is no color; Pillow alone makes cyan of it."""
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert seen(image, "jpeg", quality=100)[0, 0].tolist() == [0, 255, 255]
    assert seen(image, "jpeg", quality=100, icc_profile=color_profiles.cmyk())[0, 0].min() >= 252


def test_a_profile_of_srgb_changes_no_bit() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(seen(Image.fromarray(COLORS), icc_profile=profile), COLORS)


@pytest.mark.parametrize("profile", [b"no profile" * 40, color_profiles.grey(1.0), color_profiles.cmyk()])
def test_a_profile_that_does_not_apply_is_ignored_as_viewers_do(profile: bytes) -> None:
    assert np.array_equal(seen(Image.fromarray(COLORS), icc_profile=profile), COLORS)


def test_the_gamma_of_a_png_is_applied() -> None:
    def with_gamma(value: int) -> bytes:
        from zlib import crc32

        data = stored(Image.fromarray(COLORS))
        chunk = b"gAMA" + value.to_bytes(4, "big")
        return data[:33] + (4).to_bytes(4, "big") + chunk + crc32(chunk).to_bytes(4, "big") + data[33:]

    assert np.abs(np.asarray(read_picture(with_gamma(100_000))) - srgb(COLORS / 255)).max() <= 0.5
    assert np.array_equal(np.asarray(read_picture(with_gamma(45_455))), COLORS)


def test_training_and_metrics_read_the_same_picture(tmp_path: Path) -> None:
    """A picture that is turned, transparent and of linear light, among others."""
    folder = tmp_path / "images/class"
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.dstack([COLORS[:4, :4], np.tile(COLORS[:4, :4, 0] | 128, (1, 1))]))
    image.save(folder / "0.png", exif=exif, icc_profile=color_profiles.rgb(1.0))
    (trained,) = (load_image(find_images(tmp_path / "images"), 0, 4),)
    (measured,) = read_images(tmp_path / "images")
    levels = ((trained + 1) * 127.5).round().numpy().transpose(1, 2, 0)
    assert np.array_equal(levels, measured[0])
    plain = np.asarray(Image.open(folder / "0.png").convert("RGB"))
    assert np.abs(plain.astype(int) - measured[0]).max() > 20


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "text"])
def test_a_damaged_picture_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    whole = stored(Image.fromarray(np.tile(COLORS, (20, 20, 1))))
    data = {"cut": whole[:300], "header": whole[:20] + b"\xff" * 8 + whole[28:], "empty": b"", "text": b"picture"}
    for name in ("samples", "reference"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(data[damage])
    folders = [f"{name}={tmp_path / name}" for name in ("samples", "reference")]
    assert EVALUATE.main([*folders, "features=pixels"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "0.png is no picture that can be read: " in line


def test_metrics_say_what_was_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("samples", "reference"):
        (tmp_path / name / ".thumbnails").mkdir(parents=True)
        for number in range(24):
            Image.fromarray(np.roll(COLORS, number)).save(tmp_path / name / f"{number:02d}.png")
            Image.fromarray(COLORS).save(tmp_path / name / f".thumbnails/{number:02d}.png")
    (tmp_path / "reference/a.gif").write_bytes(b"GIF")
    folders = [f"{name}={tmp_path / name}" for name in ("samples", "reference")]
    assert EVALUATE.main([*folders, "features=pixels"]) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'samples'}: left out: 1 hidden files and folders\n" in printed
    assert f"{tmp_path / 'reference'}: left out: 1 hidden files and folders, 1 files .gif\n" in printed
    result = json.loads((tmp_path / "samples/metrics.json").read_text())
    assert result["metrics"]["images_by_pixels"] == 24
    assert result["reference"]["left_out"] == {"hidden files and folders": 1, "files .gif": 1}
