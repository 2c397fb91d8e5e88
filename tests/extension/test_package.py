"""What an installed package provides is allowed, listed and refused like what is built in."""

import pytest

from tests.extension.conftest import Project

CHECKS = """
import sys
from lina_lab.config import AttentionConfig, LinaConfig, TrialConfig, ObjectiveConfig, from_dict
from lina_lab.config.grammar import fields_help
from lina_lab.config import DataConfig, OptimizerConfig
from lina_lab.model.count import attention_parameters
from lina_lab.util.code_versions import code_versions

def refused(cls, data):
    try:
        from_dict(cls, data)
    except ValueError as error:
        return str(error)

assert attention_parameters(LinaConfig(), AttentionConfig(gate="head")) == 12 + attention_parameters(
    LinaConfig(), AttentionConfig(gate="none"))
assert not AttentionConfig(gate="head", conv="none").tied_to_grid
print(refused(AttentionConfig, {"gate": "x"}))
print(refused(AttentionConfig, {"kind": "softmax", "gate": "head"}))
print(refused(ObjectiveConfig, {"metric": "eval/contrast"}))
print(refused(OptimizerConfig, {"name": "sgd", "options": {"momentun": 0.5}}))
print(refused(TrialConfig, {"data": {"name": "stripes"}, "model": {"latent_channels": 3, "num_classes": 2}}))
assert code_versions()["lina-extras"] == "1.0"
assert "lina_extras.variants" in sys.modules and "lina_extras.head" not in sys.modules
for cls in (AttentionConfig, DataConfig, OptimizerConfig):
    print(fields_help(cls))
"""
REFUSALS = """\
gate='x': input should be 'none', 'kv', 'kv_shared', 'key', 'value', 'kv_decoupled', 'kv_data', 'beta', 'memory', \
'output' or 'head'
gate=head needs kind=linear or blocks: it acts after the feature map
metric=eval/contrast needs direction=maximize
options.momentun is not an option of name=sgd, which has momentum
data.name=stripes needs model.latent_channels=1
"""


def test_a_package_s_names_are_allowed_and_listed_and_their_modules_are_not_imported(package: Project) -> None:
    done = package.run(f"python -c '{CHECKS}'".replace("'x'", '"x"'))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(REFUSALS)
    for choices in (
        "memory, output, head.",
        "digits, mnist5k, emoji, latents, shards, shapes, stripes.",
        "One of adamw, muon, sgd.",
        "One of constant, cosine, linear, wsd, square.",
    ):
        assert choices in done.stdout


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("raise OSError('no disk')", "cannot be loaded (OSError: no disk)"),
        (
            "HEAD = 3",
            "is not a Convolution or Core or FeatureMap or Gate or HeadNorm or Normalization or Position or QkNorm or "
            "Rotate, but 3",
        ),
    ],
)
def test_a_broken_package_is_named_in_one_sentence_and_only_where_it_is_asked_for(
    package: Project, source: str, sentence: str
) -> None:
    entry = package.installed / "lina_extras/variants.py"
    text = entry.read_text()
    entry.write_text(source)
    try:
        done = package.run("lina count model.attention.gate=head")
        fine = package.run("lina count model.attention.gate=none")
    finally:
        entry.write_text(text)
    assert done.returncode == 2
    assert done.stderr.startswith("error: model.attention.gate='head': package lina-extras 1.0: its entry point ")
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr
    assert fine.returncode == 0, fine.stderr
