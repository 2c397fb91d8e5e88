"""The configuration: what it allows, and what makes two trials the same."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest

from lina_lab.config import (
    AttentionConfig,
    CheckpointConfig,
    LinaConfig,
    StartConfig,
    StudyConfig,
    TrialConfig,
    from_dict,
    study_from_stored,
    to_dict,
)
from lina_lab.config.continuation import differences
from lina_lab.config.history import ADDED, REMOVED, RENAMED, STAND_INS, current_names, recorded
from tests.conftest import STUDY, TINY

Tiny = Callable[..., TrialConfig]

OTHER: dict[str, Any] = {
    "model.task": "diffusion",
    "model.norm_placement": "before",
    "model.label_smoothing": 0.2,
    "model.latent_channels": None,
    "model.latent_size": None,
    "model.patch_size": 2,
    "model.dim": 16,
    "model.num_heads": 4,
    "model.condition_depth": 2,
    "model.depth": 4,
    "model.flow_depth": 2,
    "model.flow_dim": 12,
    "model.num_classes": None,
    "model.text_dim": None,
    "model.text_length": 8,
    "model.position": None,
    "model.condition_dropout": 0.2,
    "model.compile": True,
    "model.gradient_checkpointing": True,
    "model.noise_samples_per_token": 2,
    "model.attention": {"gate": "none"},
    "model.encoder_attention": {"conv": "none", "gate": "none", "normalization": "subtraction"},
    "model.condition_attention": {"conv": "none", "gate": "none", "normalization": "subtraction"},
    "data.batch_size": 8,
    "data.val_images": 30,
    "data.val_batch_size": 10,
    "optimizer.lr": 2e-3,
    "optimizer.warmup_images": 16,
    "optimizer.betas": [0.9, 0.99],
    "optimizer.weight_decay": 0.1,
    "optimizer.schedule": "linear",
    "optimizer.clip_norm": 0.5,
    "ema.decay": 0.9,
    "ema.every_n_steps": 2,
    "ema.profiles": [0.05, 0.1],
    "trainer.max_images": 128,
    "trainer.val_every_images": 64,
    "trainer.log_every_n_steps": 2,
    "trainer.precision": "bf16-mixed",
    "sampling.images_per_class": 2,
    "sampling.ar_steps": 3,
    "sampling.ode_steps": 3,
    "sampling.ode_solver": "heun",
    "sampling.guidance_scale": 3.0,
    "sampling.guidance_scale_start": 1.5,
    "sampling.quality_images": 20,
    "sampling.quality_every_images": 32,
    "sampling.quality_features": "inception",
    "data.flip": False,
    "data.on_error": "skip",
    "data.max_skipped": 0.02,
    "data.workers": 1,
    "seed": 1,
    "trainer.divergence_factor": 2.0,
    "trainer.divergence_steps": 7,
    "trainer.rng_version": 2,
}
ONE_VALUED = {
    "model.latent_channels",
    "model.latent_size",
    "model.text_dim",
    "model.position",
    "model.parametrization",
    "model.base_dim",
    "data.name",
    "data.path",
    "data.encoder",
    "data.long_captions",
    "data.shift",
    "sampling.caption_images",
    "sampling.metrics",
    "optimizer.name",
    "optimizer.options",
    "optimizer.cooldown",
    "optimizer.final_rate",
    "trainer.callbacks",
    "trainer.loggers",
    "trainer.system_metrics_seconds",
    "sampling.quality_reference",
    "sampling.inception",
    "sampling.vae",
    "ema.snapshot_every_images",
    "ema.lengths",
    *(f"start.{field.name}" for field in dataclasses.fields(StartConfig)),
    *(f"checkpoint.{field.name}" for field in dataclasses.fields(CheckpointConfig)),
}
"""Fields that cannot change alone in a trial on digits."""


def test_every_field_but_where_data_are_and_how_fast_they_are_read_is_part_of_the_identity(tiny: Tiny) -> None:
    sections = [name for name, value in to_dict(tiny()).items() if isinstance(value, dict)]
    fields = {f"{section}.{field}" for section in sections for field in to_dict(tiny())[section]} | {"seed"}
    assert fields - ONE_VALUED == OTHER.keys() - ONE_VALUED
    identities = {tiny().config_hash()}
    for field in fields - ONE_VALUED:
        section, _, name = field.partition(".")
        changed = tiny(**{section: {name: OTHER[field]} if name else OTHER[field]})
        identities.add(changed.config_hash())
    for base_dim in (4, 8):
        identities.add(tiny(model={"parametrization": "mup", "base_dim": base_dim}).config_hash())
    assert len(identities) == 3 + len(fields - ONE_VALUED - set(STAND_INS))


HASHES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": ("7c2dda797b83", {}),
    "renamed fields": (
        "7be62c03d940",
        {
            "model": {"gradient_checkpointing": True, "noise_samples_per_token": 2, "condition_dropout": 0.2},
            "sampling": {"ar_steps": 3, "ode_steps": 3, "guidance_scale": 3.0, "guidance_scale_start": 1.5},
        },
    ),
    "patterns of attentions": (
        "f5aca92f4934",
        {
            "model": {
                "depth": 8,
                "attention": [{}, {"normalization": "subtraction", "gate": "none"}],
                "encoder_attention": [
                    {"conv": "none", "gate": "none"},
                    {"kind": "softmax", "conv": "none", "gate": "output"},
                ],
            }
        },
    ),
    "optimizer": (
        "8302a267fdaa",
        {"optimizer": {"lr": 2e-3, "betas": [0.9, 0.99], "weight_decay": 0.1, "warmup_images": 16}, "seed": 3},
    ),
}
"""What version 0.1.0 (commit 6a3632b) computed."""


@pytest.mark.parametrize(("recorded", "changes"), HASHES.values(), ids=HASHES)
def test_the_hash_of_a_trial_is_that_of_version_0_1(tiny: Tiny, recorded: str, changes: dict[str, Any]) -> None:
    assert tiny(**changes).config_hash() == recorded


def test_the_hash_of_a_trial_with_captions_is_that_of_version_0_1() -> None:
    attention = {"gate": "memory", "conv": "dynamic", "feature_map": "elu"}
    model = {
        "latent_channels": 3,
        "latent_size": [16, 16],
        "num_classes": None,
        "text_dim": 32,
        "position": "rotary",
        "dim": 128,
        "num_heads": 4,
        "attention": attention,
    }
    data = {"name": "shapes", "encoder": "words"}
    trial = from_dict(TrialConfig, {"model": model, "data": data, "sampling": {"caption_images": 12}})
    assert trial.config_hash() == "590b9302544c"


def test_an_added_field_is_in_the_hash_unless_it_has_its_recorded_default() -> None:
    added = {"model": {"attention": [{"new": 1, "kind": "linear"}, {"new": 2, "kind": "linear"}]}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ADDED, "model.attention.new", 1)
        kept = recorded(added)["model"]["attention"]
    assert kept == [{"kind": "linear"}, {"new": 2, "kind": "linear"}]
    assert recorded({"optimizer": {"name": "adamw", "options": {}}, "sampling": {"metrics": ()}}) == {
        "optimizer": {},
        "sampling": {},
    }
    assert recorded({"optimizer": {"name": "adamw", "options": {"a": 1}}}) == {"optimizer": {"options": {"a": 1}}}


def test_stored_data_gets_the_fields_that_were_added_since() -> None:
    stored = {"optimizer": {"lr": 1.0}, "sampling": {"steps": 2, "metrics": ["eval/x"]}}
    assert current_names(stored) == {
        "optimizer": {
            "lr": 1.0,
            "name": "adamw",
            "options": {},
            "schedule": "constant",
            "cooldown": None,
            "final_rate": 0.0,
            "clip_norm": None,
        },
        "sampling": {"ar_steps": 2, "metrics": ["eval/x"]},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ADDED, "model.attention.new", 1)
        found = current_names({"attention": [{}, {"new": 2}], "depth": 2}, within="model")
    assert found == {
        "attention": [{"new": 1}, {"new": 2}],
        "depth": 2,
        "parametrization": "standard",
        "base_dim": None,
    }
    assert current_names({"name": "a"}, within="study") == {"name": "a"}


def test_every_added_field_exists_and_its_recorded_default_is_a_valid_value(tiny: Tiny) -> None:
    for field, default in ADDED.items():
        section, _, name = field.partition(".")
        assert to_dict(tiny(**{section: {name: default}}))[section][name] == default


def fields_of(kind: Any, prefix: str = "") -> set[str]:
    """Dotted names of all fields of a configuration's dataclass."""
    found = set()
    for name, inner in get_type_hints(kind).items():
        options = [option for option in (inner, *get_args(inner)) if dataclasses.is_dataclass(option)]
        found |= {f"{prefix}{name}"}.union(*(fields_of(option, f"{prefix}{name}.") for option in options))
    return found


