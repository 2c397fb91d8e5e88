"""Pictures are cached in the forms that people have them in, with the captions and classes that come with them."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lina_lab.commands.cache import COMMAND
from lina_lab.data.shards import source_tables
from lina_lab.data.shards.format import read_manifest
from lina_lab.data.shards.listing import Damages
from lina_lab.data.shards.samples import Keys, Source
from lina_lab.data.shards.sources import find_images, load_image
from tests.data.shard_tools import as_webdataset_reads
from tests.data.test_sources import png, tar_of

Capture = pytest.CaptureFixture[str]
CAPTIONS = {number: f"picture\u2028number {number}" for number in range(6)}
"""U+2028 ends a line for Python's `splitlines`, and not for JSON."""


def json_files(folder: Path, key: str = "caption") -> Path:
    folder.mkdir()
    for number, caption in CAPTIONS.items():
        (folder / f"{number}.png").write_bytes(png(number * 8))
        mark = "\ufeff" if number % 2 else ""
        (folder / f"{number}.json").write_text(mark + json.dumps({key: caption, "status": "success"}), "utf-8")
    return folder


def json_members(folder: Path) -> Path:
    members = []
    for number, caption in CAPTIONS.items():
        members += [(f"{number}.png", png(number * 8)), (f"{number}.json", json.dumps({"caption": caption}).encode())]
    return tar_of(folder / "00000.tar", *members)


def metadata_lines(folder: Path) -> Path:
    (folder / "train").mkdir(parents=True)
    lines = []
    for number, caption in CAPTIONS.items():
        (folder / f"train/{number}.png").write_bytes(png(number * 8))
        lines.append(json.dumps({"file_name": f"train/{number}.png", "text": caption}, ensure_ascii=False))
    # A mark of the byte order, an empty line within, and one at the end.
    text = "\ufeff" + "\n".join([*lines[:2], "", *lines[2:]]) + "\n\n"
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


def metadata_table(folder: Path) -> Path:
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8-sig") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "caption"])
        for number, caption in CAPTIONS.items():
            (folder / f"{number}.png").write_bytes(png(number * 8))
            rows.writerow([f"{number}.png", caption])
    return folder


def rows(labels: bool = False) -> pa.Table:
    images = [{"bytes": png(number * 8), "path": f"{number}.png"} for number in CAPTIONS]
    columns = {"image": images, "caption": list(CAPTIONS.values())}
    if labels:
        columns = {"image": images, "label": [number % 2 for number in CAPTIONS]}
    return pa.table(columns)


