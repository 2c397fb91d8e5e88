"""What lies in a folder of images is used, or named; and what was encoded is what lies there."""

import io
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lina_lab.commands.cache import COMMAND
from lina_lab.data.shards import origins
from lina_lab.data.shards.format import read_manifest
from lina_lab.data.shards.listing import Damages
from lina_lab.data.shards.sources import find_images
from tests.data.shard_tools import IMAGES, as_webdataset_reads, command

Capture = pytest.CaptureFixture[str]


def png(level: int) -> bytes:
    file = io.BytesIO()
    pixels = np.full((16, 16, 3), level) + np.random.default_rng(level).integers(0, 30, (16, 16, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(file, "png")
    return file.getvalue()


def captioned(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:02d}.png").write_bytes(png(number * 8))
        (folder / f"{number:02d}.txt").write_text(f"picture {number}")
    return folder


def classes(folder: Path, count: int = 4) -> Path:
    for number in range(count):
        own = folder / ("cat", "dog")[number % 2]
        own.mkdir(parents=True, exist_ok=True)
        (own / f"{number:02d}.png").write_bytes(png(number * 8))
    return folder


def tar_of(path: Path, *members: tuple[str, bytes], end: bool = True) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        length = tar.offset
    if not end:
        path.write_bytes(path.read_bytes()[:length])
    return path.parent


def shards(out: Path) -> list[dict[str, Any]]:
    return [sample for tar in sorted(out.glob("*.tar")) for sample in as_webdataset_reads(tar)]


def last_line(capsys: Capture) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_the_last_line_says_that_nothing_was_left_out(vae: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = classes(tmp_path / "in")
    assert COMMAND.main(command(folder, vae, tmp_path / "out")) == 0
    manifest = tmp_path / "out/manifest.json"
    assert last_line(capsys) == f"4 images in 1 shards, of 2 classes: {manifest}; nothing was left out"


def test_hidden_folders_are_no_classes(vae: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = classes(tmp_path / "in")
    for name in (".ipynb_checkpoints", "__MACOSX", "cat/.thumbnails"):
        (folder / name).mkdir()
        (folder / name / "x.png").write_bytes(png(0))
    (folder / "cat/._00.png").write_bytes(b"resource fork")
    assert COMMAND.main(command(folder, vae, tmp_path / "out")) == 0
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.classes, manifest.images) == (("cat", "dog"), 4)
    line = last_line(capsys)
    assert f"left out: 4 hidden files and folders (such as {folder}/.ipynb_checkpoints)" in line


def test_linked_class_folders_are_classes(tmp_path: Path) -> None:
    elsewhere = classes(tmp_path / "elsewhere")
    folder = classes(tmp_path / "in")
    (folder / "bird").symlink_to(elsewhere / "cat")
    source = find_images(folder)
    assert source.classes == ("bird", "cat", "dog")
    assert sorted(source.names) == [
        "bird/00.png",
        "bird/02.png",
        "cat/00.png",
        "cat/02.png",
        "dog/01.png",
        "dog/03.png",
    ]
    (folder / "cat/all").symlink_to(folder)
    with pytest.raises(ValueError, match="cat/all links to a folder that it lies in"):
        find_images(folder)


def test_the_cache_itself_is_no_class_also_by_a_link(vae: Path, tmp_path: Path) -> None:
    folder = classes(tmp_path / "in")
    (folder / "shards").symlink_to(tmp_path / "out")
    for _ in range(2):
        assert COMMAND.main(command(folder, vae, tmp_path / "out")) == 0
    assert read_manifest(tmp_path / "out").classes == ("cat", "dog")


def test_everything_that_is_not_used_is_counted_with_an_example(tmp_path: Path) -> None:
    folder = classes(tmp_path / "in")
    (folder / "eel").mkdir()
    for name in ("eel/a.gif", "cat/b.gif", "cat/b.TIFF", "LICENSE", "cat/00.txt.bak"):
        (folder / name).write_bytes(b"")
    (folder / "cat/lost.png").symlink_to(tmp_path / "nowhere.png")
    source = find_images(folder)
    assert source.left_out.counts == {
        "broken links": 1,
        "files .gif": 2,
        "files .tiff": 1,
        "files without an ending": 1,
        "files .bak": 1,
        "class folders without pictures": 1,
    }
    assert "1 class folders without pictures (such as eel)" in str(source.left_out)
    captions = captioned(tmp_path / "captions", 3)
    (captions / "07.txt").write_text("of no picture")
    assert find_images(captions).left_out.counts == {"files .txt": 1}


def test_members_of_tars_that_are_not_used_are_counted(tmp_path: Path) -> None:
    folder = tar_of(
        tmp_path / "in/a.tar",
        ("0.png", png(0)), ("0.cls", b"1"), ("0.txt", b"a caption"), ("0.json", b"{}"), (".x", b""),
        ("1.png", png(1)), ("1.cls", b"3"), ("1.json", b"{}"),
    )  # fmt: skip
    with tarfile.open(folder / "b.tar", "w") as tar:
        link = tarfile.TarInfo("2.png")
        link.type, link.linkname = tarfile.SYMTYPE, "1.png"
        tar.addfile(link)
    (folder / "a.idx").write_bytes(b"")
    source = find_images(folder)
    assert source.left_out.counts == {
        "files .idx": 1,
        "members .json": 2,
        "hidden files and folders": 1,
        "links in shards": 1,
        "captions beside a class": 1,
        "classes without pictures": 2,
    }


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ((("0.png", b"a"), ("0.cls", b"0"), ("0.png", b"b")), "a.tar, key 0: it has png twice"),
        ((("0.png", b"a"), ("0.cls", b"0"), ("1.png", b"a"), ("1.cls", b"0"), ("0.cls", b"1")), "it has cls twice"),
        ((("0.png", b"a"), ("0.PNG", b"a"), ("0.cls", b"0")), "key 0: it has png twice"),
        ((("0.png", b"a"), ("0.jpg", b"a"), ("0.cls", b"0")), "key 0: it has 2 pictures"),
        ((("0.png", b"a"), ("0.cls", b"7" * 5000)), "is no number below 1,000,000"),
        ((("0.png", b"a"), ("0.cls", b"1000000")), "is no number below 1,000,000"),
        ((("0.png", b"a"), ("0.cls", "\u0663".encode())), "is no number below 1,000,000"),
    ],
)
def test_members_that_contradict_each_other_are_refused(
    tmp_path: Path, members: tuple[tuple[str, bytes], ...], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        find_images(tar_of(tmp_path / "in/a.tar", *members))


def test_a_class_may_have_zeros_before_it(tmp_path: Path) -> None:
    folder = tar_of(tmp_path / "in/a.tar", ("0.png", png(0)), ("0.cls", b"0" * 5000 + b"1\n"))
    assert [sample.label for sample in find_images(folder).samples] == [1]


def test_tars_whose_rest_would_be_dropped_are_refused(tmp_path: Path) -> None:
    """One after another in one file, or cut between two members: `tarfile` ends there without a word."""
    sample = (("0.png", png(0)), ("0.cls", b"0"))
    folder = tar_of(tmp_path / "in/a.tar", *sample)
    (folder / "a.tar").write_bytes((folder / "a.tar").read_bytes() * 2)
    with pytest.raises(ValueError, match=r"a\.tar goes on after its end: two tars were joined"):
        find_images(folder)
    tar_of(folder / "a.tar", *sample, end=False)
    with pytest.raises(ValueError, match=r"a\.tar has no end: it was cut"):
        find_images(folder)


def test_damaged_images_are_left_out_up_to_a_limit(vae: Path, tmp_path: Path, capsys: Capture) -> None:
    """One that cannot be read, one whose caption is no text, and one without a caption, of twenty."""
    folder, out = captioned(tmp_path / "in", 20), tmp_path / "out"
    (folder / "03.png").write_bytes(png(24)[:200])
    (folder / "05.txt").write_bytes(b"\xff\xfe\xff")
    (folder / "07.txt").unlink()
    line = command(folder, vae, out)
    assert COMMAND.main(line) == 2
    assert "07.png has no caption beside it, and others have" in capsys.readouterr().err
    assert COMMAND.main([*line, "on_error=skip", "max_skipped=0.1"]) == 2
    error = capsys.readouterr().err
    assert "3 damaged images of 20 are more than max_skipped=0.1 allows" in error
    for _ in range(2):
        assert COMMAND.main([*line, "on_error=skip", "max_skipped=0.15"]) == 0
        told = last_line(capsys)
        assert told.startswith("17 images in 3 shards, with captions: ")
        assert "left out: 3 damaged images (such as" in told
    assert COMMAND.main([f"out={out}", "verify=true"]) == 0
    captions = {sample["txt"].decode() for sample in shards(out)}
    assert captions == {f"picture {number}" for number in range(20)} - {"picture 3", "picture 5", "picture 7"}
    assert read_manifest(out).images == 17


def test_a_shard_of_damaged_images_alone_is_refused(vae: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = classes(tmp_path / "in", 2)
    for file in folder.rglob("*.png"):
        file.write_bytes(b"")
    assert COMMAND.main([*command(folder, vae, tmp_path / "out"), "on_error=skip", "max_skipped=0.99"]) == 2
    assert "damaged images of 2 are more than" in capsys.readouterr().err


def test_a_disk_that_fails_is_no_damaged_image(tmp_path: Path) -> None:
    """It may pass, and nothing may be left out for it."""
    folder = classes(tmp_path / "in")
    source = find_images(folder, damages=Damages(0.5))
    (folder / source.names[0]).unlink()
    with pytest.raises(FileNotFoundError):
        source.samples[0].image.picture()


def test_names_that_are_no_text_are_encoded_and_shown(vae: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = classes(tmp_path / "in")
    os.rename(os.fsencode(folder / "cat/00.png"), os.fsencode(folder / "cat") + b"/\xff.png")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xfe.gif")).write_bytes(b"")
    assert COMMAND.main(command(folder, vae, tmp_path / "out")) == 0
    assert "1 files .gif (such as" in last_line(capsys)


def test_a_mark_of_byte_order_is_no_part_of_a_caption(tmp_path: Path) -> None:
    folder = captioned(tmp_path / "in", 1)
    (folder / "00.txt").write_bytes(b"\xef\xbb\xbfred circle\r\n")
    assert find_images(folder).condition(0) == {"txt": "red circle"}


@pytest.fixture
def encoded(vae: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """Captioned pictures in three shards, with the command that made them, and times that are not of just now."""
    folder = captioned(tmp_path / "in", 20)
    line = command(folder, vae, tmp_path / "out")
    assert COMMAND.main(line) == 0
    return folder, line


def test_a_picture_corrected_under_its_name_is_encoded_again(
    encoded: tuple[Path, list[str]], tmp_path: Path, vae: Path, capsys: Capture
) -> None:
    """Its shard alone; the result is that of a new cache. Before that, verify tells."""
    folder, line = encoded
    out = tmp_path / "out"
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    manifest = (out / "manifest.json").read_bytes()
    (folder / "04.png").write_bytes(png(200))
    capsys.readouterr()
    assert COMMAND.main([f"out={out}", "verify=true"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.endswith(": its images or captions were changed since it was made")
    assert COMMAND.main(line) == 0
    printed = capsys.readouterr().out
    changed = [path for path, then in before.items() if path.stat().st_mtime_ns != then]
    assert [path.name in told for path in changed] == [True]
    assert f"{changed[0].name} is made again: its images or captions were changed" in printed
    assert COMMAND.main([f"out={out}", "verify=true"]) == 0
    assert f"its images: {folder}, as they were encoded" in capsys.readouterr().out
    assert COMMAND.main(command(folder, vae, tmp_path / "new")) == 0
    for path in (tmp_path / "new").glob("*.tar"):
        assert path.read_bytes() == (out / path.name).read_bytes()
    assert (out / "manifest.json").read_bytes() == (tmp_path / "new/manifest.json").read_bytes() != manifest


@pytest.mark.parametrize("kept", [False, True])
def test_a_caption_corrected_under_its_name_is_encoded_again(
    encoded: tuple[Path, list[str]], tmp_path: Path, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one of the same length whose time of change is set back, as some programs do."""
    folder, line = encoded
    # As if a while had passed: changes of just now are always read.
    monkeypatch.setattr(origins, "SETTLED", -1e9)
    assert COMMAND.main(line) == 0
    file = folder / "04.txt"
    then = file.stat()
    file.write_text("PICTURE 4")
    if kept:
        os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert COMMAND.main(line) == 0
    assert "PICTURE 4" in {sample["txt"].decode() for sample in shards(tmp_path / "out")}


def test_a_killed_run_leaves_no_list_of_other_shards(
    encoded: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, line = encoded
    (folder / "04.png").write_bytes(png(200))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lina_lab.data.shards.writer.ShardWriter.write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        COMMAND.main(line)
    assert not (tmp_path / "out/manifest.json").exists()


def test_files_that_were_touched_alone_are_not_encoded_again(
    encoded: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read once; after that their times are known."""
    folder, line = encoded
    out = tmp_path / "out"
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    for file in folder.iterdir():
        file.touch()
    # As if a while had passed: changes of just now are always read.
    monkeypatch.setattr(origins, "SETTLED", -1e9)
    assert COMMAND.main(line) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.tar")} == before
    monkeypatch.setattr("lina_lab.data.shards.cache.contents_of", lambda _: pytest.fail("it is read again"))
    assert COMMAND.main(line) == 0


def test_changes_of_just_now_are_read_whatever_the_times_say(tmp_path: Path) -> None:
    """A file system may count in whole seconds, and a change within one has the same time."""
    samples = find_images(classes(tmp_path / "in")).samples
    assert origins.times_of(samples) is None
    time.sleep(origins.SETTLED + 0.1)
    assert origins.times_of(samples) is not None


def test_images_that_cannot_be_compared_are_said(
    encoded: tuple[Path, list[str]], tmp_path: Path, capsys: Capture
) -> None:
    folder, _ = encoded
    out, verify = tmp_path / "out", [f"out={tmp_path / 'out'}", "verify=true"]
    capsys.readouterr()
    (folder / "new.png").write_bytes(png(0))
    (folder / "new.txt").write_text("new")
    assert COMMAND.main(verify) == 2
    assert "holds other images than those that the shards were made of" in capsys.readouterr().err
    (folder / "new.png").unlink()
    folder.rename(tmp_path / "moved")
    assert COMMAND.main(verify) == 0
    assert "in is not there: images=FOLDER says where they are" in capsys.readouterr().out
    assert COMMAND.main([*verify, f"images={tmp_path / 'moved'}"]) == 0
    assert "moved, as they were encoded" in capsys.readouterr().out
    (out / "shard-000001.json").unlink()
    assert COMMAND.main([*verify, f"images={tmp_path / 'moved'}"]) == 2
    assert "shard-000001.tar: its summary (.json) is missing or damaged" in capsys.readouterr().err
    plan = json.loads((out / "plan.json").read_text())
    (out / "plan.json").write_text(json.dumps({name: value for name, value in plan.items() if name != "reading"}))
    assert COMMAND.main(verify) == 0
    assert "an earlier version made the shards" in capsys.readouterr().out


def test_shards_that_another_version_read_otherwise_are_not_continued(
    encoded: tuple[Path, list[str]], tmp_path: Path, capsys: Capture
) -> None:
    """Version 0.2 read turned and transparent pictures otherwise."""
    _, line = encoded
    path = tmp_path / "out/plan.json"
    plan = json.loads(path.read_text())
    for changed in ({**plan, "reading": 1}, {name: value for name, value in plan.items() if name != "reading"}):
        path.write_text(json.dumps(changed))
        assert COMMAND.main(line) == 2
        assert "reading" in capsys.readouterr().err
    path.unlink()
    path.mkdir()
    assert COMMAND.main(line) == 2
    assert "plan.json is damaged" in capsys.readouterr().err


def test_the_number_of_images_is_that_of_the_made_shards(made: Path) -> None:
    assert read_manifest(made).images == IMAGES == len(shards(made))
