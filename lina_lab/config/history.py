"""Fields that earlier versions did not have, or had under another name.

Stores of earlier versions are read with today's names, and with the added fields at their recorded defaults. A trial's
hash is made of the names that its fields were first recorded under, without added fields at their recorded defaults,
and without where things are and how fast they are read. So neither a renamed nor an added field, nor a data set that
moved, loses a store or turns a finished cell into a new one.
"""

import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, TypeVar

from lina_lab.config.checkpoint import CheckpointConfig
from lina_lab.config.checks import from_dict, to_dict

T = TypeVar("T")

RENAMED = {
    "model.checkpoint": "model.gradient_checkpointing",
    "model.noise_draws": "model.noise_samples_per_token",
    "model.condition_drop": "model.condition_dropout",
    "sampling.steps": "sampling.ar_steps",
    "sampling.flow_steps": "sampling.ode_steps",
    "sampling.guidance": "sampling.guidance_scale",
    "sampling.min_guidance": "sampling.guidance_scale_start",
    "study.resources.accumulate": "study.resources.accumulate_grad_batches",
}
"""Dotted name up to version 0.1 -> today's. Only the last part of a name changes."""
REMOVED = dict.fromkeys(
    ("study.held_equal", "study.controlled"), "delete it: `lina plan` and reports list what is equal for all cells"
)
"""Dotted name of a study's field that this version lacks -> what to do. Stores that hold it are read without it."""
FIRST: dict[str, str] = {
    "": "model data optimizer ema trainer sampling seed",
    "model": "latent_channels latent_size patch_size dim num_heads condition_depth depth flow_depth flow_dim "
    "num_classes text_dim text_length attention encoder_attention condition_attention position condition_dropout "
    "noise_samples_per_token compile gradient_checkpointing",
    **dict.fromkeys(
        ("model.attention", "model.encoder_attention", "model.condition_attention"),
        "kind normalization feature_map conv conv_kernel gate mediators",
    ),
    "data": "name path flip encoder long_captions on_error max_skipped workers batch_size val_images val_batch_size",
    "optimizer": "lr warmup_images betas weight_decay",
    "ema": "decay every_n_steps",
    "trainer": "max_images val_every_images log_every_n_steps precision divergence_factor divergence_steps",
    "sampling": "images_per_class ar_steps ode_steps guidance_scale guidance_scale_start quality_images "
    "quality_features quality_reference inception vae caption_images quality_every_images",
}
"""Section of a trial -> the fields that version 0.1 had, under today's names. Their values are always in the hash; any
other field, of this version or of somebody's own, is only where it differs from its default."""
RECORDED = {new: old for old, new in RENAMED.items()}
ADDED: dict[str, Any] = {
    "model.parametrization": "standard",
    "model.base_dim": None,
    "optimizer.name": "adamw",
    "optimizer.options": {},
    "optimizer.schedule": "constant",
    "optimizer.cooldown": None,
    "optimizer.final_rate": 0.0,
    "optimizer.clip_norm": None,
    "sampling.metrics": [],
    "trainer.callbacks": [],
    "trainer.loggers": [],
    "trainer.rng_version": 1,
    "trainer.system_metrics_seconds": None,
}
"""Dotted name of a field of a trial that version 0.1 did not have -> the value that stands for its absence, as plain
data. It stays as it is when the field's default changes. For a field that is not listed it is the default."""
STAND_INS: dict[str, Any] = {"data.path": None, "data.workers": 0, "trainer.log_every_n_steps": 1}
"""Field that says where data are and how fast they are read or reported -> what is hashed in place of its value."""
FILES = ("data.path", "data.encoder", "sampling.vae", "sampling.quality_reference", "sampling.inception")
"""Fields that name files or folders; some may also name a model of the hub. A begun study compares what is there
(`study.contents`), not the name."""
NEVER: dict[str, Any] = {
    "start.source": None,
    "trainer.loggers": [],
    "trainer.system_metrics_seconds": None,
    **{f"checkpoint.{name}": value for name, value in to_dict(CheckpointConfig()).items()},
}
"""Field that is never hashed -> what is hashed in its place: another field stands for what it names, or it decides no
number."""
PLACES = tuple(dict.fromkeys([*STAND_INS, *FILES]))
"""Fields whose value may change while a study goes on. Its cells keep the hash that they were begun with."""


def current_name(field: str) -> str:
    """Today's dotted name of a field."""
    return RENAMED.get(field, field)


