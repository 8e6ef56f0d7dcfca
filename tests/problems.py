"""Small smooth problems: fields with known solutions, and three networks; float64 and seeded."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eom.objective import Objective

DTYPE = torch.float64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers that depend on ``seed`` only."""
    return torch.randn(*shape, generator=generator(seed), dtype=DTYPE)


# Fields and functions on flat states


def symmetric(spectrum: list[float], seed: int = 0) -> Tensor:
    """A symmetric matrix [n, n] with these eigenvalues and random eigenvectors."""
    q, _ = torch.linalg.qr(randn(len(spectrum), len(spectrum), seed=seed))
    return (q * torch.tensor(spectrum, dtype=DTYPE)) @ q.T


def quadratic(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """y -> y A y / 2."""
    return lambda y: y @ (matrix @ y) / 2


def square(y: Tensor) -> Tensor:
    """z' = z^2, whose flow is z / (1 - t z)."""
    return y * y


def smooth_field(seed: int = 0, n: int = 3) -> Callable[[Tensor], Tensor]:
    """y -> B sin(A y + b) + C y, [n]: derivatives of every order, none of them symmetric between components."""
    a, b, c, bias = (randn(n, n, seed=seed + k) for k in range(4))
    return lambda y: b @ torch.sin(a @ y + bias[0]) + c @ y


MIXING = {n: symmetric([0.5 + k / n for k in range(n)], seed=n) for n in range(1, 9)}


def bowl(y: Tensor) -> Tensor:
    """A scalar function with no symmetry and derivatives of every order."""
    a = MIXING[y.numel()].to(y.dtype)
    return torch.log(torch.cosh(a @ y)).sum() + torch.sin(y).sum() / 3 + (y.roll(1) * y * y).sum() / 10


# Networks


class TanhMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class GroupNormCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 3)
        for conv in (self.conv1, self.conv2):  # normalised weights have curvature 1 / |w|^2: not too small a |w|
            nn.init.normal_(conv.weight, std=0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.gelu(self.norm1(self.conv1(x))), 2)
        return self.head(F.gelu(self.norm2(self.conv2(x))).mean((2, 3)))


class RMSNorm(nn.Module):
    def __init__(self, d: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class TransformerBlock(nn.Module):
    """Two heads of plain attention and a GELU layer on six tokens of width 8, read out at every token."""

    def __init__(self, d: int = 8, heads: int = 2, tokens: int = 6, vocabulary: int = 5):
        super().__init__()
        self.heads = heads
        self.embed, self.position = nn.Embedding(vocabulary, d), nn.Parameter(randn(tokens, d, seed=7))
        self.norm1, self.norm2, self.norm3 = RMSNorm(d), RMSNorm(d), RMSNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        self.head = nn.Linear(d, vocabulary, bias=False)

    def forward(self, i: Tensor) -> Tensor:
        x = self.embed(i) + self.position
        b, t, d = x.shape
        heads = (b, t, self.heads, d // self.heads)
        q, k, v = (z.reshape(heads).transpose(1, 2) for z in self.qkv(self.norm1(x)).split(d, -1))
        scores = q @ k.transpose(-1, -2) / (d // self.heads) ** 0.5
        scores = scores.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -torch.inf)
        weights = torch.exp(scores - scores.logsumexp(-1, keepdim=True))
        x = x + self.out((weights @ v).transpose(1, 2).reshape(b, t, d))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(self.norm3(x)).flatten(0, 1)


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, labels = batch
    return F.cross_entropy(model(x), labels)


def classes(count: int, kinds: int, seed: int) -> Tensor:
    return torch.randint(kinds, (count,), generator=generator(seed))


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A float64 module initialised from ``seed``; the global generator stays where it is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().to(DTYPE)


def tanh_mlp() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    return seeded(TanhMLP), (randn(24, 4, seed=1), classes(24, 3, seed=2))


def groupnorm_cnn() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    return seeded(GroupNormCNN), (randn(12, 1, 6, 6, seed=1), classes(12, 3, seed=2))


def transformer_block() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    tokens = torch.randint(5, (6, 6), generator=generator(1))
    return seeded(TransformerBlock), (tokens, classes(36, 5, seed=2))


NETWORKS = {"mlp": tanh_mlp, "cnn": groupnorm_cnn, "transformer": transformer_block}


def network(name: str, **settings) -> Objective:
    """The objective of one of the three networks, with cross-entropy on one batch."""
    model, batch = NETWORKS[name]()
    return Objective(model, cross_entropy, batch, **settings)
