"""Strong and weak orders of the stochastic steppers, measured, are those that they carry."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from eom.dynamics import moments
from eom.dynamics.brownian import Brownian, Place
from eom.dynamics.noise import Additive, Diagonal, General, LowRank, Scalar
from eom.dynamics.order import Ladder, ladder
from eom.dynamics.quadrature import gaussian_nodes
from eom.dynamics.sampling import strong_errors, weak_differences
from eom.dynamics.sde import Sde
from eom.dynamics.stepper import end
from eom.dynamics.stochastic_steppers import SRA1, EulerMaruyama, Milstein, Platen, StochasticHeun
from eom.dynamics.transfer import Circle, semigroup, transfer

STEPPERS = [EulerMaruyama, StochasticHeun, Milstein, SRA1, Platen]
CIRCLE = Circle(41)  # points, which give these smooth problems to rounding
STEPS = [1 / 2**k for k in range(3, 12)]  # powers of a matrix: as many as are wanted


def swirl(t: float, y: Tensor) -> Tensor:
    return torch.sin(y) + 0.3


ON_THE_CIRCLE = {
    "additive": Sde(swirl, Additive(0.6)),
    "commuting": Sde(swirl, Scalar(lambda t, y: 0.5 + 0.3 * torch.cos(y))),
}

A = torch.tensor([[-0.5, 0.3], [-0.2, -0.4]], dtype=torch.float64)
B = torch.tensor([[[0.2, 0.5], [-0.3, 0.1]], [[0.1, -0.4], [0.2, 0.3]]], dtype=torch.float64)
SHIFT = torch.tensor([[0.2, 0.0], [0.1, -0.1]], dtype=torch.float64)
LINEAR = Sde(lambda t, y: y @ A.T, General(lambda t, y: torch.einsum("jnk,...k->...nj", B, y) + SHIFT, 2))
START = torch.tensor([1.0, 0.5], dtype=torch.float64)


def one_step(stepper, sde: Sde, h: float):
    return lambda y: stepper.step(sde, 0.0, h, y, Place())[0]


def weak(kind, sde: Sde) -> Ladder:
    """Of E phi(y_1) on the circle, without sampling."""
    nodes = gaussian_nodes(1, 12, areas=kind is SRA1)
    phi = torch.exp(torch.cos(CIRCLE.grid()))
    exact = semigroup(sde, 1.0, CIRCLE) @ phi

    def error(h: float) -> float:
        chain = transfer(one_step(kind(nodes), sde, h), nodes.weights, CIRCLE)
        return float((torch.linalg.matrix_power(chain, round(1 / h)) @ phi - exact)[7])

    return ladder(error, STEPS)


@pytest.mark.parametrize("noise", ["additive", "commuting"])
@pytest.mark.parametrize("kind", STEPPERS)
def test_weak_orders_in_one_dimension(kind, noise):
    if noise not in kind.orders:
        return
    found = weak(kind, ON_THE_CIRCLE[noise])
    assert found.order == pytest.approx(kind.orders[noise].weak, abs=0.05), str(found)


@pytest.mark.parametrize("kind", [EulerMaruyama, StochasticHeun, Platen])
def test_weak_orders_with_noise_that_does_not_commute(kind):
    """Second moments of a linear problem, exact for the process and for the scheme."""
    nodes = gaussian_nodes(2, 4, flips=1)
    exact = moments.evolved(LINEAR, moments.moments_at(START), 1.0).second

    def error(h: float) -> float:
        found = moments.marched(
            one_step(kind(nodes), LINEAR, h), nodes.weights, moments.moments_at(START), round(1 / h)
        )
        return float((found.second - exact).sum())

    found = ladder(error, STEPS)
    assert found.order == pytest.approx(kind.orders["general"].weak, abs=0.05), str(found)


WAVY = Sde(
    lambda t, y: -y + 0.5 * torch.sin(y.flip(-1)),
    General(lambda t, y: 0.5 * torch.stack([torch.cos(y.flip(-1)), torch.sin(y) + y.flip(-1) / 2], -1), 2),
)
STRONG = {
    "additive": Sde(lambda t, y: torch.sin(3 * y.flip(-1)) - y, Additive(torch.tensor([[0.7, 0.2], [-0.3, 0.5]]))),
    "commuting": Sde(lambda t, y: 0.3 * torch.sin(y.flip(-1)), Diagonal(lambda t, y: 0.7 * torch.cos(2 * y))),
    "general": WAVY,
}


@pytest.mark.parametrize("noise", ["additive", "commuting", pytest.param("general", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", STEPPERS)
def test_strong_orders(kind, noise):
    if noise not in kind.orders:
        return
    y = torch.tensor([0.5, -0.2]).expand(2000, 2)
    sde = replace(STRONG[noise], calculus="stratonovich" if kind is StochasticHeun else "ito")
    found = strong_errors(sde, kind(Brownian(5)), y, 1.0, 8, 5)
    assert found.order == pytest.approx(kind.orders[noise].strong, abs=0.1), str(found)


def test_a_linear_problem_is_followed_along_its_own_paths():
    """dX = a X dt + b X dW: X = exp((a - b^2 / 2) t + b W), on the path that the march has seen."""
    a, b, path = 0.3, 0.5, Brownian(3, 9)
    sde = Sde(lambda t, y: a * y, Scalar(lambda t, y: b * y))
    y = torch.ones(200, 1)
    w, _ = Brownian(3).next(Place(), 1.0, y, 1)
    exact = torch.exp(torch.as_tensor(a - b * b / 2) + b * w.w)
    ends = [end(sde, kind(path), y, h=1 / 512, steps=512) for kind in (EulerMaruyama, Milstein)]
    errors = [float((x - exact).abs().mean()) for x in ends]
    assert errors[0] < 0.05
    assert errors[1] < errors[0] / 10


def test_a_noise_is_the_same_in_all_its_forms():
    """Entries, a matrix, a product and a root: one process."""
    y, h = torch.tensor([[0.3, -0.7]]), 0.1
    s = torch.tensor([0.4, 0.9])
    forms = [
        Additive(s),
        Additive(torch.diag(s)),
        Diagonal(lambda t, y: s.expand_as(y)),
        General(lambda t, y: torch.diag(s).expand(*y.shape, 2), 2),
        LowRank(lambda t, y, dw: s * dw, 2),
    ]
    for kind in (EulerMaruyama, StochasticHeun, Platen, Milstein):
        found = [end(Sde(swirl, form), kind(), y, h=h, steps=5) for form in forms]
        for other in found[1:]:
            torch.testing.assert_close(other, found[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", [EulerMaruyama, StochasticHeun, Platen, Milstein])
def test_diagonal_noise_is_the_general_one_of_a_diagonal_matrix(kind):
    """Where it moves with the state too, and Platen's columns go side by side."""
    y = torch.tensor([[0.3, -0.7, 1.1], [0.1, 0.2, -2.0]])
    entries = Diagonal(lambda t, y: 0.5 + 0.3 * torch.cos((1 + t) * y))
    matrix = General(lambda t, y: torch.diag_embed(entries.entries(t, y)), 3)
    one, other = (end(Sde(swirl, form), kind(), y, h=0.1, steps=5) for form in (entries, matrix))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


