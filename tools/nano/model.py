"""The DeepSeek V4 architecture in PyTorch, written to be trained: a second implementation of the specification.

One Model holds the trunk and, when the config has one, the MTP block. Parameters carry the names of the official
checkpoint, except that the experts of a layer are stacked (`ffn.experts.w13` [E, 2*inner, d], `ffn.experts.w2`
[E, d, inner]); weights_from_checkpoint and weights_to_checkpoint translate.

Attention is dense with masks: a query sees its window as two blocks of keys, and every compressed row, of which a mask
leaves the visible or the selected ones. `gathered` reads the selected rows alone instead, which is what makes 16 K tokens
affordable. Sequences are a multiple of 128 tokens long; nothing looks ahead, so padding at the end is harmless.

The indexer learns from the attention over all visible rows, at the queries that `probes` [B, S] names.

Precision: parameters are float32 and matrix products run in `compute` (bfloat16 for training, float32 to compare);
norms, controls, router scores, pooling, soft-max and losses are float32. `rounded_kv` rounds cached rows as the official
code does (FP8 KV rows, Hadamard + FP4 indexer rows), `rounded_experts` rounds expert weights to MXFP4; gradients pass
straight through both.
"""

import dataclasses
import json
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

import kernels

CONSTANT = 8   # dimensions of the embedding that start alike for all tokens: there are no biases, and attention by position
#                needs a part of every key that does not depend on the token
NEVER = -1e30  # a score that no soft-max sees; finite, so that a fully masked part stays free of NaN


@dataclasses.dataclass
class Config:
    """The fields of an official config.json that shape the model."""
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    moe_intermediate_size: int
    num_attention_heads: int
    head_dim: int
    qk_rope_head_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    sliding_window: int
    compress_ratios: list
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    n_routed_experts: int
    num_experts_per_tok: int
    num_hash_layers: int
    routed_scaling_factor: float
    swiglu_limit: float
    hc_mult: int
    hc_sinkhorn_iters: int
    hc_eps: float
    rms_norm_eps: float
    rope_theta: float
    compress_rope_theta: float
    rope_scaling: dict
    num_nextn_predict_layers: int = 0

    @staticmethod
    def load(path):
        with open(path, encoding="utf-8") as file:
            raw = json.load(file)
        names = {field.name for field in dataclasses.fields(Config)}
        return Config(**{key: value for key, value in raw.items() if key in names})


@dataclasses.dataclass
class Mode:
    """How a forward pass computes; the weights do not change."""
    compute: torch.dtype = torch.float32
    sparse: bool = True            # CSA layers see the indexer's top-k rows; False: all visible rows
    random_rows: bool = False      # CSA layers see random visible rows in place of the indexer's choice
    rounded_kv: bool = False
    rounded_experts: bool = False
    index_loss: bool = False       # distil the attention over compressed rows into the indexer
    gathered: bool = False         # with `sparse`: gather the chosen rows instead of masking the others
    fused: bool = False            # CUDA kernels for Sinkhorn and grouped experts


# ---------------------------------------------------------------------------------------------- rounding

def straight_through(x, rounded):
    return x + (rounded - x).detach()


def pow2_ceil(x):
    """2^ceil(log2 x), exactly, from the bits of a positive float32."""
    bits = x.contiguous().view(torch.int32)
    exponent = (bits >> 23) + ((bits & 0x7FFFFF) != 0).to(torch.int32)
    return (exponent << 23).view(torch.float32)


def round_e4m3(x):
    """To the nearest FP8 e4m3 value, ties to even; |x| <= 448."""
    exponent = torch.floor(torch.log2(x.abs().clamp_min(2.0**-9))).clamp_min(-6)
    step = torch.exp2(exponent - 3)
    return torch.round(x / step) * step


def round_e2m1(x):
    """To the nearest FP4 e2m1 value, ties to even; |x| <= 6."""
    a = x.abs()
    step = torch.where(a < 2, 0.5, torch.where(a < 4, 1.0, 2.0))
    return torch.round(x / step) * step


