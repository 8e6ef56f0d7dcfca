"""Models and functions that a derivative may trip over."""

from collections.abc import Callable

import torch
from problems import randn
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

# Attention


class Attention(nn.Module):
    """Four heads of torch's attention on [b, t, 8]."""

    def __init__(self, backend: SDPBackend | None = None, gqa: bool = False, **settings):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.backend, self.gqa, self.settings = backend, gqa, settings

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (z.view(b, t, 4, 2).transpose(1, 2) for z in self.qkv(x).split(d, -1))
        if self.gqa:
            k, v = k[:, :2], v[:, :2]
        if self.backend is None:
            y = F.scaled_dot_product_attention(q, k, v, **self.settings)
        else:
            with sdpa_kernel(self.backend):
                y = F.scaled_dot_product_attention(q, k, v, **self.settings)
        return self.out(y.transpose(1, 2).reshape(b, t, d))


class SelfAttention(nn.Module):
    def __init__(self, **call):
        super().__init__()
        self.inner, self.call = nn.MultiheadAttention(8, 2, batch_first=True), call

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, **self.call)[0]


# Functions of the user's own


class InForward(torch.autograd.Function):
    """A sine that keeps its context in the forward pass."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):  # type: ignore
        return g * ctx.saved_tensors[0].cos()


class InSetup(torch.autograd.Function):
    @staticmethod
    def forward(x):  # type: ignore
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, g):  # type: ignore
        return g * ctx.saved_tensors[0].cos()


class WithJvp(InSetup):
    @staticmethod
    def jvp(ctx, v):  # type: ignore
        return v * ctx.saved_tensors[0].cos()


class Once(InForward):
    """A sine whose backward pass cannot be differentiated again."""

    @staticmethod
    @once_differentiable
    def backward(ctx, g):  # type: ignore
        return g * ctx.saved_tensors[0].cos()


class Cube(torch.autograd.Function):
    """x^3, whose backward pass has no derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):  # type: ignore
        return g * 3 * ctx.saved_tensors[0].detach() ** 2


class ThroughNumpy(torch.autograd.Function):
    """A sine whose backward pass leaves autograd without a word."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(__import__("numpy").sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx, g):  # type: ignore
        return g * ctx.saved_tensors[0].detach().cos()


class Single(torch.autograd.Function):
    """Nothing, in single precision only, and out of reach of anything that widens."""

    @staticmethod
    def forward(ctx, x):
        assert x.dtype == torch.float32
        return x.clone()

    @staticmethod
    def backward(ctx, g):  # type: ignore
        return g.clone()


class Straight(torch.autograd.Function):
    """Rounding, with the identity for its derivative."""

    @staticmethod
    def forward(ctx, x):
        return (x * 4).round() / 4

    @staticmethod
    def backward(ctx, g):  # type: ignore
        return g


# Modules


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module], **settings):
        super().__init__()
        self.inner = kind(8, 5, batch_first=True, **settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.LSTM(8, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 4, 2]), batch_first=True)
        return self.inner(packed)[0].data


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.LSTMCell(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h, c = (x.new_zeros(x.shape[0], 5) for _ in range(2))
        for t in range(x.shape[1]):
            h, c = self.inner(x[:, t], (h, c))
        return h


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool, *layers: nn.Module):
        super().__init__()
        self.inner, self.reentrant = nn.Sequential(nn.Linear(8, 8), *layers, nn.Tanh()), reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)  # type: ignore


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 8), nn.Linear(8, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, i: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(i)))


class Branch(nn.Module):
    """Which of two layers it takes depends on the data."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.one(x) if x.mean().item() > 0 else self.other(x))


class Sampler(nn.Module):
    """Images read at places that depend on the parameters."""

    def forward(self, x: Tensor) -> Tensor:
        shift = torch.tanh(x.mean((1, 2, 3)))[:, None, None] * x.new_tensor([[1, 0, 0.2], [0, 1, 0.3]])
        return F.grid_sample(x, F.affine_grid(shift, list(x.shape), align_corners=False), align_corners=False)


class Bag(nn.Module):
    def __init__(self, mode: str, *, offsets: bool = False, weighted: bool = False, padding: int | None = None):
        super().__init__()
        self.inner = nn.EmbeddingBag(7, 4, mode=mode, padding_idx=padding)
        self.weight = nn.Parameter(randn(12)) if weighted else None
        self.offsets = torch.tensor([0, 3, 3, 8]) if offsets else None

    def forward(self, i: Tensor) -> Tensor:
        i, w = i.view(-1) if self.offsets is not None else i, self.weight
        return self.inner(i, self.offsets, w if w is None or self.offsets is not None else w.view_as(i))


class Data(nn.Module):
    """A layer whose weight enters through ``.data`` in one of two places."""

    def __init__(self, cut: Callable[[Tensor], Tensor]):
        super().__init__()
        self.inner, self.cut = nn.Linear(8, 8), cut

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(F.linear(self.inner(x), self.cut(self.inner.weight)))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.used(x))


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.inner.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.inner(x))


class Strange(nn.Module):
    """A tied, a frozen and an unused parameter, and a buffer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.out = nn.Linear(4, 5, bias=False)
        self.out.weight = self.embed.weight
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("shift", torch.full((4,), 0.5))

    def forward(self, i: Tensor) -> Tensor:
        return self.out(torch.tanh(self.frozen(self.embed(i)) + self.shift))


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 1:] += x[:, :-1].sin()
        return y.mul_(1.5).tanh_()


class Autocast(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return torch.tanh(self.inner(x)).to(x.dtype)


class Symplectic(nn.Module):
    """The time derivative of a state from the gradient of a learned energy."""

    def __init__(self):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, z: Tensor) -> Tensor:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            (dh,) = torch.autograd.grad(self.energy(z).sum(), z, create_graph=True)
        return torch.cat([dh[:, 3:], -dh[:, :3]], 1)


class Doubled(nn.Module):
    """A parametrization: the weight is twice the sine of the parameter."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.sin()


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh()))  # type: ignore


def compiled() -> nn.Module:
    return torch.compile(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh()), backend="aot_eager")  # type: ignore


@torch.jit.script
def scripted_weight_norm(x: Tensor) -> Tensor:
    return torch._weight_norm(x, x.sum(1, keepdim=True), 0)  # type: ignore[attr-defined]
