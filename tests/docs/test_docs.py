"""The documentation is true: its commands, fields, files, links, examples and versions exist."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

from lina_lab.cli import COMMANDS
from lina_lab.config import (
    AttentionConfig,
    CommandConfig,
    DataConfig,
    LinaConfig,
    PathsConfig,
    StudyConfig,
    TrialConfig,
)
from lina_lab.config.command_line import CommandLine
from lina_lab.config.compose import compose, composed
from lina_lab.config.grammar import parse
from lina_lab.config.history import RENAMED
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.rounds import grown
from lina_lab.variants import Geometry
from tests.docs.markdown import PAGES, ROOT, Line, blocks, commands, prose, section, spans, table, titled

OTHER_TOOLS = {"pip", "conda", "source", "mlflow", "git", "pre-commit"}
# What a cluster's page types beside.
OTHER_TOOLS |= {"install", "python3", "psql", "createdb", "echo", "chmod", "cd", "squeue", "tail"}
# Those of CONTRIBUTING.md are run by a test of their own.
LINES = list(dict.fromkeys(line for page in PAGES if page.name != "CONTRIBUTING.md" for line in commands(page)))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CODE = [path for room in ("lina_lab", "analysis", "studies", "benchmarks") for path in (ROOT / room).rglob("*.*")]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def as_lina(line: Line) -> list[str]:
    """A command in any of its forms as the arguments of `lina`; empty for one that is another tool's."""
    words = list(line.words)
    if words[0] == "torchrun":
        words = ["python", *words[words.index("-m") :]]
    if words[:3] in (["python", "-m", "lina_lab.run"], ["python", "-m", "lina_lab.cli"]):
        return [*(["run"] if words[2] == "lina_lab.run" else []), *words[3:]]
    if words[:2] == ["python", "analysis/plots.py"]:
        return ["plots", *words[2:]]
    return words[1:] if words[0] == "lina" else []