def round_blocks(x, block, rounding, largest, floor):
    """Round the last dimension in blocks that share a power-of-two scale; the last block may be shorter."""
    parts = []
    for start in range(0, x.shape[-1], block):
        part = x[..., start:start + block].float()
        amax = part.abs().amax(-1, keepdim=True).clamp_min(floor)
        scale = pow2_ceil(amax * torch.tensor(1 / largest, dtype=torch.float32, device=x.device))
        parts.append(rounding((part / scale).clamp(-largest, largest)) * scale)
    return torch.cat(parts, -1) if len(parts) > 1 else parts[0]


def round_kv_row(row, rope_dims):
    """FP8 on the dimensions that do not rotate, BF16 on those that do."""
    nope, rope = row[..., :-rope_dims], row[..., -rope_dims:]
    rounded = torch.cat([round_blocks(nope, 64, round_e4m3, 448.0, 1e-4), rope.to(torch.bfloat16).float()], -1)
    return straight_through(row, rounded)


def hadamard(n, device):
    h = torch.ones(1, 1, device=device)
    while h.shape[0] < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    return h * n**-0.5


def round_index_row(row):
    """Hadamard, then FP4 in blocks of 32."""
    rotated = row.float() @ hadamard(row.shape[-1], row.device)
    return straight_through(rotated, round_blocks(rotated, 32, round_e2m1, 6.0, 6 * 2.0**-126))


def round_mxfp4(weight):
    """Expert weights as MXFP4 stores them: blocks of 32 along the input. The scale is the larger of the two powers of
    two that could fit, unless the smaller one, which clips the largest values, has the smaller error."""
    blocks = weight.float().unflatten(-1, (-1, 32))
    scale = pow2_ceil(blocks.abs().amax(-1, keepdim=True).clamp_min(1e-20) * (1 / 6.0))
    best, least = None, None
    for candidate in (scale, scale * 0.5):
        rounded = round_e2m1((blocks / candidate).clamp(-6, 6)) * candidate
        error = (rounded - blocks).square().sum(-1, keepdim=True)
        best = rounded if best is None else torch.where(error < least, rounded, best)
        least = error if least is None else torch.minimum(error, least)
    return straight_through(weight, best.flatten(-2).to(weight.dtype))


# ---------------------------------------------------------------------------------------------- small parts

def rms_norm(x, weight, eps):
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def linear(x, weight, mode):
    return F.linear(x.to(mode.compute), weight.to(mode.compute))


