"""Bias of samplers in one dimension, without sampling: the stationary mean of a scheme against that of exp(-U / T).

Overdamped schemes by their transfer operator on the line; splittings of the underdamped equation letter by letter on a
grid of positions and momenta, as each letter moves one of the two.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from eom.dynamics.brownian import Interval as Piece
from eom.dynamics.brownian import Place
from eom.dynamics.field import State
from eom.dynamics.quadrature import Nodes, gaussian_nodes
from eom.dynamics.sde import SdeStepper
from eom.dynamics.stochastic_steppers import SRA1
from eom.dynamics.transfer import LOST, Interval, stationary, transfer
from eom.errors import ExplosionError, SettingError
from eom.stochastic.density import Density
from eom.stochastic.langevin import LeimkuhlerMatthews, Splitting, overdamped

Observable = Callable[[Tensor], Tensor]  # [g] -> [g]
POINTS, FEWER = 40, 16  # nodes for the noise of one step, and for each of two kinds of it
PATIENCE = 2000  # units of time in which a mean becomes stationary
MOMENTA = 7.0  # standard deviations up to which momenta are followed
STILL = 1e-13  # change over a unit of time at which a mean is stationary


def exact_mean(density: Density, phi: Observable, line: Interval, points: int = 20001) -> float:
    """E phi under exp(-U / T), by the trapezoidal rule over ``line``."""
    x = torch.linspace(line.low, line.high, points, dtype=torch.float64)
    energy = density.potential(x[:, None]) / density.temperature
    weight = torch.exp(energy.min() - energy)
    return float((weight * phi(x)).sum() / weight.sum())


def overdamped_mean(
    stepper: SdeStepper | LeimkuhlerMatthews, density: Density, h: float, phi: Observable, line: Interval
) -> float:
    """E phi in the stationary law of a stepper on dX = f dt + sqrt(2 T) dW with step h.

    Raises:
        ExplosionError: the chain leaves the line: the step is too large for the density, or the line too short.
    """
    areas = isinstance(stepper, SRA1)
    sde, nodes = overdamped(density), gaussian_nodes(1, FEWER if areas else POINTS, areas=areas)
    if not isinstance(stepper, LeimkuhlerMatthews):
        own = replace(stepper, path=nodes)
        chain = transfer(lambda y: own.step(sde, 0.0, h, y, Place())[0], nodes.weights, line)
        return stationary(chain, phi(line.grid()))
    # z = y - sigma dW_k / 2 is a chain of its own, and what is read is y
    still = LeimkuhlerMatthews(replace(nodes, w=torch.zeros_like(nodes.w)))

    def read(z: State) -> tuple[State, Piece]:
        piece, _ = nodes.next(Place(), h, z, 1)
        return z + sde.noise(0.0, z, piece.w / 2), piece

    def step(z: State) -> State:
        y, piece = read(z)
        return still.step(sde, 0.0, h, y, (piece, Place()))[0]

    z = line.grid()[None, :, None].expand(len(nodes.weights), -1, -1)
    seen = torch.einsum("q,qg->g", nodes.weights, phi(read(z)[0][..., 0]))
    return stationary(transfer(step, nodes.weights, line), seen)


def splitting_mean(
    splitting: Splitting, density: Density, h: float, phi: Observable, line: Interval, friction: float = 1.0
) -> float:
    """E phi(q) in the stationary law of a splitting of the underdamped equation with step h.

    Raises:
        ExplosionError: the chain leaves the line or its momenta grow. SettingError: a letter is missing.
    """
    if set(splitting.scheme) != set("ABO") or not friction > 0:
        raise SettingError(
            f"the scheme is {splitting.scheme!r} with friction {friction}, expected A, B and O and a positive number: "
            "others have no stationary law"
        )
    scheme, width = splitting.scheme, MOMENTA * density.temperature**0.5
    momenta = Interval(2 * line.points // 3, -width, width)
    q, p = line.grid(), momenta.grid()
    force = density(0.0, q[:, None])[:, 0]
    part = {letter: h / scheme.count(letter) for letter in scheme}
    nodes: Nodes = gaussian_nodes(1, POINTS)
    keep = torch.exp(torch.tensor(-friction * part.get("O", 0.0), dtype=torch.float64))
    kick = (density.temperature * (1 - keep**2)).sqrt()
    moves = {
        "A": line.at(q + part.get("A", 0.0) * p[:, None]),  # [p, q, q]
        "B": momenta.at(p + part.get("B", 0.0) * force[:, None]),  # [q, p, p]
        "O": torch.einsum("k,kpr->pr", nodes.weights, momenta.at(keep * p + kick * nodes.w)),
    }
    forms = {"A": "pqr,krp->kqp", "B": "qpr,kqr->kqp", "O": "pr,kqr->kqp"}
    ends = torch.zeros(len(q), len(p), dtype=torch.float64)
    ends[[0, -1]], ends[:, [0, -1]] = 1.0, 1.0
    u = torch.stack([phi(q)[:, None].expand(-1, len(p)), ends])
    for _ in range(PATIENCE):
        before = u
        for _ in range(max(1, round(1 / h))):
            for letter in reversed(scheme):
                u = torch.einsum(forms[letter], moves[letter], u)
        middle = u[:, len(q) // 4 : -len(q) // 4, len(p) // 4 : -len(p) // 4]
        if float((u - before).abs().max()) < STILL or float((middle.amax((1, 2)) - middle.amin((1, 2))).max()) < STILL:
            mean, lost = (float(x) for x in middle.mean((1, 2)))
            if abs(lost) < LOST:
                return mean
            break
    raise ExplosionError(
        f"no stationary law of {scheme} at h = {h:g} lies within [{line.low:g}, {line.high:g}]: take a smaller step, "
        "or a longer line"
    )
