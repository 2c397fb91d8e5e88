"""kind=blocks, linear attention with a summary for each block of tokens, against its quadratic form."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lina_lab.config import AttentionConfig
from lina_lab.model import Attention
from lina_lab.model.linear import EPSILON, Weights
from lina_lab.model.token_blocks import BlockCore, tiles
from lina_lab.variants import GATES, NORMALIZATIONS, Geometry
from lina_lab.variants.cores import tiling
from tests.model.test_lina import SMALL
from tests.model.twins import GEOMETRY, assert_twins, normal, scattered

each_condition = pytest.mark.parametrize("condition", [0, 4], ids=["image alone", "with condition"])
BLOCKS = [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
"""Of 3 x 5 tokens, in 6 blocks."""
each_normalization = pytest.mark.parametrize("normalization", NORMALIZATIONS.builtin)


def block_core(normalization: str, generator: torch.Generator, geometry: Geometry) -> BlockCore:
    core = BlockCore(AttentionConfig(kind="blocks", normalization=normalization, gate="none"), geometry)
    return scattered(core, generator)  # type: ignore[return-value]


@each_normalization
@each_condition
def test_token_blocks_are_a_quadratic_form_with_a_weight_for_each_pair_of_blocks(
    condition: int, normalization: str, generator: torch.Generator
) -> None:
    """Numerator and normalizer have the weights, under a gate's own on keys, normalizer and values too."""
    core = block_core(normalization, generator, replace(GEOMETRY, blocks=6, condition_tokens=condition))
    of_image = [block + (condition > 0) for row in BLOCKS for block in row]
    block, tokens = torch.tensor([0] * condition + of_image), condition + 15
    qkv = normal(generator, 3, 2, 2, tokens, 4)
    key, normalizer, value = ((0.5 + torch.rand(2, tokens, 1, generator=generator).double()) for _ in range(3))
    gate = Weights(key=key.requires_grad_(), normalizer=normalizer.requires_grad_(), value=value.requires_grad_())

    def twin() -> Tensor:
        shift = EPSILON if normalization == "division" else 0.0
        q, k = qkv[0].relu() + shift, qkv[1].relu() + shift
        groups = int(block.max()) + 1
        mixing = groups * core.logits.softmax(-1)[:, block][:, :, block]
        if normalization == "division":
            sums = (q @ (k * normalizer).mT * mixing).sum(-1, keepdim=True)
            return (q @ k.mT * mixing / (sums + EPSILON * tokens)) @ (qkv[2] * key * value)
        sums = (q @ (k * normalizer).mT * mixing).sum(-1, keepdim=True) / 2
        spread = (1 - sums / tokens) * (qkv[2] * value).mean(-2, keepdim=True)
        return (q @ k.mT * mixing / 2 / tokens) @ (qkv[2] * key * value) + spread

    assert_twins(lambda: core(qkv, gate), twin, [qkv, core.logits, key, normalizer, value])


@each_normalization
@each_condition
def test_rows_of_token_blocks_sum_to_one(condition: int, normalization: str, generator: torch.Generator) -> None:
    core = block_core(normalization, generator, replace(GEOMETRY, blocks=6, condition_tokens=condition))
    qkv = normal(generator, 3, 2, 2, condition + 15, 4)
    ones = torch.cat([qkv[:2].abs() + 0.1, torch.ones_like(qkv[2:])])
    assert torch.allclose(core(ones, Weights()), ones[2], atol=1e-4)


@each_normalization
def test_the_memory_gate_is_token_blocks_with_equal_rows(normalization: str, generator: torch.Generator) -> None:
    """Of four contiguous blocks. The gate leaves the normalizer as it is, which token blocks weigh too."""
    geometry = replace(GEOMETRY, grid=(12, 1), blocks=4, condition_tokens=0)
    core, gate = block_core(normalization, generator, geometry), GATES["memory"].load()(geometry).double()
    gate.gate_logits.data.copy_(torch.randn(2, 4, generator=generator))
    core.logits.data.copy_(gate.gate_logits.unsqueeze(1).expand(2, 4, 4))
    x, qkv = normal(generator, 2, 12, 8), normal(generator, 3, 2, 2, 12, 4)
    key = gate.weights(x).key
    plain = Attention(8, 2, AttentionConfig(normalization=normalization, conv="none", gate="none")).core
    expected = plain(qkv, Weights(key=key, normalizer=key))  # type: ignore[operator]
    assert torch.allclose(core(qkv, Weights()), expected, rtol=1e-10, atol=1e-12)
    core.logits.data[:, 0, 0] += 1
    assert not torch.allclose(core(qkv, Weights()), expected, rtol=1e-3)


def test_tiles_are_as_square_as_the_grid_lets_them_be() -> None:
    grids = {(16, 16): (4, 4), (8, 32): (2, 8), (7, 7): (4, 4), (1, 20): (1, 16)}
    assert {grid: tiling(grid, 16) for grid in grids} == grids
    assert tiling((3, 5), 7) is None
    found = tiles((3, 5), 6)
    assert found.shape == (6, 4)
    for block, row in enumerate(found.tolist()):
        assert {number for number in row if number < 15} == {
            5 * r + c for r in range(3) for c in range(5) if BLOCKS[r][c] == block
        }


def test_blocks_that_do_not_tile_the_grid_are_refused_and_encoders_have_none() -> None:
    attention = AttentionConfig(kind="blocks", blocks=7)
    sentence = "kind=blocks needs a number of blocks that tiles the grid: blocks=7 do not tile 6 x 4"
    with pytest.raises(ValueError, match=sentence):
        replace(SMALL, attention=attention)
    config = replace(SMALL, attention=replace(attention, blocks=4))
    assert {a.kind for a in (*config.encoder_blocks, *config.condition_blocks)} == {"linear"}
    with pytest.raises(ValueError, match="encoder_attention needs kind, conv and gate that do not need"):
        replace(config, encoder_attention=AttentionConfig(kind="blocks", blocks=4, conv="none", gate="none"))
