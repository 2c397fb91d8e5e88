"""The work of `lina sample`, see `commands.sample`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from filelock import FileLock
from rich.console import Console

from lina_lab.commands.sample import SampleConfig
from lina_lab.data.pixels import to_pixels
from lina_lab.data.pretrained import local_device
from lina_lab.data.shards.format import TextOrigin, read_manifest
from lina_lab.data.text import TextEncoder, load_text_encoder
from lina_lab.evaluation.decoding import decoder_of
from lina_lab.evaluation.images import read_images
from lina_lab.evaluation.prompts.geneval import LAYOUT, read_prompts, write_layout
from lina_lab.evaluation.sampling import SAMPLES_FILE, Condition, SampleRecipe, rng_version_in, sample
from lina_lab.evaluation.weights import Trained, load_trained
from lina_lab.training.memory import keep_freed_memory
from lina_lab.util.progress import image_progress


def recipe_of(config: SampleConfig, trained: Trained, prompts: Sequence[str], text: TextOrigin | None) -> SampleRecipe:
    """The recipe of a command for a model.

    Args:
        config: the command's fields.
        trained: the model.
        prompts: captions; none for a model of classes.
        text: the states that the model was trained on, where config.shards holds them.

    Raises:
        ValueError: classes or prompts that the model does not have, or has none of.
    """
    model = trained.model.config
    if not model.kind.generates:
        raise ValueError(f"the model is one of task={model.task}, which generates no images")
    classes = tuple(config.classes if config.classes is not None else range(model.num_classes or 0))
    if classes and (model.num_classes is None or max(classes) >= model.num_classes):
        raise ValueError(f"classes={list(classes)[:5]}: the model has {model.num_classes or 'no'} classes")
    if bool(prompts) != (model.text_dim is not None):
        has = "is not one of texts, and takes no" if prompts else "is one of texts, and needs"
        raise ValueError(f"the model {has} prompts=FILE")
    encoder = config.encoder or trained.encoder or (None if text is None else text.encoder)
    if prompts and encoder is None:
        raise ValueError(
            "encoder=NAME is needed: neither the checkpoint nor shards=FOLDER says which text encoder it is"
        )
    return SampleRecipe(
        images=config.images or (4 * len(prompts) if prompts else 1000),
        classes=classes,
        ar_steps=config.ar_steps or min(64, model.num_tokens),
        ode_steps=config.ode_steps,
        ode_solver=config.ode_solver,
        guidance_scale=config.guidance_scale,
        guidance_scale_start=config.guidance_scale_start,
        seed=config.seed,
        batch_size=config.batch_size,
        weights=trained.weights,
        weights_sha256=trained.sha256,
        decoder=config.vae or "pixels",
        prompts=tuple(prompts),
        encoder=encoder if prompts else None,
    )


def run(config: SampleConfig) -> int:
    """Generate; returns 0. Prints where the images are, or that other ranks are still generating.

    Raises:
        ValueError: see `torchrun_layout`, `recipe_of` and `sample`.
    """
    console = Console()
    rank, world_size = torchrun_layout()
    device = local_device()
    keep_freed_memory()
    trained, out = load_trained(config.checkpoint, config.weights, ema=config.ema), Path(config.out)
    config = replace(config, shards=config.shards or trained.shards)
    for assumption in trained.assumptions:
        console.print(f"assumed, not in the weights: {assumption}", soft_wrap=True)
    prompts = [] if config.prompts is None else read_prompts(Path(config.prompts))
    manifest = None if config.shards is None else read_manifest(Path(config.shards))
    if manifest is None and config.vae is not None:
        raise ValueError(f"vae={config.vae} needs shards=FOLDER, whose manifest holds the scale of the latents")
    if manifest is not None and manifest.vae is not None and config.vae is None:
        which = f"vae=NAME is the autoencoder that decodes them, {manifest.vae} when they were made"
        raise ValueError(f"shards={config.shards} holds latents: {which}")
    text = None if manifest is None else manifest.text
    recipe = recipe_of(config, trained, [metadata["prompt"] for metadata in prompts], text)
    recipe = replace(recipe, rng_version=rng_version_in(out))
    model, encode = trained.model.to(device), None
    if recipe.encoder is not None:
        encoder = _encoder(recipe.encoder, config, trained, text)
        recipe = replace(recipe, encoder_sha256=encoder.sha256())
        encode = partial(_encode, encoder, model.config.text_length, device)
    vae, shards = config.vae, config.shards
    decode = to_pixels if vae is None or shards is None else decoder_of(vae, Path(shards), device)
    batches = -(-recipe.images // recipe.batch_size)
    mine = sum(min(recipe.batch_size, recipe.images - i * recipe.batch_size) for i in range(rank, batches, world_size))
    with image_progress(console) as progress:
        report = partial(progress.advance, progress.add_task("images", total=mine))
        whole = sample(model, decode, recipe, out, rank=rank, world_size=world_size, encode=encode, report=report)
    if whole and prompts:
        with FileLock(out / ".lock"):
            write_layout(out / LAYOUT, read_images(out / SAMPLES_FILE), prompts)
    if whole:
        console.print(f"{recipe.images:,} images: {out / SAMPLES_FILE}", soft_wrap=True)
    else:
        console.print(f"rank {rank}: its {mine:,} of {recipe.images:,} images are there, others are still at it")
    return 0


def torchrun_layout() -> tuple[int, int]:
    """Rank and number of ranks that torchrun gives; (0, 1) without it.

    Raises:
        ValueError: another launcher has left such variables in the environment, or only some of them.
    """
    names = ("RANK", "WORLD_SIZE")
    given = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    if not given:
        return 0, 1
    rank, world_size = (os.environ.get(name, "") for name in names)
    numbers = rank.isdecimal() and world_size.isdecimal() and int(rank) < int(world_size)
    if numbers and (int(world_size) == 1 or torch.distributed.is_torchelastic_launched()):
        return int(rank), int(world_size)
    raise ValueError(
        f"{' and '.join(given)} in the environment would make this a part of a group that torchrun has not started: "
        "unset RANK and WORLD_SIZE, or start the ranks with torchrun"
    )


def _encoder(name: str, config: SampleConfig, trained: Trained, text: TextOrigin | None) -> TextEncoder:
    """The text encoder that the model was trained with.

    Raises:
        ValueError: it is another one.
    """
    encoder = load_text_encoder(name, trained.model.config.text_dim)
    known = {"the checkpoint": trained.encoder_sha256, config.shards: text and text.sha256}
    for owner, sha256 in known.items():
        if sha256 not in (None, encoder.sha256()):
            raise ValueError(f"encoder={name} is not the text encoder whose states {owner} was made with")
    return encoder


def _encode(encoder: TextEncoder, length: int, device: torch.device | str, captions: Sequence[str]) -> Condition:
    text, present = encoder.encode(captions, length, device)
    return {"text": text, "present": present}
