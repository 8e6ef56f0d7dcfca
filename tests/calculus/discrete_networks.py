"""Energies of many kinds, [b, n] -> [b], that discrete differentiation is to go through exactly."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SAMPLES = 5


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, f: Callable[..., Tensor], *parts: nn.Module):
        super().__init__()
        self.f, self.parts = f, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x, *self.parts)


class Product(torch.autograd.Function):
    """x sin x, with a backward pass of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sin()

    @staticmethod
    def backward(ctx, weight):
        (x,) = ctx.saved_tensors
        return weight * (x.sin() + x * x.cos())


@torch.library.custom_op("tests::cube", mutates_args=())
def cube(x: Tensor) -> Tensor:
    return x**3


cube.register_autograd(
    lambda ctx, weight: weight * 3 * ctx.saved_tensors[0] ** 2,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


def total(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


def tokens(x: Tensor) -> Tensor:
    """[b, 6] -> [b, 3, 4]."""
    return x.view(-1, 3, 2).repeat(1, 1, 2)


def gru(x: Tensor, cell: nn.Module) -> Tensor:
    return total(cell(x[:, 3:], cell(x[:, :3])))


def lstm(x: Tensor, cell: nn.Module) -> Tensor:
    h, c = cell(x[:, :3])
    h, c = cell(x[:, 3:], (h, c))
    return (h * c).sum(1)


def recurrent(x: Tensor, net: nn.Module) -> Tensor:
    """Of all outputs, and of the last states, whose samples are along the second dimension."""
    out, last = net(x.view(-1, 2, 3) if net.batch_first else x.view(-1, 2, 3).transpose(0, 1))
    states = last if isinstance(last, tuple) else (last,)
    outs = total(out if net.batch_first else out.transpose(0, 1))
    return outs + sum(((k + 1) * s.square().sum((0, 2)) for k, s in enumerate(states)), start=outs * 0)


def masked(x: Tensor) -> Tensor:
    x = tokens(x)
    out = F.scaled_dot_product_attention(x, x, x, is_causal=True)
    hidden = torch.tensor([0.0, float("-inf"), 0.0, 0.0], dtype=x.dtype)
    return total(out.pow(2)) + torch.logsumexp(x[:, 0] + hidden, 1)


def attention(x: Tensor, layer: nn.Module) -> Tensor:
    x = tokens(x)
    return total(layer(x, x, x)[0].pow(2))


def gated(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    return total(x + torch.sigmoid(a(x)) * torch.tanh(b(x)))


def double_pendulum(x: Tensor) -> Tensor:
    t1, t2, p1, p2, *_ = x.unbind(1)
    mass = 2 * (1 + torch.sin(t1 - t2) ** 2)
    kinetic = (p1**2 + 2 * p2**2 - 2 * p1 * p2 * torch.cos(t1 - t2)) / mass
    return kinetic - 9.8 * (2 * torch.cos(t1) + torch.cos(t2))


def two_bodies(x: Tensor) -> Tensor:
    return (x[:, 4:] ** 2).sum(1) / 2 - 1 / (x[:, 2:4] - x[:, :2]).norm(dim=1)


def pieces(x: Tensor) -> Tensor:
    bent = torch.where(x > 0, x, 0.1 * x) + x.abs() + x.clamp(-0.5, 0.5)
    return total(bent) + torch.maximum(x[:, 0], x[:, 1]) * torch.min(x[:, 2], x[:, 3])


def written_in_place(x: Tensor) -> Tensor:
    y = x.clone()
    y.add_(1).mul_(x)
    y[:, 0] = x[:, 1] ** 2
    return total(y.sin_())


def broadcast(x: Tensor) -> Tensor:
    one, other = x.view(-1, 2, 3) @ x.view(-1, 3, 2), x.view(-1, 1, 2, 3) @ torch.ones(3, 2).to(x)
    return total((one + other[:, 0]).tanh())


def exponentials(x: Tensor) -> Tensor:
    weighted = (x.softmax(1) * torch.arange(6.0, dtype=x.dtype)).sum(1)
    return weighted + torch.logsumexp(x, 1) + F.log_softmax(x, 1)[:, 0] + F.glu(x, 1).sum(1)


def powers(x: Tensor) -> Tensor:
    y = 1.5 + torch.tanh(x)
    return total(y**-2 + y**0.5 + y**-0.5 + y**2.7 + 2**x + x**5 + torch.tan(x / 3) + torch.hypot(x, y) + 3 / y)


def spread(x: Tensor) -> Tensor:
    widths = x.var(1) + x.std(1) + x.var(1, False) + torch.std(x, axis=1)  # type: ignore[call-overload] - as in numpy
    norms = torch.linalg.vector_norm(x, dim=1) + torch.norm(x.view(-1, 2, 3), dim=(1, 2))
    return widths + norms + F.normalize(x, dim=1)[:, 0]


def unruled(x: Tensor) -> Tensor:
    """Of functions that have no rule of their own."""
    products = x.prod(1) + torch.cumprod(x, 1)[:, 2] + torch.einsum("bi,bi,bi->b", x, x, x.sin())
    return torch.atan2(x[:, 0], x[:, 1]) + torch.lgamma(x + 3).sum(1) + products


def distances(x: Tensor, layer: nn.Linear) -> Tensor:
    centres = layer.weight.expand(len(x), -1, -1)
    return total(torch.cdist(x.view(-1, 2, 3), centres)) + torch.stack([torch.pdist(y.view(3, 2)).sum() for y in x])


def each_activation(x: Tensor, mixed: nn.Module, *kinds: nn.Module) -> Tensor:
    return sum((total(kind(mixed(x) * (k + 1) / 4)) for k, kind in enumerate(kinds)), start=torch.zeros(len(x)).to(x))


def activations() -> nn.Module:
    """But those whose derivatives torch has to eight digits: CELU of 0.7, and the hard sigmoid."""
    kinds = (
        nn.ReLU(inplace=True), nn.LeakyReLU(), nn.PReLU(3), nn.ELU(), nn.SELU(), nn.GELU(), nn.SiLU(),
        nn.GELU("tanh"), nn.Mish(), nn.Softplus(2.0), nn.LogSigmoid(), nn.Softsign(), nn.Tanhshrink(), nn.Hardtanh(),
        nn.Hardswish(), nn.ReLU6(), nn.Softshrink(0.1), nn.Hardshrink(0.1), nn.Threshold(0.1, 0.3),
    )  # fmt: skip
    return Of(each_activation, nn.Linear(6, 3), *kinds)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": lambda: nn.Sequential(nn.Linear(6, 50), nn.Tanh(), nn.Linear(50, 1)),
    "every activation": activations,
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 8, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Conv1d(8, 1, 1),
        Of(total),
    ),
    "grouped and transposed convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 4, 3, padding=1, groups=2), nn.SiLU(),
        nn.ConvTranspose1d(4, 2, 3, stride=2), nn.Mish(), Of(total),
    ),
    "pooling": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3, padding=1), nn.MaxPool1d(2), nn.AvgPool1d(2),
        Of(lambda x: total(x**3)),
    ),
    "layer norm": lambda: nn.Sequential(nn.Linear(6, 20), nn.LayerNorm(20), nn.GELU(), nn.Linear(20, 1)),
    "group norm": lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(6, 1)),
    "rms norm": lambda: nn.Sequential(nn.RMSNorm(6), nn.Linear(6, 1)),
    "batch norm in eval mode": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 1)
    ).eval(),
    "instance norm in eval mode": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, affine=True, track_running_stats=True), Of(lambda x: total(x**3))
    ).eval(),
    "gated residual": lambda: Of(gated, nn.Linear(6, 6), nn.Linear(6, 6)),
    "GRU": lambda: Of(gru, nn.GRUCell(3, 4)),
    "LSTM": lambda: Of(lstm, nn.LSTMCell(3, 4)),
    "recurrent, of tanh": lambda: Of(recurrent, nn.RNN(3, 4, 2, batch_first=True)),
    "recurrent, of ReLU": lambda: Of(recurrent, nn.RNN(3, 4, SAMPLES, nonlinearity="relu", bias=False)),
    "recurrent GRU": lambda: Of(recurrent, nn.GRU(3, 4, batch_first=True)),
    "recurrent LSTM": lambda: Of(recurrent, nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True, proj_size=2)),
    "masked attention": lambda: Of(masked),
    "attention": lambda: Of(attention, nn.MultiheadAttention(4, 2, batch_first=True)),
    "transformer": lambda: nn.Sequential(
        Of(tokens), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval(), Of(lambda x: total(x**4))
    ),
    "batched product with broadcasting": lambda: Of(broadcast),
    "einsum": lambda: Of(lambda x: torch.einsum("bi,ij,bj->b", x, torch.ones(6, 6).to(x), x)),
    "three in an einsum": lambda: Of(lambda x: torch.einsum("bi,bi,bi->b", x, x, x.sin())),
    "bilinear layer": lambda: nn.Sequential(Of(lambda x, layer: layer(x, x).exp(), nn.Bilinear(6, 6, 1))),
    "Fourier": lambda: Of(lambda x: total(torch.fft.rfft(x).abs() ** 2)),
    "a function of its own backward": lambda: Of(lambda x: total(Product.apply(x))),
    "an operator of the user's": lambda: Of(lambda x: total(torch.ops.tests.cube(x))),
    "double pendulum": lambda: Of(double_pendulum),
    "two bodies": lambda: Of(lambda x: two_bodies(torch.cat([x, x[:, :2]], 1))),
    "pieces": lambda: Of(pieces),
    "in place": lambda: Of(written_in_place),
    "exponentials": lambda: Of(exponentials),
    "powers": lambda: Of(powers),
    "spread": lambda: Of(spread),
    "without rules": lambda: nn.Sequential(nn.Linear(6, 4), nn.Softplus(), Of(unruled)),
    "distances": lambda: Of(distances, nn.Linear(3, 4)),
}  # fmt: skip
