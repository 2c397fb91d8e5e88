"""Files that are written whole or not at all."""

import os
from pathlib import Path

import pytest

from lina_lab.util.files import BLOCK, append_lines, atomic, sha256, write_atomically


class FullError(OSError):
    """A disk that is full."""


def fail_halfway(path: Path, error: type[BaseException]) -> None:
    with atomic(path) as draft:
        draft.write_bytes(b"half of")
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic(path) as draft:
        draft.write_bytes(b"new, and half")
        assert path.read_bytes() == b"old"
        draft.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("before", [None, b"old"])
@pytest.mark.parametrize("error", [FullError, KeyboardInterrupt, SystemExit])
def test_a_failure_in_the_middle_leaves_the_old_file_and_no_half_one(
    tmp_path: Path, before: bytes | None, error: type[BaseException]
) -> None:
    path = tmp_path / "a.bin"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(error):
        fail_halfway(path, error)
    assert (path.read_bytes() if path.exists() else None) == before
    assert names(tmp_path) == ([] if before is None else ["a.bin"])


def test_a_file_that_cannot_be_synchronized_does_not_get_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise FullError

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FullError):
        write_atomically(tmp_path / "a.txt", "new")
    assert names(tmp_path) == []
    write_atomically(tmp_path / "a.txt", "new", durable=False)
    assert names(tmp_path) == ["a.txt"]


def test_what_an_earlier_process_left_half_written_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.txt.draft").write_text("half of something much longer")
    write_atomically(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a.txt"):
        pass


def test_hashes_are_those_of_the_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (b"", b""),
        (b"whole\n", b"whole\n"),
        (b"whole\ncut", b"whole\n"),
        (b"cut", b""),
        (b"whole\n" + b"c" * (2 * BLOCK + 1), b"whole\n"),
        (b"w" * (BLOCK - 1) + b"\n" + b"c" * BLOCK, b"w" * (BLOCK - 1) + b"\n"),
    ],
)
@pytest.mark.parametrize("durable", [True, False])
def test_lines_are_appended_to_whole_ones(tmp_path: Path, before: bytes, kept: bytes, durable: bool) -> None:
    path = tmp_path / "lines"
    path.write_bytes(before)
    append_lines(path, "a\nb\n", durable=durable)
    assert path.read_bytes() == kept + b"a\nb\n"
