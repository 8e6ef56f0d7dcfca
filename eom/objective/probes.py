"""The probes of the self-test: rows of its table, as functions of the point where they are made."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from eom.calculus.checks import (
    Agreement,
    agreements,
    asymmetry,
    kinks,
    rounding,
    rounds_to_single,
    scale,
    worst,
)
from eom.calculus.exact import exact
from eom.calculus.inner import dot, norm
from eom.objective import blame
from eom.objective.check import LOG_MAP, Probe, note
from eom.objective.point import Point
from eom.objective.verdicts import is_asymmetric, second_is_wrong, slope_is_wrong, third_is_wrong

SLOPE = "gradient . v against the loss"
FINITE = 1e-3  # the step, in |theta|, that kinks are looked for with: sqrt(eps) of float32, rounded up

DIFFERENCE = (
    'H v is taken by differences of gradients instead (product="difference"), right to 1e-7 in float64 and 1e-3 in '
    "float32"
)
MEND = f"for all digits, mend its backward pass. {DIFFERENCE}"
JUMPS = "the gradient jumps from step to step, so there is no H v here: stay at order 0"
USUAL = (
    ".detach(), .data, a straight-through estimator, spectral_norm in train mode (model.eval() ends it), or a wrong "
    "backward pass is the usual cause"
)
FUSED = (
    ": the loss takes derivatives of one of torch's fused normalisations, whose higher ones are wrong, and training "
    "follows that. Inside `with eom.calculus.exact.exact(3):` the loss has the right gradient, H and T"
)
HALVES = "whose stairs have no slope: cast under torch.autocast, out of which derivatives are evaluated"
OTHER = "the gradient is the derivative of another function than this loss, whose H is symmetric"
JACOBIAN = (
    'There is no H v of the loss; differences of the gradient (product="difference") say how it changes, which '
    "predicts a tracked training all the same, as that follows the gradient"
)


def passed(probes: Iterable[Probe]) -> bool:
    return not any(p.verdict == "failed" for p in probes)


# The gradient


def slope(point: Point) -> tuple[Point, list[Probe]]:
    """Whether the gradient is the derivative of the loss; and the point, with the rounding that was found."""
    found, probes = _slope(point, point.gradient), []
    if not found.holds and rounds_to_single(
        point.objective.loss, point.theta, point.v, float(dot(point.gradient, point.v))
    ):
        point = replace(point, eps=torch.finfo(torch.float32).eps)
        probes = [note("the loss is rounded to single precision inside", "the probes allow for it")]
        found = _slope(point, point.gradient)
    remedy = ""
    if not found.holds:
        names = point.objective.layout.names
        wrong = blame.parameters_to_blame(names, lambda some: not _slope(point, point.gradient, some).holds)
        remedy = _not_the_slope(point, wrong)
    elif not point.gradient.any():
        there = "nothing can be tested here; derivatives are taken on trust"
        probes.append(note("the gradient is exactly zero, and the loss constant", there))
    return point, [*probes, row(SLOPE, "gradient", found, remedy)]


def _wrong_slopes(point: Point, names: Sequence[str]) -> list[str]:
    """Those of these parameters, each by itself, along which the gradient is not the derivative of the loss.

    Their share of the whole may be too small to be seen there.
    """
    return [name for name in names if not _slope(point, point.gradient, [name]).holds]


def _not_the_slope(point: Point, names: Sequence[str]) -> str:
    if rounded := blame.halves(point.objective.mean_loss.first, point.theta):
        return f"the loss is rounded to {' and '.join(rounded)} inside, {HALVES}. {JACOBIAN}"
    why = FUSED if _fused_is_wrong(point, names) else f"{point.blame(slope_is_wrong)}; {USUAL}. {JACOBIAN}"
    along = ", ".join(map(repr, names)) or "the parameters together"
    return f"the gradient along {along} is not the derivative of the loss{why}"


def _slope(point: Point, g: Tensor, names: Sequence[str] | None = None) -> Agreement:
    """How g [n] agrees with the loss along a random direction and its own, the worse; or within these parameters."""
    found: list[Agreement] = []
    own = g / (g.abs().max() + 1e-300)  # first, as squares of tiny numbers are 0
    for v in (point.v, own / (norm(own) + 1e-300)):
        if names is not None:
            parts = point.objective.layout.unflatten(v)
            v = torch.cat([x.reshape(-1) * (k in names) for k, x in parts.items()])
            v = v / (norm(v) + 1e-300)
        found += agreements(
            lambda y: point.objective.loss(y).reshape(1),
            point.theta,
            v,
            dot(g, v).reshape(1),
            at=point.value.reshape(1),
            limit=point.limits.slope,
            eps=point.eps,
        )
    return worst(found)


def _fused_is_wrong(point: Point, names: Sequence[str]) -> bool:
    """Whether the gradient is right along these parameters where fused operations are swapped."""
    with exact(3):
        g = point.objective.gradient(point.theta)
    return _slope(point, g, names or None).holds


# H v


def double_backward(point: Point, route: str, start: Tensor | None) -> list[Probe]:
    """Whether H v, by double backward, is what differences say, and symmetric. ``start``: see ``finite_kinks``."""
    limit = point.limits.second
    try:
        hv, hu = _products(point, route)
    except Exception as failure:  # a backward pass of the user's own may raise anything
        why = _cause(failure) + ("" if route == "compiled" else f"{point.blame(second_is_wrong)}; {MEND}")
        return [missing("H v exists", route, limit, why)]
    by_tensor = point.along_v(point.objective.gradient, hv, point.gradient, limit)
    found, uneven = worst([*by_tensor.values()]), Agreement(asymmetry(point.u, point.v, hu, hv), limit)
    why = ""
    if not (found.holds and uneven.holds):
        if hidden := _wrong_slopes(point, [name for name, x in by_tensor.items() if not x.holds]):
            return [Probe(SLOPE, "gradient", found.error, found.allowed, "failed", _not_the_slope(point, hidden))]
        off = max(found.error, uneven.error)
        what = "compiled code" if route == "compiled" else "double backward"
        why = f"{what} is off by {off:.2g}{point.blame(second_is_wrong)}; {MEND}"
    rows = [
        row("H v against differences", route, found, why),
        row("u . H v = v . H u", route, uneven, why),
    ]
    return rows + ([*_unresolved(point, hv, found), *finite_kinks(point, hv, start)] if not why else [])


def by_differences(point: Point, known: bool) -> list[Probe]:
    """Whether H v by differences is one number at all, and symmetric; ``known``: that it is not was said already."""
    limit, g = point.limits.second, point.gradient
    hv, hu = _products(point, "difference")
    own = rounding(float(norm(g)) / (scale(point.theta) * point.eps**0.5), point.eps)
    found = worst([*point.along_v(point.objective.gradient, hv, g, limit, own).values()])._replace(allowed=limit)
    uneven = Agreement(asymmetry(point.u, point.v, hu, hv), limit)
    why = "nor is the gradient the derivative of any other function"
    if uneven.holds:
        why = OTHER if known else ""
    elif not known:
        why = f"the gradient is that of no function{point.blame(is_asymmetric)}; {USUAL}. {JACOBIAN}"
    return [
        row("H v against differences", "difference", found, JUMPS),
        Probe("u . H v = v . H u", "difference", uneven.error, limit, "passed" if uneven.holds else "failed", why),
    ]


def _products(point: Point, route: str) -> tuple[Tensor, Tensor]:
    hvp = point.objective.replaced(product=route).expansion(point.theta).hvp
    return hvp(point.v), hvp(point.u)


def _unresolved(point: Point, hv: Tensor, found: Agreement) -> list[Probe]:
    """What the differences could not tell."""
    limit, g, size = point.limits.second, float(norm(point.gradient)), float(norm(hv))
    said = []
    if found.allowed > 10 * limit:
        apart = f"forward and backward differences are {found.allowed:.2g} apart over any step"
        why = (
            "kinks or strong curvature; a smaller error of H v cannot be seen, but its symmetry is tested all the same"
        )
        said.append(note(apart, why))
    if rounding(g / (scale(point.theta) * point.eps ** (1 / 3)), point.eps) > limit * size:
        small = f"|H v| is {size:.2g}, too small beside |g| {g:.2g}"
        said.append(note(small, "differences cannot see an error of it; it is taken on trust"))
    return said


def finite_kinks(point: Point, hv: Tensor, start: Tensor | None) -> list[Probe]:
    """What a finite step sees; at ``start``, in the run's own precision, which is enough, and cheaper."""
    theta = point.theta if start is None else start
    step = FINITE * scale(theta)
    try:
        far = kinks(point.objective.gradient, theta, point.v.to(theta), hv.to(theta), step, float(norm(point.gradient)))
    except Exception:  # no longer in the loss's domain
        return []
    said = f"kinks: |H v| is {float(norm(hv)):.3g}, over a step of {step:.2g} it is {far.norm:.3g}"
    why = (
        f"autodiff's H leaves out the jumps of the gradient (ReLU, max) that a finite step sees; the two vectors are "
        f"{far.error:.2g} |H v| apart, which order 1 misses where the run crosses as many"
    )
    return [note(said, why, far.error)] if far.found else []


