"""The corrected field: the flow that follows a stepper's march to a wanted power of the step.

A stepper with step h on y' = f lies on the flow of F = f_1 + h f_2 + h^2 f_3 + .... Two roads lead to F.

By terms: f_j from derivatives of f. With a map y + h f + h^2 a f'f + h^3 (b f'f'f + c f''(f,f)) + ...,

    f_2 = (a - 1/2) f'f =: d f'f,   f_3 = (b - d - 1/6) f'f'f + (c - d/2 - 1/6) f''(f,f).

Euler (a = b = c = 0) gives -1/2 f'f and 1/3 f'f'f + 1/12 f''(f,f); on f = -g these are minus
xi_0 = 1/2 H g and xi_1 = 1/3 H H g + 1/12 T(g,g).

By the log map: the step map is exp(h D) with D the derivative along F, so h D = log(1 + Delta) and

    F(y_0) = sum_{m=0}^{K-1} (-1)^m / (m+1) Delta^m s_0 + O(h^K),   s_j = (y_{j+1} - y_j) / h,

from the slopes s_j of K steps of a look-ahead: no derivative of f at all.

Sources: Hairer, Lubich & Wanner, Geometric Numerical Integration (2006), ch. IX;
Barrett & Dherin, ICLR 2021 (xi_0); Miyagawa, NeurIPS 2022, arXiv 2210.15898 (all orders).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import torch

from eom.calculus.lie import modified_terms, taylor
from eom.dynamics.field import SmoothField, State, VectorField
from eom.dynamics.runge_kutta import RungeKutta
from eom.dynamics.stepper import Stepper
from eom.errors import SettingError


@cache
def log_weights(terms: int) -> tuple[float, ...]:
    """Weights c_j with F = sum_j c_j s_j: (-1)^j sum_{m=j}^{K-1} binom(m, j) / (m + 1)."""
    return tuple((-1) ** j * math.fsum(math.comb(m, j) / (m + 1) for m in range(j, terms)) for j in range(terms))


def slopes(field: VectorField, stepper: Stepper, t: float, h: float, y: State) -> Iterator[tuple[State, State]]:
    """Yield (y_j, s_j) along a look-ahead from ``y``: each [n], with s_j = (y_{j+1} - y_j) / h."""
    if isinstance(stepper, RungeKutta):  # no cancellation
        while True:
            s = stepper.slope(field, t, h, y)
            yield y, s
            y, t = torch.add(y, s, alpha=h), t + h
    carry = stepper.init(y)
    while True:
        ahead, carry = stepper.step(field, t, h, y, carry)
        yield y, (ahead - y) / h
        y, t = ahead, t + h


@dataclass(frozen=True)
class ByLogMap:
    """Corrected field from ``order + 1`` slopes of a look-ahead."""

    field: VectorField
    stepper: Stepper
    h: float
    order: int

    def __call__(self, t: float, y: State) -> State:
        ahead = slopes(self.field, self.stepper, t, self.h, y)
        first, *weights = log_weights(self.order + 1)
        total = first * next(ahead)[1]
        for c, (_, s) in zip(weights, ahead, strict=False):
            total.add_(s, alpha=c)
        return total


@dataclass(frozen=True)
class ByTerms:
    """Corrected field to order 2 from the field's own first and second derivatives."""

    field: SmoothField
    stepper: RungeKutta
    h: float
    order: int

    def __call__(self, t: float, y: State) -> State:
        return self.orders(t, y)[-1]

    def orders(self, t: float, y: State) -> list[State]:
        """F to orders 0, 1, ..., ``order``, each [n], sharing what they can."""
        d, straight, bent = _coefficients(self.stepper)
        if self.order == 0 or (self.order == 1 and d == 0):
            return [self.field(t, y)] * (self.order + 1)
        f, jacobian = self.field.linearize(t, y)
        jf = jacobian(f)
        found = [f, torch.add(f, jf, alpha=self.h * d)]
        if self.order == 2:
            f3 = straight * jacobian(jf)
            if bent:
                f3 = f3 + bent * self.field.second_derivative(t, y, f, f)
            found.append(torch.add(found[1], f3, alpha=self.h**2))
        return found


