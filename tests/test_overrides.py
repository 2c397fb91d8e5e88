"""Overrides: mappings of the user's own names, text that looks like a number, sections given whole."""

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lina_lab.config.command_line import CommandLine
from lina_lab.config.compose import composed as composed_data
from lina_lab.config.fields import TOP, children
from lina_lab.config.grammar import dataclass_in
from tests.command_line import HEADER, QUESTION, composed, empty_folder, refused, write  # noqa: F401

TEXTS = ["2024", "1e5", "0123", "3_090", "1.50", "-1", "on", "yes", "true", "nan", "0x1F", "12:30", "None", "a"]
"""Spellings that YAML, Hydra or Python would read as something else than text, and one that they would not."""


def fields(kinds: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of the study command with their types; those of a section that may be null or many, as one."""
    for name, kind in kinds.items():
        single = dataclass_in(kind) is kind or (dataclass_in(kind) and type(None) not in typing.get_args(kind))
        if single and typing.get_origin(kind) is not list:
            yield from fields(children(kind), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind


FIELDS = dict(fields(TOP))


def with_text(kind: Any, text: str) -> tuple[str, Any] | None:
    """A value of a type that holds a text wherever it may, in Hydra's grammar and as data; None: it holds none."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is str:
        return text, text
    if (nested := dataclass_in(kind)) is not None and origin is not list:
        parts = {name: part for name, held in children(nested).items() if (part := with_text(held, text)) is not None}
        return f"{{{','.join(f'{name}:{part[0]}' for name, part in parts.items())}}}", {
            k: v[1] for k, v in parts.items()
        }
    if origin in (list, tuple):
        part = with_text(inner[0], text)
        return None if part is None else (f"[{part[0]}]", [part[1]])
    if origin is dict:
        part = with_text(inner[1], text)
        return None if part is None else (f"{{key:{part[0]}}}", {"key": part[1]})
    return next((part for option in inner if (part := with_text(option, text)) is not None), None)


@pytest.mark.parametrize("text", TEXTS)
def test_every_field_of_text_gets_what_was_typed(tmp_path: Path, text: str) -> None:
    """In each section, list and mapping; `true` stays a value of its own where a field takes both."""
    write(tmp_path, "study/mine", f"{HEADER}{QUESTION}")
    both = {name for name, kind in FIELDS.items() if "str | bool" in str(kind)} if text == "true" else set()
    expected = {name: part for name, kind in FIELDS.items() if (part := with_text(kind, text)) and name not in both}
    assert len(expected) > 40
    data = composed_data(CommandLine(["study=mine", *(f"{name}={part[0]}" for name, part in expected.items())]))
    found = {name: OmegaConf.select(data, name) for name in expected}
    plain = {name: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for name, v in found.items()}
    assert plain == {name: part[1] for name, part in expected.items()}


MAPPINGS = {name: kind for name, kind in FIELDS.items() if typing.get_origin(kind) is dict} | {
    f"{section}.{name}": kind
    for section, held in FIELDS.items()
    if typing.get_origin(held) is not list
    for name, kind in children(held).items()
    if typing.get_origin(kind) is dict
}
VALUES = {
    dict[str, list[Any]]: "{model.depth:[1,2]}",
    list[str]: "[1e5,b]",
    list[int]: "[0,1]",
    list[float]: "[1e-3,2e-3]",
}


def test_the_mappings_of_the_user_s_own_names_are_these() -> None:
    assert {name.rpartition(".")[2] for name in MAPPINGS} == {
        *("axes", "labels", "seeds_at_size", "at", "tune", "starts", "same_flops", "options", "sbatch")
    }


@pytest.mark.parametrize(
    ("name", "key"),
    [(name, key) for name in MAPPINGS for key in (["a"] if name == "study.axes" else ["optimizer.lr", "16"])],
)
def test_all_spellings_of_a_mapping_are_one(tmp_path: Path, name: str, key: str) -> None:
    write(tmp_path, "study/mine", f"{HEADER}{QUESTION}")
    (section, _, last), value = name.rpartition("."), VALUES.get(typing.get_args(MAPPINGS[name])[1], "0123")
    spellings = [f"{sign}{name}={{{key}:{value}}}" for sign in ("", "+", "++")]
    spellings += [f"{name}={{ {key} : {value} }}", f"{name}.{key}={value}", f"+{name}.{key}={value}"]
    if section != "study":  # a whole `study` is the choice of one
        spellings.append(f"{section}={{{last}:{{{key}:{value}}}}}")
    found: list[Any] = []
    for spelling in spellings:
        start = [f"{section}={{}}"] if section in FIELDS else [f"{name}={{}}"]
        data = composed_data(CommandLine(["study=mine", *start, spelling]))
        found.append(OmegaConf.to_container(OmegaConf.select(data, name)))
    assert [list(map(str, held)) for held in found] == [[key]] * len(spellings)
    assert [list(held.values()) for held in found] == [list(found[0].values())] * len(spellings)


def test_a_mapping_given_whole_replaces_and_with_a_plus_adds(tmp_path: Path) -> None:
    write(tmp_path, "study/mine", f"{HEADER}{QUESTION}")
    depth, width = "b:{model.flow_depth:[2,3]}", "size:{model.dim:[24]}"
    whole = composed("study=mine", f"study.axes={{{depth},{width}}}")[0]
    assert whole.study.axes == {"b": {"model.flow_depth": [2, 3]}, "size": {"model.dim": [24]}}
    assert len(whole.cells) == 2
    added = composed("study=mine", f"+study.axes={{{depth}}}")[0]
    assert added.study.axes == {"size": {"model.dim": [16, 32]}, "b": {"model.flow_depth": [2, 3]}}
    other = composed("study=mine", "study.axes.size={model.depth:[2,4]}")[0]
    assert other.study.axes == {"size": {"model.depth": [2, 4]}}
    options = ["slurm.sbatch={nice:5}", "slurm.sbatch={exclude:node7}"]
    assert composed("study=mine", *options)[2].slurm.sbatch == {"exclude": "node7"}
    assert composed("study=mine", options[0], f"+{options[1]}")[2].slurm.sbatch == {"nice": "5", "exclude": "node7"}
    assert composed("study=mine", options[0], "slurm.sbatch={}")[2].slurm.sbatch == {}


def test_a_plus_before_a_field_changes_nothing() -> None:
    for sign in ("", "+", "++"):
        plan, *_ = composed("study=kv_gate", f"{sign}optimizer.lr=1e-3", f"{sign}model={{dim:24}}")
        assert {(cell.config.optimizer.lr, cell.config.model.dim) for cell in plan.cells} == {(1e-3, 24)}


def test_a_number_where_a_file_needs_text_is_refused_with_quotes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A file's own spelling is gone once YAML has read it."""
    write(tmp_path, "study/mine", f"{HEADER}{QUESTION}slurm: {{account: 0123}}\n")
    assert "slurm.account=83: input should be text; in a file, put it in quotes" in refused(capsys, "study=mine")


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["+study.axes={b:{model.flow_depth:[2,3]}}"], "axes", {"b": {"model.flow_depth": [2, 3]}}),
        (["study.axes.b={model.flow_depth:[2,3]}"], "axes", {"b": {"model.flow_depth": [2, 3]}}),
        (["study.axes.b.model.flow_depth=[2,3]"], "axes", {"b": {"model.flow_depth": [2, 3]}}),
        (["study.tune={optimizer.lr:[1e-3,2e-3,4e-3]}"], "tune", {"optimizer.lr": [0.001, 0.002, 0.004]}),
        (["study.tune.optimizer.lr=[1e-3,2e-3,4e-3]"], "tune", {"optimizer.lr": [0.001, 0.002, 0.004]}),
        (["study.seeds_at_size={16:[0,1]}"], "seeds_at_size", {"16": [0, 1]}),
        (["study.seeds_at_size.16=[0,1]"], "seeds_at_size", {"16": [0, 1]}),
        (["study.seeds_at_size.16=[0]", "study.seeds_at_size={16:[1]}"], "seeds_at_size", {"16": [1]}),
        (["study.labels={size:[a,'b, c']}"], "labels", {"size": ["a", "b, c"]}),
        (["study.labels.size=[1,2e3]"], "labels", {"size": ["1", "2e3"]}),
    ],
)
def test_names_of_the_user_s_own_need_no_plus(
    tmp_path: Path, arguments: list[str], field: str, value: dict[str, Any]
) -> None:
    """As one mapping, or each as a dotted name; the field that an axis varies keeps the dots of its name."""
    write(tmp_path, "study/mine", f"{HEADER}{QUESTION}")
    held = getattr(composed("study=mine", *arguments)[0].study, field)
    assert {name: held[name] for name in value} == value


