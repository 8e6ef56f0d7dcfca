"""Implicit equations: directions of Newton's method without matrices, and what is stiff on grids taken out."""

import dataclasses
from contextlib import suppress

import pytest
import torch
from mechanics import PENDULUM, start
from torch import Tensor

from eom.dynamics.energy import DiscreteGradient, EnergySystem
from eom.dynamics.implicit import LARGEST, solve
from eom.dynamics.newton_krylov import along, direction, gmres
from eom.dynamics.periodic import loosened
from eom.dynamics.stepper import end
from eom.dynamics.symplectic import Gauss
from eom.errors import SettingError, StepError
from eom.physics.lattices import cahn_hilliard, korteweg_de_vries, wave

WIDE = torch.float64


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=WIDE)


def test_gmres_solves_each_row_to_its_tolerance():
    """A row of zeros and one that a single direction solves among them."""
    matrix = torch.eye(12, dtype=WIDE) + 0.5 * random(3, 12, 12)
    right = random(3, 12)
    matrix[1], right[2] = 2 * torch.eye(12, dtype=WIDE), 0
    found = gmres(lambda v: torch.einsum("bij,bj->bi", matrix, v), right, 1e-12, 12)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, right), rtol=1e-9, atol=1e-11)


def test_a_direction_is_newtons():
    a = random(6, 6) / 2
    g = lambda u: torch.sin(u @ a.T)  # noqa: E731 - one line of use
    u = random(2, 6)
    slopes = torch.stack([torch.cos(a @ x)[:, None] * a for x in u])
    wanted = torch.linalg.solve(torch.eye(6, dtype=WIDE) - slopes, g(u) - u)
    assert float((direction(g, u, g(u)) - wanted).norm() / wanted.norm()) < 1e-2


