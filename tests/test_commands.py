"""What all commands have in common: one grammar, one help, one way to refuse."""

import dataclasses
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic.dataclasses import dataclass

from lina_lab import cli
from lina_lab.config import CHECKS
from lina_lab.config.grammar import Command

MODULES = {name: module for name, (module, _) in cli.COMMANDS.items() if module != cli.STUDY}
BENCHMARKS = sorted(path.stem for path in (Path(__file__).parents[1] / "benchmarks").glob("[a-z]*.py"))


def command(name: str) -> Command[Any]:
    """A command of `lina`, or a benchmark."""
    found = import_module(MODULES.get(name, f"benchmarks.{name}")).COMMAND
    assert isinstance(found, Command)
    return found


def refused(capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> str:
    assert command(name).main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.mark.parametrize("name", [*MODULES, *BENCHMARKS])
def test_help_is_the_module_s_own_text_and_every_field(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole: what stands in brackets is no markup of the terminal."""
    found = command(name)
    assert found.main(["--help"]) == 0
    text, fields = capsys.readouterr().out.split("\n\nFields\n")
    assert text == (found.doc or "").strip()
    assert f"lina {name} " in text or f"python benchmarks/{name}.py" in text
    lines = fields.splitlines()
    names = [field.name for field in dataclasses.fields(found.config)]
    assert [line.split(" = ")[0].strip() for line in lines[::2]] == names
    assert all(len(line.strip()) > 5 for line in lines[1::2])
    assert found.main(["-h"]) == 0


@pytest.mark.parametrize("name", [*MODULES, *BENCHMARKS])
def test_a_misspelt_field_is_named_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "imagess is not a field" in refused(capsys, name, "imagess=3")


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("sample", ["out=y"], "checkpoint must be given"),
        ("ranks", ["size=huge"], "size=huge is not one of width768"),
        ("ranks", ["ranks=[3]"], "data.batch_size=64"),
        ("plots", [], "name a study with study=NAME"),
        ("geneval", ["results=[]"], "results"),
        ("ui", ["runs=nowhere"], "there is no run store"),
    ],
)
def test_fields_that_do_not_go_together_are_one_sentence(
    name: str, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, name, *arguments).startswith(sentence)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("out=a(b", "quote the value for Hydra and for the shell, as in 'out=\"a(b\"'"),
        ("out=/data/100%,new", "out takes one value; a list is written out=[A,B]"),
        ("out=[a", "no viable alternative at input '[a'"),
        ("results.jsonl", "results.jsonl is not understood: arguments are FIELD=VALUE, and --help lists the fields"),
        ("--partial", "--partial is not understood"),
        ("~out", "~out would leave the field out"),
        ("out=${nothing}", "Interpolation key 'nothing' not found"),
    ],
)
def test_what_is_not_in_the_grammar_is_refused_with_how_to_write_it(
    argument: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in refused(capsys, "shapes", argument)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("sample", "portion", "batch_size"),
        ("sample", "steps", "ar_steps"),
        ("sample", "flow_steps", "ode_steps"),
        ("sample", "guidance", "guidance_scale"),
        ("sample", "min_guidance", "guidance_scale_start"),
        ("evaluate", "portion", "batch_size"),
        ("cache", "batch", "batch_size"),
    ],
)
def test_a_field_s_earlier_name_is_refused_with_today_s(
    name: str, old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{old} is called {new} in this version" in refused(capsys, name, f"{old}=3")
    assert new in {field.name for field in dataclasses.fields(command(name).config)}


def test_help_shows_defaults_and_choices_as_the_command_line_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("sample").main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  checkpoint = ???  (must be given)" in lines
    assert {"  classes = null", "  seed = 0", "  guidance_scale = 1.0"} <= set(lines)
    assert lines[lines.index("  weights = ema") + 1].endswith(" One of ema, raw.")
    assert command("cache").main(["--help"]) == 0
    assert "  verify = false\n" in capsys.readouterr().out


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class Fields:
    """Fields of a command that keeps them."""

    path: str | None = None
    numbers: list[int] | None = None
    texts: str | list[str] | None = None
    model: dict[str, Any] | None = None


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["path=2024"], {"path": "2024"}),
        (["path=1e5"], {"path": "1e5"}),
        (["path=true"], {"path": "true"}),
        (["path='a(b'"], {"path": "a(b"}),
        (['path="it\'s 1,2"'], {"path": "it's 1,2"}),
        (["path=null"], {"path": None}),
        (["path=sqlite:////srv/x.db"], {"path": "sqlite:////srv/x.db"}),
        (["numbers=[1,2]"], {"numbers": [1, 2]}),
        (["texts=[1e3,'a, 2',a\\, b]"], {"texts": ["1e3", "a, 2", "a, b"]}),
        (["texts=1_000"], {"texts": "1_000"}),
        (["texts=[]"], {"texts": []}),
        (["model.dim=3", "model.attention.gate=none"], {"model": {"dim": 3, "attention": {"gate": "none"}}}),
        (["model={dim:3}", "model.depth=2"], {"model": {"dim": 3, "depth": 2}}),
    ],
)
def test_values_are_those_of_hydra_s_grammar_and_text_stays_text(arguments: list[str], fields: dict[str, Any]) -> None:
    found: list[Fields] = []
    assert Command(config=Fields, run=lambda config: found.append(config) or 0, doc="").main(arguments) == 0
    assert found == [Fields(**fields)]


def test_a_bench_that_cannot_write_says_so_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.ranks.measure", lambda config: pytest.fail("it measured"))
    (tmp_path / "file").write_text("")
    assert "file" in refused(capsys, "ranks", f"out={tmp_path / 'file'}")


@pytest.mark.parametrize("error", [ValueError("it is\nso"), OSError("it is so")])
def test_what_a_command_raises_for_its_user_is_one_sentence(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: Fields) -> int:
        raise error

    assert Command(config=Fields, run=run, doc="").main([]) == 2
    assert capsys.readouterr().err == "error: it is so\n"
    with pytest.raises(type(error)):
        Command(config=Fields, run=run, doc="", errors=(KeyError,)).main([])


@pytest.mark.parametrize("status", [0, 1])
def test_a_command_has_the_status_of_what_it_ran(status: int) -> None:
    assert Command(config=Fields, run=lambda _: status, doc="").main([]) == status


def test_lina_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert cli.main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [name for name in cli.COMMANDS if not any(line.startswith(f"  {name} ") for line in lines)] == []


def test_an_unknown_command_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["smaple"]) == 2
    assert capsys.readouterr().err == "error: there is no command smaple; did you mean sample?\n"
    assert cli.main(["xyz"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no command xyz; the commands are run, plan, ")


def test_a_command_takes_its_arguments_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["count", "size=cpu16", "model.num_classes=10"]) == 0
    assert "One attention of the decoder" in capsys.readouterr().out
    assert cli.main(["count", "sise=cpu16"]) == 2


def test_a_study_s_action_stands_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "study=kv_gate", "action=run"]) == 2
    assert capsys.readouterr().err == "error: lina plan is action=plan: leave action=run out\n"


def fresh(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("script", ["plots", "paper", "geneval", "fit"])
def test_the_files_of_analysis_are_scripts_too(script: str, tmp_path: Path) -> None:
    """`python analysis/plots.py` is `lina plots`, although the folder's imports are relative."""
    path = Path(__file__).parents[1] / f"analysis/{script}.py"
    done = fresh(str(path), "studdy=3", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "studdy is not a field" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reader_who_leaves_early_sees_no_traceback(tmp_path: Path) -> None:
    script = tmp_path / "head.sh"
    script.write_text(
        f"{sys.executable} -m lina_lab.cli shapes --help | head -1; {sys.executable} -m lina_lab.run -h | :"
    )
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("Write captioned pictures")


def test_nothing_heavy_is_imported_before_a_command_is_known() -> None:
    code = (
        "import sys; from lina_lab import cli; cli.main(['--help']); cli.main(['xyz']);"
        "heavy = {'torch', 'mlflow', 'optuna', 'pandas', 'hydra', 'pydantic', 'lightning'} & set(sys.modules);"
        "print('heavy:', heavy)"
    )
    assert fresh("-c", code).stdout.endswith("heavy: set()\n")


HELP_ALONE = """
import sys
from lina_lab import cli

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name in {"torch", "lightning", "mlflow", "optuna", "pandas", "scipy", "matplotlib", "PIL", "sqlalchemy"}:
            raise RuntimeError(f"{command} --help imports {name}")

sys.meta_path.insert(0, Refused())
for command in cli.COMMANDS:
    assert cli.main([command, "--help"]) == 0
"""


def test_help_imports_nothing_that_only_a_command_s_work_needs() -> None:
    done = fresh("-c", HELP_ALONE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\nFields\n") == len(cli.COMMANDS)


def test_a_report_of_a_database_needs_no_mlflow() -> None:
    code = (
        "import sys; import lina_lab.analysis.load.runs, lina_lab.analysis.report.writer;"
        "print('heavy:', {'torch', 'mlflow', 'optuna', 'scipy.stats', 'requests'} & set(sys.modules))"
    )
    assert fresh("-c", code).stdout == "heavy: set()\n"


def test_a_pipe_that_breaks_elsewhere_is_not_a_reader_who_left() -> None:
    """It ended a command with exit code 0 although nothing was done."""
    code = "from lina_lab import cli\ndef broken(*_): raise BrokenPipeError\ncli._run = broken\ncli.main(['run'])"
    done = fresh("-c", code)
    assert done.returncode == 1
    assert done.stderr.endswith("BrokenPipeError\n")
