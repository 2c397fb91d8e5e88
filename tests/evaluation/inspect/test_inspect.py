"""The command from a trained model to table, gates, figures and page, for every task; what it refuses."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lina_lab.commands.inspect import COMMAND, InspectConfig
from lina_lab.config import TrialConfig
from lina_lab.data import make_data
from lina_lab.evaluation.inspect.capture import Look, Settings, watched
from lina_lab.evaluation.inspect.inputs import validation_batches
from lina_lab.evaluation.inspect.quantities import QUANTITIES
from lina_lab.evaluation.inspect.table import COLUMNS, inspect_model
from lina_lab.model import make_model, save_model, save_official
from lina_lab.training.trial import run_trial

CPU = torch.device("cpu")
ALL_PARTS = {"condition", "encoder", "decoder"}
TASKS: dict[str, dict[str, Any]] = {
    "generation": {"attention": {"gate": "kv", "conv": "depthwise"}},
    "classification": {"attention": {"normalization": "subtraction", "gate": "beta", "conv": "dynamic2d"}},
    "diffusion": {"attention": {"kind": "softmax", "gate": "none", "conv": "none"}},
}


def task_trial(tiny: Callable[..., TrialConfig], task: str) -> TrialConfig:
    images = {} if task == "classification" else {"ar_steps": 2}
    return tiny(
        model={"task": task, "patch_size": 2, **TASKS[task]},
        trainer={"max_images": 16, "val_every_images": 16},
        sampling={"images_per_class": 0, **images},
    )


def looked_at(trial: TrialConfig, settings: Settings | None = None, images: int = 4, most: int = 4) -> pd.DataFrame:
    """The table of the untrained model."""
    model = make_model(trial.model)
    batches = validation_batches(trial, make_data(trial), images, most, CPU)
    return inspect_model(model, batches, settings).table()


def means(table: pd.DataFrame, quantity: str, statistic: str = "mean") -> pd.Series:
    return table[(table["quantity"] == quantity) & (table["statistic"] == statistic)]["value"]


@pytest.mark.parametrize("task", TASKS)
def test_a_trained_cell_of_every_task_is_looked_at(
    task: str, tiny: Callable[..., TrialConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_trial(task_trial(tiny, task), tmp_path)
    out = tmp_path / "out"
    assert COMMAND.main([f"checkpoint={tmp_path}", f"out={out}", "images=6"]) == 0
    table = pd.read_csv(out / "inspect.csv")
    assert list(table.columns) == COLUMNS
    generation = task == "generation"
    assert set(table["part"]) == (ALL_PARTS if generation else {"blocks"})
    expected = set(QUANTITIES) - {"gate_normalizer"}
    if not generation:
        expected -= {"denominator", "gate_value"}
    if task == "diffusion":
        expected -= {"rounding_gain", "rank_summary", "gate_key", "convolution_energy"}
    assert set(table["quantity"]) == expected
    for name, rows in table.groupby("quantity"):
        quantity = QUANTITIES[str(name)]
        assert rows["value"].between(quantity.low - 1e-9, quantity.high + 1e-9).all(), name
        heads = set(rows["head"][rows["statistic"] == "mean"])
        assert heads == ({"0", "1"} if quantity.by_head else {"all"})
    assert (table["sampled"] == 1).all()
    files = {"inspect.csv", "index.html", "depth.png", "rows.png"} | (set() if task == "diffusion" else {"gates.png"})
    assert {file.name for file in out.iterdir()} == files | (set() if task == "diffusion" else {"gates.npz"})
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == len(files) - 2
    assert 'src="depth' not in page
    printed = capsys.readouterr().out
    assert "6 validation images of data.name=digits" in printed
    assert str(out / "index.html") in printed


def test_the_gates_are_those_of_the_checkpoint(tiny: Callable[..., TrialConfig], tmp_path: Path) -> None:
    trial = task_trial(tiny, "generation")
    model = make_model(trial.model)
    gate = model.backbone.decoder[0].attn.gate
    gate.key_scale.data += torch.rand(gate.key_scale.shape, generator=torch.Generator().manual_seed(0))
    save_model(model, tmp_path / "model")
    arguments = [f"checkpoint={tmp_path / 'model'}", f"out={tmp_path / 'out'}", "images=2"]
    assert COMMAND.main([*arguments, "data.name=digits", "data.val_images=40", "data.val_batch_size=20"]) == 0
    with np.load(tmp_path / "out/gates.npz") as gates:
        assert set(gates) == {"decoder.0.key", "decoder.0.value"}
        np.testing.assert_allclose(gates["decoder.0.key"], gate.key_scale[..., 0].detach(), rtol=1e-6)
        assert (gates["decoder.0.value"] == 1).all()
    table = pd.read_csv(tmp_path / "out/inspect.csv", dtype={"head": str})
    distance = table[(table["quantity"] == "gate_key") & (table["statistic"] == "mean")].set_index("head")["value"]
    np.testing.assert_allclose(distance, (gate.key_scale - 1).abs().mean((1, 2)).detach(), rtol=1e-5)
    assert (means(table, "gate_value") == 0).all()


def test_official_weights_are_looked_at_on_data_that_are_named(
    tiny: Callable[..., TrialConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(task_trial(tiny, "generation").model)
    torch.save(save_official(model), tmp_path / "diffusion_pytorch_model.bin")
    save_model(model, tmp_path / "model")
    for source, out in ((tmp_path / "diffusion_pytorch_model.bin", "theirs"), (tmp_path / "model", "ours")):
        arguments = ["data.name=digits", "data.val_images=40", "data.val_batch_size=20", "images=2"]
        assert COMMAND.main([f"checkpoint={source}", *arguments, f"out={tmp_path / out}"]) == 0
    assert "assumed, not in the weights: " in capsys.readouterr().out
    theirs, ours = (pd.read_csv(tmp_path / out / "inspect.csv") for out in ("theirs", "ours"))
    pd.testing.assert_frame_equal(theirs, ours)


def test_quantities_do_not_depend_on_batches_and_the_model_is_left_as_it_was(tiny: Callable[..., TrialConfig]) -> None:
    trial = task_trial(tiny, "generation")
    model = make_model(trial.model).train()
    model.backbone.encoder.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    data = make_data(trial)
    tables = [inspect_model(model, validation_batches(trial, data, 8, most, CPU)).table() for most in (8, 3)]
    # The token of a receptive field is another one in another batch.
    tables = [table[~table["quantity"].str.startswith("field")].reset_index(drop=True) for table in tables]
    pd.testing.assert_frame_equal(*tables, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_hooks_are_removed_when_a_quantity_fails(tiny: Callable[..., TrialConfig]) -> None:
    trial = task_trial(tiny, "classification")
    model = make_model(trial.model).train()
    nn.init.constant_(model.blocks[0].attn.qkv.weight, float("nan"))
    with pytest.raises(ValueError, match=r"block blocks\.0 is not finite"):
        inspect_model(model, validation_batches(trial, make_data(trial), 2, 2, CPU))
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())


def test_the_loss_of_the_chosen_images_is_that_of_validation(tiny: Callable[..., TrialConfig]) -> None:
    """All images, in batches as small as one: latents, classes and noise are those that a trial validates with."""
    trial = task_trial(tiny, "diffusion")
    model, data = make_model(trial.model), make_data(trial)
    frozen = trial.model.kind.load_inputs().frozen(trial.model, [20, 20])
    whole = []
    for number, inputs in enumerate(frozen):
        latents, condition = data.val_set[torch.arange(20) + 20 * number]
        whole.append(model.loss_from_inputs(latents, inputs, **data.condition(condition, CPU)).item())
    batches = validation_batches(trial, data, 40, 1, CPU)
    alone = [model.loss_from_inputs(latents, inputs, **condition).item() for latents, inputs, condition in batches]
    assert np.mean(alone) == pytest.approx(np.mean(whole), rel=1e-5)
    some = list(validation_batches(trial, data, 4, 8, CPU))
    assert [len(latents) for latents, _, _ in some] == [2, 2]  # images 0, 10 and 20, 30
    assert torch.equal(some[1][0], data.val_set[torch.tensor([20, 30])][0])


def test_large_matrices_are_looked_at_by_some_of_their_rows(tiny: Callable[..., TrialConfig]) -> None:
    trial = task_trial(tiny, "diffusion")
    whole = looked_at(trial, images=2)
    some = looked_at(trial, Settings(rows=5), images=2)
    assert (whole["sampled"] == 1).all()
    assert some["sampled"].unique() == [5 / 16]
    entropies = some[(some["quantity"] == "row_entropy") & (some["statistic"] == "mean")]
    assert set(entropies["rows"]) == {10}
    again = looked_at(trial, Settings(rows=5), images=2)
    pd.testing.assert_frame_equal(some, again)
    other = looked_at(trial, Settings(rows=5, seed=1), images=2)
    assert not np.allclose(means(some, "row_entropy"), means(other, "row_entropy"), rtol=1e-9)


def test_a_planted_convolution_is_seen_in_the_receptive_field_and_in_its_energy(
    tiny: Callable[..., TrialConfig],
) -> None:
    trial = tiny(model={"task": "classification", "patch_size": 1, "attention": {"gate": "none", "conv": "depthwise"}})
    model = make_model(trial.model)
    attention = model.blocks[0].attn
    nn.init.zeros_(attention.qkv.weight)
    nn.init.ones_(attention.qkv.bias)
    batches = list(validation_batches(trial, make_data(trial), 40, 40, CPU))
    table = inspect_model(model, batches).table()
    first = table[table["block"] == 0]
    np.testing.assert_allclose(means(first, "row_entropy"), np.log(64), rtol=1e-6)
    np.testing.assert_allclose(means(first, "near_3x3"), means(first, "near_3x3", "uniform").item(), rtol=1e-6)
    # Each output is the same mean of the values, which do not depend on the input: the 5 x 5 convolution is all.
    np.testing.assert_allclose(means(first, "field_5x5"), 1, rtol=1e-6)
    assert means(first, "field_3x3").item() < 1
    nn.init.zeros_(attention.conv.conv.weight)
    nn.init.zeros_(attention.conv.conv.bias)
    table = inspect_model(model, batches[:1]).table()
    assert (means(table[table["block"] == 0], "convolution_energy") == 0).all()
    assert (means(table[table["block"] == 1], "convolution_energy") > 0).all()


def test_the_receptive_field_of_a_convolution_is_the_square_of_its_kernel(tiny: Callable[..., TrialConfig]) -> None:
    trial = tiny(model={"task": "classification", "patch_size": 1, "attention": {"gate": "none", "conv": "depthwise"}})
    model = make_model(trial.model)
    attention = model.blocks[0].attn
    nn.init.zeros_(attention.qkv.weight)
    nn.init.eye_(attention.proj.weight)
    for latents, inputs, condition in validation_batches(trial, make_data(trial), 20, 20, CPU):
        looks: list[Look] = []
        with torch.no_grad(), watched(model, Settings(), looks.append):
            model.loss_from_inputs(latents, inputs, **condition)
        found = looks[0].receptive_field()
        assert found is not None
        energy, offset = (each[:, 0, 0] for each in found)
        kernel = attention.conv.conv.weight.detach().double().square().sum((0, 1))  # over channels: [5, 5]
        row, column = (2 - offset).long().unbind(-1)
        near = offset.abs().amax(-1) <= 2
        expected = torch.where(near, kernel[row.clamp(0, 4), column.clamp(0, 4)], 0.0)
        torch.testing.assert_close(energy, expected, rtol=1e-5, atol=1e-9)


def test_encoder_tokens_have_the_places_that_are_visible(tiny: Callable[..., TrialConfig]) -> None:
    trial = task_trial(tiny, "generation")
    seen: dict[str, Look] = {}
    model, data = make_model(trial.model), make_data(trial)
    (latents, inputs, condition), *_ = validation_batches(trial, data, 40, 8, CPU)
    with (
        torch.no_grad(),
        watched(model, Settings(), lambda look: seen.setdefault(look.part, look) and None),
    ):
        model.loss_from_inputs(latents, inputs, **condition)
    assert torch.equal(seen["encoder"].places, inputs.visible_ids)
    assert seen["decoder"].places[0].tolist() == list(range(16))
    assert (seen["condition"].grid, seen["decoder"].grid) == ((2, 2), (4, 4))
    assert seen["condition"].condition_tokens == 1  # the class
    call = seen["decoder"].call
    assert call.qkv.dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["checkpoint={}/model", "images=0"], "images"),
        (["checkpoint={}/model"], "holds a model without its trial, and so no validation images: give data.name=NAME"),
        (["checkpoint={}/empty"], "empty"),
        (["checkpoint={}/none"], "none is not there: no file and no folder has this name"),
        (
            ["checkpoint={}/model", "data.name=digits", "data.val_images=40", "images=41"],
            "images=41: the validation set",
        ),
        (["checkpoint={}/model", "data.name=shards", "data.path={}/gone"], "{}/gone"),
        (["checkpoint={}/model", "data.name=digits", "alike=1.5"], "alike"),
    ],
)
def test_what_cannot_be_looked_at_is_said_in_one_sentence(
    tiny: Callable[..., TrialConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    (tmp_path / "empty").mkdir()
    save_model(make_model(task_trial(tiny, "generation").model), tmp_path / "model")
    assert COMMAND.main([*(a.format(tmp_path) for a in arguments), f"out={tmp_path / 'out'}"]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert sentence.format(tmp_path) in line
    assert not (tmp_path / "out").exists()


def test_the_fields_are_read_without_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import lina_lab.commands.inspect, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ}, cwd=tmp_path)
    assert InspectConfig(checkpoint="x", out="y").images == 32
