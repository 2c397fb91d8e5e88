"""Captions become states: of any encoder, the same alone and in a batch, kept beside latents or made as they come."""

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lina_lab.commands.cache import COMMAND as CACHE
from lina_lab.commands.sample import COMMAND as SAMPLE
from lina_lab.config import TrialConfig
from lina_lab.data import make_data
from lina_lab.data.shards.format import ShardError, read_manifest
from lina_lab.data.text import PretrainedEncoder, TextEncoder, load_text_encoder
from lina_lab.training.trial import run_trial
from tests.data.shard_tools import as_webdataset_reads, images_of, npy, only, rewrite

# In an environment of its own: see TEXT in the Makefile.
pytest.importorskip("transformers")

Tiny = Callable[..., TrialConfig]
CAPTIONS = ["a red circle", "two squares", "", "a green triangle above a red square and a blue circle"]
LENGTH = 6
KINDS = ("bert", "t5", "clip", "gpt2")


def save_random(kind: str, folder: Path) -> Path:
    """A small random text encoder with a tokenizer of words, in a folder as transformers has them."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[pad]", "[unk]", "[end]", *sorted({word for caption in CAPTIONS for word in caption.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"unk_token": "[unk]", "eos_token": "[end]"} | ({} if kind == "gpt2" else {"pad_token": "[pad]"})
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    small = {"vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"intermediate_size": 32, "max_position_embeddings": 16}
    network: Any
    if kind == "bert":
        network = transformers.BertModel(transformers.BertConfig(**small))
    elif kind == "t5":
        sizes = {"vocab_size": len(words), "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        network = transformers.T5Model(transformers.T5Config(**sizes))
    elif kind == "clip":
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision |= {"image_size": 8, "patch_size": 4}
        network = transformers.CLIPModel(transformers.CLIPConfig(text_config=small, vision_config=vision))
    else:
        sizes = {"vocab_size": len(words), "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
        network = transformers.GPT2Model(transformers.GPT2Config(**sizes))
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_random(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(params=["words", *KINDS])
def encoder(request: pytest.FixtureRequest, networks: dict[str, Path]) -> TextEncoder:
    return load_text_encoder(str(networks.get(request.param, request.param)), 16)


def test_states_are_those_of_the_caption_alone(encoder: TextEncoder) -> None:
    """As many as it has words; zero and absent after them; another order of the words is another text."""
    text, present = encoder.encode(CAPTIONS, LENGTH)
    assert text.shape == (4, LENGTH, 16)
    assert text.dtype == torch.float32
    assert present.sum(dim=1).tolist() == [3, 2, 0, LENGTH]
    assert torch.equal(present, torch.arange(LENGTH) < present.sum(dim=1, keepdim=True))
    assert not text[~present].any()
    assert text[present].std() > 0.1
    for caption, states in zip(CAPTIONS, text, strict=True):
        assert torch.allclose(encoder.encode([caption], LENGTH)[0][0], states, atol=1e-5)
    turned = encoder.encode(["a square above a circle", "a circle above a square"], LENGTH)[0]
    assert not torch.allclose(turned[0], turned[1], atol=1e-3)
    assert not text.requires_grad


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_states_are_the_networks_own(networks: dict[str, Path], kind: str) -> None:
    """The last layer's, of the caption without padding."""
    import transformers

    encoder = load_text_encoder(str(networks[kind]))
    network = transformers.AutoModel.from_pretrained(networks[kind]).eval()
    network = network.get_encoder() if kind == "t5" else network
    tokens = transformers.AutoTokenizer.from_pretrained(networks[kind])(CAPTIONS[0], return_tensors="pt")
    with torch.no_grad():
        expected = network(input_ids=tokens["input_ids"]).last_hidden_state[0]
    states = encoder.encode(CAPTIONS, LENGTH)[0][0]
    assert torch.allclose(states[: len(expected)], expected, atol=1e-5)


