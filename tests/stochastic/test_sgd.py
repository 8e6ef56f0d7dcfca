"""SGD as a stochastic equation: weak orders by exact moments, no sampling, and the stationary law near a minimum."""

import math

import pytest
import torch
from torch import Tensor, nn

import eom
from eom.dynamics import moments
from eom.dynamics.noise import Additive, General
from eom.dynamics.order import ladder
from eom.dynamics.sde import Sde
from eom.dynamics.stepper import end
from eom.errors import DataError, ExplosionError, SettingError
from eom.stochastic.batches import SVAG, BatchGradient, svag_weights
from eom.stochastic.covariance import noise_of
from eom.stochastic.near_minimum import against_run, ou_covariance, sgd_covariance
from eom.stochastic.sgd import sgd_sde, temperature

N, TIME = 20, 1.6


def regression() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    kind = torch.float64
    x = torch.randn(N, 3, generator=generator, dtype=kind) * torch.tensor([1.0, 0.7, 0.4], dtype=kind)
    return x, x @ torch.tensor([1.0, -1.0, 0.5], dtype=kind) + 0.5 * torch.randn(N, generator=generator, dtype=kind)


X, Y = regression()
START = moments.moments_at(torch.tensor([0.5, -0.2, 0.3], dtype=torch.float64))
EVERY = torch.full((N,), 1 / N, dtype=torch.float64)  # chances of the samples
H, SLOPE = X.T @ X / N, X.T @ Y / N