def rope_table(config, compressed, positions):
    """cos and sin [positions, rope/2]; compressed layers use YaRN frequencies for everything."""
    rope = config.qk_rope_head_dim
    pair = torch.arange(rope // 2, dtype=torch.float64)
    theta = config.compress_rope_theta if compressed else config.rope_theta
    frequency = theta ** (-2 * pair / rope)
    if compressed:
        scaling = config.rope_scaling
        original = scaling["original_max_position_embeddings"]

        def corr(n):
            return rope * math.log(original / (2 * math.pi * n)) / (2 * math.log(theta))
        low = max(0, math.floor(corr(scaling["beta_fast"])))
        high = min(rope - 1, math.ceil(corr(scaling["beta_slow"])))
        keep = 1 - ((pair - low) / max(high - low, 0.001)).clamp(0, 1)
        frequency = frequency * keep + frequency / scaling["factor"] * (1 - keep)
    angle = (positions.float()[:, None] * frequency.float()[None, :]).double()
    return torch.cos(angle).float(), torch.sin(angle).float()


def rotate(x, cos, sin):
    """Rotate the last dimensions of x (interleaved pairs); cos and sin broadcast against x[..., :rope/2]."""
    rope = 2 * cos.shape[-1]
    pairs = x[..., -rope:].unflatten(-1, (-1, 2))
    a, b = pairs[..., 0], pairs[..., 1]
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    return torch.cat([x[..., :-rope], turned], -1)


def parameter(*shape, std=None, fill=0.0):
    data = torch.randn(*shape) * std if std is not None else torch.full(shape, fill)
    return nn.Parameter(data)


def fan_in(*shape, gain=1.0):
    return parameter(*shape, std=gain * shape[-1]**-0.5)


class Weight(nn.Module):
    """A parameter called `<name>.weight`."""

    def __init__(self, data):
        super().__init__()
        self.weight = data


# ---------------------------------------------------------------------------------------------- hyper-connections

def sinkhorn(m, eps, iterations, fused):
    """[..., n, n] controls to a doubly stochastic matrix: soft-max rows, then alternate, ending on columns."""
    if fused:
        return kernels.sinkhorn(m, eps, iterations)
    c = torch.softmax(m, -1) + eps
    c = c / (c.sum(-2, keepdim=True) + eps)
    for _ in range(iterations - 1):
        c = c / (c.sum(-1, keepdim=True) + eps)
        c = c / (c.sum(-2, keepdim=True) + eps)
    return c


def controls(x, fn, eps):
    """fn · v with v the normalised concatenation of the streams, float32."""
    v = x.flatten(-2).float()
    return F.linear(v, fn) * torch.rsqrt(v.square().mean(-1, keepdim=True) + eps)


def hc_pre(config, x, fn, base, scale, mode):
    """Streams [B, T, n, d] to (sub-layer input [B, T, d], post [B, T, n], mixing matrix [B, T, n, n])."""
    n = config.hc_mult
    m = controls(x, fn, config.rms_norm_eps)
    pre = torch.sigmoid(m[..., :n] * scale[0] + base[:n]) + config.hc_eps
    post = 2 * torch.sigmoid(m[..., n:2 * n] * scale[1] + base[n:2 * n])
    mix = (m[..., 2 * n:] * scale[2] + base[2 * n:]).unflatten(-1, (n, n))
    mix = sinkhorn(mix, config.hc_eps, config.hc_sinkhorn_iters, mode.fused)
    return (pre[..., None] * x).sum(-2), post, mix


def hc_post(x, out, post, mix):
    """post[k]·out + sum over j of mix[j][k]·x[j]: the first index of mix is the source."""
    mixed = (mix[..., None] * x[..., :, None, :]).sum(-3)
    return (post[..., None] * out[..., None, :] + mixed).to(x.dtype)


def hc_head(config, x, fn, base, scale):
    m = controls(x, fn, config.rms_norm_eps)
    return ((torch.sigmoid(m * scale + base) + config.hc_eps)[..., None] * x).sum(-2)


# ---------------------------------------------------------------------------------------------- attention

class Compressor(nn.Module):
    """Pools blocks of `ratio` tokens into rows; ratio 4 overlaps with the block before."""

    def __init__(self, config, ratio, dims):
        super().__init__()
        self.ratio, self.dims, self.eps = ratio, dims, config.rms_norm_eps
        width = dims * (2 if ratio == 4 else 1)
        self.ape = parameter(ratio, width, std=0.02)
        self.wkv = Weight(fan_in(width, config.hidden_size))
        self.wgate = Weight(fan_in(width, config.hidden_size))
        self.norm = Weight(parameter(dims, fill=1.0))

    def forward(self, x, cos, sin, mode):
        """x [B, T, d] to rows [B, T/ratio, dims], normalised and rotated. cos and sin are those of every position."""
        z = linear(x, self.wkv.weight, mode).float().unflatten(1, (-1, self.ratio))
        g = linear(x, self.wgate.weight, mode).float().unflatten(1, (-1, self.ratio)) + self.ape
        if self.ratio == 4:
            n = self.dims
            z_before = F.pad(z[:, :-1, :, :n], (0, 0, 0, 0, 1, 0))
            g_before = F.pad(g[:, :-1, :, :n], (0, 0, 0, 0, 1, 0), value=NEVER)
            z = torch.cat([z_before, z[..., n:]], 2)
            g = torch.cat([g_before, g[..., n:]], 2)
        rows = rms_norm((torch.softmax(g, 2) * z).sum(2), self.norm.weight, self.eps)
        return rotate(rows, cos[::self.ratio], sin[::self.ratio])


class Indexer(nn.Module):
    """Scores compressed rows for each query. Reads the trunk without a gradient: it is trained by its own loss."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        heads, dims = config.index_n_heads, config.index_head_dim
        self.wq_b = Weight(fan_in(heads * dims, config.q_lora_rank))
        self.weights_proj = Weight(fan_in(heads, config.hidden_size))
        self.compressor = Compressor(config, 4, dims)

    def keys(self, x, cos, sin, mode):
        keys = self.compressor(x.detach(), cos, sin, mode)
        return round_index_row(keys) if mode.rounded_kv else keys

    def forward(self, x, qr, cos, sin, keys, mode):
        """Scores [B, T, rows] float32 of `keys` for the queries of x and qr [B, T, ..] at the positions of cos and sin."""
        heads, dims = self.config.index_n_heads, self.config.index_head_dim
        x, qr = x.detach(), qr.detach()
        query = linear(qr, self.wq_b.weight, mode).float().unflatten(-1, (heads, dims))
        query = rotate(query, cos.unsqueeze(-2), sin.unsqueeze(-2))
        if mode.rounded_kv:
            query = round_index_row(query)
        weights = linear(x, self.weights_proj.weight, mode).float() * (dims * heads)**-0.5
        dots = torch.bmm(query.to(mode.compute).flatten(1, 2), keys.to(mode.compute).transpose(1, 2))
        dots = dots.unflatten(1, (x.shape[1], heads))
        return (F.relu(dots).float() * weights[..., None]).sum(2)


class Attention(nn.Module):
    def __init__(self, config, ratio):
        super().__init__()
        self.config, self.ratio = config, ratio
        d, heads, hd = config.hidden_size, config.num_attention_heads, config.head_dim
        self.wq_a = Weight(fan_in(config.q_lora_rank, d))
        self.q_norm = Weight(parameter(config.q_lora_rank, fill=1.0))
        self.wq_b = Weight(fan_in(heads * hd, config.q_lora_rank))
        self.wkv = Weight(fan_in(hd, d))
        self.kv_norm = Weight(parameter(hd, fill=1.0))
        self.attn_sink = parameter(heads)
        self.wo_a = Weight(fan_in(config.o_groups * config.o_lora_rank, heads // config.o_groups * hd))
        self.wo_b = Weight(fan_in(d, config.o_groups * config.o_lora_rank, gain=0.3))
        if ratio:
            self.compressor = Compressor(config, ratio, hd)
        if ratio == 4:
            self.indexer = Indexer(config)

    def forward(self, x, tables, mode):
        """x [B, T, d] normalised; returns ([B, T, d], the indexer's loss)."""
        config, (B, T, _) = self.config, x.shape
        heads, hd, rope = config.num_attention_heads, config.head_dim, config.qk_rope_head_dim
        cos, sin = tables["compressed" if self.ratio else "window"]
        qr = rms_norm(linear(x, self.wq_a.weight, mode), self.q_norm.weight, config.rms_norm_eps)
        q = linear(qr, self.wq_b.weight, mode).float().unflatten(-1, (heads, hd))
        q = q * torch.rsqrt(q.square().mean(-1, keepdim=True) + config.rms_norm_eps)
        q = (rotate(q, cos[:, None], sin[:, None]) * hd**-0.5).to(mode.compute)
        kv = rotate(rms_norm(linear(x, self.wkv.weight, mode), self.kv_norm.weight, config.rms_norm_eps), cos, sin)
        if mode.rounded_kv:
            kv = round_kv_row(kv, rope)
        kv = kv.to(mode.compute)

        W = config.sliding_window
        blocks = kv.unflatten(1, (-1, W))
        before = F.pad(blocks[:, :-1], (0, 0, 0, 0, 1, 0))
        window = torch.cat([before, blocks], 2).flatten(0, 1)  # [B*T/W, 2W, hd]
        scores = torch.bmm(q.reshape(-1, W * heads, hd), window.transpose(1, 2)).view(B, T, heads, 2 * W).float()
        here, key = torch.arange(T, device=x.device) % W, torch.arange(2 * W, device=x.device)
        seen = (key[None] > here[:, None]) & (key[None] <= here[:, None] + W)
        seen &= (key[None] >= W) | (torch.arange(T, device=x.device)[:, None] >= W)
        scores = torch.where(seen[None, :, None], scores, NEVER)
        index_loss, rows, picked = torch.zeros((), device=x.device), None, None
        if self.ratio:
            rows = self.compressor(x, cos, sin, mode)
            if mode.rounded_kv:
                rows = round_kv_row(rows, rope)
            rows = rows.to(mode.compute)
            row = torch.arange(rows.shape[1], device=x.device)
            visible = row[None] < (torch.arange(T, device=x.device)[:, None] + 1) // self.ratio
            best = None
            if self.ratio == 4:
                index_loss, best = self.select(x, qr, q, cos, sin, scores, rows, visible, tables.get("probes"), mode)
            if best is not None and mode.gathered:
                k = best.shape[-1]
                picked = take_rows(rows, best).view(B * T, k, hd)
                row_scores = torch.bmm(q.view(B * T, heads, hd), picked.transpose(1, 2)).view(B, T, heads, k).float()
                seen = best < (torch.arange(T, device=x.device)[:, None] + 1) // self.ratio
                row_scores = torch.where(seen[:, :, None], row_scores, NEVER)
            else:
                row_scores = torch.bmm(q.flatten(1, 2), rows.transpose(1, 2)).view(B, T, heads, -1).float()
                seen = visible[None]
                if best is not None:
                    seen = seen & torch.zeros(B, *visible.shape, dtype=torch.bool, device=x.device).scatter(-1, best, True)
                row_scores = torch.where(seen[:, :, None], row_scores, NEVER)
            scores = torch.cat([scores, row_scores], -1)
        probs = attention_weights(scores, self.attn_sink).to(mode.compute)
        out = torch.bmm(probs[..., :2 * W].reshape(-1, W * heads, 2 * W), window).view(B, T, heads, hd)
        if picked is not None:
            out = out + torch.bmm(probs[..., 2 * W:].flatten(0, 1), picked).view(B, T, heads, hd)
        elif rows is not None:
            out = out + torch.bmm(probs[..., 2 * W:].flatten(1, 2), rows).view(B, T, heads, hd)
        out = rotate(out.float(), cos[:, None], -sin[:, None])

        groups = config.o_groups
        out = out.reshape(B * T, groups, heads // groups * hd).transpose(0, 1).to(mode.compute)
        low = self.wo_a.weight.unflatten(0, (groups, -1)).to(mode.compute)
        low = torch.bmm(out, low.transpose(1, 2)).transpose(0, 1).reshape(B, T, -1)
        return linear(low, self.wo_b.weight, mode), index_loss

    def select(self, x, qr, q, cos, sin, scores, rows, visible, probes, mode):
        """The loss that teaches the indexer, and each query's rows [B, T, topk] (invisible ones among them where too few
        are visible), or None for all visible rows."""
        loss, topk = torch.zeros((), device=x.device), self.config.index_topk
        choose = mode.sparse and rows.shape[1] > topk
        if not choose and not mode.index_loss:
            return loss, None
        keys = self.indexer.keys(x, cos, sin, mode)
        if mode.index_loss:
            loss = self.distance(x, qr, q, cos, sin, scores, rows, visible, probes, keys, mode)
        if not choose:
            return loss, None
        with torch.no_grad():
            if mode.random_rows:
                index = torch.rand(x.shape[0], *visible.shape, device=x.device)
            else:
                index = self.indexer(x, qr, cos, sin, keys, mode)
            index = torch.where(visible[None], index, NEVER)
            if mode.fused:
                return loss, torch.topk(index, topk, dim=-1, sorted=False).indices
            # equal scores, often exact zeros: the lower row wins
            return loss, torch.sort(index, dim=-1, descending=True, stable=True).indices[..., :topk]

    def distance(self, x, qr, q, cos, sin, scores, rows, visible, probes, keys, mode):
        """Kullback-Leibler distance of the indexer's soft-max from the attention over all visible rows, at `probes`."""
        with torch.no_grad():
            batch = torch.arange(x.shape[0], device=x.device)[:, None]
            seen = visible[probes]
            row_scores = torch.bmm(q[batch, probes].flatten(1, 2), rows.transpose(1, 2)).float()
            row_scores = row_scores.unflatten(1, (probes.shape[1], -1))
            full = torch.cat([scores[batch, probes], torch.where(seen[:, :, None], row_scores, NEVER)], -1)
            target = attention_weights(full, self.attn_sink)[..., scores.shape[-1]:].sum(2)
            target = target / target.sum(-1, keepdim=True).clamp_min(1e-9)
            x, qr = x[batch, probes], qr[batch, probes]
        index = self.indexer(x, qr, cos[probes], sin[probes], keys, mode)
        index = torch.where(seen, index, NEVER)
        cross = -(target * torch.where(seen, torch.log_softmax(index, -1), 0.0)).sum(-1)
        entropy = -(target * torch.log(target.clamp_min(1e-9))).sum(-1)
        return (cross - entropy).mean()


class TakeRows(torch.autograd.Function):
    """rows [B, R, d], index [B, T, k] to [B, T, k, d]; the gradients of a row add up in float32."""

    @staticmethod
    def forward(ctx, rows, index):
        flat = (index + torch.arange(rows.shape[0], device=rows.device)[:, None, None] * rows.shape[1]).flatten()
        ctx.save_for_backward(flat)
        ctx.shape, ctx.dtype = rows.shape, rows.dtype
        return rows.flatten(0, 1)[flat].view(*index.shape, rows.shape[-1])

    @staticmethod
    def backward(ctx, grad):
        (flat,) = ctx.saved_tensors
        B, R, d = ctx.shape
        total = torch.zeros(B * R, d, dtype=torch.float32, device=grad.device)
        total = total.index_add(0, flat, grad.reshape(-1, d).float())
        return total.view(B, R, d).to(ctx.dtype), None


take_rows = TakeRows.apply


def attention_weights(scores, sink):
    """Soft-max over the keys of [B, T, heads, keys], with one more entry, the sink, only in the denominator."""
    top = torch.maximum(scores.amax(-1, keepdim=True), sink[:, None]).detach()
    weights = torch.exp(scores - top)
    return weights / (weights.sum(-1, keepdim=True) + torch.exp(sink[:, None] - top))


# ---------------------------------------------------------------------------------------------- experts

def swiglu(both, limit):
    """[..., 2*inner] (gate, up) to [..., inner], clamped."""
    gate, up = both.float().chunk(2, -1)
    return F.silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)


class Gate(nn.Module):
    def __init__(self, config, hashed):
        super().__init__()
        self.config, self.hashed = config, hashed
        self.weight = fan_in(config.n_routed_experts, config.hidden_size)
        if hashed:
            self.register_buffer("tid2eid", torch.zeros(config.vocab_size, config.num_experts_per_tok, dtype=torch.int64))
        else:
            self.register_buffer("bias", torch.zeros(config.n_routed_experts))

    def forward(self, x, ids):
        """x [N, d] float32, ids [N]: expert ids [N, k] and weights [N, k]."""
        scores = torch.sqrt(F.softplus(F.linear(x, self.weight)))
        if self.hashed:
            chosen = self.tid2eid[ids]
        else:
            chosen = torch.topk(scores.detach() + self.bias, self.config.num_experts_per_tok, -1).indices
        weights = scores.gather(-1, chosen)
        return chosen, weights / weights.sum(-1, keepdim=True) * self.config.routed_scaling_factor


class Experts(nn.Module):
    def __init__(self, config):
        super().__init__()
        E, inner, d = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.w13 = fan_in(E, 2 * inner, d)
        self.w2 = fan_in(E, d, inner, gain=0.3)


class SharedExpert(nn.Module):
    def __init__(self, config):
        super().__init__()
        inner, d = config.moe_intermediate_size, config.hidden_size
        self.w1 = Weight(fan_in(inner, d))
        self.w3 = Weight(fan_in(inner, d))
        self.w2 = Weight(fan_in(d, inner, gain=0.3))


class MoE(nn.Module):
    def __init__(self, config, hashed):
        super().__init__()
        self.config = config
        self.gate = Gate(config, hashed)
        self.experts = Experts(config)
        self.shared_experts = SharedExpert(config)

    def forward(self, x, ids, mode):
        """x [B, T, d] normalised; returns ([B, T, d], tokens per expert [E])."""
        config, flat = self.config, x.flatten(0, 1)
        chosen, weights = self.gate(flat, ids.flatten())
        w13, w2 = self.experts.w13, self.experts.w2
        if mode.rounded_experts:
            w13, w2 = round_mxfp4(w13), round_mxfp4(w2)
        w13, w2, flat = w13.to(mode.compute), w2.to(mode.compute), flat.to(mode.compute)
        load = (chosen.flatten()[:, None] == torch.arange(config.n_routed_experts, device=x.device)).sum(0)
        if mode.fused:
            order = torch.argsort(chosen.flatten().to(torch.int32), stable=True)
            inverse = torch.argsort(order)
            k = chosen.shape[1]
            ends = torch.cumsum(load, 0).to(torch.int32)
            both = kernels.grouped_mm(kernels.spread(flat, order, inverse, k), w13.transpose(1, 2), ends)
            h = swiglu(both, config.swiglu_limit) * weights.flatten()[order][:, None]
            out = kernels.grouped_mm(h.to(mode.compute), w2.transpose(1, 2), ends)
            routed = kernels.gather_sum(out, order, inverse, k)
        else:
            share = torch.zeros(flat.shape[0], config.n_routed_experts, device=x.device).scatter(1, chosen, weights)
            both = torch.einsum("nd,eid->nei", flat, w13)
            h = swiglu(both, config.swiglu_limit) * share[..., None]
            routed = torch.einsum("nei,edi->nd", h.to(mode.compute), w2).float()
        s = self.shared_experts
        both = linear(flat, torch.cat([s.w1.weight, s.w3.weight]), mode)
        shared = linear(swiglu(both, config.swiglu_limit), s.w2.weight, mode)
        return (routed + shared.float()).view_as(x), load


# ---------------------------------------------------------------------------------------------- blocks

class Block(nn.Module):
    def __init__(self, config, layer, ratio, hashed):
        super().__init__()
        self.config = config
        n, d = config.hc_mult, config.hidden_size
        self.attn_norm = Weight(parameter(d, fill=1.0))
        self.ffn_norm = Weight(parameter(d, fill=1.0))
        self.attn = Attention(config, ratio)
        self.ffn = MoE(config, hashed)
        for part, turn in (("attn", 2 * layer), ("ffn", 2 * layer + 1)):
            # Start from one stream read, all streams written, streams kept apart.
            base = torch.zeros((2 + n) * n)
            base[:n] = -1.5
            base[turn % n] = 1.5
            base[2 * n:] = 4 * torch.eye(n).flatten()
            setattr(self, f"hc_{part}_fn", parameter((2 + n) * n, n * d, std=(n * d)**-0.5))
            setattr(self, f"hc_{part}_base", nn.Parameter(base))
            setattr(self, f"hc_{part}_scale", parameter(3, fill=0.1))

    def forward(self, x, ids, tables, mode):
        """Streams [B, T, n, d] to (streams, indexer loss, tokens per expert)."""
        eps = self.config.rms_norm_eps
        y, post, mix = hc_pre(self.config, x, self.hc_attn_fn, self.hc_attn_base, self.hc_attn_scale, mode)
        out, index_loss = self.attn(rms_norm(y, self.attn_norm.weight, eps), tables, mode)
        x = hc_post(x, out, post, mix)
        y, post, mix = hc_pre(self.config, x, self.hc_ffn_fn, self.hc_ffn_base, self.hc_ffn_scale, mode)
        out, load = self.ffn(rms_norm(y, self.ffn_norm.weight, eps), ids, mode)
        return hc_post(x, out, post, mix), index_loss, load


class Mtp(Block):
    """One more window layer that reads the trunk's streams of position i with the token i+1, and predicts token i+2."""

    def __init__(self, config):
        super().__init__(config, config.num_hidden_layers, 0, False)
        n, d = config.hc_mult, config.hidden_size
        self.e_proj = Weight(fan_in(d, d))
        self.h_proj = Weight(fan_in(d, d))
        self.enorm = Weight(parameter(d, fill=1.0))
        self.hnorm = Weight(parameter(d, fill=1.0))
        self.norm = Weight(parameter(d, fill=1.0))
        self.hc_head_fn = parameter(n, n * d, std=(n * d)**-0.5)
        self.hc_head_base = parameter(n)
        self.hc_head_scale = parameter(1, fill=0.1)

    def enter(self, x, embedded, mode):
        eps = self.config.rms_norm_eps
        e = linear(rms_norm(embedded, self.enorm.weight, eps), self.e_proj.weight, mode)
        h = linear(rms_norm(x, self.hnorm.weight, eps), self.h_proj.weight, mode)
        return (e[..., None, :] + h).to(x.dtype)


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        n, d = config.hc_mult, config.hidden_size
        table = parameter(config.vocab_size, d, std=0.5)
        table.data[:, :CONSTANT] = 1.0
        self.embed = Weight(table)
        self.layers = nn.ModuleList(Block(config, i, config.compress_ratios[i], i < config.num_hash_layers)
                                    for i in range(config.num_hidden_layers))
        self.hc_head_fn = parameter(n, n * d, std=(n * d)**-0.5)
        self.hc_head_base = parameter(n)
        self.hc_head_scale = parameter(1, fill=0.1)
        self.norm = Weight(parameter(d, fill=1.0))
        self.head = Weight(parameter(config.vocab_size, d, std=0.02))
        self.mtp = nn.ModuleList(Mtp(config) for _ in range(config.num_nextn_predict_layers))
        self.tables = {}

    def rope(self, length, device):
        if length not in self.tables:
            positions = torch.arange(length)
            self.tables[length] = {name: tuple(t.to(device) for t in rope_table(self.config, name == "compressed", positions))
                                   for name in ("window", "compressed")}
        return self.tables[length]

    def streams(self, ids, mode, run=None, stream_dtype=torch.float32, probes=None):
        """ids [B, T] to the trunk's streams, the indexers' losses and the loads. `run` wraps a block (compilation)."""
        x = self.embed.weight[ids].to(stream_dtype)[:, :, None].expand(-1, -1, self.config.hc_mult, -1)
        tables, losses, loads = self.rope(ids.shape[1], ids.device), [], []
        if mode.index_loss:
            if probes is None:
                probes = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape[0], -1)
            tables = tables | {"probes": probes}
        for block in self.layers:
            x, loss, load = run(block, x, ids, tables, mode) if run else block(x, ids, tables, mode)
            losses.append(loss)
            loads.append(load)
        return x, losses, loads

    def hidden(self, x, mode):
        h = hc_head(self.config, x, self.hc_head_fn, self.hc_head_base, self.hc_head_scale)
        return rms_norm(h, self.norm.weight, self.config.rms_norm_eps)

    def mtp_hidden(self, x, ids_next, mode, run=None):
        """The MTP block over streams x and the tokens one ahead: (hidden, streams, load)."""
        block = self.mtp[0]
        entered = block.enter(x, self.embed.weight[ids_next].to(x.dtype), mode)
        tables = self.rope(ids_next.shape[1], x.device)
        out, _, load = run(block, entered, ids_next, tables, mode) if run else block(entered, ids_next, tables, mode)
        h = hc_head(self.config, out, block.hc_head_fn, block.hc_head_base, block.hc_head_scale)
        return rms_norm(h, block.norm.weight, self.config.rms_norm_eps), out, load

    def logits(self, hidden, mode):
        return linear(hidden, self.head.weight, mode).float()

    def forward(self, ids, mode):
        """Logits [B, T, vocab] for ids [B, T] of any length."""
        length = ids.shape[1]
        ids = F.pad(ids, (0, -length % 128))
        x, _, _ = self.streams(ids, mode)
        return self.logits(self.hidden(x[:, :length], mode), mode)


# ---------------------------------------------------------------------------------------------- checkpoints

def weights_to_checkpoint(model):
    """Official tensor names; the stacked experts become one tensor each."""
    out = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("experts.w13"):
            stem = name[:-len("w13")]
            for e, both in enumerate(tensor):
                out[f"{stem}{e}.w1.weight"], out[f"{stem}{e}.w3.weight"] = both.chunk(2, 0)
        elif name.endswith("ffn.experts.w2"):
            for e, down in enumerate(tensor):
                out[f"{name[:-2]}{e}.w2.weight"] = down
        else:
            out[name] = tensor
    return out


def weights_from_checkpoint(tensors, config):
    """The reverse: a state dict of Model."""
    out = {}
    for name, tensor in tensors.items():
        if ".ffn.experts." not in name:
            out[name] = tensor
    stems = {name[:name.index("experts.") + len("experts.")] for name in tensors if ".ffn.experts." in name}
    for stem in stems:
        each = range(config.n_routed_experts)
        out[stem + "w13"] = torch.stack([torch.cat([tensors[f"{stem}{e}.w1.weight"], tensors[f"{stem}{e}.w3.weight"]])
                                         for e in each])
        out[stem + "w2"] = torch.stack([tensors[f"{stem}{e}.w2.weight"] for e in each])
    return out
