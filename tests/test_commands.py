"""What all commands of a line of fields have in common."""

from importlib import import_module

import pytest

COMMANDS = ("sample", "evaluate", "data.cache", "data.shapes", "data.bench", "evaluation.shapes")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_the_module_s_own_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole: what stands in brackets is no markup of the terminal."""
    module = import_module(f"lina_lab.{name}")
    assert module.main(["--help"]) == 0
    assert capsys.readouterr().out.split() == module.__doc__.split()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_misspelt_field_is_named_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_module(f"lina_lab.{name}").main(["imagess=3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "imagess is not a field" in line
