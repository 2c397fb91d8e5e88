"""Images to encode in WebDataset shards: an image with `cls`, or with `txt` and perhaps `long.txt`, or with `json`."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lina_lab.data.shards.format import CAPTION, CLASS, MAX_CLASSES, class_number
from lina_lab.data.shards.listing import HIDDEN, PICTURES, Damages, LeftOut, Listing, leave_out, printable
from lina_lab.data.shards.samples import InJson, Keys, Part, Sample, Source, Stored, shuffled

JSON = "json"
"""Kind of a member that img2dataset writes."""
BLOCK = 512
"""Bytes of a block of a tar file."""


def in_tars(folder: Path, listing: Listing, keys: Keys, left_out: LeftOut, damages: Damages) -> Source:
    """The samples of shards.

    Args:
        folder: the folder of the shards.
        listing: its files.
        keys: names of what `json` holds.
        left_out: gets what is not used.
        damages: gets samples that are not whole.

    Raises:
        ValueError: there are no images, some have a class or a caption and others not, or a shard is damaged.
    """
    leave_out(listing.others, left_out)
    samples = [sample for tar in listing.tars for sample in samples_in(tar, folder, keys, left_out, damages)]
    if not samples:
        raise ValueError(f"images={folder} holds shards without pictures")
    labelled = any(sample.label is not None for sample in samples)
    long = not labelled and any(True in sample.captions for sample in samples)
    whole = []
    for sample in samples:
        lacks = _lacks(sample, labelled=labelled, long=long)
        if lacks is None:
            whole.append(sample)
        else:
            damages.note(sample.name, f"{printable(sample.image.name)}: {lacks}")
    if not labelled:
        return Source(shuffled(whole), None, long, left_out)
    for sample in whole:
        for caption in sample.captions.values():
            left_out.add("captions beside a class", caption.name)
    seen = {sample.label for sample in whole}
    classes = tuple(str(label) for label in range(1 + max(label for label in seen if label is not None)))
    for number, name in enumerate(classes):
        if number not in seen:
            left_out.add("classes without pictures", name)
    return Source(shuffled(whole), classes, long_captions=False, left_out=left_out)


def _lacks(sample: Sample, *, labelled: bool, long: bool) -> str | None:
    """What a sample lacks, as a sentence's end; None: nothing."""
    if labelled:
        return None if sample.label is not None else f"it has no {CLASS}, and others have"
    if False not in sample.captions:
        return f"it has neither {CLASS} nor {CAPTION[False]} nor {JSON}"
    return f"it has no {CAPTION[True]}, and others have" if long and True not in sample.captions else None


@dataclass
class _Found:
    """The members of one key of a tar."""

    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Kind -> offset and size."""
    twice: str | None = None
    """A kind that came a second time."""
    label: bytes | None = None
    """What the class is written as."""

    @property
    def pictures(self) -> list[str]:
        """The kinds that are pictures."""
        return [kind for kind in self.members if f".{kind}" in PICTURES]

    @property
    def problem(self) -> str | None:
        """Why this is no sample, as a sentence's end; None: it is one."""
        if self.twice is not None:
            return f"it has {self.twice} twice"
        if len(self.pictures) != 1:
            return f"it has {len(self.pictures)} pictures ({', '.join(PICTURES)}), and needs one"
        if self.label is not None and class_number(self.label, MAX_CLASSES) is None:
            return f"class {self.label[:20]!r} is no number below {MAX_CLASSES:,}"
        return None

    def captions(self, where: str, tar: Path, keys: Keys) -> tuple[set[str], dict[bool, Part]]:
        """The kinds that say what is on the picture, and its captions: in `json` where a key is named for it, or where
        nothing else says it."""
        kinds = {long: kind for long, kind in CAPTION.items() if kind in self.members}
        if JSON in self.members and (keys.caption is not None or (not kinds and CLASS not in self.members)):
            place = (f"{where}: {JSON}", tar, *self.members[JSON])
            return {JSON}, {long: InJson(*place, key=key) for long, key in keys.captions.items()}
        own = {long: Stored(f"{where}: {kind}", tar, *self.members[kind]) for long, kind in kinds.items()}
        return {CLASS, *kinds.values()}, dict[bool, Part](own)


def samples_in(tar: Path, folder: Path, keys: Keys, left_out: LeftOut, damages: Damages) -> Iterator[Sample]:
    """The samples of a shard that lies in a folder.

    Args:
        tar: the shard.
        folder: the folder.
        keys: names of what `json` holds.
        left_out: gets members that are not used.
        damages: gets samples that have not exactly one image, or a class that is none.

    Raises:
        ValueError: it is no shard, or is not whole.
    """
    prefix = str(tar.relative_to(folder))
    for key, found in _members(tar, left_out).items():
        where, name = f"{tar}, key {key}", f"{prefix}/{key}"
        if found.problem is not None:
            damages.note(name, f"{printable(where)}: {found.problem}")
            continue
        (picture,) = found.pictures
        used, captions = found.captions(where, tar, keys)
        for kind in found.members.keys() - {picture, *used}:
            left_out.add(f"members .{kind}", f"{where}: {kind}")
        yield Sample(
            name=name,
            image=Stored(where, tar, *found.members[picture]),
            label=class_number(found.label, MAX_CLASSES) if CLASS in used and found.label is not None else None,
            captions=captions,
        )


def _members(tar: Path, left_out: LeftOut) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                # WebDataset: a sample's key ends at the first dot of the file's name.
                parent, slash, name = member.name.rpartition("/")
                stem, _, kind = name.partition(".")
                if not member.isdir() and (not stem or not member.isfile()):
                    left_out.add("links in shards" if stem else HIDDEN, f"{tar}/{member.name}")
                if not member.isfile() or not stem:
                    continue
                own = found.setdefault(f"{parent}{slash}{stem}", _Found())
                kind = kind.lower()
                own.twice = kind if kind in own.members else own.twice
                own.members[kind] = (member.offset_data, member.size)
                if kind == CLASS:
                    file = archive.extractfile(member)
                    assert file is not None
                    own.label = file.read().strip()
            _check_end(tar, archive.offset)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{tar} is no tar that can be read to its end: {error}") from error
    return found


def _check_end(tar: Path, offset: int) -> None:
    """Compare the place where reading a tar ended with the end of its file.

    Raises:
        ValueError: the tar was cut between two members, or more follows: `tarfile` ends without a word in both cases.
    """
    with tar.open("rb") as file:
        file.seek(offset)
        rest = file.read(2 * BLOCK)
        if len(rest) < BLOCK:
            raise ValueError(f"{tar} has no end: it was cut")
        while rest:
            if rest.strip(b"\0"):
                raise ValueError(f"{tar} goes on after its end: two tars were joined, or it is damaged")
            rest = file.read(1 << 20)