def parquet(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    pq.write_table(rows(), folder / "data/train-00000-of-00001.parquet", row_group_size=2)
    return folder


def saved_to_disk(folder: Path) -> Path:
    """As `Dataset.save_to_disk` of datasets 4 writes it: Arrow's stream format, and two files of JSON."""
    folder.mkdir()
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", rows().schema) as file:
        file.write_table(rows(), max_chunksize=4)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    (folder / "dataset_info.json").write_text("{}")
    return folder


def feather(folder: Path) -> Path:
    folder.mkdir()
    with pa.ipc.new_file(folder / "data.arrow", rows().schema) as file:
        file.write_table(rows())
    return folder


FORMS = [json_files, json_members, metadata_lines, metadata_table, parquet, saved_to_disk, feather]


def contents(source: Source) -> dict[str, int]:
    """Caption -> the grey level that belongs to it."""
    return {
        source.condition(i)["txt"]: int(np.asarray(source.samples[i].image.picture()).min())
        for i in range(len(source.samples))
    }


@pytest.mark.parametrize("form", FORMS)
def test_captions_come_with_their_pictures_in_every_form(form: Callable[[Path], Path], tmp_path: Path) -> None:
    source = find_images(form(tmp_path / "in"))
    assert (source.classes, source.images, source.long_captions) == (None, 6, False)
    levels = {caption: int(np.asarray(Image.open(io.BytesIO(png(n * 8)))).min()) for n, caption in CAPTIONS.items()}
    assert contents(source) == levels


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_cached_and_verified(form: Callable[[Path], Path], tmp_path: Path, capsys: Capture) -> None:
    folder, out = form(tmp_path / "in"), tmp_path / "out"
    assert COMMAND.main([f"images={folder}", f"out={out}", "resolution=8", "images_per_shard=4"]) == 0
    assert COMMAND.main([f"out={out}", "verify=true"]) == 0
    assert "as they were encoded" in capsys.readouterr().out
    samples = [sample for tar in sorted(out.glob("*.tar")) for sample in as_webdataset_reads(tar)]
    assert sorted(sample["txt"].decode() for sample in samples) == sorted(CAPTIONS.values())


def test_a_key_of_choice_holds_the_captions(tmp_path: Path, capsys: Capture) -> None:
    folder, out = json_files(tmp_path / "in", key="blip"), tmp_path / "out"
    line = [f"images={folder}", f"out={out}", "resolution=8"]
    assert COMMAND.main(line) == 2
    sentence = "0.json has no caption: caption_key=KEY names one of its keys (blip, status)"
    assert sentence in capsys.readouterr().err
    assert COMMAND.main([*line, "caption_key=blip"]) == 0
    assert COMMAND.main([f"out={out}", "verify=true"]) == 0
    # Named, it goes before text beside the picture.
    (folder / "0.txt").write_text("an alt text")
    assert set(contents(find_images(folder, keys=Keys(caption="blip")))) == set(CAPTIONS.values())
    with pytest.raises(ValueError, match=r"has no caption beside it, and others have: 1\.txt"):
        find_images(folder)


def test_long_captions_have_a_key_of_their_own(tmp_path: Path) -> None:
    folder = json_files(tmp_path / "in")
    for path in folder.glob("*.json"):
        path.write_text(json.dumps({"caption": "short", "recaption": "much longer"}))
    source = find_images(folder, keys=Keys(long_caption="recaption"))
    assert source.long_captions
    assert source.condition(0) == {"txt": "short", "long.txt": "much longer"}


def test_json_beside_pictures_of_classes_is_no_caption_without_the_key(tmp_path: Path) -> None:
    for number in range(4):
        own = tmp_path / ("cat", "dog")[number % 2]
        own.mkdir(exist_ok=True)
        (own / f"{number}.png").write_bytes(png(number))
        (own / f"{number}.json").write_text('{"boxes": []}')
    source = find_images(tmp_path)
    assert (source.classes, source.left_out.counts) == (("cat", "dog"), {"files .json": 4})


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "3.json").unlink(), "3.png has no caption beside it, and others have: 3.json"),
        (lambda folder: (folder / "3.json").write_text('{"caption": null}'), "3.json: its caption is no text"),
        (lambda folder: (folder / "3.json").write_text('{"caption": "a'), "3.json is not JSON"),
        (lambda folder: (folder / "3.png").write_bytes(png(24)[:200]), "3.png is no picture that can be read"),
        (lambda folder: (folder / "3.png").write_bytes(b""), "3.png is no picture that can be read: it is empty"),
    ],
)
def test_damage_in_a_large_set_is_named_or_left_out_and_counted(
    damage: Callable[[Path], None], sentence: str, tmp_path: Path, capsys: Capture
) -> None:
    folder, out = json_files(tmp_path / "in"), tmp_path / "out"
    damage(folder)
    line = [f"images={folder}", f"out={out}", "resolution=8"]
    assert COMMAND.main(line) == 2
    assert sentence in capsys.readouterr().err
    assert COMMAND.main([*line, "on_error=skip", "max_skipped=0.1"]) == 2
    assert "1 damaged images of 6 are more than max_skipped=0.1 allows" in capsys.readouterr().err
    assert COMMAND.main([*line, "on_error=skip", "max_skipped=0.2"]) == 0
    assert "1 damaged images (such as" in capsys.readouterr().out
    assert read_manifest(out).images == 5


def test_rows_and_pictures_without_each_other_are_named(tmp_path: Path) -> None:
    folder = metadata_lines(tmp_path / "in")
    (folder / "train/9.png").write_bytes(png(9))
    with pytest.raises(ValueError, match=r"9.png is named in no metadata.jsonl or metadata.csv, and others are"):
        find_images(folder)
    (folder / "train/9.png").unlink()
    (folder / "train/5.png").unlink()
    with pytest.raises(ValueError, match=r"metadata.jsonl, line 7 names train/5.png, and no such picture is there"):
        find_images(folder)
    damages = Damages(limit=0.5)
    assert find_images(folder, damages=damages).images == 6
    assert len(damages.found) == 1
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "train/0.png", "text": "again"}\n')
    with pytest.raises(ValueError, match=r"line 9 names train/0.png, as .*line 1 does"):
        find_images(folder, damages=Damages(limit=0.5))


