"""Conditions, positions and placements: what stands around the attentions."""

from dataclasses import replace

import pytest
import torch
from torch import Generator

from lina_lab.config import AttentionConfig, LinaConfig
from lina_lab.model import LINA, sample_loss_inputs
from lina_lab.model.positions import Rotation, axial_rotation, no_rotation, rotate, sincos
from tests.model.test_lina import SMALL, disturb, seeded

PLAIN = AttentionConfig(conv="none", gate="none")
SOFTMAX = AttentionConfig(kind="softmax", conv="none", gate="none")
ROTARY = replace(SMALL, dim=64, num_heads=2, position="rotary")
TEXT = replace(SMALL, num_classes=None, text_dim=5, text_length=6)


def test_a_pattern_is_repeated_over_the_blocks() -> None:
    config = replace(SMALL, depth=16, attention=(PLAIN, PLAIN, PLAIN, SOFTMAX))
    kinds = [block.attn.config.kind for block in LINA(config).backbone.decoder]
    assert kinds == ["linear", "linear", "linear", "softmax"] * 2
    assert [attention.kind for attention in config.encoder_blocks] == kinds


def test_each_stack_may_have_its_own_attention() -> None:
    subtraction = replace(PLAIN, normalization="subtraction")
    model = LINA(replace(SMALL, encoder_attention=SOFTMAX, condition_attention=subtraction))
    assert {block.attn.config for block in model.backbone.decoder} == {AttentionConfig()}
    assert {block.attn.config for block in model.backbone.encoder} == {SOFTMAX}
    assert {block.attn.config for block in model.condition_encoder.blocks} == {subtraction}