def test_newton_krylov_solves_what_is_too_large_for_a_matrix():
    rates = torch.logspace(0, 4, 12, dtype=WIDE).repeat(LARGEST // 12 + 1)
    found = solve(lambda u: torch.sin(u) + 1 - rates * u, torch.zeros(2, len(rates), dtype=WIDE))
    assert found.method == "newton-krylov"
    torch.testing.assert_close((1 + rates) * found.u, torch.sin(found.u) + 1, rtol=0, atol=1e-11)


@pytest.mark.parametrize("grid", [(37,), (24, 18)])
def test_a_convolution_is_taken_out_whole(grid):
    """The loosened map of an affine one that is the same everywhere, of two channels, is constant."""
    mixing = torch.tensor([[3.0, -1.0], [2.0, 5.0]], dtype=WIDE)
    axes = tuple(range(-len(grid), 0))

    def g(u: Tensor) -> Tensor:
        x = u.view(-1, 2, *grid)
        spread = sum(k * x.roll(k - 1, axis) for k in range(4) for axis in axes)
        return torch.einsum("ij,bj...->bi...", mixing, spread).flatten(1) + 1

    u = random(3, 2 * torch.Size(grid).numel())
    loose = loosened(g, u, grid)
    assert float(along(loose, u, loose(u), u).norm() / u.norm()) < 1e-6
    torch.testing.assert_close(g(loose(u)), loose(u), rtol=0, atol=1e-6)


STEPS = {
    "KdV": (korteweg_de_vries(24), 1 + random(2, 24) / 4, 0.1),
    "Cahn-Hilliard": (cahn_hilliard(20), 0.3 * random(2, 20), 2e-3),
    "Cahn-Hilliard, two dimensions": (cahn_hilliard(8, dimensions=2), 0.3 * random(2, 64), 2e-3),
    "wave": (wave(21), random(2, 42), 2.0),
}


@pytest.mark.parametrize("stepper", [DiscreteGradient(), Gauss(2)], ids=["discrete gradient", "Gauss"])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_knows_its_grid_is_the_one_that_does_not(name, stepper):
    system, u, h = STEPS[name]
    assert system.field.grid
    plain = dataclasses.replace(system, grid=()).field
    found, wanted = (end(field, stepper, u, h=h, steps=2).detach() for field in (system.field, plain))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


def test_gradients_flow_through_a_step_too_large_for_a_matrix():
    """In the start and in the energy's scale, against differences."""
    system, points = cahn_hilliard(48, dimensions=2), 48 * 48
    assert points > LARGEST
    y, along_y, weight = random(3, 1, points).unbind(0)

    def value(y: Tensor, scale: Tensor) -> Tensor:
        field = EnergySystem(lambda u: scale * system.energy(u), system.structure, system.grid)
        return (end(field, DiscreteGradient(), 0.3 * y, h=1e-3, steps=1) * weight).sum()

    at = [y.requires_grad_(), torch.tensor(1.1, dtype=WIDE, requires_grad=True)]
    grads = torch.autograd.grad(value(*at), at)
    e = 1e-5
    with torch.no_grad():
        ends = [float(value(y + s * e * along_y, at[1] + s * e)) for s in (1, -1)]
    found = float((grads[0] * along_y).sum() + grads[1])
    assert found == pytest.approx((ends[0] - ends[1]) / (2 * e), rel=1e-6)


@pytest.mark.parametrize("stepper", [DiscreteGradient(), Gauss(2)], ids=["discrete gradient", "Gauss"])
def test_torchs_own_check_of_gradients_finds_them_right(stepper):
    """It also pulls back where no gradient comes."""
    u = start(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: end(PENDULUM, stepper, u, h=0.1, steps=2), u)


def test_a_grid_of_another_size_is_named():
    with pytest.raises(SettingError, match=r"a state has 6 entries, expected a multiple of those of the grid \[4\]"):
        solve(torch.sin, torch.ones(1, 6), grid=(4,))


@pytest.mark.parametrize("stepper", [Gauss(1), Gauss(2)], ids=["midpoint", "two stages"])
@pytest.mark.parametrize("h", [0.03, 0.1, 1.0])
def test_stiff_steps_in_single_precision_run_away_in_mixing_and_are_solved_by_newtons_method(stepper, h):
    u, rates = random(1, 10), torch.logspace(-2, 4, 10, dtype=WIDE)

    def after(dtype: torch.dtype) -> Tensor:
        return end(lambda t, y: torch.tanh(y.roll(1, -1)) - rates.to(dtype) * y, stepper, u.to(dtype), h=h, steps=5)

    rounding = 10 * h * float(rates.max()) * torch.finfo(torch.float32).eps  # of h f(u)
    torch.testing.assert_close(after(torch.float32).double(), after(WIDE), rtol=0, atol=rounding)


TODA = EnergySystem(lambda u: u[:, 2:].square().sum(1) / 2 + torch.exp(u[:, 1] - u[:, 0]), PENDULUM.structure)


@pytest.mark.parametrize("place", [0.0, 1.0, 2.0, 3.0])
def test_iterates_whose_energy_is_infinite_are_no_fault_of_the_energy(place):
    """e^(q_2 - q_1): mixing runs far away; then Newton's method finds the step, or it is too large, and no more."""
    u = torch.tensor([[place - 3.0, 3.0, 0.0, 0.0], [0.0, 0.1, 0.0, 1.0]], dtype=WIDE)
    with suppress(StepError):
        after = end(TODA, DiscreteGradient(), u, h=10.0, steps=3)
        torch.testing.assert_close(TODA.energy(after), TODA.energy(u), rtol=1e-13, atol=0)


def test_a_step_that_no_method_finds_is_too_large():
    u = torch.tensor([[-2.0, 3.0, 0.0, 0.0], [0.0, 0.1, 0.0, 1.0]], dtype=WIDE)
    with pytest.raises(StepError, match=r"take a smaller step$"):
        end(TODA, DiscreteGradient(), u, h=10.0, steps=3)


def test_newtons_method_goes_on_while_it_comes_nearer():
    """Kept matrices of a stiff spring take more than twenty iterations."""
    spring = EnergySystem(
        lambda u: 1e4 * (u[:, :2].square().sum(1) / 2 + u[:, 0] * u[:, 1] ** 2 / 3) + u[:, 2:].square().sum(1) / 2,
        lambda g: torch.cat([g[:, 2:], -g[:, :2]], 1),
    )
    for u in random(40, 4)[:, None]:
        after = end(spring, DiscreteGradient(), u / 4, h=0.3, steps=1)
        torch.testing.assert_close(spring.energy(after), spring.energy(u / 4), rtol=1e-10, atol=0)


@pytest.mark.parametrize("stiffness", [1e1, 1e2])
def test_linear_equations_are_solved_by_mixing_in_a_few_times_their_entries(stiffness):
    """Of four entries: four directions, and again for what doubts in them leave."""
    matrix, u = stiffness * (random(4, 4) + random(4, 4).T) / 4, random(3, 4)

    def g(v: Tensor) -> Tensor:
        return u + v @ matrix.T / 10

    found = solve(g, u)
    assert found.method == "anderson"
    assert found.calls <= 12
    exact = torch.linalg.solve(torch.eye(4, dtype=WIDE) - matrix / 10, u.T).T
    torch.testing.assert_close(found.u, exact, rtol=1e-9, atol=1e-12)
