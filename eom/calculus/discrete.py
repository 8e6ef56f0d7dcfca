"""Discrete derivatives: DG(u, v) with H(u) - H(v) = DG . (u - v) exactly, for any function that torch can evaluate.

A ``Pair`` goes through the function in place of its argument, carries the values at u and at v, and writes down how
the discrete Jacobian of each step, J_g (u - v) = g(u) - g(v), pulls back. The pull of 1 from end to start is DG; it is
made of ordinary tensors, so that autograd trains through it. The rules of the steps are in ``pair_rules``.

Source: Matsubara, Ishikawa & Yaguchi, Deep energy-based modeling of discrete-time physics, NeurIPS 2020, for networks
of affine and elementwise layers; McLachlan, Quispel & Robidoux, Phil. Trans. R. Soc. A 357, 1999, for DG.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eom.calculus.exact import as_written
from eom.calculus.modes import evaluated, require_derivatives
from eom.errors import DiscreteError, EomError

Energy = Callable[[Tensor], Tensor]  # [b, ...] -> [b]
Function = Callable[..., Tensor]
CANCELLING = 1e3  # times the rounding of the largest step: what may be left where steps cancel


class Two:
    """A value at u and at v [...], made by one step."""

    __slots__ = ("u", "v")

    def __init__(self, u: Tensor, v: Tensor):
        self.u, self.v = u, v


class Step(NamedTuple):
    """Values that came and went, and [w of those that went] -> [w of those that came]."""

    came: list[Two]
    went: list[Two]
    pull: Callable[[list[Tensor]], list[Tensor]]


class Tape:
    """The steps of one evaluation, of ``samples`` along the first dimension, in their order."""

    def __init__(self, samples: int, train: bool):
        self.samples, self.train = samples, train
        self.steps: list[Step] = []

    def pulled(self, end: Two, start: Two, sizes: list[Tensor] | None = None) -> Tensor:
        """DG: 1 at each sample's ``end``, pulled back to ``start``; ``sizes`` take what each step adds to it, [b]."""
        weights = {id(end): torch.ones_like(end.u)}
        for step in reversed(self.steps):
            known = [weights.pop(id(x), None) for x in step.went]
            if all(w is None for w in known):
                continue
            filled = [torch.zeros_like(x.u) if w is None else w for x, w in zip(step.went, known, strict=True)]
            if sizes is not None:
                sizes += [
                    self.largest(w * end)
                    for x, w in zip(step.went, filled, strict=True)
                    if w.numel()
                    for end in (x.u, x.v)
                ]
            for x, w in zip(step.came, step.pull(filled), strict=True):
                if sizes is not None and w.numel():
                    sizes += [self.largest(w * end) for end in (x.u, x.v)]
                weights[id(x)] = weights[id(x)] + w if id(x) in weights else w
        return weights.get(id(start), torch.zeros_like(start.u))

    def largest(self, x: Tensor) -> Tensor:
        """[b] of each sample, or of all where ``x`` has none."""
        each = x.ndim and len(x) == self.samples
        return x.abs().reshape(self.samples if each else 1, -1).amax(1).expand(self.samples)


class Pair(Tensor):
    """A value at u and at v; torch functions and modules take it in place of a tensor."""

    two: Two
    tape: Tape
    shared: bool  # a view of another, or with views of its own

    @staticmethod
    def of(two: Two, tape: Tape, *, shared: bool = False) -> "Pair":
        data = two.u.detach()
        if data.is_floating_point():  # no number for what goes around torch functions, as vmap and TorchScript do
            data = data.new_full((), torch.nan).expand(data.shape)
        pair = torch.Tensor._make_subclass(Pair, data)
        pair.two, pair.tape, pair.shared = two, tape, shared
        return pair

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        from eom.calculus.pair_rules import apply

        with torch.enable_grad():  # a custom function runs without
            return apply(func, args, kwargs or {})


def elementwise(x: Any, value: Function, difference: Function) -> Pair:
    """value(x) of a pair, whose pull is w s[u, v]."""
    two: Two = x.two
    went = Two(value(two.u), value(two.v))
    x.tape.steps.append(Step([two], [went], lambda ws: [ws[0] * difference(two.u, two.v, went.u, went.v)]))
    return Pair.of(went, x.tape)


