"""The attention matrix of every core: exact, and what the normalizations and gates make of it."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from lina_lab.config import AttentionConfig
from lina_lab.evaluation.inspect.measures import effective_rank, relative_change, row_entropy
from lina_lab.evaluation.inspect.replay import Call, denominator, rounding_gain, summary
from lina_lab.model.feature_maps import FeatureMap
from lina_lab.model.linear import EPSILON, Weights
from lina_lab.variants import CORES, FEATURE_MAPS, NORMALIZATIONS, Geometry

GEOMETRY = Geometry(dim=8, heads=2, grid=(3, 4), condition_tokens=2, mediators=3, blocks=4)
TOKENS, CHANNELS = GEOMETRY.tokens, GEOMETRY.head_dim
ROWS = torch.arange(TOKENS)
SOFTMAX = AttentionConfig(kind="softmax", gate="none")


def configurations() -> Iterator[AttentionConfig]:
    """Every core of the registry, with every normalization and feature map that it takes."""
    for kind, core in CORES.items():
        if "normalization" not in core.takes:
            yield AttentionConfig(kind=kind, gate="none")
            continue
        for normalization, feature_map in product(NORMALIZATIONS, FEATURE_MAPS):
            yield AttentionConfig(kind=kind, gate="none", normalization=normalization, feature_map=feature_map)


CONFIGURATIONS = [pytest.param(c, id=f"{c.kind}-{c.normalization}-{c.feature_map}") for c in configurations()]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def core_of(config: AttentionConfig) -> nn.Module:
    core: nn.Module = CORES[config.kind].load()(config, GEOMETRY)
    for number, parameter in enumerate(core.parameters()):  # away from the values at which they start
        parameter.data += normal(number, *parameter.shape).to(parameter.dtype)
    return core.eval()


def call_of(config: AttentionConfig, weights: Weights | None = None) -> Call:
    # Identity maps give denominators of both signs, near which rows are huge: keys and queries away from zero.
    qkv = normal(7, 3, 2, GEOMETRY.heads, TOKENS, CHANNELS)
    if config.feature_map == "identity" and config.normalization == "division":
        qkv[:2] += 3
    return Call(core=core_of(config), qkv=qkv, weights=weights or Weights())


def linear(normalization: str, feature_map: str = "relu") -> AttentionConfig:
    return AttentionConfig(normalization=normalization, feature_map=feature_map)


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_outputs_of_every_core_are_linear_in_the_values_with_the_matrix_as_weights(config: AttentionConfig) -> None:
    call = call_of(config)
    with torch.no_grad():
        matrix = call.matrix(ROWS)
        assert matrix.shape == (2, GEOMETRY.heads, TOKENS, TOKENS)
        torch.testing.assert_close(matrix @ call.qkv[2], call.output(), rtol=1e-9, atol=1e-9)
        other = normal(8, 2, GEOMETRY.heads, TOKENS, CHANNELS)
        torch.testing.assert_close(matrix @ other, call.with_values(other).output(), rtol=1e-9, atol=1e-9)
        some = torch.tensor([1, 5, TOKENS - 1])
        torch.testing.assert_close(call.matrix(some), matrix[:, :, some])


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_rows_sum_to_one_under_every_normalization(config: AttentionConfig) -> None:
    """Division adds 1e-6 to its denominator: that is missing, and much where a map leaves nothing of a query."""
    call = call_of(config)
    with torch.no_grad():
        sums, below = call.matrix(ROWS).sum(-1), denominator(call)
    assert (below is not None) == (config.kind in ("linear", "blocks") and config.normalization == "division")
    expected = torch.ones_like(sums) if below is None else 1 - EPSILON / below
    torch.testing.assert_close(sums, expected, rtol=0, atol=1e-9)
    assert float((sums - 1).abs().median()) < 1e-4


def test_the_matrix_of_softmax_is_that_of_its_formula() -> None:
    call = call_of(SOFTMAX)
    q, k, _ = call.qkv
    torch.testing.assert_close(call.matrix(ROWS), (q @ k.mT / CHANNELS**0.5).softmax(-1))


def mapped(call: Call, feature_map: str, shift: float) -> tuple[Tensor, Tensor]:
    function: FeatureMap = FEATURE_MAPS[feature_map].load()
    q, k = function.value(call.qkv[:2]) + shift
    return q, k


def test_the_matrix_of_division_with_gates_is_that_of_its_formula() -> None:
    key, normalizer, value = (normal(i, GEOMETRY.heads, TOKENS, 1).abs() + 0.5 for i in range(3))
    call = call_of(linear("division"), Weights(key=key, normalizer=normalizer, value=value))
    q, k = mapped(call, "relu", EPSILON)
    products = q @ k.mT
    below = (products * normalizer.mT).mean(-1, keepdim=True) + EPSILON
    torch.testing.assert_close(call.matrix(ROWS), products * (key * value).mT / TOKENS / below)
    found = denominator(call)
    assert found is not None
    torch.testing.assert_close(found, below.squeeze(-1))


def test_the_matrix_of_subtraction_is_that_of_its_formula() -> None:
    call = call_of(linear("subtraction"))
    q, k = mapped(call, "relu", 0.0)
    products = q @ k.mT / CHANNELS**0.5
    torch.testing.assert_close(call.matrix(ROWS), (products + 1 - products.mean(-1, keepdim=True)) / TOKENS)
    assert denominator(call) is None


@pytest.mark.parametrize(("normalization", "most"), [("division", CHANNELS), ("subtraction", CHANNELS + 1)])
def test_the_rank_of_linear_attention_is_at_most_its_channels(normalization: str, most: int) -> None:
    """Subtraction has one more: the even spread over the tokens is a direction of its own."""
    matrix = call_of(linear(normalization)).matrix(ROWS)
    assert torch.linalg.matrix_rank(matrix, rtol=1e-10).unique().tolist() == [most]
    assert bool((effective_rank(matrix) <= most).all())
    assert bool((torch.linalg.matrix_rank(call_of(SOFTMAX).matrix(ROWS)) == TOKENS).all())


@pytest.mark.parametrize("config", [c for c in CONFIGURATIONS if "blocks" not in str(c.id)])
def test_uniform_keys_give_rows_the_logarithm_of_the_number_of_tokens(config: AttentionConfig) -> None:
    """But for kind=blocks, whose blocks have weights of their own."""
    call = call_of(config)
    call.qkv[1] = call.qkv[1, :, :, :1].abs()
    with torch.no_grad():
        entropy = row_entropy(call.matrix(ROWS))
    torch.testing.assert_close(entropy, torch.full_like(entropy, math.log(TOKENS)))


@pytest.mark.parametrize("feature_map", ["relu", "identity", "leaky_relu", "squared_relu"])
def test_a_doubled_query_changes_nothing_under_division_by_a_homogeneous_map(feature_map: str) -> None:
    call = call_of(linear("division", feature_map))
    # A query of which the map leaves nothing has weights of the epsilon alone, doubled or not.
    change = relative_change(call.matrix(ROWS), call.doubled().matrix(ROWS))
    assert float(change.max()) < 1e-3


@pytest.mark.parametrize("config", [SOFTMAX, linear("subtraction"), linear("division", "exp")], ids=str)
def test_a_doubled_query_sharpens_other_attentions(config: AttentionConfig) -> None:
    call = call_of(config)
    assert float(relative_change(call.matrix(ROWS), call.doubled().matrix(ROWS)).mean()) > 0.05


def test_the_gain_of_rounding_under_division_is_that_of_its_formula() -> None:
    key = normal(4, GEOMETRY.heads, TOKENS, 1)  # of both signs
    call = call_of(linear("division", "identity"), Weights(key=key, normalizer=key.abs()))
    q, k = mapped(call, "identity", EPSILON)
    v = call.qkv[2]
    below = q @ (k * key.abs()).mean(-2, keepdim=True).mT + EPSILON
    output = q @ (k * key).mT @ v / TOKENS / below
    # The shift is added after the absolute value, which moves these positive numbers by no more than rounding.
    numerator = q.abs() @ (k.abs() * key.abs()).mT @ v.abs() / TOKENS
    size = q.abs() @ (k.abs() * key.abs()).mean(-2, keepdim=True).mT
    expected = ((numerator + output.abs() * size) / below.abs()).norm(dim=-1) / output.norm(dim=-1)
    found = rounding_gain(call)
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("normalization", ["division", "subtraction"])
def test_no_rounding_moves_outputs_by_more_than_the_gain_says(normalization: str) -> None:
    call, share = call_of(linear(normalization, "identity")), 1e-7
    gain = rounding_gain(call)
    assert gain is not None
    assert bool((gain >= 1).all())
    output, moved = call.output(), torch.zeros_like(gain)
    for seed in range(20):
        rounded = call.qkv * (1 + share * normal(100 + seed, *call.qkv.shape).sign())
        other = Call(core=call.core, qkv=rounded, weights=call.weights).output()
        moved = torch.maximum(moved, (other - output).norm(dim=-1) / output.norm(dim=-1) / share)
    assert bool((moved <= 3 * gain).all())  # three numbers are multiplied
    assert float((moved / gain).max()) > 0.3


def test_the_summary_is_that_of_mapped_keys_and_weighted_values() -> None:
    value = normal(3, GEOMETRY.heads, TOKENS, 1)
    call = call_of(linear("subtraction"), Weights(value=value))
    found = summary(call)
    assert found is not None
    torch.testing.assert_close(found, call.qkv[1].relu().mT @ (value * call.qkv[2]))
    assert summary(call_of(SOFTMAX)) is None
    assert rounding_gain(call_of(SOFTMAX)) is None


def test_the_gain_of_rounding_under_subtraction_is_that_of_its_formula() -> None:
    call = call_of(linear("subtraction", "identity"))
    q, k = mapped(call, "identity", 0.0)
    v, scale = call.qkv[2], CHANNELS**-0.5
    numerator = scale * q.abs() @ k.abs().mT @ v.abs() / TOKENS
    size = scale * q.abs() @ k.abs().mean(-2, keepdim=True).mT
    expected = (numerator + (1 + size) * v.abs().mean(-2, keepdim=True)).norm(dim=-1) / call.output().norm(dim=-1)
    found = rounding_gain(call)
    assert found is not None
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["linear", "blocks"])
@pytest.mark.parametrize("normalization", ["division", "subtraction"])
def test_a_numerator_of_its_own_is_in_matrix_and_gain(kind: str, normalization: str) -> None:
    """As with rotate=numerator: it changes queries and keys by their place, and the normalizer has them as they are."""
    turn = torch.linspace(-1, 2, TOKENS).double().unsqueeze(-1)
    config = AttentionConfig(kind=kind, gate="none", normalization=normalization)
    plain = call_of(config)
    call = replace(plain, numerator=lambda raw, mapped: mapped.roll(1, -1) * turn)
    with torch.no_grad():
        matrix, gain, own, summed = call.matrix(ROWS), rounding_gain(call), denominator(call), summary(call)
        torch.testing.assert_close(matrix @ call.qkv[2], call.output(), rtol=1e-9, atol=1e-9)
        assert not torch.allclose(matrix, plain.matrix(ROWS))
        assert gain is not None
        assert bool((gain >= 1).all())
        if own is not None:
            torch.testing.assert_close(own, denominator(plain))
        shift = EPSILON if normalization == "division" else 0.0
        turned = (call.qkv[1].relu() + shift).roll(1, -1) * turn
        torch.testing.assert_close(summed, turned.mT @ call.qkv[2])
