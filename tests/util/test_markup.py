"""Text of people in Markdown and LaTeX."""

import html
import re

import pytest
from markdown_it import MarkdownIt

from lina_lab.util.markup import latex_text, markdown_text

TEXTS = [
    *("kv_shared", "_x_", "__init__", "a_b_", "a*b*c", "***", "`x`", "~~a~~", "50% $x^2$", "C:\\new", "\\*", "\\"),
    *("a|b", "a\\|b", "a\\\\|b", "<i>x</i>", "<!-- x -->", "p < 0.05 <b", "&amp; & &#65;", "a <- b", "[1, 2]"),
    *("[a](b)", "![a](b)", "[a]: b", "# t", "- x", "+ x", "1. y", "2) y", "---", "==", "> q", "{σ} ± 1 − 2"),
    "E + A parameters^-alpha",
]


def shown(page: str) -> str:
    return html.unescape(re.sub("<[^>]*>", "", page)).strip()


@pytest.mark.parametrize("text", TEXTS)
def test_markdown_shows_any_text_as_it_is(text: str) -> None:
    """In a list, a paragraph and a cell of a table, by CommonMark with GitHub's tables and strike-through."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    escaped = markdown_text(text)
    assert shown(parser.render(f"- {escaped}\n")) == text
    assert parser.render(f"{escaped}\n").startswith("<p>")
    assert shown(parser.render(f"{escaped}\n")) == text
    page = parser.render(f"| x | y |\n|---|---|\n| {escaped} | 1 |\n")
    cells = re.findall("<td>(.*?)</td>", page)
    assert [shown(cell) for cell in cells] == [text, "1"]


def test_text_without_a_mark_that_means_something_is_not_changed() -> None:
    for text in ("kv_shared vs. none, +0.01 (95% CI -0.02 to 0.03)", "A (b) [c] {d} #1 !", "C:\\new"):
        assert markdown_text(text) == text
    assert markdown_text("two\nlines") == "two lines"


def test_latex_has_a_command_for_each_mark_and_each_greek_letter() -> None:
    assert latex_text("a&b #1 $x_{2}$ 5% ~ ^ \\ <|>") == (
        r"a\&b \#1 \$x\_\{2\}\$ 5\% \textasciitilde{} \textasciicircum{} \textbackslash{} "
        r"\textless{}\textbar{}\textgreater{}"
    )
    assert latex_text("αλςΔΛΑΗό") == r"$\alpha$$\lambda$$\varsigma$$\Delta$$\Lambda$AHo"
    assert latex_text("−1 ± 2 × 10²") == r"$-$1 $\pm$ 2 $\times$ 10$^2$"
    assert latex_text("a\tb\nc") == "a b c"
    assert latex_text("Gödel") == "Gödel"
