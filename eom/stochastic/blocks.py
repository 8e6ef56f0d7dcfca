"""Residual blocks of random depth and random branches.

Sources: Gastaldi, Shake-Shake regularization, arXiv 1705.07485, sec. 2; Huang et al., Deep networks with stochastic
depth, ECCV 2016, eq. 2 and 5.
"""

import torch
from torch import Tensor, nn

from eom.errors import SettingError


class ShakeShake(nn.Module):
    """x + eta F1(x) + (1 - eta) F2(x) with eta uniform on (0, 1) in train mode, and eta = 1/2 in eval mode.

    Args:
        first, second: the branches F1 and F2, of the shape of x.
        per: "sample" draws an eta for every sample (dimension 0), "batch" one for all.
        backward: the weights with which gradients flow back through the branches: "independent" of those of the forward
            pass, as in the original; "forward", the same ones; or "even", 1/2. Only with "forward" is the gradient that
            of a loss: the others are outside of the view as a stochastic equation, and have no second derivatives.
    """

    def __init__(
        self,
        first: nn.Module,
        second: nn.Module,
        *,
        per: str = "sample",
        backward: str = "independent",
    ):
        super().__init__()
        if per not in ("sample", "batch"):
            raise SettingError(f'per is {per!r}, expected "sample" or "batch"')
        if backward not in ("independent", "forward", "even"):
            raise SettingError(f'backward is {backward!r}, expected "independent", "forward" or "even"')
        self.first, self.second, self.per, self.backward = first, second, per, backward

    def forward(self, x: Tensor) -> Tensor:
        one, other = like(x, self.first(x)), like(x, self.second(x))
        if not self.training:
            return x + (one + other) / 2
        eta = uniform(x, self.per)
        if self.backward == "forward":
            return x + eta * one + (1 - eta) * other
        back = uniform(x, self.per) if self.backward == "independent" else torch.full_like(eta, 0.5)
        return x + Mixed.apply(one, other, eta, back)  # type: ignore[operator] - apply is untyped

    def extra_repr(self) -> str:
        return f"per={self.per!r}, backward={self.backward!r}"


class StochasticDepth(nn.Module):
    """x + b F(x) with b = 1 of chance ``survival`` and else 0 in train mode, and x + survival F(x) in eval mode."""

    def __init__(self, branch: nn.Module, survival: float = 0.5, *, per: str = "batch"):
        super().__init__()
        if not 0 < survival <= 1:
            raise SettingError(f"survival is {survival}, expected a chance above 0, up to 1")
        if per not in ("sample", "batch"):
            raise SettingError(f'per is {per!r}, expected "sample" or "batch"')
        self.branch, self.survival, self.per = branch, survival, per

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x + self.survival * like(x, self.branch(x))
        return x + (uniform(x, self.per) < self.survival) * like(x, self.branch(x))

    def extra_repr(self) -> str:
        return f"survival={self.survival}, per={self.per!r}"


class Mixed(torch.autograd.Function):
    """eta a + (1 - eta) b, whose gradients are back and 1 - back times that of the sum."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, eta: Tensor, back: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(back)
        return eta * a + (1 - eta) * b

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        (back,) = ctx.saved_tensors
        return back * g, (1 - back) * g, None, None


def like(x: Tensor, branch: Tensor) -> Tensor:
    """The branch's output, which a residual block adds to x."""
    if branch.shape != x.shape:
        raise SettingError(f"a branch gives {list(branch.shape)} for an input of {list(x.shape)}, expected the same")
    return branch


def uniform(x: Tensor, per: str) -> Tensor:
    """Uniform on (0, 1), for each sample of ``x`` [b, ...] or once, in a shape that stands beside x."""
    rows = len(x) if per == "sample" else 1
    return torch.rand(rows, *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