# T(v, v)


def triple_backward(point: Point) -> list[Probe]:
    """Whether T(v, v) is what differences of H v say."""
    limit, route = point.limits.third, "triple-backward"
    objective = point.objective.replaced(product="double-backward")
    try:
        t = objective.third(point.theta, point.v, point.v)
    except Exception as failure:  # a backward pass of the user's own may raise anything
        return [missing("T(v, v) exists", route, limit, f"{_cause(failure)}{point.blame(third_is_wrong)}; {LOG_MAP}")]
    hv = objective.hvp(point.theta, point.v)
    found = worst([*point.along_v(lambda y: objective.hvp(y, point.v), t, hv, limit).values()])
    why = "" if found.holds else f"triple backward is off by {found.error:.2g}{point.blame(third_is_wrong)}; {LOG_MAP}"
    return [row("T(v, v) against differences", route, found, why)]


def row(check: str, route: str, found: Agreement, remedy: str) -> Probe:
    if found.holds:
        return Probe(check, route, found.error, found.allowed, "passed")
    return Probe(check, route, found.error, found.allowed, "failed", remedy)


def missing(check: str, route: str, limit: float, why: str) -> Probe:
    return Probe(check, route, float("inf"), limit, "failed", why)


def _cause(failure: BaseException) -> str:
    """What torch said itself, in a line."""
    return str(failure.__cause__ or failure).splitlines()[0].rstrip(".")
