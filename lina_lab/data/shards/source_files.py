"""Images to encode that are files of a folder, with captions beside them or in a folder for each class."""

from pathlib import Path

from lina_lab.data.shards.format import CAPTION
from lina_lab.data.shards.listing import (
    ARROW,
    PARQUET,
    PICTURES,
    SHARD,
    Damages,
    LeftOut,
    Listing,
    leave_out,
    printable,
)
from lina_lab.data.shards.samples import InJson, Keys, Part, Sample, Source, Stored, shuffled

JSON = ".json"


def in_folder(folder: Path, listing: Listing, keys: Keys, left_out: LeftOut, damages: Damages) -> Source:
    """The files of a folder.

    Args:
        folder: the folder.
        listing: its files.
        keys: names of what JSON files hold.
        left_out: gets what is not used.
        damages: gets images that lack a caption which others have.

    Raises:
        ValueError: there are no images, or some have captions, or a folder of their class, and others not.
    """
    files, others = listing.pictures, set(listing.others)
    if not files:
        tables = f"no tables ({PARQUET}, {ARROW})"
        raise ValueError(f"images={folder} holds no pictures ({', '.join(PICTURES)}), no shards ({SHARD}) and {tables}")
    if has_texts(listing) and keys.caption is None:
        kinds = [long for long in CAPTION if any(_caption(file, long=long) in others for file in files)]
        if kinds == [True]:
            raise ValueError(f"{files[0]} has not both captions beside it (.txt and .long.txt)")
        captions: dict[Path, dict[bool, Part]] = {
            file: {long: Stored(str(path), path) for long in kinds for path in [_caption(file, long=long)]}
            for file in files
        }
    elif has_json(listing, keys):
        kinds = list(keys.captions)
        captions = {
            file: {long: InJson(str(path), path, key=key) for long, key in keys.captions.items()}
            for file in files
            for path in [file.with_suffix(JSON)]
        }
    else:
        kinds, captions = [], {file: {} for file in files}
    for file, own in captions.items():
        if lacking := [caption.path.name for caption in own.values() if caption.path not in others]:
            name = _name(folder, file)
            damages.note(name, f"{printable(file)} has no caption beside it, and others have: {lacking[0]}")
        elif not kinds and file.parent == folder:
            damages.note(_name(folder, file), _without_condition(file, others, keys))
    files = [file for file in files if _name(folder, file) not in damages.found]
    used = {caption.path for file in files for caption in captions[file].values()}
    leave_out([file for file in listing.others if file not in used], left_out)
    classes = None if kinds else tuple(sorted({file.relative_to(folder).parts[0] for file in files}))
    for name in [] if classes is None else [each for each in listing.folders if each not in classes]:
        left_out.add("class folders without pictures", name)
    numbers = {name: number for number, name in enumerate(classes or ())}
    samples = [
        Sample(
            name=_name(folder, file),
            image=Stored(str(file), file),
            label=numbers.get(file.relative_to(folder).parts[0]),
            captions=captions[file],
        )
        for file in files
    ]
    return Source(shuffled(samples), classes, True in kinds, left_out)


def _without_condition(file: Path, others: set[Path], keys: Keys) -> str:
    """A sentence on a picture of which nothing says what is on it."""
    beside, key = file.with_suffix(JSON), keys.captions[False]
    if beside in others:
        try:
            InJson(str(beside), beside, key=key).text()
        except ValueError as error:
            return str(error)
    kinds = f"a caption beside it (.txt, or .json with the key {key}) nor a folder of its class"
    return f"{printable(file)} has neither {kinds} nor a line in metadata.jsonl or metadata.csv"


def has_texts(listing: Listing) -> bool:
    """Whether a picture has a file of text beside it."""
    others = set(listing.others)
    return any(_caption(file, long=long) in others for file in listing.pictures for long in CAPTION)


def has_json(listing: Listing, keys: Keys) -> bool:
    """Whether pictures have captions in JSON files beside them: a key is named, or the first one has the usual key.

    Raises:
        ValueError: a key is named, and there are no such files.
    """
    others = set(listing.others)
    first = next((path for file in listing.pictures if (path := file.with_suffix(JSON)) in others), None)
    if keys.caption is not None:
        if first is None:
            where = "a .json file beside it, and there is no metadata.jsonl or metadata.csv"
            raise ValueError(f"caption_key={keys.caption}: no picture of {listing.pictures[0].parent} has {where}")
        return True
    try:
        return first is not None and bool(InJson(str(first), first, key=keys.captions[False]).text())
    except ValueError:
        return False


def _name(folder: Path, file: Path) -> str:
    return str(file.relative_to(folder))


def _caption(file: Path, *, long: bool) -> Path:
    return file.with_suffix(f".{CAPTION[long]}")
