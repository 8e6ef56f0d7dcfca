"""States and losses of any size: an equation of motion that is linear, or nearly so, knows no unit."""

import math

import pytest
import torch
from mechanics import PENDULUM, rotate
from torch import Tensor

from eom.calculus.discrete import discrete_gradient
from eom.dynamics.energy import DiscreteGradient, EnergySystem, MeanValue, gonzalez, itoh_abe
from eom.dynamics.implicit import differentiable, is_rounding, solve
from eom.dynamics.iterations import Solved
from eom.dynamics.stepper import end
from eom.dynamics.symplectic import Gauss, ImplicitMidpoint
from eom.errors import SettingError, StepError

SPRING = EnergySystem(lambda u: u.square().sum(-1) / 2, rotate)
STEPPERS = [DiscreteGradient(rule) for rule in (discrete_gradient, gonzalez, MeanValue(2), itoh_abe)]
NAMES = ["automatic", "Gonzalez", "mean value", "Itoh-Abe", "midpoint", "Gauss"]


@pytest.mark.parametrize("stepper", [*STEPPERS, ImplicitMidpoint(), Gauss(2)], ids=NAMES)
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_a_spring_turns_alike_at_every_amplitude(stepper, wide):
    """Each step turns by 2 atan(h/2), or with two stages by the phase of the (2, 2) Pade approximation of exp(i h)."""
    h, eps = 0.1, torch.finfo(wide).eps
    phase = 2 * math.atan(h / 2) if stepper != Gauss(2) else 2 * math.atan2(h / 2, 1 - h * h / 12)
    wanted = torch.tensor([math.cos(50 * phase), -math.sin(50 * phase)], dtype=torch.float64)
    for size in (1e3, 1.0, 1e-3, 1e-9):
        found = end(SPRING, stepper, torch.tensor([[size, 0.0]], dtype=wide), h=h, steps=50)[0].detach().double() / size
        assert float((found - wanted).norm()) < 50 * 20 * eps * 4


def test_a_small_state_is_followed_as_well_beside_a_large_one():
    both = torch.tensor([[1.0, 0.0], [1e-6, 0.0]], dtype=torch.float32)
    together = end(SPRING, ImplicitMidpoint(), both, h=0.1, steps=20)
    alone = end(SPRING, ImplicitMidpoint(), both[1:], h=0.1, steps=20)
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [1.0, 1e-8])
def test_gradients_of_small_losses_are_as_exact_as_of_large_ones(size):
    """u = 1 + u a / 2 has du/da = 1 / (2 (1 - a/2)^2)."""
    a = torch.tensor(1.0, dtype=torch.float32, requires_grad=True)

    def g(u: Tensor) -> Tensor:
        return 1 + u * a / 2

    u = differentiable(g, g, solve(g, torch.ones(3, 1, dtype=torch.float32)).u)
    (found,) = torch.autograd.grad(size * u.mean(), a)
    assert float(found) == pytest.approx(2 * size, rel=1e-5)


@pytest.mark.parametrize("rule", [gonzalez, itoh_abe], ids=["Gonzalez", "Itoh-Abe"])
def test_rules_that_subtract_energies_keep_them_to_their_rounding_or_say_that_they_cannot(rule):
    """1 - cos q at q = .01 is known to 2e-12 of it, at 1e-6 to 2e-4; the automatic rule keeps all digits."""
    small = torch.tensor([[1e-2, 0.0]], dtype=torch.float64)
    found = end(PENDULUM, DiscreteGradient(rule), small, h=0.1, steps=50)
    torch.testing.assert_close(found, end(PENDULUM, DiscreteGradient(), small, h=0.1, steps=50), rtol=1e-4, atol=0)
    with pytest.raises(StepError, match="smaller step, or a looser rtol"):
        end(PENDULUM, DiscreteGradient(rule), 1e-4 * small, h=0.1, steps=50)


def test_a_rule_that_subtracts_energies_is_solved_from_every_start():
    """Near rest its values move by steps of rounding, that most probes do not cross."""
    for turn in torch.linspace(0, 6.2, 8, dtype=torch.float64):
        u = 1e-2 * torch.stack([turn.cos(), turn.sin()])[None]
        with torch.no_grad():
            v = end(PENDULUM, DiscreteGradient(gonzalez), u, h=0.1, steps=12)
        before, after = (2 * torch.sin(x[0, 0] / 2) ** 2 + x[0, 1] ** 2 / 2 for x in (u, v))
        assert float((after / before - 1).abs()) < 1e-10


@pytest.mark.parametrize("curved", [0.0, 1e9])
def test_what_does_not_converge_is_no_rounding(curved):
    """A constant that stays, and a curve as steep as the residual is small."""
    off, at = 1e-9, torch.ones(1, 2, dtype=torch.float64)
    found = Solved(at, off, 1, "")
    assert not is_rounding(lambda u: u + off + curved * (u - at).square(), found)


def test_steps_of_rounding_are_told_as_such():
    off, at = 1e-9, torch.ones(1, 2, dtype=torch.float64)
    assert is_rounding(lambda u: (u / off).round() * off + torch.where(u == at, off, 0.0), Solved(at, off, 1, ""))


