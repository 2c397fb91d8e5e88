"""Convolutions that are added to the core's output."""

from lina_lab.util.registry import OpenRegistry
from lina_lab.variants.entry import FREE, GROUP, Convolution, Geometry, official_layer

CONVOLUTIONS: OpenRegistry[Convolution] = OpenRegistry("conv", GROUP, Convolution, unused="none")


def _dynamic_weights(g: Geometry, taps: int) -> int:
    """Weights of the two grouped 1 x 1 convolutions that make the kernels; they are multiplied with once a sample."""
    return g.dim * g.head_dim * (1 + taps)


for entry in (
    Convolution(name="none", documentation="no convolution", module="lina_lab.model.locality:no_convolution", **FREE),
    Convolution(
        name="depthwise",
        documentation="a depthwise convolution of the input's image tokens on their grid",
        module="lina_lab.model.locality:DepthwiseConvolution",
        needs_grid=True,
        parameters=lambda g: g.dim * g.kernel**2 + g.dim,
        multiply_adds=lambda g, tokens: g.image_tokens * g.dim * g.kernel**2,
        official=official_layer("conv", "dim 1 kernel kernel", "dw_conv"),
    ),
    Convolution(
        name="dynamic",
        documentation="a convolution of the values along the sequence, with kernels made from the mean token "
        "(as in InLine attention)",
        module="lina_lab.model.locality:DynamicConvolution",
        parameters=lambda g: _dynamic_weights(g, g.kernel) + g.dim * (1 + g.kernel),
        multiply_adds=lambda g, tokens: _dynamic_weights(g, g.kernel) + tokens * g.dim * g.kernel,
        official=(
            *official_layer("residual.0", "dim dim/heads 1"),
            *official_layer("residual.2", "dim*kernel dim/heads 1"),
        ),
    ),
    Convolution(
        name="dynamic2d",
        documentation="as dynamic, with square kernels over the image tokens on their grid: with conv_kernel=3, "
        "feature_map=identity and normalization=subtraction it is InLine attention (arXiv 2412.06590)",
        module="lina_lab.model.locality:DynamicGridConvolution",
        needs_grid=True,
        parameters=lambda g: _dynamic_weights(g, g.kernel**2) + g.dim * (1 + g.kernel**2),
        multiply_adds=lambda g, tokens: _dynamic_weights(g, g.kernel**2) + g.image_tokens * g.dim * g.kernel**2,
    ),
):
    CONVOLUTIONS.register(entry)
