"""Images to encode whose captions or classes are columns of a table: which columns count, and what they hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lina_lab.data.shards.format import MAX_CLASSES
from lina_lab.data.shards.listing import Damages, LeftOut
from lina_lab.data.shards.samples import CAPTION_KEY, Keys, Part, Sample, Source, Written, shuffled

CAPTIONS, LABEL = (CAPTION_KEY, "text"), "label"
"""Columns that count where the user names none."""


@dataclass(frozen=True)
class Columns:
    """The columns of captions, or of a class."""

    captions: Mapping[bool, str]
    """Column of the short (False) and the long (True) caption; empty where there are classes."""
    label: str | None = None


@dataclass(frozen=True)
class Record:
    """A row with a picture."""

    name: str
    """The picture's name in the folder of the images."""
    where: str
    """The row's name in messages."""
    image: Part
    path: Path
    """The table's file."""
    values: Mapping[str, Any]
    """Column -> value, for the columns that are used."""


def choose(columns: Sequence[str], keys: Keys, where: str) -> Columns:
    """The columns that count.

    Args:
        columns: all columns of the table.
        keys: those that the user names.
        where: the table's name in messages.

    Raises:
        ValueError: the user names one that is not there, or it is not clear which one is meant.
    """
    for field, key in (
        ("caption_key", keys.caption),
        ("long_caption_key", keys.long_caption),
        ("label_key", keys.label),
    ):
        if key is not None and key not in columns:
            raise ValueError(f"{where} has no column {key} for {field}: its columns are {', '.join(columns)}")
    caption = keys.caption or next((name for name in CAPTIONS if name in columns), None)
    label = keys.label or (LABEL if LABEL in columns else None)
    if keys.caption is not None and keys.label is not None:
        raise ValueError(f"caption_key={keys.caption} and label_key={keys.label}: an image has captions or a class")
    if caption is not None and label is not None and keys.caption is None and keys.label is None:
        which = f"captions ({caption}) and classes ({label}): caption_key={caption} or label_key={label} says which"
        raise ValueError(f"{where} has {which} to use")
    if label is not None and keys.caption is None:
        return Columns({}, label)
    if caption is None:
        usual = f"{', '.join(CAPTIONS)} or {LABEL}: caption_key=COLUMN or label_key=COLUMN names one"
        raise ValueError(f"{where} has the columns {', '.join(columns)}, and none is called {usual}")
    return Columns({False: caption} | ({True: keys.long_caption} if keys.long_caption else {}))


def source_of(
    records: Sequence[Record],
    columns: Columns,
    left_out: LeftOut,
    damages: Damages,
    classes: Sequence[str] | None = None,
) -> Source:
    """The images of a table.

    Args:
        records: its rows.
        columns: those that count.
        left_out: gets classes without pictures.
        damages: gets rows that lack a caption or a class.
        classes: names of the classes, where numbers stand for them.

    Raises:
        ValueError: a row lacks something, and `damages` allows none.
    """
    whole = []
    for record in records:
        problem = _problem(record.values, columns, classes)
        if problem is None:
            whole.append(record)
        else:
            damages.note(record.name, f"{record.where}: {problem}")
    if columns.label is None:
        samples = [
            Sample(
                name=record.name,
                image=record.image,
                label=None,
                captions={
                    long: Written(f"{record.where}: {key}", record.path, record.values[key].strip())
                    for long, key in columns.captions.items()
                },
            )
            for record in whole
        ]
        return Source(shuffled(samples), None, True in columns.captions, left_out)
    labels = [record.values[columns.label] for record in whole]
    names = list(classes) if classes is not None else _names(labels)
    numbers = {name: number for number, name in enumerate(names)}
    as_numbers = classes is not None or all(isinstance(label, int) for label in labels)
    samples = [
        Sample(
            name=record.name,
            image=record.image,
            label=label if as_numbers and isinstance(label, int) else numbers[str(label)],
            captions={},
        )
        for record, label in zip(whole, labels, strict=True)
    ]
    seen = {sample.label for sample in samples}
    for number, name in enumerate(names):
        if number not in seen:
            left_out.add("classes without pictures", name)
    return Source(shuffled(samples), tuple(names), long_captions=False, left_out=left_out)


def _names(labels: Sequence[int | str]) -> list[str]:
    """Names of the classes where the table does not hold them: all numbers up to the largest, or all texts."""
    if labels and all(isinstance(label, int) for label in labels):
        return [str(number) for number in range(1 + max(int(label) for label in labels))]
    return sorted({str(label) for label in labels})


def _problem(values: Mapping[str, Any], columns: Columns, classes: Sequence[str] | None) -> str | None:
    """What a row lacks, as a sentence's end; None: nothing."""
    for key in columns.captions.values():
        value = values.get(key)
        if value is None:
            return f"it has no {key}"
        if not isinstance(value, str):
            return f"its {key} is {value!r:.40}, and no text"
    if columns.label is None:
        return None
    label = values.get(columns.label)
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
        return f"its {columns.label} is {label!r:.40}, and no class"
    if isinstance(label, str):
        known = classes is None or label in classes
    else:
        known = 0 <= label < (MAX_CLASSES if classes is None else len(classes))
    return None if known else f"its {columns.label} is {label!r:.40}, which is no class"
