"""One attention for every variant of the study.

Shapes: B batch, M condition tokens, N image tokens, T = M + N tokens, D width, H heads, E = D / H channels of a head.
"""

from einops import rearrange
from torch import Tensor, nn

from lina_lab.config import AttentionConfig
from lina_lab.model.layers import gather
from lina_lab.model.locality import DepthwiseConvolution
from lina_lab.model.positions import Rotation
from lina_lab.variants import CONVOLUTIONS, CORES, GATES, HEAD_NORMS, QK_NORMS, ROTATIONS, Geometry


class Attention(nn.Module):
    """Projections, norms, core, gate, convolution, output projection: `[B, T, D] -> [B, T, D]`.

    The parts are those of the entries in `lina_lab.variants`. A configuration that is `tied_to_grid` takes only all
    condition and image tokens, in their order; others take sequences of any length.

    Args:
        dim: width D.
        num_heads: heads H; divides `dim`.
        config: which variant.
        grid: rows and columns of the image tokens.
        condition_tokens: tokens M in front of the image tokens.

    Raises:
        ValueError: `num_heads` does not divide `dim`, or a part cannot be built for this geometry.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        config: AttentionConfig,
        grid: tuple[int, int] = (16, 16),
        condition_tokens: int = 64,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim={dim} is not a multiple of num_heads={num_heads}")
        geometry = config.geometry(Geometry(dim=dim, heads=num_heads, grid=grid, condition_tokens=condition_tokens))
        if (misfit := config.misfit(geometry)) is not None:
            raise ValueError(misfit)
        self.num_heads, self.config = num_heads, config
        self.core = CORES[config.kind].load()(config, geometry)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rotated = ROTATIONS[config.rotate].load()
        self.qk_norm = QK_NORMS[config.qk_norm].load()(geometry)
        self.head_norm = HEAD_NORMS[config.head_norm].load()(geometry)
        self.gate = GATES[config.gate].load()(geometry)
        self.conv = CONVOLUTIONS[config.conv].load()(geometry)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor, rotation: Rotation | None = None, read_BK: Tensor | None = None) -> Tensor:
        """Map tokens to tokens: [B, T, D], or [B, K, D] for the tokens that are read.

        Args:
            x_BTD: tokens [B, T, D].
            rotation: of queries and keys, see `AttentionConfig.rotate`; None where positions are added to the tokens.
            read_BK: int64 [B, K], the tokens whose outputs are wanted; None: all.
        """
        qkv_BT3D = self.qkv(x_BTD)
        if self.qk_norm is not None:
            qkv_BT3D = self.qk_norm(qkv_BT3D)
        qkv = rearrange(qkv_BT3D, "b t (three h e) -> three b h t e", three=3, h=self.num_heads)
        weights = self.gate.weights(x_BTD)
        o = self.core(qkv, weights) if rotation is None else self.rotated(self.core, qkv, weights, rotation)
        o_BTD = rearrange(o, "b h t e -> b t (h e)")
        if self.head_norm is not None:
            o_BTD = self.head_norm(x_BTD, o_BTD)
        if self.conv is not None:
            v_BTD = qkv_BT3D[..., -x_BTD.shape[-1] :]
            if isinstance(self.conv, DepthwiseConvolution):
                o_BTD = self.conv(x_BTD, v_BTD, o_BTD)
            else:
                o_BTD = self.conv(x_BTD, v_BTD).add_(o_BTD)
        o_BTD = self.gate.output(x_BTD, o_BTD)
        return self.proj(o_BTD if read_BK is None else gather(o_BTD, read_BK))