def test_encoders_are_told_apart_and_wrong_ones_refused(networks: dict[str, Path], tmp_path: Path) -> None:
    digests = {load_text_encoder(str(networks[kind])).sha256() for kind in ("bert", "t5")}
    assert len(digests) == 2
    assert not any(p.requires_grad for p in load_encoder(networks["bert"]).network.parameters())
    with pytest.raises(ValueError, match="is no text encoder that can be loaded"):
        load_text_encoder(str(tmp_path))
    with pytest.raises(ValueError, match=r"has states of 16 channels, and 8 are asked for"):
        load_text_encoder(str(networks["t5"]), 8)
    with pytest.raises(ValueError, match="words has as many channels as one asks for"):
        load_text_encoder("words")


def test_weights_that_are_not_there_are_not_initialized_at_random(networks: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in networks["bert"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    pooler = {name: value for name, value in weights.items() if "pooler" not in name}
    save_file(pooler, tmp_path / "model.safetensors", metadata={"format": "pt"})
    two = [load_encoder(tmp_path) for _ in range(2)]
    assert two[0].sha256() == two[1].sha256()
    assert torch.equal(two[0].encode(CAPTIONS, LENGTH)[0], load_encoder(networks["bert"]).encode(CAPTIONS, LENGTH)[0])
    some = {name: value for name, value in pooler.items() if "layer.1.output.dense" not in name}
    save_file(some, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="its file lacks weights of BertModel"):
        load_text_encoder(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes((networks["bert"] / "model.safetensors").read_bytes()[:500])
    with pytest.raises(ValueError, match="is no text encoder that can be loaded"):
        load_text_encoder(str(tmp_path))


def test_half_precision_is_widened_and_too_many_tokens_are_refused(networks: dict[str, Path], tmp_path: Path) -> None:
    import transformers

    network = transformers.AutoModel.from_pretrained(networks["bert"]).to(torch.bfloat16)
    for file in networks["bert"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    network.save_pretrained(tmp_path)
    assert {p.dtype for p in load_encoder(tmp_path).network.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="takes 16 tokens, and 17 are asked for"):
        load_encoder(tmp_path).encode(CAPTIONS, 17)


def load_encoder(folder: Path) -> PretrainedEncoder:
    found = load_text_encoder(str(folder))
    assert isinstance(found, PretrainedEncoder)
    return found


def captioned(folder: Path, *, long: bool = True) -> Path:
    """Pictures with short captions, and perhaps with long ones."""
    folder.mkdir()
    for number in range(24):
        Image.new("RGB", (16, 16), (number * 10, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(CAPTIONS[number % 2] + "\n")
        if long:
            (folder / f"{number}.long.txt").write_text(CAPTIONS[3] + "\n")
    return folder


def cached(pictures: Path, vae: Path, out: Path, *more: str) -> Path:
    line = [f"images={pictures}", f"vae={vae}", f"out={out}", "resolution=16", "images_per_shard=8", "batch_size=4"]
    assert CACHE.main([*line, *more]) == 0
    return out


@pytest.fixture(scope="module")
def made(vae: Path, networks: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioned")
    text = [f"text={networks['bert']}", f"text_length={LENGTH}"]
    return cached(captioned(folder / "pictures"), vae, folder / "shards", *text)


def test_states_are_kept_beside_the_latents(made: Path, networks: dict[str, Path]) -> None:
    """Of both captions, in half precision, without the positions that hold nothing."""
    encoder, manifest = load_text_encoder(str(networks["bert"])), read_manifest(made)
    assert manifest.text is not None
    assert (manifest.text.dim, manifest.text.length, manifest.long_captions) == (16, LENGTH, True)
    assert manifest.text.sha256 == encoder.sha256()
    samples = [sample for tar in sorted(made.glob("*.tar")) for sample in as_webdataset_reads(tar)]
    assert len(samples) == 24
    for sample in samples:
        for caption, member in (("txt", "text.npy"), ("long.txt", "long.npy")):
            states, present = encoder.encode([sample[caption].decode()], LENGTH)
            found = np.load(io.BytesIO(sample[member]))
            assert found.dtype == np.float16
            assert np.allclose(found, states[0][present[0]].numpy(), atol=4e-3)
    assert CACHE.main([f"out={made}", "verify=true"]) == 0


def test_a_share_of_the_images_comes_with_its_long_caption(tiny: Tiny, made: Path) -> None:
    """By samples of (seed, pass, index), which change nothing else; held-out images have the short one. As captions may
    name what is on the left, no image is mirrored by default."""
    numbers = torch.arange(24 * 10)
    usual: dict[str, Any] = {"kind": "captions", "first": 0, "images": 24}
    latents, condition = images_of(made, long=0.3, **usual)[numbers]
    share = sum(caption == CAPTIONS[3] for caption in condition["captions"]) / len(numbers)
    assert 0.2 < share < 0.4
    never, short = images_of(made, **usual)[numbers]
    assert torch.equal(latents, never)
    assert set(short["captions"]) == set(CAPTIONS[:2])
    held_out = images_of(made, **usual | {"long": 1.0}, seed=None)[numbers][1]
    assert set(held_out["captions"]) == set(CAPTIONS[:2])
    assert not make_data(trial(tiny, made)).train_set.flip
    assert make_data(trial(tiny, made, flip=True)).train_set.flip
    _, states = images_of(made, long=1.0, **usual | {"kind": "text"})[numbers]
    assert states["text"].shape == (240, LENGTH, 16)
    assert states["present"].all()


def trial(tiny: Tiny, folder: Path, **data: Any) -> TrialConfig:
    model = {"latent_channels": 2, "latent_size": [8, 8], "num_classes": None, "text_dim": 16, "text_length": LENGTH}
    data = {"name": "shards", "path": str(folder), "val_images": 6, "val_batch_size": 3} | data
    return tiny(model=model, data=data, optimizer={"lr": 4e-3})


def test_training_on_kept_states_is_training_on_captions(
    tiny: Tiny, made: Path, networks: dict[str, Path], tmp_path: Path
) -> None:
    """Up to half precision; with a sample grid, and a share of long captions."""
    results = []
    for name, data in (("kept", {}), ("encoded", {"encoder": str(networks["bert"])})):
        (tmp_path / name).mkdir()
        results.append(run_trial(trial(tiny, made, long_captions=0.5, **data), tmp_path / name))
        assert (tmp_path / name / "samples.png").exists()
        assert results[-1].problems == ()
    kept, encoded = (result.metrics["val/loss_ema"] for result in results)
    assert kept == pytest.approx(encoded, rel=1e-3)


def test_the_shards_say_which_encoder_prompts_need(
    tiny: Tiny, made: Path, vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a model that was trained on kept states, whose checkpoint names the shards alone."""
    shards = shutil.copytree(made, tmp_path / "shards")
    run_trial(trial(tiny, shards), tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(CAPTIONS[:2]))
    arguments = [
        f"checkpoint={tmp_path}",
        f"prompts={tmp_path / 'prompts.txt'}",
        "images=2",
        "ar_steps=4",
        "ode_steps=2",
    ]
    assert SAMPLE.main([*arguments, f"out={tmp_path / 'none'}"]) == 2
    assert "holds latents: vae=NAME is the autoencoder that decodes them" in capsys.readouterr().err
    assert SAMPLE.main([*arguments, f"out={tmp_path / 'out'}", f"vae={vae}"]) == 0
    with np.load(tmp_path / "out/samples.npz", allow_pickle=False) as arrays:
        assert arrays["arr_0"].shape == (2, 16, 16, 3)
    shutil.rmtree(shards)
    assert SAMPLE.main([*arguments, f"out={tmp_path / 'none'}"]) == 2
    assert "neither the checkpoint nor shards=FOLDER says which text encoder it is" in capsys.readouterr().err


def test_a_model_learns_from_its_captions(tiny: Tiny, vae: Path, tmp_path: Path) -> None:
    """Which of two kinds of pictures it is: the held-out loss is lower than where every caption is hidden."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(60):
        Image.new("RGB", (16, 16), ("black", "white")[number % 2]).save(pictures / f"{number:02d}.png")
        (pictures / f"{number:02d}.txt").write_text(("by night", "in the snow")[number % 2])
    shards = cached(pictures, vae, tmp_path / "shards")
    config, losses = trial(tiny, shards, encoder="words", val_images=20, val_batch_size=20), {}
    config = replace(config, trainer=replace(config.trainer, max_images=6400, val_every_images=6400))
    for drop in (0.1, 1.0):
        (tmp_path / str(drop)).mkdir()
        changed = replace(config, model=replace(config.model, condition_dropout=drop))
        losses[drop] = run_trial(changed, tmp_path / str(drop)).metrics["val/loss_ema"]
    assert losses[0.1] < losses[1.0] - 0.005


@pytest.mark.parametrize(
    ("model", "data", "sentence"),
    [
        ({"text_dim": 8}, {}, r"up to 6 states of 16 channels, and the model takes model\.text_length=6 of"),
        ({"text_length": 5}, {}, r"up to 6 states of 16 channels"),
        ({"num_classes": 2, "text_dim": None}, {}, r"holds captions and no classes, which model\.num_classes=2"),
        ({}, {"encoder": "nowhere"}, "the text encoder nowhere is no folder here and not in the hub's cache"),
    ],
)
def test_shards_that_do_not_fit_are_refused(
    tiny: Tiny, made: Path, model: dict[str, Any], data: dict[str, Any], sentence: str
) -> None:
    config = trial(tiny, made, **data)
    fields = {name: getattr(config.model, name) for name in ("latent_channels", "num_classes", "text_dim")}
    fields |= {"latent_size": [8, 8], "text_length": LENGTH}
    changed = tiny(model=fields | model, data={"name": "shards", "path": str(made), "val_images": 6} | data)
    with pytest.raises(ValueError, match=sentence):
        make_data(changed)


def test_captions_that_are_not_there_are_said(
    tiny: Tiny, vae: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = captioned(tmp_path / "pictures", long=False)
    bare = cached(pictures, vae, tmp_path / "bare")
    with pytest.raises(
        ShardError, match=r"holds captions without states: give data\.encoder and model\.text_dim, or text=NAME to"
    ):
        make_data(trial(tiny, bare))
    with pytest.raises(ShardError, match=r"holds no long captions, and data\.long_captions=0\.5"):
        make_data(trial(tiny, bare, long_captions=0.5, encoder="words"))
    assert make_data(trial(tiny, bare, encoder="words")).train_set[torch.arange(3)][1]["captions"]
    (pictures / "3.long.txt").write_text("long")
    line = [f"images={pictures}", f"vae={vae}", "resolution=16"]
    capsys.readouterr()
    assert CACHE.main([*line, f"out={tmp_path / 'odd'}"]) == 2
    assert "0.png has no caption beside it, and others have: 0.long.txt" in capsys.readouterr().err
    (pictures / "3.long.txt").unlink()
    assert CACHE.main([*line, f"out={bare}", "images_per_shard=8", "text=words", "text_dim=4"]) == 2
    assert "holds shards of another text" in capsys.readouterr().err


def test_damaged_states_are_named(made: Path, tmp_path: Path) -> None:
    for file in made.iterdir():
        if file.suffix in (".tar", ".json"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    tar, usual = tmp_path / "shard-000001.tar", {"kind": "text", "first": 0, "images": 24}
    whole = tar.read_bytes()
    for array, sentence in (
        (np.zeros((2, 7), np.float16), r"text\.npy is float16\[2, 7\], not float16\[up to 6, 16\]"),
        (np.zeros((7, 16), np.float16), r"text\.npy is float16\[7, 16\]"),
        (np.zeros((2, 16), np.float32), r"text\.npy is float32\[2, 16\]"),
        (np.full((2, 16), np.inf, np.float16), r"text\.npy is not finite"),
    ):
        tar.write_bytes(whole)
        rewrite(tar, only("000000008", "text.npy", npy(array)))
        with pytest.raises(ShardError, match=rf"shard-000001\.tar, key 000000008: {sentence}"):
            images_of(tmp_path, **usual)[torch.arange(24)]
