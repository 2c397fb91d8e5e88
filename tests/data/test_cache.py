"""Shards are made of images as they are found, once each, whoever makes them and however often they are stopped."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image
from safetensors.torch import load_file, save_file

from lina_lab.commands.cache import COMMAND
from lina_lab.data.shards.format import read_manifest
from lina_lab.data.shards.sources import find_images, load_image
from lina_lab.data.vae import load_vae
from tests.data.shard_tools import IMAGES, as_webdataset_reads, command


def test_shards_hold_the_moments_of_images_and_mirror_images(made: Path, pictures: Path, vae: Path) -> None:
    """As WebDataset reads them, each image once, with its class; encoded here again, one by one."""
    found: dict[str, dict[str, Any]] = {}
    for tar in sorted(made.glob("*.tar")):
        for sample in as_webdataset_reads(tar):
            found[sample["__key__"]] = sample
    assert len(found) == IMAGES
    encoder, seen = load_vae(str(vae)), []
    source = find_images(pictures)
    images = {pictures / name: load_image(source, index, 16) for index, name in enumerate(source.names)}
    files = sorted(images)
    codes = {file: encoder.moments(torch.stack([image, image.flip(-1)])) for file, image in images.items()}
    for sample in found.values():
        moments = torch.from_numpy(np.load(io.BytesIO(sample["moments.npy"]))).float()
        nearest = min(codes, key=lambda file: float((codes[file] - moments).abs().max()))
        assert torch.allclose(codes[nearest], moments, atol=2e-3)
        assert ("cat", "dog")[int(sample["cls"])] == nearest.parent.name
        seen.append(nearest)
    assert sorted(seen) == files
    manifest = read_manifest(made)
    assert (manifest.images, len(manifest.shards), manifest.classes) == (IMAGES, 6, ("cat", "dog"))
    assert manifest.latent_shape == (2, 8, 8)
    assert COMMAND.main([f"out={made}", "verify=true"]) == 0


def test_a_shard_that_was_taken_away_is_made_again(pictures: Path, vae: Path, made: Path, tmp_path: Path) -> None:
    """By the same command, and the manifest says what is there then."""
    out = tmp_path / "out"
    assert COMMAND.main(command(pictures, vae, out)) == 0
    (out / "shard-000002.tar").unlink()
    (out / "shard-000003.tar").write_bytes(b"half")
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"mean": [9.0, 9.0]}))
    assert COMMAND.main(command(pictures, vae, out)) == 0
    assert COMMAND.main([f"out={out}", "verify=true"]) == 0
    assert read_manifest(out).mean == read_manifest(made).mean


def test_a_cache_of_other_captions_is_not_gone_on_with(
    vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second caption that came beside each picture meanwhile. The shards may lie in the folder of the pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (16, 16), (number * 50, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a picture")
    for _ in range(2):
        assert COMMAND.main(command(folder, vae, folder / "shards")) == 0
    assert COMMAND.main(command(folder, vae, folder)) == 2
    assert "is the folder of the images" in capsys.readouterr().err
    for number in range(4):
        (folder / f"{number}.long.txt").write_text("a long caption of a picture")
    capsys.readouterr()
    assert COMMAND.main(command(folder, vae, folder / "shards")) == 2
    assert "holds shards of another long_captions" in capsys.readouterr().err
    shutil.rmtree(folder / "shards")
    assert COMMAND.main(command(folder, vae, tmp_path)) == 0
    (folder / "0.txt").write_bytes(b"\xff\xfe\xff")
    assert COMMAND.main(command(folder, vae, tmp_path / "out")) == 2
    assert "0.txt is no text in UTF-8" in capsys.readouterr().err
    (folder / "stray.tar").write_bytes(b"")
    assert COMMAND.main(command(folder, vae, tmp_path / "out")) == 2
    assert "holds both shards" in capsys.readouterr().err


def test_tars_of_the_system_are_read(pictures: Path, vae: Path, tmp_path: Path) -> None:
    """`tar cf x.tar .` begins with its folder; files whose names begin with a dot are no samples."""
    inside = tmp_path / "in"
    inside.mkdir()
    for number, file in enumerate(sorted(pictures.rglob("*.png"))[:4]):
        (inside / f"{number}.png").write_bytes(file.read_bytes())
        (inside / f"{number}.cls").write_text(str(number % 2))
    (inside / ".DS_Store").write_bytes(b"")
    (tmp_path / "tars").mkdir()
    subprocess.run(["tar", "cf", tmp_path / "tars/x.tar", "-C", inside, "."], check=True)
    assert COMMAND.main(command(tmp_path / "tars", vae, tmp_path / "out")) == 0
    assert read_manifest(tmp_path / "out").images == 4


def test_the_autoencoder_of_a_pipeline_is_found(vae: Path, tmp_path: Path) -> None:
    """In its folder `vae`, as pipelines of diffusers have it."""
    (tmp_path / "vae").symlink_to(vae)
    assert load_vae(str(tmp_path)).sha256() == load_vae(str(vae)).sha256()
    with pytest.raises(ValueError, match="nowhere is not there: no folder has this name, and it is none of the hub"):
        load_vae(str(tmp_path / "nowhere"))


def test_weights_that_an_autoencoder_lacks_are_not_initialized_at_random(vae: Path, tmp_path: Path) -> None:
    for file in vae.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if not name.startswith("encoder.conv_in")}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"its file lacks weights, such as encoder\.conv_in"):
        load_vae(str(tmp_path))


@pytest.mark.system
def test_a_killed_cache_goes_on_and_two_share_the_work(pictures: Path, vae: Path, made: Path, tmp_path: Path) -> None:
    """Killed as soon as a shard is there; then two at once: the shards of an undisturbed run, bit for bit."""
    line = [sys.executable, "-m", "lina_lab.cli", "cache", *command(pictures, vae, tmp_path)]
    first = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*.tar")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*.json")}
    assert len(before) < 6
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, env={**os.environ, "RANK": str(r)}) for r in range(2)]
    printed = [process.communicate(timeout=240)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert any("46 images in 6 shards" in out for out in printed)
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert not list(tmp_path.glob("*.draft"))
    for shard in read_manifest(made).shards:
        assert (tmp_path / shard.name).read_bytes() == (made / shard.name).read_bytes()
    assert read_manifest(tmp_path).mean == read_manifest(made).mean


def test_what_cannot_be_cached_is_said(
    pictures: Path, vae: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def complaint(*arguments: str) -> str:
        assert COMMAND.main([*command(pictures, vae, tmp_path / "out"), *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in complaint(f"images={tmp_path / 'empty'}")
    assert "is no autoencoder that can be loaded" in complaint(f"vae={tmp_path / 'empty'}")
    assert "holds shards of another resolution" in complaint(f"out={made}", "resolution=8")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16)).save(mixed / name)
    assert (
        "a.png has neither a caption beside it (.txt, or .json with the key caption) nor a folder of its class"
        in complaint(f"images={mixed}")
    )
    (mixed / "a.txt").write_text("a cat")
    assert "b.png has no caption beside it, and others have" in complaint(f"images={mixed}")
    (mixed / "b.txt").write_text("a dog")
    (mixed / "b.png").write_bytes(b"no picture")
    assert "b.png is no picture that can be read" in complaint(f"images={mixed}")
    assert not list((tmp_path / "out").glob("*.tar"))


def test_captions_are_kept(vae: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (16, 16), (number * 50, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture {number}\n")
    assert COMMAND.main(command(folder, vae, tmp_path / "out")) == 0
    assert read_manifest(tmp_path / "out").classes is None
    captions = [sample["txt"].decode() for sample in as_webdataset_reads(tmp_path / "out/shard-000000.tar")]
    assert sorted(captions) == ["picture 0", "picture 1", "picture 2"]


def in_shards(pictures: Path, folder: Path, *, captions: bool) -> Path:
    """The pictures in WebDataset shards, as others make them."""
    folder.mkdir()
    files = sorted(pictures.rglob("*.png"))
    for number in range(0, len(files), 20):
        with wds.TarWriter(str(folder / f"in-{number:03d}.tar")) as tar:
            for file in files[number : number + 20]:
                condition = {"txt": f"a {file.parent.name}"} if captions else {"cls": int(file.parent.name == "dog")}
                rest = {"png": file.read_bytes(), "json": b"{}"}
                tar.write({"__key__": f"{file.parent.name}/{file.stem}", **rest, **condition})
    return folder


@pytest.mark.parametrize("captions", [False, True])
def test_shards_of_pictures_are_another_form_of_a_folder(
    pictures: Path, vae: Path, made: Path, tmp_path: Path, captions: bool
) -> None:
    """The same images with the same classes, or captions; members that are not needed are ignored."""
    out = tmp_path / "out"
    assert COMMAND.main(command(in_shards(pictures, tmp_path / "in", captions=captions), vae, out)) == 0
    manifest = read_manifest(out)
    assert manifest.classes == (None if captions else ("0", "1"))
    assert manifest.mean == pytest.approx(read_manifest(made).mean)

    def contents(folder: Path) -> list[tuple[bytes, str]]:
        samples = [sample for tar in sorted(folder.glob("*.tar")) for sample in as_webdataset_reads(tar)]
        captions = {"0": "a cat", "1": "a dog"}
        return sorted(
            (s["moments.npy"], s["txt"].decode() if "txt" in s else captions[s["cls"].decode()]) for s in samples
        )

    assert contents(out) == contents(made)


def test_shards_of_pictures_that_are_not_whole_are_refused(
    vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    picture = io.BytesIO()
    Image.new("RGB", (16, 16)).save(picture, "png")
    png = picture.getvalue()

    def complaint(*samples: dict[str, Any]) -> str:
        with wds.TarWriter(str(folder / "in.tar")) as tar:
            for number, sample in enumerate(samples):
                tar.write({"__key__": f"k{number}", **sample})
        assert COMMAND.main(command(folder, vae, tmp_path / "out")) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "in.tar, key k0: it has neither cls nor txt" in complaint({"png": png})
    assert "in.tar, key k1: it has no cls, and others have" in complaint({"png": png, "cls": 1}, {"png": png})
    assert "in.tar, key k0: it has 0 pictures" in complaint({"cls": 1})
    assert "in.tar, key k0: class b'cat' is no number below" in complaint({"png": png, "cls": b"cat"})
    sentence = complaint({"png": png, "txt": "a", "long.txt": "b"}, {"png": png, "txt": "a"})
    assert "in.tar, key k1: it has no long.txt, and others have" in sentence
    assert "in.tar/k0 is no picture that can be read" in complaint({"png": b"no picture", "txt": "a"})
    (folder / "in.tar").write_bytes(b"no tar" * 200)
    assert COMMAND.main(command(folder, vae, tmp_path / "out")) == 2
    assert "in.tar is no tar that can be read to its end" in capsys.readouterr().err
