"""The step of a torch function that is not written out: values at u and at v, and the pull between them.

By the function's kind, the vjp at u, the mean of both, the divided difference or the rank-one rule.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from eom.calculus.discrete import Pair, Step, Two, elementwise
from eom.calculus.pair_choices import gated
from eom.calculus.pair_kinds import AFFINE, CHOICES, ELEMENTWISE, ENTRYWISE, PRODUCTS, QUADRATIC, VIEWS
from eom.calculus.wide import Wide

SCALES = 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 4.0, -4.0, 0.25, -0.25  # exact, and so near 1 that algorithms stay the same
SEEN = 1e-9  # of a row, by which others may change it in rounding


def stepped(name: str, func: Callable, args: tuple, kwargs: dict) -> Any:
    """Values at u and at v, and the pull between them, by the kind of function that ``name`` is."""
    pairs: list[Pair] = []
    within((args, kwargs), pairs.append)
    tape, came = pairs[0].tape, list(dict.fromkeys(x.two for x in pairs))
    if name in ELEMENTWISE and not pairs[0].two.u.is_complex():
        return elementwise(pairs[0], *ELEMENTWISE[name])
    moving = [x for x in came if x.u.requires_grad]
    if name in ("mul", "multiply") and len(came) == 2 and len(moving) == 1:
        return gated(*sorted(pairs, key=lambda x: x.two not in moving))
    affine = name in AFFINE or (name in PRODUCTS - QUADRATIC and len(pairs) == 1)
    ranked = not affine and name not in CHOICES and (name not in PRODUCTS or len(pairs) > 2)
    if ranked and {x.u.dtype for x in moving} == {torch.float32}:
        return doubled(pairs, name, func, args, kwargs)

    def at(side: str) -> tuple[list[Tensor], Any]:
        """The result, of aliases of what moves: each may have been made of another."""
        local = {x: getattr(x, side) for x in came}
        local |= {x: local[x].view_as(local[x]) for x in moving}
        own_args, own_kwargs = within((args, kwargs), lambda x: local[x.two])
        with torch.set_grad_enabled(name not in CHOICES):
            return [local[x] for x in moving], func(*own_args, **own_kwargs)

    (in_u, found_u), (in_v, found_v) = at("u"), at("v")
    flat_u, form = tree_flatten(found_u)
    went = {i: Two(a, b) for i, (a, b) in enumerate(zip(flat_u, tree_flatten(found_v)[0], strict=True)) if is_tensor(a)}
    ends = [x for x in went.values() if x.u.requires_grad]

    def mean_of(ws: list[Tensor], train: bool) -> list[Tensor]:
        both = vjp([x.u for x in ends] + [x.v for x in ends], in_u + in_v, ws + ws, train)
        return [(a + b) / 2 for a, b in zip(both[: len(in_u)], both[len(in_u) :], strict=True)]

    def pull(ws: list[Tensor]) -> list[Tensor]:
        if affine:
            return vjp([x.u for x in ends], in_u, ws, tape.train)
        mean = mean_of(ws, tape.train)
        if not ranked:
            return mean
        if name in ENTRYWISE:
            return corrected(mean, moving, ends, ws, moving[0].u.numel())
        rows = tape.samples
        alone = rows < 2 or separate(mean, moving, ends, ws, rows, partial(mean_of, train=False))
        return corrected(mean, moving, ends, ws, rows if alone else 1)

    if ends and moving:
        tape.steps.append(Step(moving, ends, pull))
    shared = name in VIEWS
    for x in pairs if shared else ():
        x.shared = True
    wrapped = [Pair.of(went[i], tape, shared=shared) if i in went else x for i, x in enumerate(flat_u)]
    return tree_unflatten(wrapped, form)


def doubled(pairs: list[Pair], name: str, func: Callable, args: tuple, kwargs: dict) -> Any:
    """The same in double precision: the rank-one rule divides a difference by d."""
    wide = {x.two: x.double() for x in pairs if x.dtype is torch.float32}
    args, kwargs = within((args, kwargs), lambda x: wide.get(x.two, x))
    with Wide(torch.float32, torch.float64):
        found = stepped(name, func, args, kwargs)
    return tree_map(lambda x: x.float() if isinstance(x, Pair) and x.dtype is torch.float64 else x, found)


def within(x: Any, change: Callable[[Pair], Any]) -> Any:
    """Arguments with ``change`` of each of their pairs in its place."""
    if isinstance(x, Pair):
        return change(x)
    if type(x) in (tuple, list):
        return type(x)([within(y, change) for y in x])
    return {name: within(y, change) for name, y in x.items()} if type(x) is dict else x


def is_tensor(x: Any) -> bool:
    return isinstance(x, Tensor)


def vjp(outs: list[Tensor], ins: list[Tensor], ws: list[Tensor], train: bool) -> list[Tensor]:
    found = torch.autograd.grad(
        outs, ins, ws, create_graph=train, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return list(found)


def separate(
    mean: list[Tensor],
    came: list[Two],
    went: list[Two],
    ws: list[Tensor],
    rows: int,
    mean_of: Callable[[list[Tensor]], list[Tensor]],
) -> bool:
    """Whether so many rows do not see each other: J_m^T w is scaled with w, row by row.

    They do where an energy takes its samples one by one, and rows are those of a matrix in it.
    """
    if not all((x.u.ndim and len(x.u) % rows == 0) or x.u.numel() == rows for x in (*came, *went)):
        return False
    draw = torch.Generator().manual_seed(0)
    chosen = torch.cat([torch.randperm(len(SCALES), generator=draw) for _ in range(0, rows, len(SCALES))])[:rows]
    scales = torch.tensor(SCALES)[chosen, None].to(ws[0].device)

    def scaled(x: Tensor) -> Tensor:
        return x.detach().reshape(rows, -1) * scales.to(x.dtype)

    for x, y in zip(mean_of([scaled(w).view_as(w) for w in ws]), map(scaled, mean), strict=True):
        known = y.isfinite()  # others are of no row
        off, size = ((z.abs() * known).nan_to_num() for z in (x.reshape(rows, -1) - y, y))
        if x.numel() and bool((off > SEEN * size.amax(1, keepdim=True)).any()):
            return False
    return True


def corrected(mean: list[Tensor], came: list[Two], went: list[Two], ws: list[Tensor], rows: int) -> list[Tensor]:
    """The rank-one rule, J_m^T w + d (dg . w - d . J_m^T w) / |d|^2, where |d| and the bracket are above rounding.

    Each of so many rows has its own.
    """
    if not rows:
        return mean
    shape = (rows, -1)

    def dot(one: list[Tensor], other: list[Tensor]) -> Tensor:
        products = [(a * b.conj()).real.reshape(shape).sum(1) for a, b in zip(one, other, strict=True)]
        return torch.stack(products).sum(0)

    d = [x.u - x.v for x in came]
    mean = [torch.where((x != 0) & ~g.isfinite(), 0.0, g) for x, g in zip(d, mean, strict=True)]  # as x log x at 0
    size = dot([x.u for x in came], [x.u for x in came]) + dot([x.v for x in came], [x.v for x in came])
    square, off = dot(d, d), dot([x.u - x.v for x in went], ws) - dot(d, mean)
    eps = torch.finfo(square.dtype).eps
    of_g = dot([x.u.abs() + x.v.abs() for x in went], [w.abs() for w in ws])  # both terms
    of_inputs = dot([x.u.abs() + x.v.abs() for x in came], [g.abs() for g in mean])  # which shows where g is near 0
    rounding = 4 * eps * (of_g + of_inputs)
    far = (square > size * (100 * eps) ** 2) & (off.abs() >= rounding)
    share = torch.where(far, off, 0.0) / torch.where(far, square, 1.0)
    return [g + (x.reshape(shape) * share[:, None]).view_as(x) for g, x in zip(mean, d, strict=True)]
