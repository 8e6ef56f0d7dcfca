"""Steppers of stochastic differential equations: Brownian increments in, paths out.

All take a state [..., n], so that a batch of paths is one march, and have their random numbers from a counter.

Source: Kloeden & Platen, Numerical Solution of Stochastic Differential Equations (1992).
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from eom.dynamics.brownian import Brownian, Place
from eom.dynamics.field import State
from eom.dynamics.noise import Additive, Diagonal, iterated, require_additive, require_commuting
from eom.dynamics.sde import Kinds, Orders, Path, Sde, stochastic


@dataclass(frozen=True)
class EulerMaruyama:
    """y <- y + h b + sigma dW, of Ito's reading. Source: sec. 10.2 and 14.1."""

    path: Path = field(default_factory=Brownian)
    orders: ClassVar[Kinds] = {
        "additive": Orders(1, 1),
        "commuting": Orders(0.5, 1),
        "general": Orders(0.5, 1),
    }

    def init(self, y: State) -> Place:
        return Place()

    def step(self, field: Sde, t: float, h: float, y: State, carry: Place) -> tuple[State, Place]:
        sde = stochastic(field, t, y, carry)
        piece, carry = self.path.next(carry, h, y, sde.noise.channels(y))
        return torch.add(y + sde.noise(t, y, piece.w), sde.drift(t, y), alpha=h), carry


@dataclass(frozen=True)
class StochasticHeun:
    """z = y + h b + sigma dW;  y <- y + (h/2)(b(y) + b(z)) + (sigma(y) + sigma(z)) dW / 2, of Stratonovich's reading.

    Source: Rumelin, SIAM J. Numer. Anal. 19(3), 1982.
    """

    path: Path = field(default_factory=Brownian)
    orders: ClassVar[Kinds] = {
        "additive": Orders(1, 2),
        "commuting": Orders(1, 1),
        "general": Orders(0.5, 1),
    }

    def init(self, y: State) -> Place:
        return Place()

    def step(self, field: Sde, t: float, h: float, y: State, carry: Place) -> tuple[State, Place]:
        sde = stochastic(field, t, y, carry, "stratonovich")
        piece, carry = self.path.next(carry, h, y, sde.noise.channels(y))
        first = h * sde.drift(t, y) + sde.noise(t, y, piece.w)
        z = y + first
        second = h * sde.drift(t + h, z) + sde.noise(t + h, z, piece.w)
        return y + (first + second) / 2, carry


@dataclass(frozen=True)
class Milstein:
    """y <- y + h b + sigma dW + (D(sigma dW)(sigma dW) - h drag) / 2, of Ito's reading, for noises that commute.

    For one Brownian motion the last term is sigma' sigma (dW^2 - h) / 2. Scalar, diagonal and additive noise commutes;
    any other is tested at the first step. Source: sec. 10.3, (3.16).

    Raises:
        NoiseError: the noise does not commute, or is called diagonal and its entries depend on others.
    """

    path: Path = field(default_factory=Brownian)
    orders: ClassVar[Kinds] = {"additive": Orders(1, 1), "commuting": Orders(1, 1)}

    def init(self, y: State) -> Place:
        return Place()

    def step(self, field: Sde, t: float, h: float, y: State, carry: Place) -> tuple[State, Place]:
        sde = stochastic(field, t, y, carry)
        if carry == Place():
            require_commuting(sde.noise, t, y)
        piece, carry = self.path.next(carry, h, y, sde.noise.channels(y))
        moved = sde.noise(t, y, piece.w) + iterated(sde.noise, t, y, piece.w, h)
        return y + h * sde.drift(t, y) + moved, carry


