"""Words that users of Lightning, Hydra and Optuna try first, and ours for them."""

import difflib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lina_lab.config.fields import TRIAL, field_type, placed, takes_list, takes_text
from lina_lab.config.history import REMOVED, RENAMED
from lina_lab.config.options import FILES, Options, studies_of_before
from lina_lab.util.errors import ConfigError

AXES = "study.axes"
RESOURCES = "study.resources"
NO_SWEEPER = "a study lists its own cells: make an axis with study.axes.NAME={FIELD:[A,B]}"
NO_CODE = "a configuration names no code: variants, data sets, optimizers and metrics are chosen by name"

FOREIGN = {
    "trainer.max_epochs": "write trainer.max_images=N: a budget counts images",
    "trainer.max_steps": "write trainer.max_images=N: a budget counts images, N = steps x data.batch_size",
    "trainer.min_epochs": "write trainer.max_images=N: a budget counts images",
    "trainer.devices": f"write {RESOURCES}.devices=N",
    "trainer.accelerator": f"write {RESOURCES}.accelerator=NAME",
    "trainer.strategy": f"write {RESOURCES}.strategy=NAME",
    "trainer.num_nodes": f"write {RESOURCES}.nodes=N",
    "trainer.accumulate_grad_batches": f"write {RESOURCES}.accumulate_grad_batches=N",
    "trainer.max_time": f"write {RESOURCES}.max_minutes=N",
    "trainer.check_val_every_n_epoch": "write trainer.val_every_images=N",
    "trainer.val_check_interval": "write trainer.val_every_images=N",
    "experiment": "write study=NAME",
    "experiment_name": "write study.name=NAME",
    "run_name": "a cell is named by its configuration; study.name=NAME names the study",
    "task_name": "write study.name=NAME",
    "datamodule": "write data=NAME",
    "trainer.gradient_clip_val": "write optimizer.clip_norm=X",
    "trainer.gradient_clip_algorithm": "write optimizer.clip_norm=X: gradients are clipped by their norm",
    "trainer.fast_dev_run": "write trainer.max_images=N paths.runs=FOLDER for a short trial in a folder of its own",
    "callbacks": "set checkpoint, ema, trainer and sampling, built in; a package's own is trainer.callbacks=[NAME]",
    "logger": "every cell is logged to MLflow (paths.tracking_uri=URI); others are trainer.loggers=[tensorboard,wandb]",
    "lr_scheduler": "write optimizer.schedule=NAME",
    "scheduler": "write optimizer.schedule=NAME",
    "model.init": "write start.source=SOURCE: a cell, a checkpoint, or a folder of weights",
    "model.pretrained": "write start.source=SOURCE: a cell, a checkpoint, or a folder of weights",
    "ema_decay": "write ema.decay=X",
    "data.num_workers": "write data.workers=N",
    "ckpt_path": "the same command resumes every cell from its last checkpoint",
    "optimized_metric": "write study.objectives=[{metric:NAME}]",
    "n_trials": NO_SWEEPER,
    "n_jobs": "write workers=N",
    "pruner": "cells are given up early by study.pruning={rule:NAME}",
    "sampler": "a field is tuned by study.tune={FIELD:[A,B,C]}, and its sampler is study.tuning.sampler",
    "hydra.sweeper": NO_SWEEPER,
    "hydra.mode": NO_SWEEPER,
    "hydra.searchpath": "write --config-dir FOLDER",
    "hydra.launcher": "write launcher=local, launcher=torchrun or launcher=slurm",
}
"""Dotted name elsewhere, also of a config group -> what to do here."""


def check_word(name: str) -> None:
    """Refuse a name of another project or of an earlier version, with ours.

    Args:
        name: dotted name of a field, or a config group.

    Raises:
        ConfigError: it is one of those names.
    """
    if name in RENAMED:
        raise ConfigError(f"{name} is called {RENAMED[name]} in this version: write {RENAMED[name]}")
    if name in REMOVED:
        raise ConfigError(f"{name} is not a field of this version: {REMOVED[name]}")
    if name.rpartition(".")[2] in ("_target_", "_partial_"):
        raise ConfigError(f"{name} is not a field: {NO_CODE}")
    dotted = f"{name.replace('/', '.')}."
    for foreign, ours in FOREIGN.items():
        if dotted.startswith(f"{foreign}."):
            raise ConfigError(f"{name} is not a field: {ours}")
    if dotted.startswith(("hydra.run.", "hydra.sweep.", "hydra.output_subdir.", "hydra.runtime.")):
        raise ConfigError(f"{name} cannot be set: paths.runs=FOLDER says where this command writes")
    if dotted.startswith("hydra."):
        raise ConfigError(f"{name} cannot be set: Hydra composes the configuration here, and runs nothing")


