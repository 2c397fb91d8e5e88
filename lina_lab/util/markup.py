"""Text in Markdown and LaTeX: what a person wrote stays what it is, whatever marks are in it."""

import re
import unicodedata

MARKDOWN = (
    (re.compile(r"\\(?=[!-/:-@\[-`{-~])"), r"\\\\"),  # a backslash before a mark would hide it
    (re.compile(r"([*`|$~])"), r"\\\1"),
    (re.compile(r"(?<![^\W_])_|_(?![^\W_])"), r"\\_"),  # within a word it is no emphasis
    (re.compile(r"<(?=[A-Za-z/!?])"), r"\\<"),
    (re.compile(r"&(?=#?\w+;)"), r"\\&"),
    (re.compile(r"\](?=[(\[:])"), r"\\]"),
    (re.compile(r"^(\s*)(-+|[+>]|#{1,6}|=+)(?=\s|$)"), r"\1\\\2"),  # a list, a quotation, a title
    (re.compile(r"^(\s*\d+)([.)])(?=\s|$)"), r"\1\\\2"),
)
"""What has a meaning in GitHub's Markdown -> the same as text. Marks without one stay, so that the text can be read."""
LATEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{"−": "$-$", "–": "--", "—": "---", "…": r"\ldots{}", "µ": r"$\mu$", "°": r"$^\circ$", "·": r"$\cdot$"},
    **{"±": r"$\pm$", "×": r"$\times$", "÷": r"$\div$", "²": "$^2$", "³": "$^3$", "¹": "$^1$"},
    **{"≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$", "≈": r"$\approx$", "∼": r"$\sim$", "∝": r"$\propto$"},
    **{"→": r"$\rightarrow$", "←": r"$\leftarrow$", "∞": r"$\infty$", "√": r"$\surd$", "∈": r"$\in$"},
    **{"∑": r"$\sum$", "∏": r"$\prod$", "∂": r"$\partial$", "∇": r"$\nabla$", "∆": r"$\Delta$"},
}
"""Mark -> how LaTeX writes it in text, in its oldest font encoding (OT1) too."""
GREEK = "GREEK SMALL LETTER ", "GREEK CAPITAL LETTER "
"""How Unicode's names of Greek letters begin."""
CAPITALS = ("Gamma", "Delta", "Theta", "Lamda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega")
"""Greek capitals, by Unicode's names, that LaTeX has commands for: the others look like Latin letters."""
LATIN = {"ETA": "H", "CHI": "X", "RHO": "P", "NU": "N"}
"""Name of a Greek capital -> the Latin letter that it looks like, where that is not the name's first."""


def markdown_text(text: str) -> str:
    """One line of text as Markdown shows it unchanged, in a paragraph, a list or a cell of a table.

    Source: GitHub Flavored Markdown, sections 2.4 and 4.10.
    """
    line = " ".join(text.splitlines())
    for pattern, replacement in MARKDOWN:
        line = pattern.sub(replacement, line)
    return line


def latex_text(text: str) -> str:
    """One line of text as LaTeX sets it, outside of mathematics.

    Letters of other scripts than Latin and Greek stay: they need LuaLaTeX or XeLaTeX.
    """
    line = "".join(" " if unicodedata.category(mark) == "Cc" else mark for mark in unicodedata.normalize("NFC", text))
    return "".join(LATEX.get(mark) or _greek(mark) for mark in line)


def _greek(mark: str) -> str:
    """A Greek letter as LaTeX has it, without its accents; any other mark as it is."""
    small, capital = GREEK
    name = unicodedata.name(mark, "").split(" WITH ")[0]
    if name.startswith(capital):
        letter = name.removeprefix(capital).capitalize()
        return (
            f"$\\{letter.replace('Lamda', 'Lambda')}$" if letter in CAPITALS else LATIN.get(letter.upper(), letter[0])
        )
    if name.startswith(small):
        letter = name.removeprefix(small).lower().replace("final sigma", "varsigma").replace("lamda", "lambda")
        return "o" if letter == "omicron" else f"$\\{letter}$"
    return mark