def test_both_readings_are_one_process():
    """Each stepper converges to the other's paths, once the drift is converted, and not without."""
    y = torch.full((2000, 1), 0.5)
    sde = ON_THE_CIRCLE["commuting"]
    assert sde.read_as("stratonovich").read_as("ito").drift(0.0, y) == pytest.approx(sde.drift(0.0, y), abs=1e-15)
    h, path = 1 / 256, Brownian(1, 8)
    ito, heun = (end(sde, kind(path), y, h=h, steps=256) for kind in (Milstein, StochasticHeun))
    other = end(Sde(sde.drift, sde.noise, "stratonovich"), StochasticHeun(path), y, h=h, steps=256)
    assert float((ito - heun).abs().mean()) < 2 * h
    assert float((ito - other).abs().mean()) > 0.05


def test_differences_on_common_paths_fall_with_the_weak_order_within_their_bars():
    y = torch.full((20000, 1), 0.5)
    sde, nodes = ON_THE_CIRCLE["commuting"], gaussian_nodes(1, 12)
    found = weak_differences(sde, EulerMaruyama(), y, lambda x: x[:, 0].cos().exp(), 1.0, 2, 3)
    phi, here = torch.exp(torch.cos(CIRCLE.grid())), CIRCLE.at(torch.tensor(0.5))

    def exact(h: float) -> Tensor:
        chain = transfer(one_step(EulerMaruyama(nodes), sde, h), nodes.weights, CIRCLE)
        return here @ torch.linalg.matrix_power(chain, round(1 / h)) @ phi

    for h, error, bar in zip(found.h, found.error, found.bar, strict=True):
        assert abs(error - float(exact(h) - exact(h / 2))) < 2 * bar


@pytest.mark.parametrize("kind", [EulerMaruyama, Milstein])
def test_the_interval_of_a_strong_order_holds_the_true_one_where_errors_are_in_phase(kind):
    """Nearly no noise: the reference's own error has the same sign as those that are measured by it."""
    sde = Sde(lambda t, y: -y, Additive(1e-3))
    found = strong_errors(sde, kind(Brownian(1)), torch.ones(100, 1), 1.0, 16, 5)
    assert found.order is not None
    assert found.interval is not None
    assert abs(found.order - 1) < found.interval
    assert found.order == pytest.approx(1, abs=0.05)


def test_platen_is_of_order_two_where_noise_depends_on_time():
    """dX = (1 + t) dW: E X^2 is ((1 + t)^3 - 1) / 3."""
    sde, nodes = Sde(lambda t, y: 0 * y, Diagonal(lambda t, y: (1 + t) * torch.ones_like(y))), gaussian_nodes(1, 4)

    def error(h: float) -> float:
        squares = 0.0
        for k in range(round(1 / h)):
            y = torch.zeros(len(nodes.weights), 1)
            squares += float(nodes.weights @ Platen(nodes).step(sde, k * h, h, y, Place())[0][:, 0].square())
        return squares - 7 / 3

    assert ladder(error, [0.2, 0.1, 0.05, 0.025]).order == pytest.approx(2, abs=0.05)
