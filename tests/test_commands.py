"""What all commands of a line of fields have in common."""

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lina_lab.commands.grammar import command
from lina_lab.config import CHECKS

COMMANDS = {
    "lina_lab.commands.sample": "SampleConfig",
    "lina_lab.commands.evaluate": "EvaluateConfig",
    "lina_lab.data.shards.cache": "CacheConfig",
    "lina_lab.commands.shapes": "ShapesConfig",
    "benchmarks.loader": "LoaderBenchConfig",
    "lina_lab.evaluation.prompts.shapes": "ShapesCheckConfig",
    "lina_lab.model.count": "CountConfig",
    "benchmarks.attention": "BenchConfig",
    "benchmarks.study": "StudyBenchConfig",
    "benchmarks.ranks": "RanksBenchConfig",
    "benchmarks.attention_figures": "BenchPlotsConfig",
    "lina_lab.analysis.paper": "PaperConfig",
    "lina_lab.analysis.plots": "PlotsConfig",
    "benchmarks.report": "ReportBenchConfig",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_the_module_s_own_text_and_every_field(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole: what stands in brackets is no markup of the terminal."""
    module = import_module(name)
    assert module.main(["--help"]) == 0
    text, fields = capsys.readouterr().out.split("\n\nFields\n")
    assert text == module.__doc__.strip()
    lines = fields.splitlines()
    names = [field.name for field in dataclasses.fields(getattr(module, COMMANDS[name]))]
    assert [line.split(" = ")[0].strip() for line in lines[::2]] == names
    assert all(len(line.strip()) > 5 for line in lines[1::2])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_misspelt_field_is_named_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_module(name).main(["imagess=3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "imagess is not a field" in line


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        (
            "lina_lab.commands.sample",
            ["checkpoint=x", "out=y", "vae=z"],
            "vae=NAME and shards=FOLDER go together: the shards'",
        ),
        ("lina_lab.commands.sample", ["out=y"], "checkpoint must be given"),
        ("lina_lab.commands.sample", ["out=@"], "while scanning for the next token found character '@'"),
        ("benchmarks.ranks", ["size=huge"], "size=huge is not one of width768"),
        ("benchmarks.ranks", ["ranks=[3]"], "data.batch_size=64"),
        ("lina_lab.analysis.plots", [], "name a study with study=NAME"),
    ],
)
def test_fields_that_do_not_go_together_are_one_sentence(
    name: str, given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert import_module(name).main(given) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_help_says_defaults_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert import_module("lina_lab.commands.sample").main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  checkpoint = ???  (must be given)" in lines
    assert {"  classes = null", "  seed = 0", "  guidance_scale = 1.0"} <= set(lines)
    assert lines[lines.index("  weights = ema") + 1] == "      Which weights of a checkpoint. One of ema, raw."
    assert import_module("lina_lab.data.shards.cache").main(["--help"]) == 0
    assert "  verify = false\n" in capsys.readouterr().out


def test_a_bench_that_cannot_write_says_so_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = import_module("benchmarks.ranks")
    monkeypatch.setattr(module, "measure", lambda config: pytest.fail("it measured"))
    (tmp_path / "file").write_text("")
    assert module.main([f"out={tmp_path / 'file'}"]) == 2
    assert "file" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class Nothing:
    """A command that takes nothing."""

    __pydantic_config__ = CHECKS


@pytest.mark.parametrize("error", [ValueError("it is\nso"), OSError("it is so")])
def test_what_a_command_raises_for_its_user_is_one_sentence(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: Any) -> int:
        raise error

    assert command(run, Nothing, "", []) == 2
    assert capsys.readouterr().err == "error: it is so\n"
    with pytest.raises(type(error)):
        command(run, Nothing, "", [], errors=(KeyError,))


def test_a_command_has_the_status_of_what_it_ran() -> None:
    assert [command(lambda _, status=status: status, Nothing, "", []) for status in (0, 1)] == [0, 1]  # type: ignore[misc]
