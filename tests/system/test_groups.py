"""Several processes that train one cell: the same result from any layout, and after any failure."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lina_lab.config import ResourcesConfig, TrialConfig, to_dict
from lina_lab.evaluation.posthoc import AVERAGES
from lina_lab.evaluation.weights import load_trained
from lina_lab.launch.group import GroupError, GroupLaunch
from lina_lab.launch.torchrun import OneMachine
from lina_lab.model.shards import open_checkpoint
from lina_lab.records.checkpoints import checkpoint_files, delete, is_whole, read_best, shards_folder
from lina_lab.records.result import TrialResult
from lina_lab.training.checkpoints import newest
from lina_lab.training.trial import run_trial
from tests.training.old_checkpoints import as_of, as_version_0_1_wrote_it, last, load
from tests.training.test_resume import assert_same_state

pytestmark = pytest.mark.system
Tiny = Callable[..., TrialConfig]
LOSSES = ("train/loss", "val/loss_raw", "val/loss_ema")


def steady(tiny: Tiny, **changes: Any) -> TrialConfig:
    """A trial that does not amplify rounding; under division the smallest widths do."""
    attention = {"attention": {"normalization": "subtraction"}}
    sections = {"model": attention, "data": {"val_images": 50}, "trainer": {"max_images": 160, "val_every_images": 80}}
    return tiny(**{**sections, **changes})


def train(config: TrialConfig, folder: Path, lines: list[str] | None = None, **resources: Any) -> TrialResult:
    """Train by a group on this machine."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    layout = ResourcesConfig(timeout_seconds=60, **resources)
    launch = GroupLaunch(OneMachine(), layout, ([] if lines is None else lines).append)
    return launch(config, folder, tracking=None, report=lambda progress: None)


