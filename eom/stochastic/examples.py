"""Problems whose errors are known without sampling: of the demonstration and the studies."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from eom.dynamics import moments
from eom.dynamics.noise import Additive, General
from eom.dynamics.order import Ladder, ladder
from eom.dynamics.sde import Sde
from eom.dynamics.stochastic_steppers import EulerMaruyama, StochasticHeun
from eom.dynamics.transfer import Interval
from eom.stochastic.batches import svag_weights
from eom.stochastic.bias import exact_mean, overdamped_mean, splitting_mean
from eom.stochastic.density import Density
from eom.stochastic.langevin import BAOAB, OBABO, LeimkuhlerMatthews
from eom.stochastic.random_depth import SHAKE, diffusive, literal, survival_law, uniform_law, weak_errors

WIDE = torch.float64


# Networks of random depth, on the circle


def drift(x: Tensor) -> Tensor:
    """(f1 + f2) / 2 of the branches."""
    return 0.5 * torch.sin(x) + 0.2


def spread(x: Tensor) -> Tensor:
    """(f1 - f2) / sqrt 12 of the branches."""
    return SHAKE * (1.5 + torch.cos(x))


def observable(x: Tensor) -> Tensor:
    return torch.exp(torch.cos(x - 0.5))


def scaled_down(h: float, x: Tensor, zeta: Tensor) -> Tensor:
    """A block whose branches are h b +- (sqrt h / 2) d."""
    return x + h * drift(x) + math.sqrt(h) * zeta * spread(x)


def as_it_stands(h: float, x: Tensor, zeta: Tensor) -> Tensor:
    """A block whose branches are h f1 and h f2."""
    return x + h * drift(x) + h * zeta * spread(x)


def random_depth(depths: Sequence[int]) -> dict[str, Ladder]:
    """Weak errors of shake-shake under six readings, and of stochastic depth, against the depth."""
    even, skew = survival_law(0.5), survival_law(0.8)
    readings = {
        "diffusive scaling, Ito": (scaled_down, uniform_law(), lambda h: diffusive(drift, spread)),
        "diffusive scaling, Stratonovich": (
            scaled_down,
            uniform_law(),
            lambda h: diffusive(drift, spread, "stratonovich"),
        ),
        "literal, ODE": (as_it_stands, uniform_law(), lambda h: literal(drift, spread, h, 0)),
        "literal, noise √(h/12)": (as_it_stands, uniform_law(), lambda h: literal(drift, spread, h, 1)),
        "literal, noise and drift": (as_it_stands, uniform_law(), lambda h: literal(drift, spread, h, 2)),
        "literal, noise not scaled": (as_it_stands, uniform_law(), lambda h: diffusive(drift, spread)),
        "stochastic depth, p = .5": (scaled_down, even, lambda h: diffusive(drift, spread)),
        "stochastic depth, p = .8": (scaled_down, skew, lambda h: diffusive(drift, spread)),
    }
    return {name: weak_errors(*reading, observable, depths=list(depths)) for name, reading in readings.items()}


# Samplers, on a double well


DOUBLE_WELL = Density(lambda x: (x**4 / 4 - x**2 / 2).sum(-1))
LINE, NARROW = Interval(120, -4.0, 4.0), Interval(72, -4.0, 4.0)


def langevin(steps: Sequence[float], long: Sequence[float]) -> dict[str, Ladder]:
    """Bias of <cos 2x> of samplers on U = x^4/4 - x^2/2, over steps; splittings over the ``long`` ones."""

    def phi(x: Tensor) -> Tensor:
        return torch.cos(2 * x)

    exact = exact_mean(DOUBLE_WELL, phi, LINE)
    one = {
        "Euler-Maruyama (ULA)": EulerMaruyama(),
        "stochastic Heun": StochasticHeun(),
        "Leimkuhler-Matthews": LeimkuhlerMatthews(),
    }
    found = {
        name: ladder(lambda h, s=s: overdamped_mean(s, DOUBLE_WELL, h, phi, LINE) - exact, steps)
        for name, s in one.items()
    }
    return found | {
        s.scheme: ladder(lambda h, s=s: splitting_mean(s, DOUBLE_WELL, h, phi, NARROW) - exact, long)
        for s in (BAOAB(), OBABO())
    }


# SGD on a linear regression, batches of one sample


class Regression:
    """20 samples in three dimensions; mean squared error / 2; E theta theta^T at ``time`` of SGD and its equations."""

    samples, time = 20, 1.6

    def __init__(self, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        scale = torch.tensor([1.0, 0.7, 0.4], dtype=WIDE)
        self.x = torch.randn(self.samples, 3, generator=generator, dtype=WIDE) * scale
        noise = 0.5 * torch.randn(self.samples, generator=generator, dtype=WIDE)
        self.y = self.x @ torch.tensor([1.0, -1.0, 0.5], dtype=WIDE) + noise
        self.start = moments.moments_at(torch.tensor([0.5, -0.2, 0.3], dtype=WIDE))
        self.hessian, self.slope = self.x.T @ self.x / self.samples, self.x.T @ self.y / self.samples

    def gradients(self, theta: Tensor, rows: Tensor) -> Tensor:
        """[q, n] of the losses of these samples, each at its own theta [q, n]."""
        x = self.x[rows]
        return x * ((x * theta).sum(-1) - self.y[rows])[..., None]

    def by_svag(self, lr: float, refinement: int = 1) -> Tensor:
        """Of SVAG over all pairs of samples; 1 is SGD."""
        (a, b), h, n = svag_weights(refinement), lr / refinement, self.samples
        pairs = torch.cartesian_prod(torch.arange(n), torch.arange(n if b else 1))

        def step(theta: Tensor) -> Tensor:
            move = a * self.gradients(theta, pairs[:, 0])
            return theta - h * (move + b * self.gradients(theta, pairs[:, 1]) if b else move)

        chances = torch.full((len(pairs),), 1 / len(pairs), dtype=WIDE)
        return moments.marched(step, chances, self.start, round(self.time / h)).second

    def by_equation(self, lr: float, order: int) -> Tensor:
        """Of the equation of this order; 0 is gradient flow."""
        correct = torch.eye(3, dtype=WIDE) + (lr / 2 * self.hessian if order == 2 else 0)

        def root(t: float, theta: Tensor) -> Tensor:
            each = self.x * ((theta[..., None, :] * self.x).sum(-1) - self.y)[..., None]
            return math.sqrt(lr / self.samples) * (each - each.mean(-2, keepdim=True)).transpose(-1, -2)

        noise = General(root, self.samples) if order else Additive(0.0)
        sde = Sde(lambda t, theta: -(theta @ self.hessian - self.slope) @ correct, noise)
        return moments.evolved(sde, self.start, self.time).second


def sgd(rates: Sequence[float], fineness: Sequence[float] = ()) -> dict[str, Ladder]:
    """Weak errors of gradient flow and of both equations against SGD, over learning rates; of SVAG over 1/l at .1."""
    problem = Regression()
    names = {0: "gradient flow", 1: "equation of order 1", 2: "equation of order 2"}

    def error(lr: float, order: int) -> float:
        return float((problem.by_svag(lr) - problem.by_equation(lr, order)).sum())

    found = {name: ladder(lambda lr, k=k: error(lr, k), rates) for k, name in names.items()}
    if fineness:
        limit = problem.by_equation(0.1, 1)
        found["SVAG, over 1/l"] = ladder(
            lambda part: float((problem.by_svag(0.1, round(1 / part)) - limit).sum()), fineness
        )
    return found
