"""Iterations for u = g(u) of a batch of states: Anderson's mixing of fixed points, and Newton's method.

Each ends where its residual is as wanted, runs away, or falls no more.

Source: Walker & Ni, SIAM J. Numer. Anal. 49(4), 2011 (Anderson's mixing as a least-squares problem).
"""

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from eom.dynamics.newton_krylov import direction

Map = Callable[[Tensor], Tensor]  # [b, n] -> [b, n], row by row
Sizes = Callable[[Tensor], Tensor]  # u -> |u_0| + |u| of each entry, on a grid the largest of each channel
Advance = Callable[[Tensor, Tensor, Tensor], Tensor]  # (u, g(u), the sizes of u) -> the next u
MANY = 60  # iterations at most
FAR = 100.0  # times the best residual, from where there is no way back
CHORD = 0.1  # by which a residual has to fall with kept matrices
MEMORY = 5  # of Anderson's mixing
CURVED = 1e-5  # times a step over the size of u: the least by which g's change over it is doubted
WILD = 10.0  # times the residual, a step that no contraction asks for
ROUNDING = 50.0  # times what is wanted that g's own rounding may leave
STILL, NEAR = 12, 3  # iterations without a better residual after which a method ends, and where only rounding is left


class Solved(NamedTuple):
    """u [b, n] with the ``residual`` |u - g(u)| / (|u_0| + |u|) of the worst member, after so many calls of g; |.| is
    the largest entry, and u at the end one correction further.

    On a grid both are those of the loosened map, so that a residual is near the error of u however stiff g is.
    """

    u: Tensor
    residual: float
    calls: int
    method: str


def sizes_of(near: Tensor, points: int, u: Tensor) -> Tensor:
    """[b, n] |u_0| + |u|, of each ``points`` entries the largest."""
    found = near.abs() + u.abs()
    if points == 1:
        return found
    found = found.unflatten(-1, (-1, points))
    return found.amax(-1, keepdim=True).expand_as(found).flatten(-2)


def residual_of(off: Tensor, sizes: Tensor) -> float:
    """The largest |u - g(u)| / (|u_0| + |u|); from zero, where u = 0, it is 1."""
    return float((off / torch.where(sizes > 0, sizes, torch.where(off > 0, off, 1.0))).max())


def units(sizes: Tensor) -> Tensor:
    """[b, n] powers of 1024 near ``sizes`` over the largest: other units, and not an entry that passes zero."""
    tens = (sizes / sizes.amax(-1, keepdim=True)).log2().div(10).round()
    return torch.exp2(10 * tens.nan_to_num(0.0, neginf=0.0))


def iterated(g: Map, u: Tensor, wanted: float, sizes: Sizes, name: str, most: int, advance: Advance) -> Solved:
    """u <- advance(u, g(u)) until the residual is as wanted, runs away, or falls no more.

    That of small entries beside large ones is to be small too, unless it falls no more from one but the last.
    """
    best, fines = Solved(u, math.inf, 0, name), [math.inf, math.inf]
    for k in range(1, most + 1):
        value = g(u)
        off, each = (value - u).abs(), sizes(u)
        residual = residual_of(off.amax(-1), each.amax(-1))
        fine = residual_of(off, each) if k == 1 or residual <= wanted else math.inf
        if k == 1:  # a small first step may be one of a part that only then moves another
            residual = max(residual, fine, 2 * ROUNDING * wanted)
        if residual < best.residual:
            best = Solved(u, residual, k, name)
        still = NEAR if best.residual <= ROUNDING * wanted else STILL
        if residual <= wanted and (fine <= ROUNDING * wanted or fine > fines[-2] / 2):
            # the next one, which is at hand, is nearer by another power of the step
            return Solved(advance(u, value, each), residual, k, name)
        if residual > wanted and (not residual < FAR * best.residual or k - best.calls >= still):
            return best._replace(calls=k)
        fines.append(fine)
        u = advance(u, value, each)
    return best._replace(calls=most)


def anderson(g: Map, u: Tensor, wanted: float, sizes: Sizes) -> Solved:
    """u <- the combination of the last few g(u_i) whose residual is the least, for each row its own.

    Shares are held small, by what is uncertain of g's change over a step: its curvature, and rounding. Once residuals
    are small, least squares alone would take large steps of long ago, nearly parallel ones, for what is left of noise.
    """
    values: deque[Tensor] = deque(maxlen=MEMORY + 1)
    offs: deque[Tensor] = deque(maxlen=MEMORY + 1)

    def advance(u: Tensor, value: Tensor, each: Tensor) -> Tensor:
        values.append(value)
        offs.append(value - u)
        if len(values) == 1:
            return value
        largest = each.amax(-1, keepdim=True)
        unit = (units(each) * torch.where(largest > 0, largest, 1.0))[..., None]
        steps, turns = (torch.stack([*x], -1).diff(dim=-1) / unit for x in (values, offs))  # [b, n, m] of order 1
        length = torch.maximum(steps.abs().amax(1), turns.abs().amax(1))  # [b, m]
        length = torch.where(length > 0, length, 1.0)
        doubt = (CURVED * length + torch.finfo(u.dtype).eps / length).clamp(max=1.0)  # of a step of unit length
        off = offs[-1][..., None] / unit  # [b, n, 1]
        matrix = torch.cat([turns / length[:, None], torch.diag_embed(doubt)], 1)
        left = torch.nn.functional.pad(off, (0, 0, 0, len(offs) - 1))
        matrix, left = (x.nan_to_num(0.0, 0.0, 0.0) for x in (matrix, left))  # of rows that have run away
        change = steps / length[:, None] @ torch.linalg.lstsq(matrix, left, driver="gels").solution
        wild = ~((off - change).abs().amax(1) <= WILD * off.abs().amax(1))
        return value - torch.where(wild, 0.0, (unit * change)[..., 0])

    return iterated(g, u, wanted, sizes, "anderson", MANY, advance)


def newton(g: Map, u: Tensor, wanted: float, sizes: Sizes) -> Solved:
    """(1 - g'(u)) du = g(u) - u, with matrices [b, n, n] that are kept as long as they serve."""
    kept: list[tuple[Tensor, Tensor]] = []  # factors
    last = math.inf

    def advance(u: Tensor, value: Tensor, each: Tensor) -> Tensor:
        nonlocal last
        residual = residual_of((value - u).abs(), each)
        if not kept or residual > CHORD * last:
            kept[:] = [torch.linalg.lu_factor_ex(_matrices(g, u))[:2]]
        last = residual
        return u + torch.linalg.lu_solve(*kept[0], (value - u)[..., None])[..., 0]

    return iterated(g, u, wanted, sizes, "newton", MANY, advance)


def newton_krylov(g: Map, u: Tensor, wanted: float, sizes: Sizes) -> Solved:
    """The same without matrices; ``calls`` leaves out those that the directions take."""
    return iterated(g, u, wanted, sizes, "newton-krylov", MANY // 3, lambda u, value, _: u + direction(g, u, value))


def _matrices(g: Map, u: Tensor) -> Tensor:
    """[b, n, n] of 1 - g'(u), row by row of reverse mode; column by column of a g without, as it is affine."""
    at, unit = u.detach().requires_grad_(), torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
    with torch.enable_grad():
        value = g(at)
    if not value.requires_grad:
        return unit - torch.stack([g(u + e) - value for e in unit], -1)
    rows = [torch.autograd.grad(value, at, e.expand_as(value), retain_graph=True)[0] for e in unit]
    return unit - torch.stack(rows, -2)
