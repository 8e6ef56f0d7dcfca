"""The three networks that costs are measured on: (model, loss, batch), seeded, float32.

mlp  784-256-256-10, ReLU, batch 256                                                269,322 parameters
cnn  three convolutions with BatchNorm on batch statistics, 32x32x3, batch 128       94,762 parameters
gpt  two blocks, width 128, 4 heads, 64 tokens, vocabulary 256, batch 32            470,528 parameters
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch = tuple[Tensor, Tensor]


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy; the gpt's batch is flattened over its tokens."""
    x, y = batch
    return F.cross_entropy(model(x), y)


Activation = Callable[[], nn.Module]


def mlp(activation: Activation) -> nn.Module:
    return nn.Sequential(nn.Linear(784, 256), activation(), nn.Linear(256, 256), activation(), nn.Linear(256, 10))


def cnn(activation: Activation) -> nn.Module:
    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(before, after, 3, padding=1, stride=stride, bias=False)
        return [convolution, nn.BatchNorm2d(after, track_running_stats=False), activation()]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(*block(3, 32, 1), *block(32, 64, 2), *block(64, 128, 2), *head)


class Block(nn.Module):
    """Pre-norm transformer block with causal attention."""

    def __init__(self, width: int = 128, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (
            z.reshape(b, t, self.heads, d // self.heads).transpose(1, 2) for z in self.qkv(self.norm1(x)).split(d, -1)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d)
        x = x + self.out(attended)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Two blocks, to logits [b t, vocabulary]."""

    def __init__(self, vocabulary: int = 256, width: int = 128, tokens: int = 64, layers: int = 2):
        super().__init__()
        self.embed, self.position = nn.Embedding(vocabulary, width), nn.Embedding(tokens, width)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, i: Tensor) -> Tensor:
        h = self.embed(i) + self.position(torch.arange(i.shape[1]))
        return self.head(self.norm(self.blocks(h))).flatten(0, 1)


def make(name: str, activation: Activation = nn.ReLU) -> tuple[nn.Module, Batch]:
    """One of the three networks and a batch for it; the gpt has GELUs anyhow."""
    torch.manual_seed(0)
    if name == "mlp":
        return mlp(activation), (torch.randn(256, 784), torch.randint(10, (256,)))
    if name == "cnn":
        return cnn(activation), (torch.randn(128, 3, 32, 32), torch.randint(10, (128,)))
    return GPT(), (torch.randint(256, (32, 64)), torch.randint(256, (32 * 64,)))
