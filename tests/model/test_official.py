"""Downloaded weights: what configuration they are found to have, and what is refused."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lina_lab.commands.convert import COMMAND
from lina_lab.config import AttentionConfig, LinaConfig
from lina_lab.model import LINA, initialize, load_model, save_model, save_official
from lina_lab.model.detect import detect
from lina_lab.model.official import convert
from lina_lab.records.weights import STEM
from tests.model.test_attention import known_to_the_authors, name_of, valid_attentions
from tests.model.test_lina import SMALL, small
from tests.model.test_placements import PLAIN, ROTARY, SOFTMAX, TEXT

SUBTRACTION = replace(PLAIN, normalization="subtraction")
SQUARE = replace(SMALL, latent_size=(8, 8))
MODELS = {
    "class": SQUARE,
    "unconditional": replace(SQUARE, num_classes=None),
    "text": replace(TEXT, latent_size=(8, 8), text_length=256),
    "rotary": replace(ROTARY, latent_size=(8, 8)),
    "patches": replace(SQUARE, patch_size=2, latent_size=(14, 14), flow_dim=12, flow_depth=3, condition_depth=2),
    "placements": replace(SQUARE, depth=4, encoder_attention=SUBTRACTION, condition_attention=SUBTRACTION),
    "pattern": replace(SQUARE, depth=8, attention=(AttentionConfig(), SUBTRACTION)),
}


def official(config: LinaConfig, folder: Path, *, as_pickle: bool = False) -> LINA:
    model = LINA(config)
    initialize(model, seed=5)
    folder.mkdir()
    weights = {name: value.contiguous() for name, value in save_official(model).items()}
    if as_pickle:
        torch.save(weights, folder / f"{STEM}.bin")
    else:
        save_file(weights, folder / f"{STEM}.safetensors")
    return model


@pytest.mark.parametrize("as_pickle", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_converted_weights_are_the_same_model(config: LinaConfig, as_pickle: bool, tmp_path: Path) -> None:
    model = official(config, tmp_path / "in", as_pickle=as_pickle)
    found = convert(tmp_path / "in", tmp_path / "out", {"num_heads": 2}).config
    converted = load_model(tmp_path / "out")
    assert converted.config == found
    assert found == config
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in converted.state_dict().items())


Weights = dict[str, torch.Tensor]


def parts(folder: Path, weights: Weights, index: str = f"{STEM}.safetensors.index.json", *, ending: str) -> None:
    """Write weights in two parts with an index."""
    names, places = sorted(weights), {}
    for number, chosen in enumerate((names[::2], names[1::2]), 1):
        file = folder / f"{STEM}-{number:05}-of-00002{ending}"
        held = {name: weights[name] for name in chosen}
        save_file(held, file) if ending == ".safetensors" else torch.save(held, file)
        places |= dict.fromkeys(chosen, file.name)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def pipeline(folder: Path, weights: Weights) -> None:
    (folder / "transformer").mkdir()
    (folder / "model_index.json").write_text("{}")
    save_file(weights, folder / "transformer" / f"{STEM}.safetensors")


def pickled(folder: Path, content: object, name: str = f"{STEM}.bin") -> None:
    torch.save(content, folder / name)


def renamed(weights: Weights, change: Callable[[str], str]) -> Weights:
    return {change(name): value for name, value in weights.items()}


FORMS: dict[str, Callable[[Path, Weights], None]] = {
    "parts": lambda folder, w: parts(folder, w, ending=".safetensors"),
    "pickled parts": lambda folder, w: parts(folder, w, f"{STEM}.bin.index.json", ending=".bin"),
    "parts of a variant": lambda folder, w: parts(
        folder, w, f"{STEM}.safetensors.fp16.index.json", ending=".safetensors"
    ),
    "parts of a variant, before": lambda folder, w: parts(
        folder, w, f"{STEM}.safetensors.index.fp16.json", ending=".safetensors"
    ),
    "variant": lambda folder, w: save_file(w, folder / f"{STEM}.fp16.safetensors"),
    "pipeline": pipeline,
    "replica": lambda folder, w: save_file(renamed(w, "module.{}".format), folder / f"{STEM}.safetensors"),
    "compiled": lambda folder, w: pickled(folder, renamed(w, "_orig_mod.{}".format)),
    "both": lambda folder, w: pickled(folder, renamed(w, "module._orig_mod.{}".format)),
    "compiled blocks": lambda folder, w: pickled(
        folder, renamed(w, lambda name: name.replace(".attn.", "._orig_mod.attn."))
    ),
    "model": lambda folder, w: pickled(folder, {"model": w, "step": 7, "optimizer": {"state": {0: {"m": w}}}}),
    "ema": lambda folder, w: pickled(folder, {"ema": w, "step": 7}),
    "state_dict": lambda folder, w: pickled(folder, {"state_dict": renamed(w, "module.{}".format), "epoch": 3}),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_read_in_every_form_of_a_certain_meaning(form: str, tmp_path: Path) -> None:
    model = LINA(SQUARE)
    initialize(model, seed=5)
    (tmp_path / "in").mkdir()
    FORMS[form](tmp_path / "in", {name: value.contiguous() for name, value in save_official(model).items()})
    assert convert(tmp_path / "in", tmp_path / "out").config == SQUARE
    converted = load_model(tmp_path / "out").state_dict()
    assert all(torch.equal(value, converted[name]) for name, value in model.state_dict().items())


def test_a_file_of_weights_may_have_any_name(tmp_path: Path) -> None:
    model = official(SQUARE, tmp_path / "in")
    (tmp_path / "in" / f"{STEM}.safetensors").rename(tmp_path / "in" / "ours.safetensors")
    with pytest.raises(ValueError, match=r"if ours\.safetensors holds the weights, give that file"):
        convert(tmp_path / "in", tmp_path / "out")
    convert(tmp_path / "in" / "ours.safetensors", tmp_path / "out")
    assert torch.equal(load_model(tmp_path / "out").backbone.mask_token, model.backbone.mask_token)


UNCERTAIN: dict[str, tuple[Callable[[Path, Weights], object], str]] = {
    "no index": (
        lambda folder, w: save_file(w, folder / f"{STEM}-00001-of-00002.safetensors"),
        f"parts such as {STEM}-00001-of-00002.safetensors without their index",
    ),
    "part missing": (
        lambda folder, w: (parts(folder, w, ending=".bin"), (folder / f"{STEM}-00002-of-00002.bin").unlink()),
        f"lacks {STEM}-00002-of-00002.bin, a part of the weights",
    ),
    "part of another download": (
        lambda folder, w: (
            parts(folder, w, ending=".bin"),
            pickled(folder, {"x": torch.zeros(1)}, f"{STEM}-00002-of-00002.bin"),
        ),
        "they are not of the same download",
    ),
    "part elsewhere": (
        lambda folder, w: (folder / f"{STEM}.bin.index.json").write_text('{"weight_map": {"x": "../x.bin"}}'),
        "names '../x.bin', which is not a file of weights beside it",
    ),
    "variants": (
        lambda folder, w: [save_file(w, folder / f"{STEM}.{kind}.safetensors") for kind in ("bf16", "fp16")],
        f"give one file of {STEM}.bf16.safetensors, {STEM}.fp16.safetensors",
    ),
    "two sets": (lambda folder, w: pickled(folder, {"model": w, "ema": w}), "holds weights under model, ema, and"),
    "another set": (lambda folder, w: pickled(folder, {"teacher": w}), "holds weights under teacher, and"),
    "same names": (
        lambda folder, w: save_file(
            {**w, "_orig_mod.label_embed.weight": torch.zeros(1)}, folder / f"{STEM}.safetensors"
        ),
        "weights of the same name with and without a wrapper's prefix",
    ),
    "empty": (lambda folder, w: save_file({}, folder / f"{STEM}.safetensors"), "not the weights of a LINA"),
}


@pytest.mark.parametrize("form", UNCERTAIN)
def test_what_could_mean_several_weights_is_refused_with_what_to_do(form: str, tmp_path: Path) -> None:
    write, sentence = UNCERTAIN[form]
    write(tmp_path, {name: value.contiguous() for name, value in save_official(LINA(SQUARE)).items()})
    with pytest.raises(ValueError, match=re.escape(sentence)):
        convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parts_run_no_code(tmp_path: Path) -> None:
    pickled(tmp_path, {"x": Path("a")}, "part.bin")
    (tmp_path / f"{STEM}.bin.index.json").write_text('{"weight_map": {"x": "part.bin"}}')
    with pytest.raises(ValueError, match="cannot be read"):
        convert(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("config", [*filter(known_to_the_authors, valid_attentions())], ids=name_of)
def test_an_attention_is_found_by_its_names(config: AttentionConfig) -> None:
    """All but what looks the same: other cores with `qkv`, feature maps, and a norm without weights."""
    model = replace(small(config), latent_size=(8, 8))
    found = detect(save_official(LINA(model)), {"num_heads": 2}).config.decoder_blocks
    core = AttentionConfig() if config.kind == "linear" else SOFTMAX
    kernel = config.conv_kernel if config.conv != "none" else core.conv_kernel
    same = {"kind": "linear", "feature_map": "relu", "mediators": 64, "blocks": 16, "qk_norm": "none"}
    looks = replace(config, **same, conv_kernel=kernel)
    assert found == (looks,)


def test_heads_are_found_by_width_or_by_gate() -> None:
    weights = {name: value.to("meta") for name, value in save_official(LINA(SQUARE)).items()}
    assert detect(weights).config.num_heads == 2
    plain = save_official(LINA(replace(SQUARE, attention=PLAIN)))
    with pytest.raises(ValueError, match=r"number of heads at width 8 is not in the weights: give model\.num_heads=N"):
        detect(plain)
    for dim, heads in ((768, 12), (1024, 16), (1536, 16)):
        with torch.device("meta"):
            wide = {name: torch.empty(_widened(value.shape, dim)) for name, value in plain.items()}
        assert detect(wide).config.num_heads == heads


def _widened(shape: torch.Size, dim: int) -> list[int]:
    return [side * dim // SMALL.dim if side % SMALL.dim == 0 else side for side in shape]


def test_what_was_assumed_is_said_and_can_be_stated() -> None:
    weights = save_official(LINA(replace(SQUARE, attention=SOFTMAX)))
    found = detect(weights, {"num_heads": 2})
    assert found.config.latent_size == (16, 16)
    assert [sentence.split("=")[0] for sentence in found.assumptions] == ["latent_size", "kind", "feature_map"]
    assert "qk_norm=none" in found.assumptions[-1]
    stated = {"num_heads": 2, "latent_size": [8, 8], "attention": {"kind": "softmax"}}
    found = detect(weights, stated)
    assert found.config == replace(SQUARE, attention=replace(SOFTMAX, conv_kernel=5))
    assert found.assumptions == ()


def test_the_command_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    official(SQUARE, tmp_path / "in")
    assert COMMAND.main([f"source={tmp_path / 'in'}", f"out={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr().out
    assert "dim: 8\nnum_heads: 2\n" in printed
    assert "  gate: kv\n" in printed
    assert "assumed, not in the weights: kind=linear" in printed
    assert str(tmp_path / "out" / "model.safetensors") in printed
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert COMMAND.main([f"source={tmp_path / 'in'}", f"out={tmp_path / 'out'}"]) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def damaged(folder: Path, case: str) -> list[str]:
    if case == "nothing":
        folder.mkdir()
    elif case == "truncated":
        official(SQUARE, folder)
        file = folder / f"{STEM}.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    elif case == "code":
        folder.mkdir()
        torch.save({"weight": Path("a")}, folder / f"{STEM}.bin")
    elif case == "foreign":
        folder.mkdir()
        save_file({"conv.weight": torch.zeros(1)}, folder / f"{STEM}.safetensors")
    elif case == "not numbers":
        official(SQUARE, folder)
        file = folder / f"{STEM}.safetensors"
        weights = load_file(file)
        weights["mask_embed.mask_token"].view(-1)[3] = float("nan")
        save_file(weights, file)
    elif case == "field":
        official(SQUARE, folder)
        return ["model.heads=3"]
    elif case == "stated wrong":
        official(SQUARE, folder)
        return ["model.attention.gate=none"]
    return []


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("nothing", "has neither diffusion_pytorch_model.safetensors nor diffusion_pytorch_model.bin"),
        ("truncated", "cannot be read"),
        ("code", "cannot be read"),
        ("foreign", "not the weights of a LINA: they lack mask_embed.mask_token"),
        ("not numbers", "are not finite (mask_embed.mask_token)"),
        ("field", "model.heads is not a field"),
        ("stated wrong", "image_encoder.blocks.1.attn.key_scale is left over"),
    ],
)
def test_what_cannot_be_converted_is_refused(
    case: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = damaged(tmp_path / "in", case)
    assert COMMAND.main([f"source={tmp_path / 'in'}", f"out={tmp_path / 'out'}", *extra]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_whole_model_is_refused(tmp_path: Path) -> None:
    save_model(LINA(SQUARE), tmp_path / "model")
    modes = {(tmp_path / "model" / name).stat().st_mode for name in ("config.yaml", "model.safetensors")}
    assert len(modes) == 1
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    save_model(LINA(replace(SQUARE, dim=16)), tmp_path / "other")
    (tmp_path / "other" / "config.yaml").write_text((tmp_path / "model" / "config.yaml").read_text())
    for folder in (tmp_path / "model", tmp_path / "other", tmp_path / "none"):
        with pytest.raises(ValueError, match="does not hold a model"):
            load_model(folder)
