"""Choices between values, which may change between u and v: torch.where, masks, gates and conditions."""

from typing import Any

import torch
from torch import Tensor

from eom.calculus.discrete import Pair, Step, Tape, Two
from eom.errors import DiscreteError


def decided(pair: Pair) -> bool:
    """A condition, where both states give the same answer."""
    one, other = bool(pair.two.u), bool(pair.two.v)
    if one != other:
        raise DiscreteError(
            "the energy takes one branch at u and another at v: write it with torch.where, relu or maximum"
        )
    return one


def where(mask: Any, a: Any, b: Any) -> Pair:
    """a or b; where the choice changes between v and u, t a + (1 - t) b on the way, with the t that is exact."""
    tape = next(x for x in (mask, a, b) if isinstance(x, Pair)).tape
    floats = next((x.dtype for x in (a, b) if isinstance(x, Tensor) and x.is_floating_point()), None)
    (choose_u, choose_v), (a_u, a_v), (b_u, b_v) = (
        (x.two.u, x.two.v)
        if isinstance(x, Pair)
        else (torch.as_tensor(x, dtype=floats if isinstance(x, float) else None),) * 2
        for x in (mask, a, b)
    )
    went = Two(torch.where(choose_u, a_u, b_u), torch.where(choose_v, a_v, b_v))
    d_a, d_b = a_u - a_v, b_u - b_v
    t = exact_share(went.u - went.v - d_b, d_a - d_b, choose_u != choose_v, choose_u.to(went.u.dtype))
    return weighed(went, [(x, s) for x, s in ((a, t), (b, 1 - t)) if isinstance(x, Pair)], tape)


def gated(x: Pair, gate: Pair) -> Pair:
    """gate x, of a gate that is chosen, as x > 0: where it changes from v to u, the share of x that is exact."""
    (x_u, x_v), (gate_u, gate_v) = ((y.two.u, y.two.v) for y in (x, gate))
    went, d = Two(gate_u * x_u, gate_v * x_v), x_u - x_v
    return weighed(went, [(x, exact_share(went.u - went.v, d, gate_u != gate_v, gate_u.to(d.dtype)))], x.tape)


def exact_share(change: Tensor, d: Tensor, changes: Tensor, chosen: Tensor) -> Tensor:
    """The t of t d = change where the choice changes and d is not zero; what was chosen elsewhere."""
    across = changes & (d != 0)
    return torch.where(across, change / torch.where(across, d, 1.0), chosen)


def weighed(went: Two, shares: list[tuple[Pair, Tensor]], tape: Tape) -> Pair:
    """The value that went, with each pair's share in how it changes."""
    if shares:
        pull = lambda ws: [of_kind(x.two, ws[0] * t.conj()) for x, t in shares]  # noqa: E731 - one line of use
        tape.steps.append(Step([x.two for x, _ in shares], [went], pull))
    return Pair.of(went, tape)


def of_kind(x: Two, w: Tensor) -> Tensor:
    """A weight of x, of what was broadcast from it, real where x is."""
    found = w.sum_to_size(x.u.shape)
    return found if x.u.is_complex() else found.real
