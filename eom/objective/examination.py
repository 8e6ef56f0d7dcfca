"""The self-test: is this loss one function, are its derivatives right on the user's own model, and by which route?"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eom.calculus.checks import Rung, asymmetry, best, direction, kinks, ladder, rounds_to_single, scale, slope_error
from eom.objective import blame, memory
from eom.objective.check import Check, Probe
from eom.objective.determinism import determinism, note, notes, require_finite
from eom.objective.loss import BatchLoss
from eom.objective.verdicts import COARSE, FINE, is_uneven, second_is_wrong, slope_is_wrong, third_is_wrong

if TYPE_CHECKING:
    from eom.objective.objective import Objective

FINITE = 1e-3  # the step, in |theta|, that kinks are looked for with: sqrt(eps) of float32, rounded up

DIFFERENCE = 'H v is taken by differences of gradients (product="difference")'
LOG_MAP = 'order 2 is had by the log map only (method="log-map")'
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
        self.start = self.theta  # before it is widened
        self.eps = torch.finfo(self.theta.dtype).eps  # relative rounding of the loss

    def result(self) -> Check:
        with memory.counted() as kept:
            value, gradient = self.objective.loss(self.theta), self.objective.gradient(self.theta)
        require_finite(self.objective, value, gradient)
        self.probes.append(determinism(self.objective, self.loss, self.theta, gradient))
        self.casts = blame.casts(self.loss, self.theta)
        self.probes += notes(self.loss, self.theta, self.casts)
        one = kept.bytes // len(self.objective.batches)
        fits = self._fits(one)
        self._widen(one)
        slope = self._slope()
        product, right, even = self._second(slope, fits)
        third = self.order >= 2 and self._third(product != "difference")
        dtype = str(self.theta.dtype).removeprefix("torch.")
        return Check(tuple(self.probes), product, right, third, slope and even, dtype, frozenset(self.casts.values()))

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

    def _widen(self, kept: int) -> None:
        """Go to float64 if the model can be evaluated there, and the memory allows it."""
        wider = 8 / self.theta.element_size()
        wanted = wider * memory.double_backward(kept, self.theta)
        if wider == 1 or wanted > memory.available(self.theta.device):
            return
        try:
            self.objective.loss(self.theta.double())
        except (RuntimeError, TypeError):  # a dtype written into the model
            return
        self.theta, self.eps = self.theta.double(), torch.finfo(torch.float64).eps

    # Derivatives

    def _slope(self) -> bool:
        """Whether the gradient is the derivative of the loss."""
        error = self._slope_error(self.v)
        if not error <= self.limits[0] and rounds_to_single(self.objective.loss, self.theta, self.v, self.gradient):
            self.eps = torch.finfo(torch.float32).eps
            self.probes.append(note("the loss is rounded to single precision inside", "the probes allow for it"))
            error = self._slope_error(self.v)
        limit = self.limits[0]
        if error <= limit:
            return self._add("gradient . v against the loss", "gradient", error, limit)
        layout = self.objective.layout

        def wrong(names: Sequence[str]) -> bool:
            parts = layout.unflatten(self.v)
            v = torch.cat([x.reshape(-1) * (k in names) for k, x in parts.items()])
            return not self._slope_error(v) <= limit

        parameters = ", ".join(map(repr, blame.parameters_to_blame(layout.names, wrong))) or "the parameters together"
        self._add(
            "gradient . v against the loss",
            "gradient",
            error,
            limit,
            f"the gradient along {parameters} is not the derivative of the loss{self._at(slope_is_wrong)}; "
            + NO_HESSIAN,
        )
        return False

    def _slope_error(self, v: Tensor) -> float:
        return slope_error(self.objective.loss, self.theta, v, self.gradient, self.limits[0], self.eps)

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
        except RuntimeError as failure:
            why = f"{_cause(failure)}{self._at(second_is_wrong)}; {DIFFERENCE}"
            return self._add("H v exists", route, float("inf"), limit, why), False
        del hvp  # and the graph that it keeps
        rung = best(self._ladder(self.objective.gradient, hv, limit, self.gradient), limit)
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
        why = "" if right and even else f"torch's double backward is wrong{self._at(second_is_wrong)}; {DIFFERENCE}"
        self._add("H v against differences", route, rung.error, limit, why)
        self._add("u . H v = v . H u", route, uneven, limit, "" if not right else why)
        if right and even:
            self._kinks(hv)
        return right, even

    def _kinks(self, hv: Tensor) -> None:
        """In the run's own precision, which is enough for a finite step, and cheaper."""
        coarse = self.casts or self.start.dtype in (torch.float16, torch.bfloat16)
        theta = self.theta if coarse else self.start
        v, size = self.v.to(theta), float(self.gradient.norm())
        step = FINITE * scale(theta)
        far = kinks(self.objective.gradient, theta, v, hv.to(theta), step, size)
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
            return self._add("T(v, v) exists", route, float("inf"), limit, f"not tried; {LOG_MAP}")
        objective = self.objective.replaced(product="double-backward")
        try:
            t = objective.third(self.theta, self.v, self.v)
        except RuntimeError as failure:
            why = f"{_cause(failure)}{self._at(third_is_wrong)}; {LOG_MAP}"
            return self._add("T(v, v) exists", route, float("inf"), limit, why)
        hv = objective.hvp(self.theta, self.v)
        rung = best(self._ladder(lambda y: objective.hvp(y, self.v), t, limit, hv), limit)
        why = "" if rung.error <= limit else f"torch's third derivatives are wrong{self._at(third_is_wrong)}; {LOG_MAP}"
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