def test_itoh_abe_is_exact_in_a_small_entry_beside_a_large_one():
    """H is 2 at most, so that its differences are known to a few eps of that."""
    u, v = (torch.tensor([[1e5, x]], dtype=torch.float64) for x in (1.0, 1.01))
    rise = (itoh_abe(lambda x: x[:, 1] ** 4 - torch.cos(3 * x[:, 1]), u, v) * (u - v)).sum().item()
    assert abs(rise - (1 - 1.01**4 - math.cos(3) + math.cos(3.03))) <= 10 * torch.finfo(torch.float64).eps


def test_the_automatic_rule_keeps_energies_that_cancel():
    for size in (1e-3, 1e-6):
        u = torch.tensor([[size, 0.0]], dtype=torch.float64)
        v = end(PENDULUM, DiscreteGradient(), u, h=0.1, steps=50).detach()
        energies = [2 * torch.sin(x[:, 0] / 2) ** 2 + x[:, 1] ** 2 / 2 for x in (u, v)]
        assert float((energies[1] / energies[0] - 1).abs()) < 1e-13


@pytest.mark.parametrize("turns", [1, 10])
def test_energy_in_float32_is_kept_to_the_rounding_of_an_angle_after_any_number_of_turns(turns):
    """Each of n steps rounds the angle by eps q, with signs of its own: H is off by less than eps |q| |sin q| sqrt(n).

    Stopping at a residual of 20 eps (|q_0| + |q|) adds up instead, as the residuals have one sign.
    """
    steps, u = 60, torch.tensor([[1 + 2 * math.pi * turns, 0.0]], dtype=torch.float32)
    with torch.no_grad():  # else the end of a step is evaluated once more, to be differentiated
        last = end(PENDULUM, DiscreteGradient(), u, h=0.1, steps=steps)
    off = float((PENDULUM.energy(last) - PENDULUM.energy(u)).abs())
    assert off < 4 * torch.finfo(torch.float32).eps * float(u.abs().max()) * math.sqrt(steps)  # four times at most


@pytest.mark.parametrize("stepper", [DiscreteGradient(), ImplicitMidpoint()], ids=["automatic", "midpoint"])
def test_a_position_that_moves_only_after_a_small_momentum_does_move(stepper):
    """q'' = -1e26 q of a mass of 1e-26: beside q, the first step of p is below rounding."""
    light = EnergySystem(lambda u: u[:, 0] ** 2 / 2 + u[:, 1] ** 2 / 2e-26, rotate)
    turned = end(light, stepper, torch.tensor([[1e-11, 0.0]], dtype=torch.float64), h=3e-14, steps=10)
    phase = 10 * 2 * math.atan(0.15)
    assert float(turned[0, 0].detach()) == pytest.approx(1e-11 * math.cos(phase), rel=1e-9)


@pytest.mark.parametrize("rule", [discrete_gradient, MeanValue(2)], ids=["automatic", "mean value"])
@pytest.mark.parametrize(
    ("mass", "stiffness", "size"), [(1.0, 1.0, 1.0), (1e-16, 1e-16, 1.0), (3e-26, 30.0, 1e-11)], ids=str
)
def test_energy_is_kept_to_rounding_in_any_units_of_momenta_and_positions(rule, mass, stiffness, size):
    """An atom in SI units has momenta of 1e-24 beside positions of 1e-11."""
    h = 0.1 * math.sqrt(mass / stiffness)
    atom = EnergySystem(
        lambda u: u[:, 1] ** 2 / 2 / mass + stiffness * u[:, 0] ** 2 * (1 + (u[:, 0] / size) ** 2 / 5) / 2, rotate
    )
    u = torch.tensor([[size, 0.0]], dtype=torch.float64)
    ends = atom.energy(torch.cat([u, end(atom, DiscreteGradient(rule), u, h=h, steps=15).detach()]))
    assert abs(float(ends[1] / ends[0]) - 1) < 15 * 4 * torch.finfo(torch.float64).eps


@pytest.mark.parametrize("size", [1e-25, 1e-20, 1e15])
def test_squares_of_states_may_under_and_overflow(size):
    steps = [
        end(SPRING, ImplicitMidpoint(), s * torch.ones(1, 2, dtype=torch.float32), h=0.3, steps=20) / s
        for s in (1.0, size)
    ]
    torch.testing.assert_close(*steps, rtol=0, atol=1e-4)


def test_gradients_flow_through_a_step_that_needs_newtons_method():
    """Implicit midpoint of a spring whose frequency times h is 30: u_1 = (1 - hS/2)^-1 (1 + hS/2) u_0."""
    u = torch.tensor([[1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    turn = 15 * torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    unit = torch.eye(2, dtype=torch.float64)
    step = torch.linalg.solve(unit - turn, unit + turn)
    for stepper in (DiscreteGradient(), ImplicitMidpoint()):
        (found,) = torch.autograd.grad(end(SPRING, stepper, u, h=30.0, steps=1)[0, 0], u)
        torch.testing.assert_close(found[0], step[0], rtol=0, atol=1e-12)


def test_a_singular_step_and_half_floats_are_refused():
    with pytest.raises(StepError, match="take a smaller step"):
        ImplicitMidpoint().step(lambda t, u: 20 * u, 0.0, 0.1, torch.ones(1, 2), None)
    with pytest.raises(SettingError, match="bfloat16, expected float32 or float64"):
        end(SPRING, ImplicitMidpoint(), torch.ones(1, 2, dtype=torch.bfloat16), h=0.1, steps=1)
