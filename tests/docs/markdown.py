"""Reads what the documentation says: its code blocks, code spans, links and tables."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACEHOLDERS = {r"\bstudy=NAME\b": "study=kv_gate", r"=N(?=\s|$)": "=320"}


@dataclass(frozen=True)
class Line:
    """A command that a page shows."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def blocks(text: str, *languages: str) -> list[str]:
    """The contents of the fenced blocks in these languages."""
    return [body for language, body in FENCE.findall(text) if language in languages]


def titled(text: str) -> dict[str, str]:
    """The contents of the fenced blocks that are files, by the files' names."""
    return dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL))


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", text)


def spans(text: str) -> list[str]:
    """The code spans of a page's prose, each on one line."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(text))]


def commands(page: Path) -> list[Line]:
    """Every command of a page: the lines of its shell blocks, and the code spans that are one."""
    text, name = page.read_text(), str(page.relative_to(ROOT))
    lines = [line for body in blocks(text, "bash") for line in body.replace("\\\n", " ").splitlines()]
    lines += [
        span
        for span in spans(text)
        if re.match(r"(lina|make|python -m lina_lab\.\w+|python analysis/\w+\.py)( |$)", span)
    ]
    for pattern, example in PLACEHOLDERS.items():
        lines = [re.sub(pattern, example, line) for line in lines]
    return [Line(name, words) for line in lines if (words := tuple(shlex.split(line, comments=True)))]


def section(text: str, title: str) -> str:
    """The part of a page under a heading of level two or three, up to the next heading."""
    found = re.search(rf"^##+ {re.escape(title)}[^\n]*\n(.*?)(?=^##? |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def table(text: str) -> list[list[str]]:
    """The cells of the table rows in a text, head and rule left out."""
    rows = [row.strip().strip("|").split(" | ") for row in text.splitlines() if row.strip().startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not set("".join(row)) <= set("-| ")][1:]