def discrete_gradient(energy: Energy, u: Tensor, v: Tensor) -> Tensor:
    """[b, ...] DG(u, v), with H(u) - H(v) = DG . (u - v) for each sample and DG(u, u) = grad H(u).

    The identity holds to rounding: of H, or of what goes into a function that has no rule of its own.

    Args:
        energy: [b, ...] -> [b] or [b, 1], one number for each sample. u, v: [b, ...].

    Raises:
        DiscreteError: u and v are not of one kind; the energy is no number for each sample, not finite, or part of it
            is not followed, or computed outside of torch's functions, so that the identity above does not hold.
            SettingError: inside of torch.inference_mode().
    """
    kinds: list[Any] = [
        (x.dtype if x.layout is torch.strided else x.layout) if isinstance(x, Tensor) else f"a {type(x).__name__}"
        for x in (u, v)
    ]
    if kinds[0] != kinds[1] or not getattr(kinds[0], "is_floating_point", False):
        raise DiscreteError(
            f"u and v are {kinds[0]} and {kinds[1]}, expected dense tensors of one kind of floats, that of the energy"
        )
    if u.shape != v.shape or u.ndim < 1:
        raise DiscreteError(f"u and v have shapes {list(u.shape)} and {list(v.shape)}, expected [b, ...] for both")
    if not callable(energy):
        raise DiscreteError(f"the energy is {energy!r}, expected a function of states, such as lambda u: u[:, 0] ** 2")
    train = torch.is_grad_enabled()
    require_derivatives(u, v)
    with torch.enable_grad(), as_written():
        start = Two(
            *(x if train and x.requires_grad else x.detach().requires_grad_() for x in (u.contiguous(), v.contiguous()))
        )
        tape = Tape(len(u), train)
        try:
            end = _end(energy(Pair.of(start, tape)), len(u))
            found = tape.pulled(end, start)
        except EomError:
            raise
        except Exception as failure:  # torch's, of whatever kind
            evaluated(energy, start.u)  # raises again where the error is the energy's own
            raise DiscreteError(
                f"what the energy does is not followed from v to u, write it with other torch functions: {failure}"
            ) from failure
    _require_exact(tape, start, end, found)
    return found if train else found.detach()


def _end(out: Any, samples: int) -> Two:
    """What the energy is at u and v.

    Raises:
        DiscreteError: it is no number for each sample.
    """
    if not isinstance(out, Pair):
        came = f"a {type(out).__name__}"
        if isinstance(out, Tensor):
            came = "a constant, or made by a transform that is not followed, such as torch.vmap"
        raise DiscreteError(f"the energy is {came}, expected a tensor, by torch functions of its batch of states")
    end: Two = out.two
    if end.u.numel() != samples or not end.u.is_floating_point():
        raise DiscreteError(
            f"the energy is {end.u.dtype} {list(end.u.shape)}, expected floats [b] = {[samples]}: one per sample"
        )
    return end


def _require_exact(tape: Tape, start: Two, end: Two, found: Tensor) -> None:
    """Raise where H(u) - H(v) is not DG . (u - v), by far more than rounding, be it of H or of what cancels in it."""
    with torch.no_grad():
        terms = (found * (start.u - start.v))[..., None].flatten(1)
        high, low = end.u.flatten(), end.v.flatten()
        off = (high - low - terms.sum(1)).abs()
        moved, eps = terms.abs().sum(1), torch.finfo(found.dtype).eps
        size = moved + high.abs() + low.abs()
        near = CANCELLING * eps * size
        if bool((size.isfinite() & (off <= near)).all()):
            return
        sizes = [torch.zeros_like(size)]
        tape.pulled(end, start, sizes)
        cancelling = CANCELLING * eps * torch.stack(sizes).amax(0)
        if not bool((off.isfinite() & (off <= near + cancelling)).all()):
            worst = float((off / size).nan_to_num(float("inf")).max())
            why = (
                "a part of it is computed outside of torch's functions or in fewer digits, or samples see each other, "
                "or are not along the first axis of a function that has no rule of its own"
            )
            if not bool(found.isfinite().all()):
                why = "a discrete derivative in it is not finite, as of a function that grows too fast from v to u"
            if not bool((high + low).isfinite().all()):
                why = "the energy is not finite, or what it does with torch.vmap, torch.jit or torch.tensor is not seen"
            if not bool((start.u + start.v).isfinite().all()):
                why = "the states are not finite"
            raise DiscreteError(f"H(u) - H(v) differs from DG . (u - v) by {worst:.2g} of their size: {why}")