def test_classes_of_a_table_have_their_names(tmp_path: Path) -> None:
    """From the features that `datasets` keeps with the schema; of a table without them the numbers are the names."""
    features = {"info": {"features": {"label": {"names": ["cat", "dog", "eel"], "_type": "ClassLabel"}}}}
    for name, metadata in (("named", {"huggingface": json.dumps(features)}), ("plain", None)):
        (tmp_path / name).mkdir()
        pq.write_table(rows(labels=True).replace_schema_metadata(metadata), tmp_path / name / "a.parquet")
    named, plain = find_images(tmp_path / "named"), find_images(tmp_path / "plain")
    assert (named.classes, plain.classes) == (("cat", "dog", "eel"), ("0", "1"))
    assert named.left_out.counts == {"classes without pictures": 1}
    assert [s.label for s in named.samples] == [int(s.name.rpartition("/")[2]) % 2 for s in named.samples]


def test_classes_in_words_are_numbered_in_their_order(tmp_path: Path) -> None:
    folder = metadata_table(tmp_path / "in")
    names = ["file_name,kind", *(f"{n}.png,{('dog', 'cat')[n % 2]}" for n in CAPTIONS)]
    (folder / "metadata.csv").write_text("\n".join(names) + "\n")
    source = find_images(folder, keys=Keys(label="kind"))
    assert source.classes == ("cat", "dog")
    assert {s.name: s.label for s in source.samples} == {f"{n}.png": (1, 0)[n % 2] for n in CAPTIONS}


def test_what_a_table_leaves_open_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "in/train.parquet"
    path.parent.mkdir()

    def asked(table: pa.Table, **keys: str) -> str:
        pq.write_table(table, path)
        with pytest.raises(ValueError, match=r"train\.parquet") as found:
            find_images(path.parent, keys=Keys(**keys))
        return str(found.value)

    both = rows().append_column("label", pa.array([0] * 6))
    assert "captions (caption) and classes (label): caption_key=caption or label_key=label says which" in asked(both)
    pq.write_table(both, path)
    assert find_images(path.parent, keys=Keys(label="label")).classes == ("0",)
    neither = rows().rename_columns(["image", "words"])
    assert "none is called caption, text or label: caption_key=COLUMN or label_key=COLUMN names one" in asked(neither)
    assert "has no column blip for caption_key: its columns are words" in asked(neither, caption="blip")
    twice = rows().append_column("mask", rows()["image"])
    assert "several columns of pictures: image_key=COLUMN names it (image, mask)" in asked(twice)
    null = pa.table({"image": rows()["image"], "caption": pa.array(["a", None, "c", "d", "e", "f"])})
    assert asked(null).endswith("train.parquet, row 1: it has no caption")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="is no table that can be read"):
        find_images(path.parent)


def test_parts_of_a_data_set_are_not_mixed(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "in")
    pq.write_table(rows()[:2], folder / "data/test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="holds the parts test, train of a data set: split=test names one"):
        find_images(folder)
    assert find_images(folder, keys=Keys(split="train")).images == 6
    with pytest.raises(ValueError, match="split=dev is not there"):
        find_images(folder, keys=Keys(split="dev"))


def test_a_row_group_of_parquet_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are shuffled within windows of groups, which are kept until the next one is read."""
    table = pa.table({"image": [png(n) for n in range(40)], "caption": [str(n) for n in range(40)]})
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in/a.parquet", row_group_size=4)
    sizes = pq.ParquetFile(tmp_path / "in/a.parquet").metadata
    monkeypatch.setattr(source_tables, "WINDOW", 2.5 * sizes.row_group(0).total_byte_size)
    source, read = find_images(tmp_path / "in"), list[int]()
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, group, **kw: read.append(group) or original(self, group, **kw)
    )
    monkeypatch.setattr(source_tables, "_RECENT", source_tables._Recent())
    captions = [source.condition(i)["txt"] for i in range(40) if load_image(source, i, 8) is not None]
    assert sorted(map(int, captions)) == list(range(40))
    assert sorted(read) == list(range(10))
    windows = [{int(c) // 4 for c in captions[start : start + 8]} for start in range(0, 40, 8)]
    assert [len(each) for each in windows] == [2] * 5
    assert captions[:8] != sorted(captions[:8], key=int)


def test_other_files_beside_shards_stay_left_out(tmp_path: Path) -> None:
    """img2dataset writes a table without pictures beside each tar."""
    folder = json_members(tmp_path / "in")
    pq.write_table(pa.table({"url": ["a"]}), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text("{}")
    assert find_images(folder).left_out.counts == {"files .parquet": 1, "files .json": 1}
    with tarfile.open(folder / "00000.tar") as tar:
        assert len(tar.getnames()) == 12
    with pytest.raises(ValueError, match="split=train is for tables without pictures beside them"):
        find_images(folder, keys=Keys(split="train"))