def check_words(data: Mapping[str, Any]) -> None:
    """`check_word` for every name in a composed configuration, the names of fields that axes vary included.

    Raises:
        ConfigError: a file uses a name that is not ours.
    """
    axes, rules = data["study"].get("axes"), data["study"].get("exclude")
    varied = [*(axes.values() if isinstance(axes, dict) else ()), *(rules if isinstance(rules, list) else ())]
    for name in (*_names(data), *(name for fields in varied if isinstance(fields, dict) for name in fields)):
        check_word(name)


def _names(data: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in data.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{name}.")


def is_several(override: Any) -> bool:
    """Whether an override gives one field several values: `A,B`, `choice(A,B)`, or a list where it takes none."""
    if override.is_sweep_override():
        return True
    kind = field_type(override.key_or_group)
    one = kind is not None and typing.get_origin(kind) is not dict and not takes_list(kind)
    return one and isinstance(override.value(), list)


def several_values(override: Any, axes: Mapping[str, Mapping[str, Any]]) -> ConfigError:
    """The refusal of several values for one field, with how to write them.

    Args:
        override: Hydra's.
        axes: those of the chosen study: axis -> field -> values.
    """
    name, values = override.key_or_group, _listed(override)
    kind, typed = placed(name)[2], str(override.input_line).partition("=")[2]
    if name == "seed":
        return ConfigError(f"seed takes one value; several are study.seeds={values}")
    if takes_list(kind):
        return ConfigError(f"{name} takes a list: write '{name}={values}'")
    if name.partition(".")[0] not in TRIAL or field_type(name) is None:
        text = takes_text(kind) and override.is_sweep_override() and not set(typed) & set("\"'\\")
        quotes = f", or put a text with a comma in quotes: '{name}=\"{typed}\"'" if text else ""
        return ConfigError(f"{name} takes one value: give a command for each{quotes}")
    axis = next((axis for axis, fields in axes.items() if name in fields), None)
    if axis is None:
        axis, others = name.rpartition(".")[2], []
        if axis in axes:
            axis = name.replace(".", "_")
    else:
        others = [f"{field}:[...]" for field in axes[axis] if field != name]
    fields = ",".join([f"{name}:{values}", *others])
    return ConfigError(f"{name} takes one value; to compare several, make an axis: '{AXES}.{axis}={{{fields}}}'")


def _listed(override: Any) -> str:
    """The values of an override, as a list in Hydra's grammar."""
    if not override.is_sweep_override():
        return str(override.get_value_element_as_str())
    if override.is_interval_sweep():
        value = override.value()
        return f"[{value.start},...,{value.end}]"
    if override.is_discrete_sweep():
        typed = str(override.input_line).partition("=")[2]
        return f"[{','.join(override.sweep_string_iterator()) if '(' in typed else typed}]"
    return "[A,B]"


def check_one_choice(override: Any) -> None:
    """Refuse several options of one group.

    Raises:
        ConfigError: how to run each.
    """
    if override.is_sweep_override():
        group = override.key_or_group
        raise ConfigError(f"{group} takes one value: give a command for each {_named(group)}")


def check_choice(options: Options, group: str, value: Any) -> None:
    """Refuse an option that a group does not have.

    Raises:
        ConfigError: the nearest option and all of them, or how to write the path of a file.
    """
    names = options.names(group)
    if group == "study" and group not in options.files and str(value) in (moved := studies_of_before()):
        raise ConfigError(moved[str(value)])
    if value is None or value in names:
        return
    what, near = _named(group), difflib.get_close_matches(str(value), names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    if group in FILES and Path(f"{value}.yaml").is_file():
        hint = f" (for the file {value}.yaml, write {group}={value}.yaml)"
    called = value if value != "" else "without a name"
    raise ConfigError(
        f"there is no {what} {called}{hint}; the {what.replace('study', 'studie')}s are {', '.join(names)}"
    )


def _named(group: str) -> str:
    return group.replace("data", "data set")
