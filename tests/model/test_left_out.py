"""What the model leaves out or writes out by hand gives the numbers of the plain formulas."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lina_lab.config import AttentionConfig, LinaConfig
from lina_lab.model import LINA, modulated, sample_loss_inputs
from lina_lab.model.backbone import MaskedAutoencoder
from lina_lab.model.flow import FlowBlock, FlowHead
from lina_lab.model.layers import gather
from tests.model.test_attention import every_attention
from tests.model.test_lina import SMALL, seeded, small
from tests.model.test_placements import ROTARY, TEXT, disturb

Patch = pytest.MonkeyPatch


def plain_forms(monkeypatch: Patch) -> None:
    """All tokens in each block, time codes token by token, and a flow head that is left to autograd."""
    monkeypatch.setattr(modulated, "_written_out", lambda *_: False)
    monkeypatch.setattr(FlowHead, "time_embedding", lambda head, timestep: head.time_mlp(head.time_codes[timestep]))
    original = MaskedAutoencoder.forward

    def forward(self: MaskedAutoencoder, *inputs: Tensor) -> Tensor:
        *others, read = inputs
        return gather(original(self, *others), read)

    monkeypatch.setattr(MaskedAutoencoder, "forward", forward)


def loss_and_gradients(config: LinaConfig, dtype: torch.dtype, images: int = 4) -> tuple[Tensor, dict[str, Tensor]]:
    model = LINA(config)
    disturb(model)
    model.to(dtype)
    latents = torch.randn(images, config.latent_channels, *config.latent_size, generator=seeded()).to(dtype)
    inputs = sample_loss_inputs(config, images, seeded(), mask_ratio=0.75)
    condition: dict[str, Any] = {}
    if config.num_classes is not None:
        condition = {"label": torch.arange(images) % config.num_classes}
    elif config.text_dim is not None:
        condition = {"text": torch.randn(images, config.text_length, config.text_dim, generator=seeded()).to(dtype)}
    loss = model.loss_from_inputs(latents, inputs, **condition)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


CASES = {
    "class": replace(SMALL, depth=4),
    "before": replace(SMALL, norm_placement="before"),
    "text": TEXT,
    "rotary": ROTARY,
    # More noised tokens than there are timesteps: the codes come from a table.
    "many tokens": replace(SMALL, noise_samples_per_token=16),
}


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-6), (torch.float32, 1e-6)])
def test_loss_and_gradients_are_those_of_the_plain_forms(
    config: LinaConfig, dtype: torch.dtype, near: float, monkeypatch: Patch
) -> None:
    """The order of sums differs: the loss within 1e-6, a gradient within 1e-5 of the largest of its tensor."""
    loss, gradients = loss_and_gradients(config, dtype)
    plain_forms(monkeypatch)
    expected, others = loss_and_gradients(config, dtype)
    assert loss.item() == pytest.approx(expected.item(), rel=near)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, others[name], rtol=0, atol=1e-5 * others[name].abs().max().item() + 1e-9), name


@every_attention
def test_tokens_that_are_read_are_those_of_all_tokens(config: AttentionConfig) -> None:
    model = LINA(replace(small(config), depth=4))
    disturb(model)
    model.double()
    numbers = model.config.num_tokens
    latents = torch.randn(2, 2, *model.config.latent_size, generator=seeded()).double()
    order = torch.rand(2, numbers, generator=seeded()).argsort(1)
    visible, read = order[:, : numbers // 2], order[:, numbers // 2 + 1 :]
    c = model.condition(label=torch.tensor([0, 1]))
    tokens = latents.flatten(2).mT
    few = model.backbone(gather(tokens, visible), c, visible, read)
    all_of_them = model.backbone(gather(tokens, visible), c, visible)
    assert all_of_them.shape[1] == numbers
    assert torch.allclose(few, gather(all_of_them, read), atol=1e-12)


def branch(dim: int, dtype: torch.dtype) -> FlowBlock:
    torch.manual_seed(0)
    block = FlowBlock(dim).to(dtype)
    for parameter in block.parameters():
        parameter.data.normal_(std=0.3)
    return block


def of_branch(block: FlowBlock, x: Tensor, active: Tensor) -> list[Tensor]:
    """Result and gradients of a branch."""
    x, active = (t.clone().requires_grad_() for t in (x, active))
    y = block(x, active)
    grads = torch.autograd.grad(
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum(), [x, active, *block.parameters()]
    )
    return [y.detach(), *grads]


@pytest.mark.parametrize("shape", [(7, 12), (2, 5, 3, 12), (1, 12), (0, 12)])
@pytest.mark.parametrize("cached", [12, 40, 2**17])
def test_the_branch_written_out_is_the_formula(shape: tuple[int, ...], cached: int, monkeypatch: Patch) -> None:
    """For each number of rows at once, also where they do not divide the rows."""
    block = branch(12, torch.float64)
    x, active = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    monkeypatch.setattr(modulated, "CACHED", cached)
    found = of_branch(block, x, active)
    with torch.no_grad():
        assert torch.equal(block(x, active), found[0])
    monkeypatch.setattr(modulated, "_written_out", lambda *_: False)
    for own, expected in zip(found, of_branch(block, x, active), strict=True):
        assert torch.allclose(own, expected, atol=1e-12)


def test_the_branch_is_the_formula_of_its_documentation() -> None:
    block = branch(12, torch.float64)
    x, active = (torch.randn(3, 12, dtype=torch.float64) for _ in range(2))
    scale, shift, gate = block.modulation.proj(active).chunk(3, -1)
    zero = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    expected = x + gate * block.norm2(block.mlp.fc2(F.silu(block.mlp.fc1(zero * (1 + scale) + shift))))
    assert torch.allclose(block(x, active), expected, atol=1e-12)


@pytest.mark.parametrize("how", ["broadcast", "autocast"])
def test_other_inputs_take_the_plain_branch(how: str) -> None:
    block = branch(12, torch.float32)
    x, active = (
        torch.randn(2, 5, 12),
        torch.randn(1, 1 if how == "broadcast" else 5, 12).expand(-1, 1 if how == "broadcast" else 5, -1),
    )
    with torch.autocast("cpu", enabled=how == "autocast"):
        found = block(x, active)
    expected = torch.stack(
        [
            torch.stack([block(x[i, j : j + 1], active[0, min(j, active.shape[1] - 1)][None])[0] for j in range(5)])
            for i in range(2)
        ]
    )
    assert torch.allclose(found.float(), expected, atol=0.2 if how == "autocast" else 1e-5)


def test_a_second_derivative_of_the_branch_is_refused() -> None:
    block = branch(12, torch.float64)
    x = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        block(x, torch.randn(3, 12, dtype=torch.float64)).square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_timesteps_have_the_embedding_of_their_number_however_many_there_are() -> None:
    head = FlowHead(4, 8, 8, 1)
    few = torch.tensor([1, 1000, 37])
    many = few.repeat(500)
    expected = head.time_embedding(few.float())
    assert torch.allclose(head.time_embedding(few), expected, atol=1e-6)
    assert torch.allclose(head.time_embedding(many), expected.repeat(500, 1), atol=1e-6)


def test_guidance_of_one_at_the_first_step_needs_no_second_pass(monkeypatch: Patch) -> None:
    model, passes = LINA(SMALL), list[int]()
    disturb(model)
    original: Callable[..., Tensor] = MaskedAutoencoder.forward

    def forward(self: MaskedAutoencoder, visible: Tensor, *rest: Tensor) -> Tensor:
        passes.append(len(visible))
        return original(self, visible, *rest)

    monkeypatch.setattr(MaskedAutoencoder, "forward", forward)
    settings: dict[str, Any] = {"label": torch.tensor([0, 1]), "steps": 3, "flow_steps": 2, "guidance": 3.0}
    image = model.generate(**settings, min_guidance=1.0, generator=seeded())
    near = model.generate(**settings, min_guidance=1.0 + 1e-7, generator=seeded())
    assert passes == [2, 4, 4, 4, 4, 4]
    assert torch.allclose(image, near, atol=1e-4)
