"""The self-test: is this loss one function, are its derivatives right on the user's own model, and by which route?"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eom.calculus.checks import (
    Rung,
    asymmetry,
    best,
    climbed,
    direction,
    fell,
    jumps,
    kinks,
    ladder,
    noise,
    rounds_to_single,
    scale,
    slope_error,
)
from eom.objective import blame, memory
from eom.objective.check import LOG_MAP, Check, Probe
from eom.objective.determinism import determinism, note, notes, require_finite
from eom.objective.loss import BatchLoss
from eom.objective.verdicts import COARSE, FINE, is_uneven, second_is_wrong, slope_is_wrong, third_is_wrong

if TYPE_CHECKING:
    from eom.objective.objective import Objective

FINITE = 1e-3  # the step, in |theta|, that kinks are looked for with: sqrt(eps) of float32, rounded up

NEAR = 1e-2  # how far from theta, in |theta|, the derivatives are probed
SLOPES = (1e-4, 1e-2)  # largest relative error of a slope, in double and in single

DIFFERENCE = 'H v is taken by differences of gradients (product="difference")'
JUMPS = "the gradient jumps from step to step, so there is no H v here: stay at order 0"
NO_HESSIAN = (
    ".detach(), .data, a straight-through estimator, spectral_norm in train mode, or a wrong backward pass is the "
    'usual cause. There is no Hessian; product="difference" gives the Jacobian of the gradient that training follows'
)


def run_checks(objective: "Objective", order: int, theta: Tensor) -> Check:
    """Probe value, gradient, H v, and from order 2 on T, at ``theta`` [n].

    In float64 where the model can be evaluated in it and the memory allows.
    """
    return Examination(objective, order, theta).result()


@dataclass
class Examination:
    """One self-test; ``probes`` grows as it goes on."""

    objective: "Objective"
    order: int
    theta: Tensor
    probes: list[Probe] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.eps = torch.finfo(self.theta.dtype).eps  # relative rounding of the loss

    def result(self) -> Check:
        casts: dict[str, torch.dtype] = {}
        with blame.noting_casts(self.loss, casts):
            value, found = notes(self.loss, self.theta, casts)
        kept, gradient = memory.kept_by(lambda: self.objective.gradient(self.theta))
        require_finite(self.objective, value, gradient)
        self.probes += [determinism(self.objective, self.loss, self.theta, gradient), *found]
        self.casts = frozenset(casts.values())
        fits = self._fits(kept // len(self.objective.batches))
        self._move(kept // len(self.objective.batches))
        slope = self._slope()
        if slope and not self.gradient.any():
            there = "nothing can be tested here; derivatives are taken on trust"
            self.probes.append(note("the gradient is exactly zero, and the loss constant", there))
        product, right, even = self._second(slope, fits)
        third = self.order >= 2 and self._third(product != "difference")
        dtype = str(self.theta.dtype).removeprefix("torch.")
        return Check(tuple(self.probes), product, right, third, slope and even, dtype, self.casts)

    # Where and in which precision

    def _fits(self, kept: int) -> bool:
        wanted, there = memory.double_backward(kept, self.theta), memory.available(self.theta.device)
        if wanted <= there:
            return True
        self.probes.append(
            note(
                f"a double backward needs about {wanted / 2**30:.1f} GiB, {there / 2**30:.1f} GiB are there",
                "it is not tried; H v is taken by differences of gradients",
            )
        )
        return False

    def _move(self, kept: int) -> None:
        """Go a little away, in float64 if the model can be evaluated there and the memory allows it.

        Beside zeros of an initialisation, at which a wrong derivative may be multiplied by 0, exact kinks, and minima.
        """
        sizes, wider = self.objective.layout.sizes, 8 / self.theta.element_size()
        step = NEAR * scale(self.theta) * direction(self.theta, sizes, 2)
        at, near = self._value(self.theta + step), self.theta + step
        if at is None or not at.isfinite():  # no point of the loss's domain
            at, near = self.objective.loss(self.theta), self.theta
        self.start, self.theta, self.value = near, near, at
        if wider > 1 and wider * memory.double_backward(kept, near) <= memory.available(near.device):
            wide = self._value(near.double())  # none where a dtype is written into the model
            rounding = 5e-2 if self.casts else max(1e-3, 10 * self.eps)
            if wide is not None and abs(float(wide) - float(at)) <= rounding * abs(float(at)):  # else another function
                self.value, self.theta, self.eps = wide, near.double(), torch.finfo(torch.float64).eps

    def _value(self, theta: Tensor) -> Tensor | None:
        try:
            return self.objective.loss(theta)
        except Exception:  # the loss may refuse a point, or a dtype, with any error
            return None

    # Derivatives

    def _slope(self) -> bool:
        """Whether the gradient is the derivative of the loss."""
        error = self._slope_error()
        if not error <= self.slope_limit and rounds_to_single(self.objective.loss, self.theta, self.v, self.gradient):
            self.eps = torch.finfo(torch.float32).eps
            self.probes.append(note("the loss is rounded to single precision inside", "the probes allow for it"))
            error = self._slope_error()
        if error <= self.slope_limit:
            return self._add("gradient . v against the loss", "gradient", error, self.slope_limit)
        layout = self.objective.layout

        def wrong(names: Sequence[str]) -> bool:
            return not self._slope_error(names) <= self.slope_limit

        parameters = ", ".join(map(repr, blame.parameters_to_blame(layout.names, wrong))) or "the parameters together"
        why = (
            f"the gradient along {parameters} is not the derivative of the loss{self._at(slope_is_wrong)}; {NO_HESSIAN}"
        )
        return self._add("gradient . v against the loss", "gradient", error, self.slope_limit, why)

    def _slope_error(self, names: Sequence[str] | None = None) -> float:
        """The largest along three directions, within the parameters of these names."""
        limit, size, g = self.slope_limit, abs(float(self.value)), self.gradient
        errors = []
        for v in (self.v, self.u, g / (g.norm() + 1e-300)):
            if names is not None:
                parts = self.objective.layout.unflatten(v)
                v = torch.cat([x.reshape(-1) * (k in names) for k, x in parts.items()])
            errors.append(slope_error(self.objective.loss, self.theta, v, g, limit=limit, size=size, eps=self.eps))
        return max(errors, key=lambda x: x if x == x else torch.inf)

    def _second(self, conservative: bool, fits: bool) -> tuple[str, bool, bool]:
        """Probe the routes to H v until one is right: its name, whether it is right, and whether it is symmetric."""
        asked = "double-backward" if self.objective.product == "auto" else self.objective.product
        if asked != "difference" and conservative and fits and all(self._product(asked)):
            return asked, True, True
        right, even = self._product("difference")
        return "difference", right, even

    def _product(self, route: str) -> tuple[bool, bool]:
        """Whether H v by this route agrees with differences, and whether it is symmetric."""
        limit = self.limits[0]
        try:
            hvp = self.objective.replaced(product=route).expansion(self.theta).hvp
            hv, hu = hvp(self.v), hvp(self.u)
        except Exception as failure:  # a backward pass of the user's own may raise anything
            why = f"{_cause(failure)}{self._at(second_is_wrong)}; {DIFFERENCE}"
            return self._add("H v exists", route, float("inf"), limit, why), False
        del hvp  # and the graph that it keeps
        rungs = list(climbed(self._ladder(self.objective.gradient, hv, limit, self.gradient), limit))
        rung = min(rungs, key=lambda rung: rung.error)
        if fell(rungs):
            why = "the error falls with the step: jumps of the gradient, some of them very near"
            self.probes.append(note("kinks", why))
            limit *= 10
        uneven = asymmetry(self.u, self.v, hu, hv)
        if route == "difference":
            right = self._add("H v against differences", route, rung.error, limit, JUMPS)
            known = any(p.route == "gradient" and p.verdict == "failed" for p in self.probes)
            why = (
                ""
                if known or uneven <= limit
                else f"the gradient is that of no function{self._at(is_uneven)}; {NO_HESSIAN}"
            )
            return right, self._add("u . H v = v . H u", route, uneven, limit, why)
        right, even = rung.error <= limit, uneven <= limit
        if not right and even and self._only_jumps(hv):
            return True, True
        why = (
            ""
            if right and even
            else f"double backward is off by {max(rung.error, uneven):.2g}{self._at(second_is_wrong)}; {DIFFERENCE}"
        )
        self._add("H v against differences", route, rung.error, limit, why)
        self._add("u . H v = v . H u", route, uneven, limit, "" if not right else why)
        if right and even:
            self._kinks(hv)
            if (
                noise(float(self.gradient.norm()), scale(self.theta) * self.eps ** (1 / 3), self.eps)
                > limit * hv.norm()
            ):
                said = f"|H v| is {float(hv.norm()):.2g}, too small beside |g| {float(self.gradient.norm()):.2g}"
                self.probes.append(note(said, "differences cannot see an error of it; it is taken on trust"))
        return right, even

    def _only_jumps(self, hv: Tensor) -> bool:
        """Whether kinks explain what differences see, in single precision, whose shortest steps cross many."""
        step = 2 * scale(self.theta) * self.eps ** (1 / 3)
        if self.eps < 1e-12 or not jumps(self.objective.gradient, self.theta, self.v, hv, step):
            return False
        why = "differences jump from step to step, so that only its symmetry tests H v in single precision"
        self.probes.append(note("kinks", why))
        return True

    def _kinks(self, hv: Tensor) -> None:
        """In the run's own precision, which is enough for a finite step, and cheaper."""
        coarse = self.casts or self.start.dtype in (torch.float16, torch.bfloat16)
        theta = self.theta if coarse else self.start
        v, size = self.v.to(theta), float(self.gradient.norm())
        step = FINITE * scale(theta)
        try:
            far = kinks(self.objective.gradient, theta, v, hv.to(theta), step, size)
        except Exception:  # no longer in the loss's domain
            return
        if far.found:
            self.probes.append(
                note(
                    f"kinks: |H v| is {float(hv.norm()):.3g}, over a step of {step:.2g} it is {far.norm:.3g}",
                    "autodiff's H leaves out the jumps of the gradient (ReLU, max) that a finite step sees; the error "
                    "is how far the two vectors are apart",
                    far.error,
                )
            )

    def _third(self, possible: bool) -> bool:
        limit, route = self.limits[1], "triple-backward"
        if not possible:
            self.probes.append(note("T(v, v) is not tried where H v is wrong", LOG_MAP))
            return False
        objective = self.objective.replaced(product="double-backward")
        try:
            t = objective.third(self.theta, self.v, self.v)
        except Exception as failure:  # a backward pass of the user's own may raise anything
            why = f"{_cause(failure)}{self._at(third_is_wrong)}; {LOG_MAP}"
            return self._add("T(v, v) exists", route, float("inf"), limit, why)
        hv = objective.hvp(self.theta, self.v)
        rung = best(self._ladder(lambda y: objective.hvp(y, self.v), t, limit, hv), limit)
        why = (
            ""
            if rung.error <= limit
            else f"triple backward is off by {rung.error:.2g}{self._at(third_is_wrong)}; {LOG_MAP}"
        )
        return self._add("T(v, v) against differences", route, rung.error, limit, why)

    # Tools

    @cached_property
    def gradient(self) -> Tensor:
        return self.objective.gradient(self.theta)

    @cached_property
    def u(self) -> Tensor:
        return direction(self.theta, self.objective.layout.sizes, 0)

    @cached_property
    def v(self) -> Tensor:
        return direction(self.theta, self.objective.layout.sizes, 1)

    @property
    def loss(self) -> BatchLoss:
        """The loss of the first batch."""
        return self.objective._loss_of(self.objective.batches.first)

    @property
    def slope_limit(self) -> float:
        return SLOPES[self.eps > 1e-12]

    @property
    def limits(self) -> tuple[float, float]:
        return FINE if self.eps < 1e-12 else COARSE

    def _ladder(self, f: Callable[[Tensor], Tensor], derivative: Tensor, limit: float, at: Tensor) -> Iterator[Rung]:
        sizes = self.objective.layout.sizes
        size = float(at.norm())
        return ladder(f, self.theta, self.v, derivative, sizes=sizes, limit=limit, size=size, eps=self.eps)

    def _at(self, wrong: blame.Wrong) -> str:
        """Which modules are to blame, as a part of a sentence."""
        found = blame.modules_to_blame(self.loss, self.theta, wrong)
        return (
            f"; to blame: {', '.join(found)}" if found else "; no module is wrong alone, so look at the loss function"
        )

    def _add(self, check: str, route: str, error: float, limit: float, remedy: str = "") -> bool:
        passed = error <= limit
        self.probes.append(Probe(check, route, error, limit, *(("passed",) if passed else ("failed", remedy))))
        return passed


def _cause(failure: BaseException) -> str:
    """What torch said itself, in a line."""
    return str(failure.__cause__ or failure).splitlines()[0].rstrip(".")