def gradients(y: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
    """[q, n] of the loss of one sample each, at y [q, n]."""
    return X[rows] * ((X[rows] * y).sum(-1) - Y[rows])[..., None]


def objective() -> eom.Objective:
    return eom.Objective(nn.Linear(3, 1, bias=False), lambda m, b: 0.5 * (m(b[0])[:, 0] - b[1]).square().mean(), (X, Y))


def by_sgd(h: float) -> Tensor:
    """E theta theta^T of SGD with batches of one sample, drawn with replacement."""
    return moments.marched(lambda y: y - h * gradients(y), EVERY, START, round(TIME / h)).second


def by_equation(h: float, order: int) -> Tensor:
    """The same of the equation of this order; 0 is gradient flow."""
    correction = torch.eye(3) + (h / 2 * H if order == 2 else 0)

    def root(t: float, y: Tensor) -> Tensor:
        each = X * ((y[..., None, :] * X).sum(-1) - Y)[..., None]  # [..., N, n]
        return math.sqrt(h / N) * (each - each.mean(-2, keepdim=True)).transpose(-1, -2)

    noise = General(root, N) if order else Additive(0.0)
    return moments.evolved(Sde(lambda t, y: -(y @ H - SLOPE) @ correction, noise), START, TIME).second


@pytest.mark.parametrize(("order", "expected"), [(0, 1), (1, 1), (2, 2)])
def test_weak_orders_of_the_equations_of_sgd_on_a_regression(order, expected):
    found = ladder(lambda h: float((by_sgd(h) - by_equation(h, order)).sum()), [0.2 / 2**k for k in range(7)])
    assert found.order == pytest.approx(expected, abs=0.05), str(found)


def test_noise_halves_the_error_of_gradient_flow_though_their_slopes_are_alike():
    h = 0.0125
    flow, first = (abs(float((by_sgd(h) - by_equation(h, order)).sum())) for order in (0, 1))
    assert first < 0.5 * flow


@pytest.mark.parametrize("order", [1, 2])
def test_the_equation_of_an_objective_is_that_of_its_formula(order):
    h, y, dw = 0.1, torch.randn(4, 3), torch.randn(4, N)
    found = sgd_sde(objective(), h, 1, order=order, replacement=True)
    wanted = -(y @ H - SLOPE) @ (torch.eye(3) + (h / 2 * H if order == 2 else 0))
    torch.testing.assert_close(found.drift(0.0, y), wanted)
    centred = torch.stack([gradients(x[None]) - gradients(x[None]).mean(0) for x in y])
    torch.testing.assert_close(found.noise(0.0, y, dw), math.sqrt(h / N) * torch.einsum("bNn,bN->bn", centred, dw))


def test_frozen_noise_is_that_of_the_present_parameters_and_batches_are_drawn_as_asked():
    own, h = objective(), 0.1
    frozen = sgd_sde(own, h, 5, frozen=True)
    dw = torch.randn(2, N)
    at = own.theta().expand(2, 3)
    moving = sgd_sde(own, h, 5)
    torch.testing.assert_close(frozen.noise(0.0, at, dw), moving.noise(0.0, at, dw))
    with_replacement = sgd_sde(own, h, 5, replacement=True)
    share = math.sqrt((N - 5) / (N - 1))
    torch.testing.assert_close(moving.noise(0.0, at, dw), share * with_replacement.noise(0.0, at, dw))


@pytest.mark.parametrize("refinement", [1, 2, 5])
def test_weights_of_svag(refinement):
    """Their sum is 1, so that the mean is that of SGD; the sum of their squares is l, so that noise per time is."""
    a, b = svag_weights(refinement)
    assert a + b == pytest.approx(1, abs=1e-15)
    assert a * a + b * b == pytest.approx(refinement, rel=1e-15)


def test_svag_tends_to_the_equation_with_slope_one():
    eta = 0.1
    pairs = torch.cartesian_prod(torch.arange(N), torch.arange(N))
    chances = torch.full((N * N,), 1 / N**2)

    def error(fineness: float) -> float:
        refinement = round(1 / fineness)
        a, b = svag_weights(refinement)
        h = eta / refinement

        def step(y: Tensor) -> Tensor:
            return y - h * (a * gradients(y, pairs[:, 0]) + b * gradients(y, pairs[:, 1]))

        found = moments.marched(step, chances, START, round(TIME / h)).second
        return float((found - by_equation(eta, 1)).sum())

    found = ladder(error, [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16])
    assert found.order == pytest.approx(1, abs=0.05), str(found)


def test_svag_of_one_is_sgd_and_batches_come_from_a_counter():
    own = objective()
    field = BatchGradient(own, 4, seed=3)
    one = end(field, SVAG(), own.theta(), h=0.1, steps=5)
    y = own.theta()
    for k in range(5):
        y = y + 0.1 * field.sample(2 * k, y)
    assert torch.equal(one, y)
    assert torch.equal(field.sample(7, y), BatchGradient(own, 4, seed=3).sample(7, y))
    assert not torch.equal(field.sample(7, y), field.sample(8, y))


@pytest.mark.parametrize(("eta", "expected"), [(0.4, 0.90), (0.1, 0.20), (0.0125, 0.024)])
def test_the_law_of_the_equation_near_a_minimum_tends_to_that_of_sgd(eta, expected):
    """Relative difference of a problem with eigenvalues to 1.9: it falls as eta."""
    h = torch.diag(torch.tensor([1.9, 0.6, 0.2]))
    sigma = torch.diag(torch.tensor([1.0, 0.5, 0.3]))
    sde, sgd = ou_covariance(h, sigma, eta), sgd_covariance(h, sigma, eta)
    assert float((sde - sgd).norm() / sgd.norm()) < expected


def test_the_law_of_the_equation_is_that_of_the_closed_form():
    """H S + S H = eta Sigma, and T = eta / (2 B) where the noise is the Hessian's."""
    h = torch.tensor([[1.2, 0.4], [0.4, 0.5]])
    sigma = torch.tensor([[0.3, -0.1], [-0.1, 0.6]])
    s = ou_covariance(h, sigma, 0.1)
    torch.testing.assert_close(h @ s + s @ h, 0.1 * sigma)
    thermal = ou_covariance(h, h / 8, 0.1)
    torch.testing.assert_close(thermal, temperature(0.1, 8) * torch.eye(2))


def test_a_runs_own_covariance_agrees_with_the_law_of_sgd():
    """Along the eigenvectors of the Hessian, within the intervals, of which one in twenty may miss."""
    own, lr = objective(), 0.1
    minimum = torch.linalg.solve(H, SLOPE)
    values, vectors = torch.linalg.eigh(H)
    noise = noise_of(own, minimum)
    on_axes = vectors.T @ (noise.root.T @ noise.root) @ vectors * noise.share(4, replacement=True)
    law = sgd_covariance(torch.diag(values), on_axes, lr)
    generator = torch.Generator().manual_seed(1)
    theta, kept = minimum.expand(8, 3).clone(), []
    for k in range(6000):
        rows = torch.randint(N, (8, 4), generator=generator)
        residual = (X[rows] * theta[:, None]).sum(-1) - Y[rows]
        theta = theta - lr * (X[rows] * residual[..., None]).mean(1)
        if k >= 500:
            kept.append(theta)
    found = against_run(torch.stack(kept), vectors.T, law)
    assert ((found.run - found.law).abs() < 2 * found.bar).all()
    assert (found.bar < 0.2 * found.run).all()


@pytest.mark.parametrize(
    ("act", "error", "complaint"),
    [
        (lambda: sgd_sde(objective(), 0.1, 1, order=3), SettingError, "order is 3, expected 1 or 2"),
        (lambda: sgd_sde(objective(), -0.1, 1), SettingError, "lr is -0.1, expected a positive number"),
        (lambda: sgd_sde(objective(), 0.1, 21), SettingError, "the batch size is 21, expected .* the 20 samples"),
        (lambda: BatchGradient(objective(), 21), DataError, "the batch size is 21, expected .* the 20 samples"),
        (lambda: SVAG(0), SettingError, "refinement is 0, expected 1, 2"),
        (
            lambda: ou_covariance(torch.diag(torch.tensor([1.0, -1.0])), torch.eye(2), 0.1),
            ExplosionError,
            "eigenvalue -1",
        ),
        (lambda: sgd_covariance(torch.eye(2), torch.eye(2), 2.0), ExplosionError, "is 2, expected less than 2"),
    ],
)
def test_bad_input_is_named(act, error, complaint):
    with pytest.raises(error, match=complaint):
        act()