def test_a_size_is_a_number_in_a_file(tmp_path: Path) -> None:
    write(tmp_path, "study/mine", f"{HEADER}{QUESTION}".replace("seeds: [0]", "seeds: [0]\n  seeds_at_size: {16: [1]}"))
    assert composed("study=mine")[0].study.seeds_at_size == {"16": [1]}
    assert composed("study=mine", "study.seeds_at_size.16=[2]")[0].study.seeds_at_size == {"16": [2]}


@pytest.mark.parametrize("text", ["2024", "1e3", "3_090", "1.0", "-1", "nan", "true", "00", "a"])
def test_a_text_that_looks_like_a_number_is_the_text_that_was_typed(tmp_path: Path, text: str) -> None:
    write(tmp_path, "study/mine", f"{HEADER}{QUESTION}")
    names = ["partition", "account", "qos", "constraint"]
    arguments = [f"slurm.{name}={text}" for name in names[:2]] + [f"slurm={{qos:{text},constraint: {text} }}"]
    arguments += [f"paths.runs={text}", f"cells=[{text}, '{text}',\"{text}\"]", f"study.question={text}"]
    arguments += [f"study.labels={{size:[{text},other]}}"]
    plan, paths, command = composed("study=mine", *arguments)
    assert {getattr(command.slurm, name) for name in names} == {text}
    assert (paths.runs, plan.study.question, command.cells) == (text, text, [text] * 3)
    assert plan.study.labels == {"size": [text, "other"]}


