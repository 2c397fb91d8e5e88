"""Kernels of the depthwise convolution of a grid's tokens, in the memory order of tokens.

Shapes: B batch, M condition tokens, N = R C image tokens on R rows and C columns, T = M + N, D width, K taps a side.
A program works on a block of channels of one sample and a block of its tokens.
"""

import triton
from triton import language as tl


@triton.jit
def convolve(
    x_ptr, kernel_ptr, bias_ptr, base_ptr, y_ptr,
    condition, tokens, rows, columns, width,
    x_batch, x_token, base_batch, base_token, y_batch, y_token,
    HAS_BASE: tl.constexpr, FLIPPED: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """`base + bias + x * kernel` on image tokens, and `base` on condition tokens, for a block of all T tokens.

    Without a base there is no bias either, and condition tokens are 0. FLIPPED turns the kernel round, which makes of
    the gradient of the output that of the input.
    """
    batch = tl.program_id(2).to(tl.int64)
    token = tl.program_id(0) * BT + tl.arange(0, BT)
    channel = tl.program_id(1) * BD + tl.arange(0, BD)
    inside, image = channel < width, token - condition
    row, column = image // columns, image % columns
    x_ptr += batch * x_batch + condition * x_token
    total = tl.zeros((BT, BD), tl.float32)
    for i in tl.static_range(K):
        for j in tl.static_range(K):
            r, c = row + (i - K // 2), column + (j - K // 2)
            there = (image >= 0) & (token < tokens) & (r >= 0) & (r < rows) & (c >= 0) & (c < columns)
            tap = channel * (K * K) + (K * K - 1 - i * K - j if FLIPPED else i * K + j)
            weight = tl.load(kernel_ptr + tap, mask=inside, other=0.0).to(tl.float32)
            cell = (r * columns + c)[:, None] * x_token + channel[None, :]
            x = tl.load(x_ptr + cell, mask=there[:, None] & inside[None, :], other=0.0).to(tl.float32)
            total += x * weight[None, :]
    mask = (token < tokens)[:, None] & inside[None, :]
    if HAS_BASE:
        bias = tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)
        total += tl.where(image >= 0, 1.0, 0.0)[:, None] * bias[None, :]
        cell = token[:, None] * base_token + channel[None, :]
        total += tl.load(base_ptr + batch * base_batch + cell, mask=mask, other=0.0).to(tl.float32)
    cell = token[:, None] * y_token + channel[None, :]
    tl.store(y_ptr + batch * y_batch + cell, total.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def pull_kernel(
    x_ptr, g_ptr, grads_ptr,
    condition, images, samples, blocks, rows, columns, width,
    x_batch, x_token, g_batch, g_token,
    K: tl.constexpr, BK: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """A chunk's share of the gradients of one row of taps, and of the bias.

    A chunk is `blocks` blocks of the image tokens of all samples, one sample after the other. It stores its sums in its
    own part of `grads` [chunks, K K + 1, D], the last row of which is the bias.
    """
    i, chunk = tl.program_id(1), tl.program_id(2)
    channel, j = tl.program_id(0) * BD + tl.arange(0, BD), tl.arange(0, BK)
    inside = channel < width
    taps, bias = tl.zeros((BK, BT, BD), tl.float32), tl.zeros((BT, BD), tl.float32)
    for block in range(blocks):
        number = (chunk * blocks + block) * BT + tl.arange(0, BT)
        batch, image = (number // images).to(tl.int64), number % images
        r, c = image // columns + i - K // 2, (image % columns)[None, :] + j[:, None] - K // 2
        known = number < samples * images
        cell = (batch * g_batch + (condition + image) * g_token)[:, None] + channel[None, :]
        g = tl.load(g_ptr + cell, mask=known[:, None] & inside[None, :], other=0.0).to(tl.float32)
        there = known[None, :] & (r >= 0)[None, :] & (r < rows)[None, :] & (c >= 0) & (c < columns) & (j < K)[:, None]
        cell = (batch * x_batch)[None, :] + (condition + r[None, :] * columns + c) * x_token
        mask = there[:, :, None] & inside[None, None, :]
        x = tl.load(x_ptr + cell[:, :, None] + channel[None, None, :], mask=mask, other=0.0).to(tl.float32)
        taps += x * g[None, :, :]
        bias += g
    grads_ptr += chunk.to(tl.int64) * (K * K + 1) * width
    cell = (i * K + j)[:, None] * width + channel[None, :]
    tl.store(grads_ptr + cell, tl.sum(taps, 1), mask=(j < K)[:, None] & inside[None, :])
    if i == 0:
        tl.store(grads_ptr + K * K * width + channel, tl.sum(bias, 0), mask=inside)