def alone(config: TrialConfig, folder: Path) -> TrialResult:
    folder.mkdir()
    return run_trial(config, folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found, problems = newest(folder)
    assert found is not None
    assert problems == []
    return torch.load(found.path, weights_only=True)["current_model_state"]  # type: ignore[no-any-return]


def assert_same(one: TrialResult, other: TrialResult) -> None:
    assert (one.status, one.steps, one.images_seen) == (other.status, other.steps, other.images_seen)
    for name in LOSSES:
        assert one.metrics[name] == pytest.approx(other.metrics[name], abs=1e-5), name


def test_images_are_judged_alike_by_any_number_of_ranks(tiny: Tiny, tmp_path: Path) -> None:
    """The FID of their pixels; on captioned shapes, whether they match. 31 images on 2 ranks.

    With sharded weights, which have to be gathered for it; whole ones are where they are needed.
    """
    sampling = {"quality_images": 31, "caption_images": 12, "quality_every_images": 80, "ode_steps": 2, "ar_steps": 4}
    model = {"latent_channels": 3, "latent_size": [16, 16], "patch_size": 4, "num_classes": None, "text_dim": 8}
    model |= {"attention": {"normalization": "subtraction"}}
    config = steady(tiny, model=model, data={"name": "shapes", "encoder": "words"}, sampling=sampling)
    one = alone(config, tmp_path / "one")
    several = train(config, tmp_path / "several", devices=2, strategy="fsdp")
    assert_same(one, several)
    for name in ("eval/fid_pixels", "eval/captions", "eval/captions_shuffled"):
        assert one.metrics[name] == pytest.approx(several.metrics[name], rel=1e-3), name
    names = ("captions.jsonl", "captions_shuffled.jsonl")
    assert all((tmp_path / "one" / n).read_text() == (tmp_path / "several" / n).read_text() for n in names)


@pytest.mark.parametrize(
    "resources",
    [{"devices": 2}, {"devices": 2, "accumulate_grad_batches": 4}, {"devices": 2, "strategy": "fsdp"}],
    ids=lambda resources: "-".join(map(str, resources.values())),
)
def test_any_layout_gives_the_losses_of_one_process(tiny: Tiny, tmp_path: Path, resources: dict[str, Any]) -> None:
    """The 50 images of validation make batches of 20, 20 and 10; every image counts once."""
    one = alone(steady(tiny), tmp_path / "one")
    several = train(steady(tiny), tmp_path / "several", **resources)
    assert_same(one, several)
    assert several.ranks == 2
    assert several.problems == ()
    first, other = weights(tmp_path / "one"), weights(tmp_path / "several")
    assert first.keys() == other.keys()
    assert all(torch.allclose(first[name], other[name], atol=1e-5) for name in first)
    assert (tmp_path / "several/samples.png").exists()


@pytest.mark.parametrize("task", ["classification", "diffusion"])
def test_ranks_train_every_task_as_one_process_does(tiny: Tiny, tmp_path: Path, task: str) -> None:
    """Augmented images are the same ones, whichever rank has them."""
    attention = {"attention": {"normalization": "subtraction", "gate": "none"}}
    data = {"val_images": 50, "shift": 1} if task == "classification" else {"val_images": 50}
    config = steady(tiny, model={"task": task, **attention}, data=data)
    one, several = alone(config, tmp_path / "one"), train(config, tmp_path / "several", devices=2)
    assert_same(one, several)
    first, other = weights(tmp_path / "one"), weights(tmp_path / "several")
    assert all(torch.allclose(first[name], other[name], atol=1e-5) for name in first)
    if task == "classification":
        name = "val/accuracy_ema"
        assert several.metrics[name] == pytest.approx(one.metrics[name], abs=1 / 50)


def test_ranks_save_together_by_the_first_one_s_clock_while_they_train(tiny: Tiny, tmp_path: Path) -> None:
    """After each step, written by a thread of each rank; one process goes on within an epoch."""
    policy = {"every_minutes": 1e-9, "keep_last": 99, "asynchronous": True, "keep_best": "val/loss_ema"}
    policy["distributed"] = True
    whole = alone(steady(tiny), tmp_path / "whole")
    folder = tmp_path / "several"
    several = train(steady(tiny, checkpoint=policy), folder, devices=2, strategy="fsdp", accelerator="cpu")
    assert_same(several, whole)
    found = checkpoint_files(folder)
    assert list(found) == list(range(1, 11))
    assert all(is_whole(path) for path in found.values())
    best = read_best(folder)
    assert best is not None
    assert best.value == pytest.approx(
        min(load(found[step])["callbacks"]["Checkpoints"]["best"]["value"] for step in (5, 10))
    )
    for step in range(8, 11):
        delete(found[step])
    resumed = run_trial(steady(tiny), folder)
    assert resumed.resumed_at == 7
    assert_same(resumed, whole)


def test_a_checkpoint_resumes_with_any_number_of_ranks(tiny: Tiny, tmp_path: Path) -> None:
    """By 2 ranks; by 4 with sharded weights, more than the last batch of validation has images; by 2 such; and by 1.

    Those with sharded weights write their shards.
    The first checkpoint is given the form that version 0.1 wrote, so both forms are read under both strategies.
    """
    config = steady(tiny, data={"val_images": 42}, trainer={"max_images": 320, "val_every_images": 80})
    whole = alone(config, tmp_path / "whole")
    parts = [replace(config, trainer=replace(config.trainer, max_images=images)) for images in (80, 160, 240)]
    folder = tmp_path / "parts"
    first = train(parts[0], folder, devices=2)
    assert (first.steps, first.resumed_at) == (5, None)
    as_version_0_1_wrote_it(last(folder).path)
    as_of(parts[1], last(folder).path)
    shards = [replace(part, checkpoint=replace(part.checkpoint, distributed=True)) for part in parts]
    second = train(shards[1], folder, devices=4, strategy="fsdp", accelerator="cpu")
    assert (second.steps, second.resumed_at) == (10, 5)
    assert (folder / "group.json").exists()
    as_of(parts[2], last(folder).path)
    assert len(list(shards_folder(last(folder).path).glob("*.distcp"))) == 4
    third = train(shards[2], folder, devices=2, strategy="fsdp", accelerator="cpu")
    assert (third.steps, third.resumed_at) == (15, 10)
    as_of(config, last(folder).path)
    end = run_trial(config, folder)
    assert end.resumed_at == 15
    assert_same(end, whole)
    sharded, alone_ = (load(last(path).path)["optimizer_states"][0] for path in (folder, tmp_path / "whole"))
    assert sharded["state"].keys() == alone_["state"].keys()
    for name, state in alone_["state"].items():
        assert torch.allclose(sharded["state"][name]["exp_avg"], state["exp_avg"], atol=1e-5), name


def test_shards_that_the_ranks_write_go_on_as_a_gathered_checkpoint_does(tiny: Tiny, tmp_path: Path) -> None:
    """Bit for bit, from the newest checkpoint whose shards are whole."""
    ema = {"decay": 0.5, "every_n_steps": 1, "profiles": [0.05, 0.1]}
    policy = {"every_images": 32, "keep_last": 99}
    layout: dict[str, Any] = {"devices": 2, "strategy": "fsdp", "accelerator": "cpu"}
    config = steady(tiny, ema=ema, checkpoint={**policy, "distributed": True})
    gathered = train(steady(tiny, ema=ema, checkpoint=policy), tmp_path / "gathered", **layout)
    folder = tmp_path / "sharded"
    assert train(config, folder, **layout).metrics == gathered.metrics
    found = checkpoint_files(folder)
    assert list(found) == [2, 4, 6, 8, 10]
    (shards_folder(found[10]) / "__1_0.distcp").unlink()
    file = shards_folder(found[8]) / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    again = train(config, folder, **layout)
    assert (again.resumed_at, again.metrics) == (6, gathered.metrics)
    assert [problem.split(":")[0] for problem in again.problems] == [
        f"step-{step:08d}.ckpt is damaged" for step in (10, 8)
    ]
    states = [open_checkpoint(last(path).path) for path in (tmp_path / "gathered", folder)]
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert_same_state(states[0][part], states[1][part], part)
    one, other = (state["callbacks"][AVERAGES]["averages"] for state in states)
    assert_same_state(one, other, AVERAGES)
    models = [load_trained(path).model.state_dict() for path in (tmp_path / "gathered", folder)]
    assert_same_state(models[0], models[1], "model")


def acts_on(folder: Path, images: int, action: Callable[[dict[str, Any]], None]) -> threading.Thread:
    """Call `action` with the note of rank 1, once the group in a folder has seen so many images."""

    def watch() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            time.sleep(0.05)
            progress = folder / "progress.json"
            if progress.exists() and json.loads(progress.read_text())["images"] >= images:
                action(json.loads((folder / "logs/rank-1.json").read_text()))
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


LONG = {"trainer": {"max_images": 3200, "val_every_images": 1200}}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialConfig, TrialResult, dict[str, torch.Tensor]]:
    from lina_lab.config import from_dict
    from tests.conftest import TINY

    config = steady(lambda **sections: from_dict(TrialConfig, _merged(TINY, sections)), **LONG)
    folder = tmp_path_factory.mktemp("undisturbed") / "cell"
    return config, train(config, folder, devices=2), weights(folder)