def test_text_within_mappings_of_other_values_is_what_was_typed(tmp_path: Path) -> None:
    """The options of sbatch, a primary comparison, and the values of an axis of folders."""
    write(tmp_path, "study/mine", f"{HEADER}{QUESTION}")
    axes = "+study.axes={folder:{data.path:[2024,1e3]},rate:{optimizer.lr:[1e-3,2e-3]}}"
    rule = "study.exclude=[{data.path:2024,optimizer.lr:1e-3},{data.path:[1e3],optimizer.lr:[2e-3]}]"
    primary = "study.primary={axis:folder,treatment:1e3,baseline:2024,at:{rate:0.001}}"
    sbatch = "slurm.sbatch={reservation:1e3,nice:100,exclusive:true,time:1:30}"
    plan, _, command = composed("study=mine", "data=latents", axes, rule, sbatch)
    assert {cell.config.data.path for cell in plan.cells} == {"2024", "1e3"}
    assert {(cell.config.data.path, cell.config.optimizer.lr) for cell in plan.cells} == {("2024", 2e-3), ("1e3", 1e-3)}
    assert command.slurm.sbatch == {"reservation": "1e3", "nice": "100", "exclusive": True, "time": "1:30"}
    study = composed("study=mine", "data=latents", axes, primary)[0].study
    assert study.primary is not None
    assert (study.primary.treatment, study.primary.baseline, study.primary.at) == ("1e3", "2024", {"rate": "0.001"})
    assert composed("study=mine", "study.name=2024")[0].study.name == "2024"
    assert composed("study=mine", "slurm.sbatch.reservation=1e3")[2].slurm.sbatch == {"reservation": "1e3"}