def test_by_default_the_encoders_have_the_decoder_s_core_alone() -> None:
    config = replace(SMALL, attention=AttentionConfig(normalization="subtraction"))
    assert set(config.encoder_blocks + config.condition_blocks) == {replace(PLAIN, normalization="subtraction")}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"attention": (PLAIN, PLAIN, PLAIN)}, "attention is a pattern of 3, which does not fill its 2 blocks"),
        ({"attention": ()}, "attention is a pattern of 0"),
        (
            {"encoder_attention": AttentionConfig()},
            "encoder_attention needs kind, conv and gate that do not need",
        ),
        ({"text_dim": 8}, "num_classes and text_dim are both set"),
        ({"position": "rotary"}, "position=rotary needs heads of a multiple of 32 channels"),
        ({"attention": AttentionConfig(gate="memory")}, "gate=memory needs a multiple of 4 tokens, not 30"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(SMALL, depth=4, **change)  # type: ignore[arg-type]


def test_absent_text_is_filled_from_the_table() -> None:
    model = LINA(TEXT)
    disturb(model)
    embed = model.text_embedding
    assert embed is not None
    text, present = torch.randn(2, 4, 5, generator=seeded()), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    tokens = embed(text, present)
    assert tokens.shape == (2, 6, 8)
    table = embed.norm(embed.proj(embed.table[:6]))
    assert torch.allclose(tokens[0, 2:], table[2:])
    assert torch.allclose(tokens[1, 4:], table[4:])
    assert torch.allclose(tokens[0, :2], embed.norm(embed.proj(text[0, :2])))
    assert not embed.table.requires_grad


def test_no_text_at_all_is_the_unconditional_case() -> None:
    model = LINA(TEXT)
    disturb(model)
    text = torch.randn(2, 4, 5, generator=seeded())
    hidden = model.condition(text=text, present=torch.zeros(2, 4, dtype=torch.bool))
    assert torch.allclose(hidden, model.condition(batch=2), atol=1e-6)
    assert not torch.allclose(hidden, model.condition(text=text), atol=1e-3)


def test_a_text_model_trains_hides_texts_and_generates() -> None:
    model = LINA(TEXT)
    disturb(model)
    latents, text = torch.randn(4, 2, 6, 4, generator=seeded()), torch.randn(4, 3, 5, generator=seeded())
    draws = replace(sample_loss_inputs(TEXT, 4, seeded()), drop=torch.ones(4, dtype=torch.bool))
    assert torch.allclose(
        model.loss_from_inputs(latents, draws, text=text), model.loss_from_inputs(latents, draws), atol=1e-6
    )
    images = model.generate(text=text, steps=3, flow_steps=2, guidance=2.0, generator=seeded())
    assert images.shape == (4, 2, 6, 4)
    with pytest.raises(ValueError, match="text has 7 states, and the model takes text_length=6"):
        model.condition(text=torch.zeros(1, 7, 5))
    with pytest.raises(ValueError, match="this model takes no label: it is not conditioned on it"):
        model.condition(label=torch.tensor([1]))


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    rotation = axial_rotation((4, 6), 32)
    x, y = (torch.randn(1, 1, 1, 32, generator=seeded(s), dtype=torch.float64).expand(1, 1, 24, 32) for s in (0, 1))
    turned_x, turned_y = rotate(x, rotation), rotate(y, rotation)
    assert torch.allclose(turned_x.norm(dim=-1), x.norm(dim=-1))
    products = (turned_x @ turned_y.mT)[0, 0].reshape(4, 6, 4, 6)
    assert torch.allclose(products[0, 0, 1, 2], products[2, 3, 3, 5])
    assert not torch.allclose(products[0, 0, 1, 2], products[0, 0, 2, 1])


def test_rotation_by_the_formula() -> None:
    rotation = axial_rotation((2, 3), 64)
    angle = torch.atan2(rotation.sin, rotation.cos)
    frequency = 10_000.0 ** (-torch.arange(0, 28, 2, dtype=torch.float64) / 28)
    assert torch.allclose(angle[:, :4], torch.zeros(6, 4))
    assert torch.allclose(angle[5, 4:18].double(), 1 * frequency, atol=1e-6)
    assert torch.allclose(angle[5, 18:].double(), 2 * frequency, atol=1e-6)


def test_tokens_before_the_grid_are_not_turned() -> None:
    grid = axial_rotation((2, 2), 32)
    both = grid.after(no_rotation(3, grid))
    x = torch.randn(1, 1, 7, 32, generator=seeded())
    turned = rotate(x, both)
    assert torch.equal(turned[:, :, :3], x[:, :, :3])
    assert torch.allclose(turned[:, :, 3:], rotate(x[:, :, 3:], grid))
    some = grid.take(torch.tensor([[3, 0], [1, 2]])).after(no_rotation(3, grid))
    assert some.cos.shape == (2, 5, 16)
    assert isinstance(some, Rotation)


def test_a_rotary_model_knows_where_its_tokens_are() -> None:
    model = LINA(ROTARY)
    disturb(model)
    assert model.condition_encoder.time_zero is None
    c, latents = model.condition(label=torch.tensor([0])), torch.ones(1, 2, 6, 4)
    one, two = (model.encode(latents, c, torch.tensor([ids])) for ids in ([3, 9], [4, 10]))
    assert not torch.allclose(one, two, atol=1e-3)
    again = model.encode(latents, c, torch.tensor([[9, 3]]))
    assert torch.allclose(one, again, atol=1e-4)
    assert model.loss(latents, label=torch.tensor([0]), generator=seeded()).isfinite()


def test_sincos_by_the_formula() -> None:
    code = sincos((2, 3), 8)
    frequency = torch.tensor([1.0, 10_000**-0.5])
    column, row = 2 * frequency, 1 * frequency
    wanted = torch.cat([column.sin(), column.cos(), row.sin(), row.cos()])
    assert torch.allclose(code[5], wanted, atol=1e-6)


def test_an_image_does_not_depend_on_those_beside_it() -> None:
    model = LINA(SMALL)
    disturb(model)

    def images(labels: list[int], seeds: list[int]) -> torch.Tensor:
        own = [Generator().manual_seed(seed) for seed in seeds]
        return model.generate(label=torch.tensor(labels), steps=5, flow_steps=3, guidance=2.0, generator=own)

    together, reversed_ = images([0, 1, 2], [5, 6, 7]), images([2, 1, 0], [7, 6, 5])
    assert torch.allclose(together, reversed_.flip(0), atol=1e-4)
    assert torch.allclose(together[1:2], images([1], [6]), atol=1e-4)
    with pytest.raises(ValueError, match="2 generators for 1 images"):
        images([1], [6, 7])


def test_checkpointing_changes_no_gradient() -> None:
    latents, label = torch.randn(4, 2, 6, 4, generator=seeded()), torch.tensor([0, 1, 2, 0])
    gradients = []
    for checkpoint in (False, True):
        model = LINA(replace(SMALL, gradient_checkpointing=checkpoint))
        disturb(model)
        model.loss(latents, label=label, generator=seeded()).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.system
@pytest.mark.filterwarnings("ignore")  # torch.compile's own
def test_compiled_equals_not_compiled() -> None:
    """The attention in one graph, and a whole model; a deeper one needs nothing that was not compiled for it."""
    from lina_lab.model import Attention

    attention = Attention(8, 2, AttentionConfig(conv_kernel=3), (3, 4), 4)
    x = torch.randn(2, 16, 8, generator=seeded())
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x), attention(x), atol=1e-5)
    # Two blocks in the decoder: the last one computes fewer tokens, and is compiled for itself.
    plain, fast = LINA(replace(SMALL, depth=4)), LINA(replace(SMALL, depth=4, compile=True))
    for model in (plain, fast):
        disturb(model)
    latents, label = torch.randn(4, 2, 6, 4, generator=seeded()), torch.tensor([0, 1, 2, 0])
    losses = [model.loss(latents, label=label, generator=seeded()) for model in (plain, fast)]
    assert torch.allclose(*losses, atol=1e-5)
    losses[1].backward()
    assert all(p.grad is not None for p in fast.parameters() if p.requires_grad)
    deep = LINA(replace(SMALL, depth=6, condition_depth=2, compile=True))
    with torch.compiler.set_stance("fail_on_recompile"):
        deep.loss(latents, label=label, generator=seeded()).backward()


def test_configs_of_all_kinds_go_through_plain_data() -> None:
    from lina_lab.config import from_dict, to_dict

    for config in (SMALL, ROTARY, TEXT, replace(SMALL, depth=4, attention=(PLAIN, SOFTMAX))):
        assert from_dict(LinaConfig, to_dict(config)) == config
