"""What a command line asks for, in the words that Hydra takes: text as it was typed, and mappings as they are meant."""

import typing
from typing import Any

from lina_lab.config.fields import field_type, optional_section, placed
from lina_lab.config.grammar import as_typed, dataclass_in, mapping_parts, parse_override
from lina_lab.config.options import GROUPS


def read(argument: str) -> list[Any]:
    """An argument as Hydra's `Override`s, whose text is what was typed though it looks like a number.

    A section of fields is taken apart: `slurm={account:a,sbatch:{nice:5}}` is `slurm.account=a` and
    `slurm.sbatch={nice:5}`.

    Raises:
        ConfigError: it is not in Hydra's grammar.
    """
    override = parse_override(argument)
    if override.is_sweep_override():
        return [override]
    name = override.key_or_group
    if name in GROUPS:
        return [parse_override(as_typed(argument, str))]
    if isinstance(override.value(), dict) and dataclass_in(kind := field_type(name)) is kind is not None:
        left, _, value = argument.partition("=")
        parts = mapping_parts(value)
        return [found for key, part in parts for found in read(f"{left}.{key.strip()}={part}")]
    return [parse_override(as_typed(argument, placed(name)[2], field_type))]


def for_hydra(override: Any) -> list[str]:
    """What Hydra is asked for in place of an override.

    Fields need no plus, nor do names of the user's own (`study.axes.NAME={...}`, `slurm.sbatch={...}`) or fields of a
    section that may be null; the dots in such a name, as in `study.tune.optimizer.lr=[...]`, are part of it.

    A mapping of such names that is given whole replaces the one that there is, where Hydra would merge the two; with
    a plus it is merged. A section of the study that may be null is replaced too: another `study.primary` shares no
    field with the first one.
    """
    name, line = override.key_or_group, str(override.input_line)
    bare = line.lstrip("+")
    section, (mapping, entry, kind) = optional_section(name), placed(name)
    is_mapping = typing.get_origin(kind) is dict
    if isinstance(override.value(), list) and not is_mapping and dataclass_in(kind) is not None:
        return [f"++{name}=null", f"++{bare}"]  # attentions of each block in place of one
    if section is None and not entry and not is_mapping:
        return [bare]
    if "." in entry:
        bare = f"{mapping}={{{entry}:{line.partition('=')[2]}}}"
    whole = name.startswith("study.") if name == section else is_mapping and bare == line
    replaces = whole and isinstance(override.value(), dict)
    return [*([f"++{name}=null"] if replaces else []), f"++{bare}"]
