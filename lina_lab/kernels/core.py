"""Kernels of linear attention: two of the forward pass, two of the backward pass.

Shapes: B batch, H heads, T tokens, E channels of a head. A program works on one head of one sample and on a chunk of
its tokens, so its second number counts chunks.

A summary is a row of E * E + 2 E numbers for each sample and head: the matrix `s k̂ᵀ(a v)`, then the vectors
`s k̂ᵀc` and `mean(w v)`, with the weights a, c and w of a gate and s the normalization's factor by T. Each chunk has a
summary of its own; they are added in their order, so a result is the same bit for bit whenever it is computed.
The gradient of a summary has the same layout.

What is multiplied as a matrix has the precision of the input, sums have float32, as in `lina_lab.model.linear`.
"""

import triton
from triton import language as tl

from lina_lab.kernels.maps import mapped, slope


@triton.jit
def _weight(pointer, token, stride, inside, PRESENT: tl.constexpr):
    """A gate's weights of some tokens; one where there is no gate."""
    if PRESENT:
        weight = tl.load(pointer + token * stride, mask=inside, other=0.0).to(tl.float32)
    else:
        weight = tl.where(inside, 1.0, 0.0)
    return weight


@triton.jit
def _store_summary(pointer, matrix, keys, mean, E: tl.constexpr, BE: tl.constexpr):
    channel = tl.arange(0, BE)
    cell = channel[:, None] * E + channel[None, :]
    tl.store(pointer + cell, matrix, mask=(channel < E)[:, None] & (channel < E)[None, :])
    tl.store(pointer + E * E + channel, keys, mask=channel < E)
    tl.store(pointer + E * E + E + channel, mean, mask=channel < E)


@triton.jit
def _load_summary(pointer, E: tl.constexpr, BE: tl.constexpr):
    channel = tl.arange(0, BE)
    cell = channel[:, None] * E + channel[None, :]
    matrix = tl.load(pointer + cell, mask=(channel < E)[:, None] & (channel < E)[None, :], other=0.0)
    keys = tl.load(pointer + E * E + channel, mask=channel < E, other=0.0)
    mean = tl.load(pointer + E * E + E + channel, mask=channel < E, other=0.0)
    return matrix, keys, mean