def current_names(data: Mapping[str, Any], *, within: str = "") -> dict[str, Any]:
    """Stored nested data as this version writes it: with today's names, and with the fields that were added since.

    Args:
        data: a trial, or a section of one or of a study.
        within: the section's dotted name.
    """
    prefix = f"{within}." if within else ""
    kept = {name: value for name, value in data.items() if f"{prefix}{name}" not in REMOVED}
    found: dict[str, Any] = _renamed(kept, RENAMED, within)
    for field, default in ADDED.items():
        if field.startswith(prefix):
            _add_where_missing(found, field.removeprefix(prefix).split("."), default)
    return found


def recorded(data: Mapping[str, Any], added: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A trial's nested data as version 0.1 would have recorded it: its names, and no added field at its default.

    Args:
        data: the trial.
        added: field that version 0.1 lacked -> the value that stands for its absence.
    """
    plain: dict[str, Any] = _renamed(data, RECORDED, left_out=ADDED if added is None else added)
    return plain


def without_defaults(data: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's nested data, stored or present, without the added fields at their defaults, to be compared."""
    plain: dict[str, Any] = _renamed(data, {}, left_out=added)
    return plain


def added_fields(cls: Any) -> dict[str, Any]:
    """Every field of a trial that version 0.1 lacked -> the plain value that stands for its absence.

    Args:
        cls: the trial's dataclass.
    """
    return {**dict(_added_in(cls, "")), **ADDED}


def _added_in(cls: Any, section: str) -> Iterator[tuple[str, Any]]:
    kinds = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = f"{section}.{field.name}" if section else field.name
        inner = _dataclass_within(kinds[field.name])
        if field.name in FIRST.get(section, "").split():
            if inner is not None:
                yield from _added_in(inner, name)
        elif inner is kinds[field.name]:
            # Left out without its fields at their defaults, and without what is added to it later.
            yield name, {}
            yield from _added_in(inner, name)
        elif field.default_factory is not dataclasses.MISSING:
            yield name, _plain(field.default_factory())
        elif field.default is not dataclasses.MISSING:
            yield name, _plain(field.default)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value))  # type: ignore[arg-type]


def _dataclass_within(kind: Any) -> Any:
    """The dataclass that a field holds, or holds a list of; None: it holds none."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return kind
    return next((found for part in typing.get_args(kind) if (found := _dataclass_within(part)) is not None), None)


def placed(data: Mapping[str, Any], places: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's nested data with other values of `PLACES`: those given, otherwise the stand-ins."""
    changed: dict[str, Any] = {
        name: dict(value) if isinstance(value, Mapping) else value for name, value in data.items()
    }
    for field, value in {**STAND_INS, **places, **NEVER}.items():
        section, _, name = field.partition(".")
        # A stored trial of an earlier version lacks the sections that were added since.
        if section in changed:
            changed[section][name] = value
    return changed


def from_stored(cls: type[T], data: Mapping[str, Any], *, within: str = "") -> T:
    """Make the dataclass `cls` from data that this version or an earlier one stored.

    Raises:
        ValueError: see `from_dict`.
    """
    return from_dict(cls, current_names(data, within=within), within=within)


def study_from_stored(cls: type[T], data: Mapping[str, Any]) -> T:
    """As `from_stored`, of a study's definition, whose axes and exclusions hold names of fields.

    Raises:
        ValueError: see `from_dict`.
    """
    axes = {axis: {current_name(f): v for f, v in fields.items()} for axis, fields in data["axes"].items()}
    exclude = [{current_name(f): v for f, v in rule.items()} for rule in data.get("exclude", [])]
    return from_stored(cls, {**data, "axes": axes, "exclude": exclude}, within="study")


def _renamed(value: Any, names: Mapping[str, str], within: str = "", left_out: Mapping[str, Any] | None = None) -> Any:
    """Nested data with other names, without the fields in `left_out` that have the value there; tuples become lists."""
    if isinstance(value, list | tuple):  # also of sections, such as a pattern of attentions
        return [_renamed(part, names, within, left_out) for part in value]
    if not isinstance(value, Mapping):
        return value
    found = {}
    for name, old in value.items():
        dotted = f"{within}.{name}" if within else name
        new = _renamed(old, names, dotted, left_out)
        if left_out is None or dotted not in left_out or new != left_out[dotted]:
            found[names[dotted].rpartition(".")[2] if dotted in names else name] = new
    return found


def _add_where_missing(node: Any, path: list[str], value: Any) -> None:
    """Give a section, or each of a list of sections, a field that it lacks; absent sections stay absent."""
    for section in node if isinstance(node, list) else [node]:
        if isinstance(section, dict) and len(path) == 1:
            section.setdefault(path[0], deepcopy(value))
        elif isinstance(section, dict):
            _add_where_missing(section.get(path[0]), path[1:], value)