@dataclass(frozen=True)
class SRA1:
    """z = y + (3/4) h b + (3/2) sigma J / h;  y <- y + (h/3)(b(y) + 2 b(z)) + sigma dW, J = the integral of W - W_0.

    For additive noise. Source: Rossler, SIAM J. Numer. Anal. 48(3), 2010, table 6.

    Raises:
        NoiseError: the noise is not ``Additive``.
    """

    path: Path = field(default_factory=Brownian)
    orders: ClassVar[Kinds] = {"additive": Orders(1.5, 2)}

    def init(self, y: State) -> Place:
        return Place()

    def step(self, field: Sde, t: float, h: float, y: State, carry: Place) -> tuple[State, Place]:
        sde = stochastic(field, t, y, carry)
        require_additive(sde.noise)
        piece, carry = self.path.next(carry, h, y, sde.noise.channels(y))
        mean = piece.w / 2 + self.path.area(piece, h)  # J / h
        first = sde.drift(t, y)
        z = y + 0.75 * h * first + 1.5 * sde.noise(t, y, mean)
        return y + h / 3 * (first + 2 * sde.drift(t + 0.75 * h, z)) + sde.noise(t, y, piece.w), carry


@dataclass(frozen=True)
class Platen:
    """Weak order 2 without derivatives, of Ito's reading; m Brownian motions take some 2 m^2 columns of sigma.

    Four evaluations are enough for diagonal noise: all j go side by side there, and s_j sees nothing of U_r.

    With x = y + h b, Y = x + sigma dW, R_j = x +- sigma_j sqrt h, U_j = y +- sigma_j sqrt h:

        y <- y + (h/2)(b(y) + b(Y))
             + sum_j (s_j(R_j+) + s_j(R_j-) + 2 s_j) dW_j / 4 + sum_{r != j} (s_j(U_r+) + s_j(U_r-) - 2 s_j) dW_j / 4
             + sum_j (s_j(R_j+) - s_j(R_j-)) (dW_j^2 - h) / (4 sqrt h)
             + sum_{r != j} (s_j(U_r+) - s_j(U_r-)) (dW_j dW_r + V_rj) / (4 sqrt h)

    with V_rj = -V_jr = +-h at random, and t + h for the time at R_j. Source: sec. 15.1, (1.3).
    """

    path: Path = field(default_factory=Brownian)
    orders: ClassVar[Kinds] = {
        "additive": Orders(1, 2),
        "commuting": Orders(1, 2),
        "general": Orders(0.5, 2),
    }

    def init(self, y: State) -> Place:
        return Place()

    def step(self, field: Sde, t: float, h: float, y: State, carry: Place) -> tuple[State, Place]:
        sde = stochastic(field, t, y, carry)
        diagonal, root = isinstance(sde.noise, Diagonal), math.sqrt(h)
        if diagonal and carry == Place():
            require_commuting(sde.noise, t, y)
        piece, carry = self.path.next(carry, h, y, sde.noise.channels(y))
        dw, drift = piece.w, sde.drift(t, y)
        x, moved = y + h * drift, sde.noise(t, y, dw)
        total = y + h / 2 * (drift + sde.drift(t + h, x + moved))
        if isinstance(sde.noise, Additive):
            return total + moved, carry

        motions = [slice(None)] if diagonal else [slice(j, j + 1) for j in range(dw.shape[-1])]
        m = len(motions)
        v = antisymmetric(self.path.signs(piece, m * (m - 1) // 2), m) if m > 1 else dw

        def column(x: State, j: int, after: float = 0.0) -> State:
            unit = torch.zeros_like(dw)
            unit[..., motions[j]] = 1
            return sde.noise(t + after, x, unit)

        here = [column(y, j) for j in range(m)]
        for j in range(m):
            w = dw[..., motions[j]]
            up, down = column(x + root * here[j], j, h), column(x - root * here[j], j, h)
            total = total + (up + down + 2 * here[j]) * w / 4 + (up - down) * (w * w - h) / (4 * root)
            for r in (r for r in range(m) if r != j):
                up, down = column(y + root * here[r], j), column(y - root * here[r], j)
                pair = w * dw[..., motions[r]] + h * v[..., r, j, None]
                total = total + (up + down - 2 * here[j]) * w / 4 + (up - down) * pair / (4 * root)
        return total, carry


def antisymmetric(entries: Tensor, m: int) -> Tensor:
    """[..., m (m - 1) / 2] above the diagonal -> [..., m, m]."""
    v = entries.new_zeros(*entries.shape[:-1], m, m)
    rows, columns = torch.triu_indices(m, m, 1)
    v[..., rows, columns], v[..., columns, rows] = entries, -entries
    return v
