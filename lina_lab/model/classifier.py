"""A classifier of images, task=classification: the blocks of LINA's decoder on all tokens, their mean, a linear head.

Shapes: B batch, C channels, H and W sides of a latent image, N image tokens, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor, nn

from lina_lab.config import LinaConfig
from lina_lab.model.backbone import Stack, compile_each, patchify
from lina_lab.model.initialization import initialize
from lina_lab.model.inputs import Inputs
from lina_lab.model.layers import ZeroLinear
from lina_lab.variants import POSITIONS


@dataclass(frozen=True, kw_only=True)
class ClassifierInputs(Inputs):
    """The inputs of the classifier's loss: how each image is changed, and how far its label is smoothed."""

    flip: Tensor
    """bool [B]: whose columns are reversed"""
    shift: Tensor
    """int64 [B, 2]: rows and columns by which the image moves down and to the right"""
    smoothing: Tensor
    """float [B]: share of the label that is spread over all classes"""

    @classmethod
    def sample(  # type: ignore[override]  # takes these options alone
        cls, config: LinaConfig, batch: int, generator: Generator, *, flip: bool = False, shift: int = 0
    ) -> Self:
        """As in `Inputs`; the same numbers are sampled whatever the options.

        Args:
            config: gives `label_smoothing`.
            batch: images B.
            generator: on the CPU.
            flip: whether half of the images are reversed.
            shift: most rows and columns that an image moves; each number up to it is as probable, in both directions.
        """
        uniform = torch.rand(batch, 3, generator=generator)
        moves = (uniform[:, 1:] * (2 * shift + 1)).long().clamp(max=2 * shift) - shift
        smoothing = torch.full((batch,), config.label_smoothing)
        return cls(flip=(uniform[:, 0] < 0.5) & flip, shift=moves, smoothing=smoothing)

    @classmethod
    def frozen(cls, config: LinaConfig, sizes: Sequence[int]) -> list[Self]:
        """As in `Inputs`: images as they are, and the cross-entropy without smoothing."""
        return [
            cls(
                flip=torch.zeros(batch, dtype=torch.bool),
                shift=torch.zeros(batch, 2, dtype=torch.long),
                smoothing=torch.zeros(batch),
            )
            for batch in sizes
        ]


class Classifier(nn.Module):
    """The model of `config`, with the initial weights of seed 0; `initialize(model, seed)` samples others.

    Args:
        config: geometry, sizes and variants.
    """

    def __init__(self, config: LinaConfig) -> None:
        super().__init__()
        assert config.num_classes is not None  # the task's entry
        self.config = config
        self.embed = nn.Linear(config.token_dim, config.dim)
        self.positions = POSITIONS[config.position].load()(config.image_geometry)
        self.blocks = Stack(config, config.decoder_blocks)
        self.norm = nn.LayerNorm(config.dim)
        self.head = ZeroLinear(config.dim, config.num_classes)
        initialize(self, seed=0)
        if config.compile:
            compile_each(self.blocks)

    def logits(self, latents: Tensor) -> Tensor:
        """Logits [B, K] of latents [B, C, H, W]."""
        return self._logits(latents)

    def accuracy(self, latents: Tensor, *, label: Tensor) -> Tensor:
        """Share of latents [B, C, H, W] whose largest logit is that of their class, int64 [B]: a scalar."""
        return (self.logits(latents).argmax(1) == label).float().mean()

    def _logits(self, latents: Tensor) -> Tensor:
        x_BND = self.positions.add(self.embed(patchify(latents, self.config.patch_size)))
        z_BND = self.norm(self.blocks(x_BND, self.positions.rotation(0)))
        return self.head(z_BND.mean(1))

    def loss_from_inputs(self, latents: Tensor, inputs: ClassifierInputs, *, label: Tensor) -> Tensor:
        """Cross-entropy of latents [B, C, H, W] with smoothed labels, int64 [B]: the mean over images, a scalar."""
        inputs = inputs.to(latents.device)
        log_BK = self._logits(moved(latents, inputs.flip, inputs.shift)).log_softmax(-1)
        own = log_BK.gather(1, label.unsqueeze(1)).squeeze(1)
        return -((1 - inputs.smoothing) * own + inputs.smoothing * log_BK.mean(1)).mean()


def moved(images: Tensor, flip: Tensor, shift: Tensor) -> Tensor:
    """Images [B, C, H, W] with the columns of some reversed, then each moved; what comes in repeats the edge.

    Args:
        images: B of them.
        flip: bool [B].
        shift: int64 [B, 2], rows down and columns to the right.
    """
    height, width = images.shape[-2:]
    row_BH, column_BW = (
        (torch.arange(side, device=images.device) - moves.unsqueeze(1)).clamp(0, side - 1)
        for side, moves in ((height, shift[:, 0]), (width, shift[:, 1]))
    )
    column_BW = torch.where(flip.unsqueeze(1), width - 1 - column_BW, column_BW)
    image_B = torch.arange(len(images), device=images.device)
    found_BHWC = images.movedim(1, -1)[image_B[:, None, None], row_BH[:, :, None], column_BW[:, None, :]]
    return found_BHWC.movedim(-1, 1)