def test_every_renamed_field_exists_under_its_new_name_alone() -> None:
    fields = fields_of(TrialConfig) | fields_of(StudyConfig, "study.")
    for old, new in RENAMED.items():
        assert new in fields
        assert old not in fields
        assert old.rpartition(".")[0] == new.rpartition(".")[0]
    assert len(set(RENAMED.values())) == len(RENAMED)


@pytest.mark.parametrize("field", ["held_equal", "controlled"])
def test_a_study_that_an_earlier_version_stored_is_read_without_the_fields_that_are_gone(field: str) -> None:
    assert f"study.{field}" in REMOVED
    assert not set(REMOVED) & fields_of(StudyConfig, "study.")
    study = {**STUDY, "name": "old"}
    assert study_from_stored(StudyConfig, {**study, field: ["images seen"]}) == from_dict(StudyConfig, study)


POLICIES: list[dict[str, Any]] = [
    {"every_images": 16},
    {"every_minutes": 0.5},
    {"keep_last": 1},
    {"keep_every_images": 32},
    {"keep_best": "val/loss_ema"},
    {"finished": "weights"},
    {"asynchronous": True},
    {"distributed": True},
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_how_checkpoints_are_kept_is_no_part_of_the_identity(tiny: Tiny, policy: dict[str, Any]) -> None:
    changed = tiny(checkpoint=policy)
    assert changed != tiny()
    assert changed.config_hash() == tiny().config_hash()
    assert differences(changed, tiny()) == []
    assert {name for each in POLICIES for name in each} == {
        field.name for field in dataclasses.fields(CheckpointConfig)
    }


def test_the_best_checkpoint_is_by_a_metric_that_the_trial_measures(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"keep_best=eval/captions is a metric that sampling\.caption_images=0"):
        tiny(checkpoint={"keep_best": "eval/captions"})


KEPT: dict[str, tuple[dict[str, Any], int | None, set[int]]] = {
    "the last two": ({}, None, {90, 100}),
    "the last": ({"keep_last": 1}, None, {100}),
    "milestones": ({"keep_last": 1, "keep_every_images": 400}, None, {40, 80, 100}),
    "milestones between checkpoints": ({"keep_last": 1, "keep_every_images": 350}, None, {40, 70, 100}),
    "the best": ({"keep_last": 1, "keep_best": "val/loss_ema"}, 30, {30, 100}),
    "a best one that is gone": ({"keep_last": 1, "keep_best": "val/loss_ema"}, 35, {100}),
    "no best one": ({"keep_last": 1}, 30, {100}),
    "all together": ({"keep_every_images": 500, "keep_best": "val/loss_ema"}, 30, {30, 50, 90, 100}),
}


@pytest.mark.parametrize(("policy", "best", "kept"), KEPT.values(), ids=KEPT)
def test_a_checkpoint_that_stays_once_stays_always(policy: dict[str, Any], best: int | None, kept: set[int]) -> None:
    """Batches of 10 images: deleting after each checkpoint leaves what deleting at the end leaves."""
    config, steps = CheckpointConfig(**policy), range(10, 101, 10)
    assert config.kept(steps, 10, best) == kept
    left: set[int] = set()
    for step in steps:
        left = config.kept({*left, step}, 10, best)
    assert left == kept


def test_a_cell_that_is_done_keeps_of_the_newest_checkpoints_one_if_it_keeps_weights_alone() -> None:
    steps = range(10, 101, 10)
    assert CheckpointConfig(finished="weights", keep_last=3).kept(steps, 10, done=True) == {100}
    assert CheckpointConfig(finished="weights", keep_every_images=500).kept(steps, 10, done=True) == {50, 100}
    assert CheckpointConfig(keep_last=3).kept(steps, 10, done=True) == {80, 90, 100}


def test_equal_configurations_are_one_trial(tiny: Tiny) -> None:
    assert tiny().config_hash() == from_dict(TrialConfig, to_dict(tiny())).config_hash()
    assert from_dict(TrialConfig, to_dict(tiny())) == tiny()


def test_configurations_are_frozen_and_keyword_only(tiny: Tiny) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny().model.dim = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="positional"):
        AttentionConfig("linear")  # type: ignore[misc]