def _merged(base: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    return {**base, **{name: {**base.get(name, {}), **fields} for name, fields in sections.items()}}


@pytest.mark.parametrize("how", ["kill", "leave"])
def test_a_group_that_loses_a_rank_or_is_asked_to_leave_goes_on_to_the_same_end(
    undisturbed: tuple[TrialConfig, TrialResult, dict[str, torch.Tensor]], tmp_path: Path, how: str
) -> None:
    """One rank is killed or preempted; the group is restarted. On preemption no step is lost."""
    config, whole, expected = undisturbed
    number = signal.SIGKILL if how == "kill" else signal.SIGUSR2
    acts_on(tmp_path, 1400, lambda note: os.kill(note["pid"], number))
    lines: list[str] = []
    result = train(config, tmp_path, lines, devices=2)
    assert {name: result.metrics[name] for name in LOSSES} == {name: whole.metrics[name] for name in LOSSES}
    found = weights(tmp_path)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert result.problems == tuple(lines)
    assert result.resumed_at is not None
    host = os.uname().nodename
    if how == "kill":
        assert lines == [f"the group was restarted: rank 1 on {host} was killed by SIGKILL"]
        assert result.resumed_at == 75
    else:
        assert len(lines) == 1
        assert re.match(r"the group was restarted: .* at step \d+", lines[0])
        assert result.resumed_at > 1400 / 16


def test_the_log_of_each_rank_says_how_far_the_trial_is(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sharded weights too, whose gradients' norm needs all ranks at the same step."""
    (tmp_path / "sitecustomize.py").write_text("import lina_lab.records.result as r\nr.LINE_SECONDS = 0.0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lines = {}
    for strategy in ("ddp", "fsdp"):
        train(steady(tiny), tmp_path / strategy, devices=2, strategy=strategy)
        for rank in (0, 1):
            log = (tmp_path / strategy / f"logs/rank-{rank}.log").read_text()
            found = re.findall(r"step (\d+), .* of 160 images .*, loss (\S+), .*, gradient norm (\S+),.* left", log)
            assert [int(step) for step, *_ in found] == list(range(2, 11))
            lines[strategy, rank] = [number for _, *numbers in found for number in map(float, numbers)]
    for other in lines.values():
        assert other == pytest.approx(lines["ddp", 0], rel=0.02)


def test_a_group_is_cancelled_and_diverges_on_all_ranks_at_once(tiny: Tiny, tmp_path: Path) -> None:
    diverged = train(steady(tiny, optimizer={"lr": 1e30}), tmp_path / "one", devices=2)
    assert diverged.status == "diverged"
    assert diverged.steps < 10
    folder = tmp_path / "two"
    acts_on(folder, 32, lambda note: (folder / "cancel").touch())
    cancelled = train(steady(tiny, **LONG), folder, devices=2)
    assert cancelled.status == "cancelled"
    states = [json.loads((folder / f"logs/rank-{rank}.json").read_text())["state"] for rank in (0, 1)]
    assert states == ["ended", "ended"]


def test_an_error_of_a_rank_is_raised_and_not_retried(tiny: Tiny, tmp_path: Path) -> None:
    lines: list[str] = []
    config = tiny(data={"name": "latents", "path": str(tmp_path / "nowhere")})
    with pytest.raises(GroupError, match=r"rank [01] on .*: ValueError: .*train_latents.npy is not an array") as caught:
        train(config, tmp_path / "cell", lines, devices=2)
    assert lines == []
    assert "Traceback" in "".join(caught.value.__notes__)
    for rank in (0, 1):
        assert "attempt" in (tmp_path / f"cell/logs/rank-{rank}.log").read_text()


def test_a_group_that_dies_each_time_is_given_up(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\nif os.environ.get('RANK') == '1': os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    lines: list[str] = []
    with pytest.raises(GroupError, match=r"rank 1 on .* was killed by SIGKILL"):
        train(steady(tiny), tmp_path / "cell", lines, devices=2, max_restarts=1)
    assert len(lines) == 1


def test_a_disk_that_is_full_for_one_rank_s_shards_ends_all_with_a_sentence(
    tiny: Tiny, tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    """They write while training goes on; what was whole before stays, and no draft does."""
    policy = {"every_minutes": 1e-9, "keep_last": 99, "distributed": True, "asynchronous": True}
    folder = small_disk(1500) / "cell"
    # Mostly of the shards; for a moment nothing else can be written either.
    with pytest.raises(GroupError, match="No space left on device"):
        train(steady(tiny, checkpoint=policy), folder, [], devices=2, strategy="fsdp", accelerator="cpu")
    found = checkpoint_files(folder)
    assert found
    assert all(is_whole(path) for path in found.values())
    assert {path.name for path in folder.glob("*.shards*")} == {f"{path.name}.shards" for path in found.values()}
