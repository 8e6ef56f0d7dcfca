"""The self-test: is this loss one function, are its derivatives right on the user's own model, and by which route?"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from eom.calculus.checks import beside
from eom.errors import EomError, LossNotDifferentiableError
from eom.objective import blame, memory, probes
from eom.objective.check import LOG_MAP, NO_THIRD, Check, Probe, note
from eom.objective.determinism import determinism, require_finite, value_and_notes
from eom.objective.point import Point
from eom.objective.probes import passed

if TYPE_CHECKING:
    from eom.objective.objective import Objective

NEAR = 1e-2  # how far from theta, in |theta|, the derivatives are probed
HALF = (torch.float16, torch.bfloat16)


def run_checks(objective: "Objective", order: int, theta: Tensor) -> Check:
    """Probe value, gradient, H v, and from order 2 on T, near ``theta`` [n].

    In float64 where the model can be evaluated in it and the memory allows.
    """
    loss = objective.mean_loss.first
    casts: dict[str, torch.dtype] = {}
    with blame.noting_casts(loss, casts):
        value, notes = value_and_notes(loss, theta, casts)
    kept, gradient = memory.kept_by(lambda: objective.gradient(theta))
    require_finite(objective, value, gradient)
    found = [determinism(objective, loss, theta, gradient), *notes]
    kept //= len(objective.batches)
    few = _memory(kept, theta)
    start, point, other = _near(objective, theta, kept, bool(casts))
    with _evaluable_nearby():
        point, slope = probes.slope(point)
        second = _second(point, None if casts or theta.dtype in HALF else start, passed(slope), not few)
        third = _third(point, second.route) if order >= 2 else []
    return Check(
        probes=(*found, *other, *few, *slope, *second.rows, *third),
        product=second.route,
        second=second.right and second.conservative,
        third=order >= 2 and second.route != "difference" and passed(third),
        jacobian=second.right,
        dtype=str(point.theta.dtype).removeprefix("torch."),
        casts=frozenset(casts.values()),
    )


@contextmanager
def _evaluable_nearby() -> Iterator[None]:
    """Say what an error of the loss beside theta means."""
    try:
        yield
    except EomError:
        raise
    except Exception as failure:  # the loss's own, of any kind
        raise LossNotDifferentiableError(
            f"beside these parameters the loss raised {type(failure).__name__}: {failure}. Its derivatives cannot be "
            'tested there; product="double-backward" takes them untested.'
        ) from failure


def _near(objective: "Objective", theta: Tensor, kept: int, casts: bool) -> tuple[Tensor, Point, list[Probe]]:
    """A point a little away, in its own precision, and in float64 if model and memory allow it; a note if not.

    Beside zeros of an initialisation, at which a wrong derivative may be multiplied by 0, exact kinks, and minima.
    """

    def value(theta: Tensor) -> Tensor | None:
        try:
            return objective.loss(theta)
        except Exception:  # the loss may refuse a point, or a dtype, with any error
            return None

    near = beside(theta, objective.layout.sizes, NEAR)
    at = value(near)
    if at is None or not at.isfinite():  # no point of the loss's domain
        near, at = theta, objective.loss(theta)
    eps = torch.finfo(theta.dtype).eps
    narrow = Point(objective, near, at, eps)
    wider = 8 / theta.element_size()
    if wider == 1:
        return near, narrow, []
    if wider * memory.tested(kept, near) > memory.available(near.device):
        said = note("there is no memory for a test in float64", "it is probed in its own precision, which tells less")
        return near, narrow, [said]
    wide = value(near.double())
    rounding = 5e-2 if casts else max(1e-3, 10 * eps)  # of bfloat16: some of its eps of 8e-3; of sums in single
    if wide is None or not abs(float(wide) - float(at)) <= rounding * abs(float(at)):
        other = "has no value" if wide is None else f"is another number ({float(wide):.6g}, not {float(at):.6g})"
        said = note(f"in float64 the loss {other}", "it is probed in its own precision, which tells less")
        return near, narrow, [said]
    return near, Point(objective, near.double(), wide, torch.finfo(torch.float64).eps), []


def _memory(kept: int, theta: Tensor) -> list[Probe]:
    """Nothing, or that there is not enough for a double backward."""
    wanted, there = memory.needed(kept, theta), memory.available(theta.device)
    if wanted <= there:
        return []
    said = (
        f"a double backward needs about {wanted / 2**30:.1f} GiB, {there / 2**30:.1f} GiB are there, so it is not "
        f"tried; {probes.DIFFERENCE}"
    )
    return [Probe("memory for H v", "double-backward", wanted / max(there, 1.0), 1.0, "failed", said)]


class _Second(NamedTuple):
    """The route to J v, whether it is right, whether J is the Hessian of the loss, and the rows that say so."""

    route: str
    right: bool
    conservative: bool
    rows: list[Probe]


def _second(point: Point, start: Tensor | None, conservative: bool, fits: bool) -> _Second:
    """The route that was asked for, where it is possible and right; else the next one, differences at last."""
    routes = {"difference": [], "compiled": ["compiled", "double-backward"]}
    rows: list[Probe] = []
    for route in routes.get(point.objective.product, ["double-backward"]) if conservative and fits else []:
        found = probes.double_backward(point, route, start)
        rows += found
        if passed(found):
            return _Second(route, True, True, rows)
        conservative = not any(p.check == probes.SLOPE for p in found)
    agreement, symmetry = probes.by_differences(point, known=not conservative)
    conservative = conservative and passed([symmetry])
    return _Second("difference", passed([agreement]), conservative, [*rows, agreement, symmetry])


def _third(point: Point, product: str) -> list[Probe]:
    if product == "difference":
        return [note(NO_THIRD, LOG_MAP)]
    return probes.triple_backward(point)