def test_the_configuration_imports_no_torch() -> None:
    code = "import sys, lina_lab.config; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": {"dimm": 8}}, "model.dimm is not a field"),
        ({"model": {"dim": 9}}, "model: dim=9 is not a multiple of num_heads=2"),
        ({"model": {"dim": 6}}, "model: position=sincos needs a dim that is a multiple of 4: dim=6"),
        ({"model": {"dim": "wide"}}, "model.dim='wide': input should be a valid integer"),
        ({"model": {"dim": True}}, "model.dim=True: input should be a valid integer"),
        ({"model": {"depth": 3}}, "model: depth=3 must be even"),
        ({"model": {"patch_size": 3}}, "model: patch_size=3 does not divide"),
        ({"model": {"attention": {"kind": "sofmax"}}}, "input should be 'linear', 'blocks', 'softmax' or 'mediator'"),
        ({"model": {"attention": {"kind": "softmax"}}}, "model.attention: gate=kv needs kind=linear"),
        (
            {"model": {"attention": {"kind": "softmax", "normalization": "subtraction"}}},
            "model.attention: normalization=subtraction needs kind=linear",
        ),
        ({"model": {"attention": {"conv_kernel": 4}}}, "model.attention: conv_kernel=4 must be odd"),
        (
            {"model": {"encoder_attention": {}}},
            "model: encoder_attention needs kind, conv and gate that do not need",
        ),
        ({"model": {"latent_channels": 3}}, "data.name=digits needs model.latent_channels=1"),
        ({"model": {"num_classes": 9}}, "data.name=digits needs model.num_classes=10"),
        ({"data": {"val_images": 9}}, "data.name=digits needs data.val_images between 10 and 1787"),
        ({"data": {"val_images": 1788}}, "data.name=digits needs data.val_images between 10 and 1787"),
        ({"sampling": {"ar_steps": 65}}, "sampling.ar_steps=65 is more than an image's 64 tokens"),
        ({"trainer": {"max_images": 0}}, "trainer.max_images=0: input should be greater than 0"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr=nan: input should be"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas"),
        ({"optimizer": {"name": "sgd"}}, "optimizer.name='sgd': input should be 'adamw'"),
        ({"optimizer": {"options": {"a": 1}}}, "optimizer: options.a is not an option of name=adamw, which has none"),
        (
            {"data": {"name": "mnist"}},
            "data.name='mnist': input should be 'digits', 'mnist5k', 'emoji', 'latents', 'shards' or 'shapes'",
        ),
        (
            {"model": {"attention": {"gate": "x"}}},
            "model.attention.gate='x': input should be 'none', 'kv', 'kv_shared'",
        ),
        ({"model": {"attention": {"gate": ["kv"]}}}, "model.attention.gate=['kv']: input should be 'none', 'kv'"),
        ({"sampling": {"metrics": ["eval/x"]}}, "sampling: metrics: eval/x is not a metric of an installed package"),
        (
            {"sampling": {"metrics": ["eval/captions"]}},
            "metrics: eval/captions is a built-in metric: it is measured with sampling.caption_images",
        ),
        ({"optimizer": {"betas": [1, 1]}}, "optimizer.betas.0=1: input should be less than 1"),
        ({"ema": {"decay": 1.0}}, "ema.decay=1.0: input should be less than 1"),
        ({"seed": -1}, "seed=-1: input should be greater than or equal to 0"),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(tiny: Tiny, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        tiny(**change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"axes": {}}, "axes is empty"),
        ({"size_axis": "width"}, "size_axis=width is not one of the axes"),
        ({"axes": {"size": {"model.dim": []}}}, "axes.size: its fields need lists of one length"),
        ({"axes": {"size": {"model.dim": [8, 16], "model.num_heads": [2]}}}, "axes.size: its fields need lists"),
        ({"axes": {"size": {"model.dim": [8]}, "b": {"model.dim": [8]}}}, "model.dim is in more than one axis"),
        ({"seeds": []}, "seeds=[]: list should have at least 1 item"),
        ({"seeds": [1, 1]}, "seeds=[1, 1] names a seed twice"),
        ({"name": "../up"}, "name='../up': input should be letters, digits, _ and -"),
        ({"name": ".hidden"}, "name='.hidden': input should be letters, digits, _ and -"),
        ({"name": "mlflow.db"}, "name='mlflow.db': input should be letters, digits, _ and -"),
        ({"name": "mlartifacts"}, "name=mlartifacts is taken by the stores"),
        ({"objectives": [{"metric": "val/fid"}]}, "objectives.0.metric='val/fid': input should be 'val/loss_ema'"),
        ({"objectives": []}, "objectives=[]: list should have at least 1 item"),
        ({"objectives": [{"metric": "train/loss"}] * 2}, "names a metric twice"),
        ({"seeds_at_size": {"7": [1]}}, "seeds_at_size: 7 is not one of the sizes ['8', '16']"),
        ({"seeds_at_size": {"8": [1, 1]}}, "seeds_at_size.8=[1, 1] names a seed twice"),
        ({"labels": {"normalization": ["one"]}}, "labels.normalization: needs to be an axis, with a different label"),
        ({"labels": {"colour": ["one"]}}, "labels.colour: needs to be an axis"),
        ({"exclude": [{"model.depth": 2}]}, "must name fields that the axes vary, which are"),
        ({"budget": {"unit": "flops", "amount": 0}}, "budget.amount=0"),
        ({"resources": {"devices": 0}}, "resources.devices=0"),
    ],
)
def test_a_bad_study_is_refused(tiny_study: Any, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        tiny_study(**change)


def test_geometry_follows_from_the_fields() -> None:
    config = LinaConfig(latent_channels=4, latent_size=(10, 6), patch_size=2)
    assert (config.grid, config.num_tokens, config.token_dim) == ((5, 3), 15, 16)
    assert (config.condition_grid, config.condition_tokens) == ((3, 2), 6)
    assert (LinaConfig().num_tokens, LinaConfig().condition_tokens) == (256, 64)


def test_budget_is_rounded_up_to_whole_batches(tiny: Tiny) -> None:
    config = tiny(trainer={"max_images": 65, "val_every_images": 33})
    assert (config.max_steps, config.epoch_steps) == (5, 3)


def test_tiny_covers_all_sections() -> None:
    sections = {field.name for field in dataclasses.fields(TrialConfig)}
    assert TINY.keys() == sections - {"seed"}
    assert "name" in {field.name for field in dataclasses.fields(StudyConfig)}
