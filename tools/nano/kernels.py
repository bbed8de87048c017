"""CUDA pieces of the training code that plain PyTorch operations would make slow: the Sinkhorn iterations in one kernel,
and the grouped matrix products of the experts over tokens sorted by expert. model.py has the plain form of each."""

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # the plain forms do without
    triton = None


if triton is not None:
    @triton.jit
    def _offsets(rows, n: tl.constexpr):
        j = tl.arange(0, n)
        return rows[:, None, None] * (n * n) + j[None, :, None] * n + j[None, None, :]

    @triton.jit
    def _sinkhorn_forward(m_ptr, c_ptr, sums_ptr, count, eps, n: tl.constexpr, iterations: tl.constexpr, block: tl.constexpr):
        rows = tl.program_id(0) * block + tl.arange(0, block)
        inside = (rows < count)[:, None, None]
        line = rows[:, None] * n + tl.arange(0, n)[None, :]
        x = tl.load(m_ptr + _offsets(rows, n), mask=inside, other=0.0)
        x = tl.exp(x - tl.max(x, 2)[:, :, None])
        c = x / tl.sum(x, 2)[:, :, None] + eps
        s = tl.sum(c, 1)
        tl.store(sums_ptr + line, s, mask=(rows < count)[:, None])
        c = c / (s[:, None, :] + eps)
        for i in range(iterations - 1):
            r = tl.sum(c, 2)
            tl.store(sums_ptr + (2 * i + 1) * count * n + line, r, mask=(rows < count)[:, None])
            c = c / (r[:, :, None] + eps)
            s = tl.sum(c, 1)
            tl.store(sums_ptr + (2 * i + 2) * count * n + line, s, mask=(rows < count)[:, None])
            c = c / (s[:, None, :] + eps)
        tl.store(c_ptr + _offsets(rows, n), c, mask=inside)

    @triton.jit
    def _sinkhorn_backward(c_ptr, sums_ptr, grad_ptr, out_ptr, count, eps, n: tl.constexpr, iterations: tl.constexpr,
                           block: tl.constexpr):
        # A step is y = x / (s + eps) with s a sum of x. From y and s: x = y (s + eps), and the gradient of x is
        # (dy - sum(dy y)) / (s + eps). So the steps are walked back with the stored sums alone.
        rows = tl.program_id(0) * block + tl.arange(0, block)
        inside = (rows < count)[:, None, None]
        line = rows[:, None] * n + tl.arange(0, n)[None, :]
        known = (rows < count)[:, None]
        y = tl.load(c_ptr + _offsets(rows, n), mask=inside, other=0.0)
        g = tl.load(grad_ptr + _offsets(rows, n), mask=inside, other=0.0)
        for back in range(iterations - 1):
            i = iterations - 2 - back
            s = tl.load(sums_ptr + (2 * i + 2) * count * n + line, mask=known, other=1.0) + eps
            g = (g - tl.sum(g * y, 1)[:, None, :]) / s[:, None, :]
            y = y * s[:, None, :]
            r = tl.load(sums_ptr + (2 * i + 1) * count * n + line, mask=known, other=1.0) + eps
            g = (g - tl.sum(g * y, 2)[:, :, None]) / r[:, :, None]
            y = y * r[:, :, None]
        s = tl.load(sums_ptr + line, mask=known, other=1.0) + eps
        g = (g - tl.sum(g * y, 1)[:, None, :]) / s[:, None, :]
        p = y * s[:, None, :] - eps
        tl.store(out_ptr + _offsets(rows, n), p * (g - tl.sum(g * p, 2)[:, :, None]), mask=inside)

    @torch.library.custom_op("ds4_nano::sinkhorn", mutates_args=())
    def _sinkhorn(m: torch.Tensor, eps: float, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
        m = m.contiguous()
        n, count = m.shape[-1], m.numel() // m.shape[-1]**2
        c, sums = torch.empty_like(m), m.new_empty(2 * iterations - 1, count, n)
        _sinkhorn_forward[(triton.cdiv(count, 128),)](m, c, sums, count, eps, n, iterations, 128)
        return c, sums

    @_sinkhorn.register_fake
    def _(m, eps, iterations):
        n = m.shape[-1]
        return torch.empty_like(m, memory_format=torch.contiguous_format), m.new_empty(
            2 * iterations - 1, m.numel() // n**2, n)

    @torch.library.custom_op("ds4_nano::sinkhorn_backward", mutates_args=())
    def _sinkhorn_grad(c: torch.Tensor, sums: torch.Tensor, grad: torch.Tensor, eps: float, iterations: int) -> torch.Tensor:
        out, count = torch.empty_like(c), sums.shape[1]
        _sinkhorn_backward[(triton.cdiv(count, 128),)](c, sums, grad.contiguous(), out, count, eps, c.shape[-1], iterations, 128)
        return out

    @_sinkhorn_grad.register_fake
    def _(c, sums, grad, eps, iterations):
        return torch.empty_like(c)

    def _save(ctx, inputs, output):
        ctx.save_for_backward(*output)
        ctx.eps, ctx.iterations = inputs[1], inputs[2]

    def _sinkhorn_autograd(ctx, grad, _):
        return _sinkhorn_grad(*ctx.saved_tensors, grad, ctx.eps, ctx.iterations), None, None

    _sinkhorn.register_autograd(_sinkhorn_autograd, setup_context=_save)


def sinkhorn(m, eps, iterations):
    return _sinkhorn(m, eps, iterations)[0]


class Spread(torch.autograd.Function):
    """Each token k times, sorted by expert: x [N, d] to [N*k, d]; `order` is the sorting permutation, `inverse` its inverse."""

    @staticmethod
    def forward(ctx, x, order, inverse, k):
        ctx.save_for_backward(inverse)
        ctx.k = k
        return x[order // k]

    @staticmethod
    def backward(ctx, grad):
        (inverse,) = ctx.saved_tensors
        return grad[inverse].unflatten(0, (-1, ctx.k)).float().sum(1).to(grad.dtype), None, None, None


class GatherSum(torch.autograd.Function):
    """The reverse: [N*k, d] sorted by expert to the float32 sum over each token's k entries."""

    @staticmethod
    def forward(ctx, y, order, inverse, k):
        ctx.save_for_backward(order)
        ctx.k, ctx.dtype = k, y.dtype
        return y[inverse].unflatten(0, (-1, k)).float().sum(1)

    @staticmethod
    def backward(ctx, grad):
        (order,) = ctx.saved_tensors
        return grad.to(ctx.dtype)[order // ctx.k], None, None, None


spread, gather_sum = Spread.apply, GatherSum.apply


def grouped_mm(x, weights, ends):
    """Rows of x up to ends[0] times weights[0], up to ends[1] times weights[1], ... (bfloat16)."""
    return torch._grouped_mm(x, weights, offs=ends)
