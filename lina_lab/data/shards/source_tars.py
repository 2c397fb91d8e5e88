"""Images to encode in WebDataset shards: an image with `cls`, or with `txt` and perhaps `long.txt`."""

import tarfile
from pathlib import Path

from lina_lab.data.shards.format import CAPTION, CLASS
from lina_lab.data.shards.source_files import PICTURES, Sample, Source, Stored, shuffled

MAX_CLASSES = 1_000_000


def in_tars(folder: Path, tars: list[Path]) -> Source:
    """The samples of shards.

    Raises:
        ValueError: there are no images, some have a class or a caption and others not, or a shard is damaged.
    """
    samples = [sample for tar in tars for sample in samples_in(tar, folder)]
    labelled = [sample.label is not None for sample in samples]
    if not samples:
        raise ValueError(f"images={folder} holds shards without pictures")
    if any(labelled) and not all(labelled):
        raise ValueError(f"{samples[labelled.index(False)].image.name}: it has no cls, and others have")
    if not any(labelled):
        for sample in samples:
            if False not in sample.captions:
                raise ValueError(f"{sample.image.name}: it has neither cls nor txt")
    long = [True in sample.captions for sample in samples]
    if any(long) and not all(long):
        raise ValueError(f"{samples[long.index(False)].image.name}: it has no {CAPTION[True]}, and others have")
    count = 1 + max(sample.label or 0 for sample in samples)
    classes = tuple(str(label) for label in range(count)) if all(labelled) else None
    return Source(shuffled(samples), classes, all(long) and classes is None)


def samples_in(tar: Path, folder: Path) -> list[Sample]:
    """The samples of a shard that lies in a folder.

    Raises:
        ValueError: it is no shard, or a sample has not exactly one image.
    """
    found: dict[str, dict[str, tuple[int, int]]] = {}
    labels: dict[str, bytes] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                # WebDataset: a sample's key ends at the first dot of the file's name.
                parent, slash, name = member.name.rpartition("/")
                stem, _, kind = name.partition(".")
                if not member.isfile() or not stem:
                    continue
                key = f"{parent}{slash}{stem}"
                found.setdefault(key, {})[kind.lower()] = (member.offset_data, member.size)
                if kind.lower() == CLASS:
                    file = archive.extractfile(member)
                    assert file is not None
                    labels[key] = file.read().strip()
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{tar} is no tar that can be read to its end: {error}") from error
    name = str(tar.relative_to(folder))
    return [_sample(tar, f"{name}/{key}", f"{tar}, key {key}", own, labels.get(key)) for key, own in found.items()]


def _sample(tar: Path, name: str, where: str, members: dict[str, tuple[int, int]], text: bytes | None) -> Sample:
    pictures = [kind for kind in members if f".{kind}" in PICTURES]
    if len(pictures) != 1:
        raise ValueError(f"{where}: it has {len(pictures)} pictures ({', '.join(PICTURES)}), and needs one")
    if text is not None and (not text.isdigit() or int(text) >= MAX_CLASSES):
        raise ValueError(f"{where}: class {text[:20]!r} is no number below {MAX_CLASSES:,}")
    return Sample(
        name=name,
        image=Stored(where, tar, *members[pictures[0]]),
        label=None if text is None else int(text),
        captions={
            long: Stored(f"{where}: {kind}", tar, *members[kind]) for long, kind in CAPTION.items() if kind in members
        },
    )