@dataclass(frozen=True)
class ByRecursion:
    """Corrected field of any order from nested forward-mode derivatives of a plain, smooth (t, y) callable.

    Time is carried along as one more component, so a field that depends on it is corrected too. The work
    grows like the number of terms: meant for small systems.
    """

    field: VectorField
    stepper: Stepper
    h: float
    order: int

    def __call__(self, t: float, y: State) -> State:
        def step(h: State, z: State) -> State:
            x, s = z[:-1], z[-1]
            ahead, _ = self.stepper.step(self.field, s, h, x, self.stepper.init(x))  # type: ignore[arg-type] - h is traced
            return torch.cat([ahead, (s + h)[None]])

        z = torch.cat([y, y.new_tensor([t])])
        increments = taylor(step, 1 if _is_euler(self.stepper) else self.order + 1)
        increments += [torch.zeros_like] * (self.order + 1 - len(increments))
        terms = modified_terms(increments)
        return sum((self.h**k * f(z) for k, f in enumerate(terms)), start=torch.zeros_like(z))[:-1]


def _is_euler(stepper: Stepper) -> bool:
    return isinstance(stepper, RungeKutta) and len(stepper.a) == 1


CorrectedField = ByLogMap | ByTerms | ByRecursion


def corrected(field: VectorField, stepper: Stepper, h: float, order: int, method: str = "auto") -> CorrectedField:
    """Field whose flow follows ``stepper`` with step ``h`` on ``field`` to the power ``order`` of ``h``.

    One step then differs from the flow by O(h^{order+2}), a march over a fixed time by O(h^{order+1}).
    For Euler, ``order`` counts the counter terms; order 0 is the field itself.

    Args:
        field: (t, [n]) -> [n]; smooth.
        stepper: ``Euler()`` for gradient descent, ``Heun()``, ``RK4()``, or any without a carry.
        h: step size (learning rate), positive.
        order: highest power of ``h`` kept, 0 or more.
        method: "terms" differentiates the field (to order 2 where it brings its own derivatives, as gradient
            flows do; to any order for a plain callable), "log-map" looks ahead ``order`` steps and needs no
            derivative; "auto" takes terms to order 2 and the log map beyond.

    Returns:
        (t, [n]) -> [n].

    Raises:
        SettingError: an order, step, method or stepper for which there is no corrected field.
    """
    if not (isinstance(order, int) and not isinstance(order, bool) and order >= 0):
        raise SettingError(f"order is {order!r}, expected 0, 1, 2, ...: the highest power of h to keep")
    if not (math.isfinite(h) and h > 0):
        raise SettingError(f"h is {h}, expected a finite positive step (for gradient descent: the learning rate)")
    choose: dict[str, Callable[..., CorrectedField]] = {"terms": _by_terms, "log-map": ByLogMap}
    if method == "auto":
        fits = order <= 2 and (isinstance(stepper, RungeKutta) or not isinstance(field, SmoothField))
        method = "terms" if fits else "log-map"
    if method not in choose:
        raise SettingError(f'method is {method!r}, expected "auto", "terms" or "log-map"')
    return choose[method](field, stepper, float(h), order)


def _by_terms(field: VectorField, stepper: Stepper, h: float, order: int) -> CorrectedField:
    if not isinstance(field, SmoothField):
        return ByRecursion(field, stepper, h, order)
    if order > 2 or not isinstance(stepper, RungeKutta):
        raise SettingError(
            f"order {order} of {stepper} by terms: a field with its own derivatives has terms to order 2, for "
            'Runge-Kutta steppers. Use method="log-map": any order, any stepper, no derivative.'
        )
    return ByTerms(field, stepper, h, order)


@cache
def _coefficients(stepper: RungeKutta) -> tuple[float, float, float]:
    """Factors of f'f in f_2, and of f'f'f and f''(f,f) in f_3."""
    nodes = [sum(row) for row in stepper.a]
    inner = [sum(a * c for a, c in zip(row, nodes, strict=False)) for row in stepper.a]

    def moment(xs: list) -> Fraction:
        return sum((b * x for b, x in zip(stepper.b, xs, strict=True)), start=Fraction())

    d = moment(nodes) - Fraction(1, 2)
    straight = moment(inner) - d - Fraction(1, 6)
    bent = moment([c * c for c in nodes]) / 2 - d / 2 - Fraction(1, 6)
    return float(d), float(straight), float(bent)