@pytest.fixture
def users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the studies that the pages write."""
    for page in PAGES:
        for name, body in titled(page.read_text()).items():
            if name.startswith("studies/"):
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_text(body)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan_of(*arguments: str) -> Plan:
    """The first cells of a study command, without running it."""
    found = compose(CommandLine(arguments))
    return grown(make_plan(found.study, found.base, found.overridden), {})


@pytest.mark.parametrize("line", LINES, ids=str)
def test_every_command_shown_is_understood(line: Line, users_folder: Path) -> None:
    if line.words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert {word for word in line.words[1:] if "=" not in word} <= set(targets)
        return
    arguments = as_lina(line)
    if not arguments:
        assert line.words[0] in OTHER_TOOLS or line.words == ("lina",)
    elif arguments != ["--help"]:
        understand(*arguments)


def understand(name: str, *fields: str) -> None:
    """Parse or compose a command without running it."""
    assert name in COMMANDS
    if not fields or "--help" in fields:
        return  # the command is mentioned
    if COMMANDS[name][0] != COMMANDS["run"][0]:
        command = import_module(COMMANDS[name][0]).COMMAND
        parse(command.config, command.named(fields))
    elif "--cfg" in fields:
        assert composed(CommandLine(fields)).study.name
    else:
        assert plan_of(*fields).cells


def test_the_pages_show_commands_of_every_name() -> None:
    assert {arguments[0] for line in LINES if (arguments := as_lina(line))} >= set(COMMANDS)


def test_the_answers_that_coming_from_promises_are_given(users_folder: Path) -> None:
    promised = table(section((ROOT / "docs/coming-from.md").read_text(), "What you try first"))
    assert len(promised) > 10
    for argument, answer in promised:
        with pytest.raises(ValueError, match="^" + re.escape(answer.strip("`")) + "$"):
            plan_of("study=kv_gate", argument.strip("`"))


def fields_of(cls: type, prefix: str = "") -> Iterator[str]:
    """The dotted names of all fields, sections included."""
    for name, kind in typing.get_type_hints(cls).items():
        yield f"{prefix}{name}"
        options = [kind, *typing.get_args(kind)]
        if cls is LinaConfig and name.endswith("attention"):
            options = [AttentionConfig]
        for option in options:
            if isinstance(option, type) and dataclasses.is_dataclass(option):
                yield from fields_of(option, f"{prefix}{name}.")


def test_every_field_named_exists() -> None:
    known = {*fields_of(TrialConfig), *fields_of(CommandConfig), *fields_of(StudyConfig, "study.")}
    known |= {*fields_of(PathsConfig, "paths.")}
    sections = {name.split(".")[0] for name in known if "." in name} | {"study", "paths"}
    allowed = {*RENAMED, *TABLED_OLD_NAMES}
    for page in PAGES:
        text = page.read_text()
        if page.name == "coming-from.md":
            text = text.replace(section(text, "What you try first"), "")
        named = {span.split("=")[0] for span in spans(text)}
        named = {name for name in named if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", name)}
        for name in named - allowed:
            if name.split(".")[0] in sections and not name.endswith((".py", ".md", ".yaml")):
                assert name in known, f"{page.name}: {name}"


TABLED_OLD_NAMES = {"hydra.run.dir"}


@pytest.mark.parametrize(
    ("page", "title"), [("CHANGELOG.md", "Changed"), ("docs/glossary.md", "Renamed fields in 0.2")]
)
def test_the_tables_of_renamed_fields_are_those_of_the_code(page: str, title: str) -> None:
    # Of the changelog, what version 0.2 changed.
    text = (ROOT / page).read_text().rpartition("\n## 0.2.0")[2]
    rows = [[cell.strip("`") for cell in row] for row in table(section(text, title))]
    assert {old: new for old, new in rows if old in RENAMED} == RENAMED


def test_the_classes_that_the_glossary_says_were_renamed_have_these_names() -> None:
    code = "\n".join(path.read_text() for path in CODE if path.suffix == ".py")
    rows = table(section((ROOT / "docs/glossary.md").read_text(), "Renamed in code"))
    renamed = [name for _, new in rows for name in spans(new)]
    assert len(renamed) > 10
    for name in renamed:
        assert f"class {name}" in code, name


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_paths_in_code_spans_are_files(page: Path) -> None:
    for path in re.findall(r"`((?:lina_lab|analysis|tests|benchmarks)/[\w/.*]+)`", page.read_text()):
        assert list(ROOT.glob(path)), path


def test_no_page_names_a_folder_of_somebody_s_machine() -> None:
    files = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CITATION.cff", ROOT / "mkdocs.yml"]
    for page in files:
        assert not re.search(r"(?<![\w.])/(home|root|tmp|work|mnt|Users)/", page.read_text()), page


CITATION = re.compile(r"(?:docs/(\w+)|\b(lina|method))\.md\b`?,?((?: sections? \d(?: and \d)?| [A-Z]\w+)?)")


def wrong_citations(text: str) -> list[str]:
    """The documents and sections that a file of code cites and that are not there."""
    wrong = []
    for in_docs, bare, rest in CITATION.findall(text):
        page = ROOT / f"docs/{in_docs or bare}.md"
        headings = [*(rf"{number}\. " for number in re.findall(r"\d", rest)), *re.findall(r"^ ([A-Z]\w+)", rest)]
        if not page.exists() or not all(re.search(f"^## {h}", page.read_text(), re.MULTILINE) for h in headings):
            wrong.append(f"{page.name}{rest}")
    return wrong


def test_documents_that_the_code_cites_have_the_cited_sections() -> None:
    for path in CODE:
        if path.suffix in (".py", ".yaml", ".sh"):
            assert wrong_citations(path.read_text()) == [], path


def test_a_citation_of_a_section_that_is_not_there_is_found() -> None:
    assert wrong_citations("Source: `lina.md` sections 1 and 4 (`docs/method.md`, Fitting).") == []
    assert wrong_citations("`lina.md` sections 1 and 9") == ["lina.md sections 1 and 9"]
    assert wrong_citations("`method.md`, Cooking; `docs/plans.md`") == ["method.md Cooking", "plans.md"]


def install(page: str, site: Path) -> list[str]:
    """Make the package that a page writes importable from `site`, with its entry points; its `lina` commands."""
    text = (ROOT / "docs" / page).read_text()
    files = titled(text)
    project = tomllib.loads(files.pop("pyproject.toml"))["project"]
    points = {group: dict(named) for group, named in project["entry-points"].items()}
    for name, target, group in re.findall(r"`(\w+) = \"(.+?)\"` under `\[project.entry-points.\"(.+?)\"\]`", text):
        points.setdefault(group, {})[name] = target
    for name, body in files.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(body)
    installed = site / f"{project['name']}-{project['version']}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    sections = ["\n".join([f"[{group}]", *(f"{k} = {v}" for k, v in named.items())]) for group, named in points.items()]
    (installed / "entry_points.txt").write_text("\n".join(sections) + "\n")
    return [line for body in blocks(text, "text") for line in body.splitlines() if line.startswith("lina ")]


@pytest.mark.parametrize(("page", "shown"), [("own-variant.md", 4), ("own-data.md", 1)])
def test_the_package_of_an_example_can_be_copied_and_its_plans_made(page: str, shown: int, tmp_path: Path) -> None:
    lines = install(page, tmp_path)
    assert len(lines) == shown
    for line in lines:
        command = [sys.executable, "-m", "lina_lab.cli", *shlex.split(line)[1:]]
        if command[3] == "run":
            continue
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_module_of_the_variant_has_the_parameters_that_its_entry_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("own-variant.md", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    entry, geometry = import_module("my_gates.entries").HEAD, Geometry(dim=64, heads=4)
    assert "my_gates.modules" not in sys.modules
    module = entry.load()(geometry)
    assert sum(p.numel() for p in module.parameters()) == entry.count_parameters(geometry) == 4


def test_the_data_set_of_the_example_has_two_classes_that_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("own-data.md", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    model = LinaConfig(
        latent_channels=1, latent_size=(12, 12), num_classes=2, dim=16, num_heads=4, condition_depth=1, depth=2
    )
    # Of a data set with the same needs: this process has looked for entry points already.
    trial = TrialConfig(model=model, data=DataConfig(name="latents", path="elsewhere", batch_size=8))
    data = import_module("my_data.entries").STRIPES.load()(trial)
    images, given = next(iter(data.train_dataloader()))
    assert images.shape == (8, 1, 12, 12)
    for image, label in zip(images, given["label"], strict=True):
        assert (image.std(dim=2 - int(label)) < 1e-6).all()


def test_the_examples_in_python_run() -> None:
    examples = blocks((ROOT / "docs/paper.md").read_text(), "python")
    assert len(examples) == 2
    for example in examples:
        names: dict[str, typing.Any] = {}
        exec(example, names)
        assert torch.isfinite(names["loss"])
        assert names["images"].shape == (6, 1, 8, 8)


def test_the_training_loop_of_plain_pytorch_learns_and_generates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, typing.Any] = {}
    exec("\n".join(blocks((ROOT / "docs/plain-pytorch.md").read_text(), "python")), names)
    losses = names["losses"]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert (tmp_path / "three.png").exists()
    assert all(".attn." in name for name in names["inherited"].drawn + names["inherited"].left)
    assert names["inherited"].taken


def test_the_readme_can_be_read_in_three_minutes() -> None:
    words = prose((ROOT / "README.md").read_text()).split()
    assert len(words) < 750


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "docs/assets").iterdir())
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 150_000, picture.name


def test_the_documentation_is_built_strictly() -> None:
    recipe = re.search(r"^docs:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    assert "mkdocs build --strict" in recipe[1]
    assert "--quiet" not in recipe[1]  # mkdocs 1.6 then counts no warnings, and --strict ends nothing
    assert re.search(r"^make docs$", (ROOT / ".ci/run").read_text(), re.MULTILINE)


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest.groups() == (PROJECT["version"], citation["date-released"])
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def test_pre_commit_uses_the_pinned_versions() -> None:
    hooks = [
        hook
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repo["hooks"]
    ]
    assert {"ruff-check", "ruff-format", "check-yaml", "end-of-file-fixer", "check-added-large-files"} <= {
        hook["id"] for hook in hooks
    }
    for hook in hooks:
        for requirement in hook["additional_dependencies"]:
            name, version = requirement.split("==")
            assert PINS[name] == version
