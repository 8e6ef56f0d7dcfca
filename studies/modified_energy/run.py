"""Does a model that is trained through a symplectic step learn the true energy, or a modified one, known before?"""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from command import answer
from ladders import claims, draw
from torch import Tensor
from torch.func import jacfwd

from eom.analysis.curves import ladder_rows
from eom.calculus.brackets import motion
from eom.dynamics.energy import EnergySystem
from eom.dynamics.integrate import flow
from eom.dynamics.order import Ladder, ladder
from eom.dynamics.stepper import end
from eom.physics import ImplicitMidpoint, Leapfrog, Split, compare_energies, learned_energy, modified_energy
from eom.physics.systems import rotate

SPRING = Split(lambda p: p.square().sum(-1), lambda q: q.square().sum(-1))
PENDULUM = Split(lambda p: p.square().sum(-1), lambda q: 3 * (1 - torch.cos(q)).sum(-1))
PENDULUM_ENERGY = EnergySystem(PENDULUM.energy, rotate)
START = torch.tensor([1.0, 0, 0, -3, 0, 0], dtype=torch.float64)  # the true pendulum among ``swinging``
Parts = Callable[[Tensor], Split]  # weights -> model


def main(*, small: bool = False, out: Path | None = None) -> dict[str, float]:
    """The numbers the study claims; the errors are written to ``out`` as CSV if given."""
    hs = [0.4 / 2**k for k in range(3 if small else 4)]
    line = torch.linspace(-1.2, 1.2, 9 if small else 15, dtype=torch.float64)
    at = torch.cartesian_prod(line, line)  # states half-way: alike under p -> -p, so that odd powers of h are 0
    found: dict[str, Ladder] = {}
    for order in (0, 2, 4):
        found[f"spring through leapfrog, to h^{order}"] = ladder(lambda h, k=order: spring_off(h, k, at), hs)
        found[f"pendulum through midpoint, to h^{order}"] = ladder(lambda h, k=order: midpoint_off(h, k, at), hs)
    finer = [h / 4 for h in hs]
    for order in (0, 2):
        found[f"pendulum through leapfrog, to h^{order}"] = ladder(lambda h, k=order: leapfrog_off(h, k, at)[0], finer)
    found["pendulum through leapfrog, what no T + V fits"] = ladder(lambda h: leapfrog_off(h, 2, at)[1], finer)
    if out:
        ladder_rows({"energy, of its spread": ("step h", found)}).to_csv(out, index=False)
    _, floor, foretold = leapfrog_off(finer[-1], 2, at)
    off = compare_energies(fitted_midpoint(0.2, at), PENDULUM.energy, at).residual_at_scale_one
    return claims(found) | {
        "leapfrog's floor on the pendulum over the foretold": floor / foretold,
        "energy off the true one through midpoint at h = .2": off,
    }


@cache
def data(field: Split, h: float, at: Tensor) -> tuple[Tensor, Tensor]:
    """States [b, 2] a time h apart on the true flow, with ``at`` half-way."""
    sides = [flow(field, at, s * h / 2, rtol=1e-13, atol=1e-14) for s in (-1, 1)]
    return sides[0], sides[1]


def polynomial(w: Tensor) -> Split:
    """T and V of p^2, p^4 and q^2, q^4."""
    t, v = w.chunk(2)
    return Split(lambda p: p**2 @ t[:1] + p**4 @ t[1:], lambda q: q**2 @ v[:1] + q**4 @ v[1:])


def swinging(w: Tensor) -> Split:
    """T of p^2, p^4, p^6 and V of cos q, cos 2q, cos 3q."""
    t, v = w.chunk(2)
    powers = torch.arange(1, 4, dtype=w.dtype)
    return Split(lambda p: p ** (2 * powers) @ t, lambda q: torch.cos(q * powers) @ v)


def trained(parts: Parts, start: Tensor, h: float, before: Tensor, after: Tensor) -> tuple[Split, float]:
    """The model of least square error of one leapfrog step, by Gauss and Newton; its root mean square over h."""

    def error(w: Tensor) -> Tensor:
        return ((end(parts(w), Leapfrog(), before, h=h, steps=1) - after) / h).flatten()

    w = start
    for _ in range(7):
        w = w - torch.linalg.lstsq(jacfwd(error)(w), error(w)[:, None], driver="gelsd").solution[:, 0]
    return parts(w), float(error(w).square().mean().sqrt())


@cache
def fitted_spring(h: float, at: Tensor) -> Split:
    return trained(polynomial, torch.tensor([1.0, 0, 1, 0], dtype=torch.float64), h, *data(SPRING, h, at))[0]


def spring_off(h: float, order: int, at: Tensor) -> float:
    """Distance of the learned spring from the foretold one, over the spread."""
    foretold = learned_energy(SPRING, Leapfrog(), h, order, at=at).energy
    return compare_energies(fitted_spring(h, at).energy, foretold, at).residual_at_scale_one


@cache
def fitted_pendulum(h: float, at: Tensor) -> tuple[Split, float]:
    return trained(swinging, START, h, *data(PENDULUM, h, at))


def leapfrog_off(h: float, order: int, at: Tensor) -> tuple[float, float, float]:
    """Distance of the learned T + V from the best one against H_2, to h^``order``; the error left over h, and foretold.

    A change t + v of T + V adds h^2 S grad(H_2 + t + v) to the error of a step over h: least squares say which.
    """
    model, floor = fitted_pendulum(h, at)
    target = modified_energy(PENDULUM, Leapfrog(), 1.0, 2)
    pull = motion(lambda u: target(u) - PENDULUM.energy(u), rotate)(at).flatten()
    basis = torch.stack([motion(swinging(e).energy, rotate)(at).flatten() for e in torch.eye(6, dtype=at.dtype)], 1)
    change = torch.linalg.lstsq(basis, -pull[:, None], driver="gelsd").solution[:, 0]
    left = float((basis @ change + pull).square().mean().sqrt())
    best = swinging(START + (h**2 * change if order else 0 * change))
    return compare_energies(model.energy, best.energy, at).residual_at_scale_one, floor, h**2 * left


def swing(u: Tensor) -> Tensor:
    """[b, k] of p^2i cos jq: as a span, the pendulum's energy and all its corrections up to h^4."""
    q, p = u.unbind(-1)
    return torch.stack([p ** (2 * i) * torch.cos(j * q) for i in range(5) for j in range(6) if i or j], -1)


@cache
def fitted_midpoint(h: float, at: Tensor) -> Callable[[Tensor], Tensor]:
    """The energy whose midpoint step fits the data: (after - before) / h = S grad H(their mean), linear in H."""
    before, after = data(PENDULUM, h, at)
    middle, slope = (before + after) / 2, (after - before) / h
    count = swing(at).shape[1]
    parts = [motion(lambda u, k=k: swing(u)[:, k], rotate)(middle).flatten() for k in range(count)]
    basis = torch.stack(parts, 1)
    w = torch.linalg.lstsq(basis, slope.flatten()[:, None], driver="gelsd").solution[:, 0]
    return lambda u: swing(u) @ w


def midpoint_off(h: float, order: int, at: Tensor) -> float:
    foretold = learned_energy(PENDULUM_ENERGY, ImplicitMidpoint(), h, order).energy
    return compare_energies(fitted_midpoint(h, at), foretold, at).residual_at_scale_one


if __name__ == "__main__":
    answer(__doc__, main, "CSV of the errors", draw)