@triton.jit
def summarize(
    k_ptr, v_ptr, a_ptr, c_ptr, w_ptr, summaries_ptr,
    tokens, blocks, heads, scale, share,
    x_batch, x_head, x_token, a_batch, a_head, a_token, c_batch, c_head, c_token, w_batch, w_head, w_token,
    MAP: tl.constexpr, SHIFT: tl.constexpr, SPREADS: tl.constexpr,
    HAS_A: tl.constexpr, HAS_C: tl.constexpr, HAS_W: tl.constexpr,
    E: tl.constexpr, BE: tl.constexpr, BT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The summary of a chunk of `blocks` blocks of tokens."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    batch, head, channel = (row // heads).to(tl.int64), row % heads, tl.arange(0, BE)
    k_ptr += batch * x_batch + head * x_head
    v_ptr += batch * x_batch + head * x_head
    a_ptr += batch * a_batch + head * a_head
    c_ptr += batch * c_batch + head * c_head
    w_ptr += batch * w_batch + head * w_head
    matrix = tl.zeros((BE, BE), tl.float32)
    keys, mean = tl.zeros((BE,), tl.float32), tl.zeros((BE,), tl.float32)
    for block in range(blocks):
        token = (chunk * blocks + block) * BT + tl.arange(0, BT)
        inside = token < tokens
        mask, cell = inside[:, None] & (channel < E)[None, :], token[:, None] * x_token + channel[None, :]
        k_raw = tl.load(k_ptr + cell, mask=mask, other=0.0)
        v = tl.load(v_ptr + cell, mask=mask, other=0.0).to(tl.float32)
        k = tl.where(mask, mapped(k_raw.to(tl.float32), MAP) + SHIFT, 0.0).to(k_raw.dtype)
        a = _weight(a_ptr, token, a_token, inside, HAS_A)
        c = _weight(c_ptr, token, c_token, inside, HAS_C)
        matrix = tl.dot(tl.trans(k), (v * a[:, None]).to(k.dtype), matrix, input_precision=PRECISION)
        keys += tl.sum(k.to(tl.float32) * c[:, None], 0)
        if SPREADS:
            mean += tl.sum(v * _weight(w_ptr, token, w_token, inside, HAS_W)[:, None], 0)
    summaries_ptr += (chunk * tl.num_programs(0) + row).to(tl.int64) * (E * E + 2 * E)
    _store_summary(summaries_ptr, matrix * scale, keys * scale, mean * share, E, BE)


@triton.jit
def apply(
    q_ptr, summary_ptr, o_ptr,
    tokens, blocks, heads,
    x_batch, x_head, x_token, o_batch, o_head, o_token,
    MAP: tl.constexpr, SHIFT: tl.constexpr, SPREADS: tl.constexpr, EPSILON: tl.constexpr,
    E: tl.constexpr, BE: tl.constexpr, BT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The outputs of a chunk's queries."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    batch, head, channel = (row // heads).to(tl.int64), row % heads, tl.arange(0, BE)
    q_ptr += batch * x_batch + head * x_head
    o_ptr += batch * o_batch + head * o_head
    matrix, keys, mean = _load_summary(summary_ptr + row.to(tl.int64) * (E * E + 2 * E), E, BE)
    for block in range(blocks):
        token = (chunk * blocks + block) * BT + tl.arange(0, BT)
        mask = (token < tokens)[:, None] & (channel < E)[None, :]
        raw = tl.load(q_ptr + token[:, None] * x_token + channel[None, :], mask=mask, other=0.0)
        q = tl.where(mask, mapped(raw.to(tl.float32), MAP) + SHIFT, 0.0).to(raw.dtype)
        numerator = tl.dot(q, matrix.to(q.dtype), input_precision=PRECISION)
        normalizer = tl.sum(q.to(tl.float32) * keys[None, :], 1)
        if SPREADS:
            o = numerator + (1 - normalizer)[:, None] * mean[None, :]
        else:
            o = numerator / (normalizer + EPSILON)[:, None]
        tl.store(o_ptr + token[:, None] * o_token + channel[None, :], o.to(raw.dtype), mask=mask)


@triton.jit
def pull_queries(
    q_ptr, g_ptr, summary_ptr, dq_ptr, grads_ptr,
    tokens, blocks, heads, scale, share,
    x_batch, x_head, x_token, g_batch, g_head, g_token, d_batch, d_head, d_token,
    MAP: tl.constexpr, SHIFT: tl.constexpr, SPREADS: tl.constexpr, EPSILON: tl.constexpr,
    E: tl.constexpr, BE: tl.constexpr, BT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of a chunk's queries, and the chunk's share of the summary's gradient."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    batch, head, channel = (row // heads).to(tl.int64), row % heads, tl.arange(0, BE)
    q_ptr += batch * x_batch + head * x_head
    g_ptr += batch * g_batch + head * g_head
    dq_ptr += batch * d_batch + head * d_head
    matrix, keys, mean = _load_summary(summary_ptr + row.to(tl.int64) * (E * E + 2 * E), E, BE)
    grad_matrix = tl.zeros((BE, BE), tl.float32)
    grad_keys, grad_mean = tl.zeros((BE,), tl.float32), tl.zeros((BE,), tl.float32)
    for block in range(blocks):
        token = (chunk * blocks + block) * BT + tl.arange(0, BT)
        mask = (token < tokens)[:, None] & (channel < E)[None, :]
        raw = tl.load(q_ptr + token[:, None] * x_token + channel[None, :], mask=mask, other=0.0)
        g = tl.load(g_ptr + token[:, None] * g_token + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        x = raw.to(tl.float32)
        q = tl.where(mask, mapped(x, MAP) + SHIFT, 0.0).to(raw.dtype)
        q_precise, low = q.to(tl.float32), matrix.to(q.dtype)
        normalizer = tl.sum(q_precise * keys[None, :], 1)
        # Gradients of numerator and normalizer.
        if SPREADS:
            g_normalizer = -tl.sum(g * mean[None, :], 1)
            grad_mean += tl.sum((1 - normalizer)[:, None] * g, 0)
        else:
            g = g / (normalizer + EPSILON)[:, None]
            numerator = tl.dot(q, low, input_precision=PRECISION)
            g_normalizer = -tl.sum(g * numerator, 1) / (normalizer + EPSILON)
        g_low = g.to(q.dtype)
        grad_matrix = tl.dot(tl.trans(q), g_low, grad_matrix, input_precision=PRECISION)
        grad_keys += tl.sum(q_precise * g_normalizer[:, None], 0)
        dq = tl.dot(g_low, tl.trans(low), input_precision=PRECISION) + g_normalizer[:, None] * keys[None, :]
        dq *= slope(x, MAP)
        tl.store(dq_ptr + token[:, None] * d_token + channel[None, :], dq.to(raw.dtype), mask=mask)
    grads_ptr += (chunk * tl.num_programs(0) + row).to(tl.int64) * (E * E + 2 * E)
    _store_summary(grads_ptr, grad_matrix * scale, grad_keys * scale, grad_mean * share, E, BE)


@triton.jit
def pull_keys(
    k_ptr, v_ptr, a_ptr, c_ptr, w_ptr, grad_ptr, dk_ptr, dv_ptr, da_ptr, dc_ptr, dw_ptr,
    tokens, blocks, heads,
    x_batch, x_head, x_token, a_batch, a_head, a_token, c_batch, c_head, c_token, w_batch, w_head, w_token,
    d_batch, d_head, d_token,
    MAP: tl.constexpr, SHIFT: tl.constexpr, SPREADS: tl.constexpr,
    HAS_A: tl.constexpr, HAS_C: tl.constexpr, HAS_W: tl.constexpr,
    E: tl.constexpr, BE: tl.constexpr, BT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of a chunk's keys, values and weights, from the summary's gradient."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    batch, head, channel = (row // heads).to(tl.int64), row % heads, tl.arange(0, BE)
    k_ptr += batch * x_batch + head * x_head
    v_ptr += batch * x_batch + head * x_head
    a_ptr += batch * a_batch + head * a_head
    c_ptr += batch * c_batch + head * c_head
    w_ptr += batch * w_batch + head * w_head
    dk_ptr += batch * d_batch + head * d_head
    dv_ptr += batch * d_batch + head * d_head
    weights = row.to(tl.int64) * tokens
    matrix, keys, mean = _load_summary(grad_ptr + row.to(tl.int64) * (E * E + 2 * E), E, BE)
    for block in range(blocks):
        token = (chunk * blocks + block) * BT + tl.arange(0, BT)
        inside = token < tokens
        mask, cell = inside[:, None] & (channel < E)[None, :], token[:, None] * x_token + channel[None, :]
        raw = tl.load(k_ptr + cell, mask=mask, other=0.0)
        v = tl.load(v_ptr + cell, mask=mask, other=0.0).to(tl.float32)
        x = raw.to(tl.float32)
        k = tl.where(mask, mapped(x, MAP) + SHIFT, 0.0).to(raw.dtype)
        a = _weight(a_ptr, token, a_token, inside, HAS_A)
        c = _weight(c_ptr, token, c_token, inside, HAS_C)
        low, cell = matrix.to(k.dtype), token[:, None] * d_token + channel[None, :]
        dk = tl.dot((v * a[:, None]).to(k.dtype), tl.trans(low), input_precision=PRECISION)
        dk = (dk + c[:, None] * keys[None, :]) * slope(x, MAP)
        tl.store(dk_ptr + cell, dk.to(raw.dtype), mask=mask)
        columns = tl.dot(k, low, input_precision=PRECISION)
        dv = columns * a[:, None]
        if SPREADS:
            dv += _weight(w_ptr, token, w_token, inside, HAS_W)[:, None] * mean[None, :]
        tl.store(dv_ptr + cell, dv.to(raw.dtype), mask=mask)
        if HAS_A:
            tl.store(da_ptr + weights + token, tl.sum(columns * v, 1), mask=inside)
        if HAS_C:
            tl.store(dc_ptr + weights + token, tl.sum(k.to(tl.float32) * keys[None, :], 1), mask=inside)
        if HAS_W:
            tl.store(dw_ptr + weights + token, tl.sum(v * mean[None, :], 1), mask=inside)
