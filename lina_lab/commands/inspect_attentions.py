"""The work of `lina inspect`: from a trained model to table, gates, figures and page."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lina_lab.commands.inspect import InspectConfig
from lina_lab.config import TrialConfig, from_dict, from_stored, to_dict
from lina_lab.data import make_data
from lina_lab.data.pretrained import local_device
from lina_lab.evaluation.inspect.capture import Settings
from lina_lab.evaluation.inspect.figures import draw
from lina_lab.evaluation.inspect.inputs import validation_batches
from lina_lab.evaluation.inspect.page import means, write_page
from lina_lab.evaluation.inspect.table import batch_size, inspect_model
from lina_lab.model.saved import Saved, read_saved
from lina_lab.records.weights import locate
from lina_lab.util.files import atomic
from lina_lab.util.progress import image_progress

TABLE, GATES, PAGE = "inspect.csv", "gates.npz", "index.html"


def trial_of(config: InspectConfig, saved: Saved) -> TrialConfig:
    """The trial whose validation inputs are used.

    Raises:
        ValueError: the weights come without one and data do not say it, or there is no such data.
    """
    if not saved.checkpoint and config.data is None:
        raise ValueError(
            f"{config.checkpoint} holds a model without its trial, and so no validation images: give data.name=NAME, "
            "and data.path=FOLDER for shards"
        )
    plain: dict[str, Any] = {"model": to_dict(saved.config)}
    if saved.checkpoint:
        plain = to_dict(from_stored(TrialConfig, saved.checkpoint["hyper_parameters"]))
    if config.data is None:
        return from_dict(TrialConfig, plain)
    return from_dict(TrialConfig, {**plain, "data": {**plain.get("data", {}), **config.data}})


def run(config: InspectConfig) -> int:
    """Look, write table, gates, figures and page, and print the means; returns 0.

    Raises:
        ValueError: there is no model, no validation images for it, or fewer than asked for.
        OSError: the folder cannot be written.
    """
    console, device, out = Console(), local_device(), Path(config.out)
    located = locate(config.checkpoint)
    saved = read_saved(located, config.weights)
    trial = trial_of(config, saved)
    for assumption in saved.assumptions:
        console.print(f"assumed, not in the weights: {assumption}", soft_wrap=True)
    settings = Settings(rows=config.rows, unlike=config.unlike, alike=config.alike, seed=config.seed)
    data = make_data(trial)
    # Hooks see what each block gets only if blocks are not compiled.
    model = replace(saved, config=replace(saved.config, compile=False)).model().to(device)
    batches = validation_batches(trial, data, config.images, batch_size(model.config, settings), device)
    out.mkdir(parents=True, exist_ok=True)
    with image_progress(console) as progress:
        task = progress.add_task("images", total=config.images)
        findings = inspect_model(model, batches, settings, lambda images: progress.advance(task, images))
    table = findings.table()
    with atomic(out / TABLE) as draft:
        table.to_csv(draft, index=False)
    if gates := findings.mean_gates():
        with atomic(out / GATES) as draft, draft.open("wb") as file:
            np.savez(file, **gates)  # type: ignore[arg-type]  # of NumPy's stubs: names could be allow_pickle
    facts = {
        "model": f"{located.path} (SHA-256 {located.sha256[:12]}), weights: {saved.which}",
        "inputs": f"{config.images} validation images of data.name={trial.data.name}",
    }
    sampled = float(table["sampled"].min())
    if sampled < 1:
        facts["query rows"] = f"a random subset of at most {settings.rows} rows of each matrix"
    captions = draw(findings, table, out)
    write_page(out / PAGE, f"Attentions of {Path(config.checkpoint).name}", facts, table, captions)
    print(means(table).to_string(float_format=lambda value: f"{value:.3g}", na_rep=""))
    for name, fact in facts.items():
        print(f"{name}: {fact}")
    print(out / PAGE)
    return 0
