"""Derivatives of energies along the flows of energies, from which modified Hamiltonians are made; batches of states.

The bracket of two of them is {A, B} = A_q . B_p - A_p . B_q; with D_A w the derivative of w along the flow of A,
q' = A_p, p' = -A_q, it is {A, w} = -D_A w, and a nest of them a chain of derivatives in forward mode.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import grad

from eom.calculus.lie import Field, directional

Energy = Callable[[Tensor], Tensor]  # [b, n] -> [b], row by row
Pairs = Callable[[Tensor, Tensor], Tensor]  # (q [b, n], p [b, n]) -> [b]
Structure = Callable[[Tensor], Tensor]  # [b, n] -> [b, n], linear and skew


def slope(energy: Energy) -> Field:
    """grad H, [b, n] -> [b, n]; it can be differentiated again, by forward and by reverse mode."""
    return grad(lambda u: energy(u).sum())


def motion(energy: Energy, structure: Structure) -> Field:
    """f = G grad H, [b, n] -> [b, n]."""
    pull = slope(energy)
    return lambda u: structure(pull(u))


def derivative(energy: Energy, u: Tensor, *directions: Tensor) -> Tensor:
    """H^(k)(u)(v_1, ..., v_k) [b], along fixed ``directions`` [b, n]."""
    if not directions:
        return energy(u)
    first, *rest = directions
    return directional(lambda x: derivative(energy, x, *rest), u, first)


def perturbed(functional: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """d/de of ``functional`` (e) at e = 0, the derivative of a number in the direction of a change of its energies."""
    e = like.new_zeros(())
    return directional(functional, e, torch.ones_like(e))


def chains(weights: Mapping[str, float], velocity: Field, force: Field) -> Pairs:
    """sum of w D_a D_b ... D_T V over the words "ab...TV" of ``weights``, for T(p) and V(q) by T_p and -V_q.

    D_T = T_p . d/dq and D_V = -V_q . d/dp; what words have in common at their left is differentiated once.
    """
    if "TV" in weights:
        return lambda q, p: -weights["TV"] * (velocity(p) * force(q)).sum(-1)
    by_first = {a: {w[1:]: c for w, c in weights.items() if w[0] == a} for a in "TV"}
    inner = {a: chains(words, velocity, force) for a, words in by_first.items() if words}

    def total(q: Tensor, p: Tensor) -> Tensor:
        parts = []
        if "T" in inner:
            parts.append(directional(lambda x: inner["T"](x, p), q, velocity(p)))
        if "V" in inner:
            parts.append(directional(lambda x: inner["V"](q, x), p, force(q)))
        return torch.stack(parts).sum(0)

    return total
