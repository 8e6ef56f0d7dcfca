"""Explicit Runge-Kutta steppers from their tableaus; Euler's is gradient descent."""

from dataclasses import dataclass
from fractions import Fraction
from functools import partial

from torch import Tensor

from eom.dynamics.field import State, VectorField, rate_of

Row = tuple[Fraction, ...]


@dataclass(frozen=True)
class RungeKutta:
    """y <- y + h sum_i b_i k_i with k_i = f(t + c_i h, y + h sum_j a_ij k_j), c_i = sum_j a_ij.

    ``order`` is the order of accuracy. Source: Butcher, Numerical Methods for ODEs (2016), sec. 232.
    """

    name: str
    a: tuple[Row, ...]
    b: Row
    order: int

    def init(self, y: State) -> None:
        return None

    def step(self, field: VectorField, t: float, h: float, y: State, carry: None) -> tuple[State, None]:
        return y + h * self.slope(field, t, h, y), None

    def slope(self, field: VectorField, t: float, h: float, y: State) -> State:
        """(y_{n+1} - y_n) / h, [n], without the cancellation."""
        stages: list[State] = []
        for row in self.a:
            at = y + h * _combine(row, stages) if any(row) else y
            stages.append(rate_of(partial(field, t + float(sum(row)) * h), at))
        return _combine(self.b, stages)

    def __repr__(self) -> str:
        return f"{self.name}()"


def _combine(weights: Row, stages: list[State]) -> Tensor:
    first, *rest = ((float(w), k) for w, k in zip(weights, stages, strict=True) if w)
    total = first[1] if first[0] == 1 else first[0] * first[1]
    for w, k in rest:
        total = total + w * k
    return total


def _tableau(name: str, a: list[list[str]], b: list[str], order: int) -> RungeKutta:
    return RungeKutta(name, tuple(tuple(map(Fraction, r)) for r in a), tuple(map(Fraction, b)), order)


def Euler() -> RungeKutta:
    """y <- y + h f(y), order 1. On a gradient flow: gradient descent with learning rate h."""
    return _tableau("Euler", [[]], ["1"], 1)


def Heun() -> RungeKutta:
    """The explicit trapezoidal rule, order 2."""
    return _tableau("Heun", [[], ["1"]], ["1/2", "1/2"], 2)


def RK4() -> RungeKutta:
    """The classical Runge-Kutta method, order 4."""
    return _tableau("RK4", [[], ["1/2"], ["0", "1/2"], ["0", "0", "1"]], ["1/6", "1/3", "1/3", "1/6"], 4)
