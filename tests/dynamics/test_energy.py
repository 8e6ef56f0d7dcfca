"""Steppers of mechanical systems: orders, energies kept to rounding, gradients through implicit steps."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from mechanics import CAHN_HILLIARD, HENON_HEILES, PENDULUM, SPLIT_PENDULUM, interface, start
from torch import nn
from torch.autograd import forward_ad

from eom.calculus.discrete import discrete_gradient
from eom.dynamics.energy import DiscreteGradient, EnergySystem, MeanValue, gonzalez, gradient, itoh_abe
from eom.dynamics.energy_law import energy_law
from eom.dynamics.implicit import solve
from eom.dynamics.integrate import flow
from eom.dynamics.runge_kutta import RK4
from eom.dynamics.stepper import end, march
from eom.dynamics.symplectic import Composed, Gauss, ImplicitMidpoint, Leapfrog, suzuki, yoshida
from eom.errors import DataError, SettingError, StepError
from eom.physics.learned_fields import LagrangianField
from eom.physics.modified import Split
from eom.physics.systems import bodies, pendulum

TWO_BODIES = Split(
    lambda p: p.square().sum(-1) / 2, lambda q: -1 / (q[..., :2] - q[..., 2:]).norm(dim=-1)
)  # fmt: skip
MOMENTA = {  # and how many of two momenta and the angular momentum are kept
    "leapfrog": (Leapfrog(), 3), "Yoshida of leapfrog": (yoshida(Leapfrog()), 3),
    "implicit midpoint": (ImplicitMidpoint(), 3), "Gauss": (Gauss(2), 3), "Runge-Kutta": (RK4(), 2),
    "automatic": (DiscreteGradient(), 3), "mean value": (DiscreteGradient(MeanValue(4)), 2),
    "Gonzalez": (DiscreteGradient(gonzalez), 0), "Itoh-Abe": (DiscreteGradient(itoh_abe), 0),
}  # fmt: skip
STEPPERS = {
    "leapfrog": (Leapfrog(), SPLIT_PENDULUM, 2),
    "Yoshida": (yoshida(Leapfrog()), SPLIT_PENDULUM, 4),
    "Suzuki": (suzuki(Leapfrog()), SPLIT_PENDULUM, 4),
    "implicit midpoint": (ImplicitMidpoint(), PENDULUM, 2),
    "Gauss of two stages": (Gauss(2), PENDULUM, 4),
    "automatic": (DiscreteGradient(), PENDULUM, 2),
    "Gonzalez": (DiscreteGradient(gonzalez), PENDULUM, 2),
    "mean value": (DiscreteGradient(MeanValue(4)), PENDULUM, 2),
    "Itoh-Abe": (DiscreteGradient(itoh_abe), HENON_HEILES, 1),
    "automatic, composed": (yoshida(DiscreteGradient()), PENDULUM, 4),
}


@pytest.mark.parametrize("name", STEPPERS)
def test_order_of_the_state(name):
    stepper, field, order = STEPPERS[name]
    system = HENON_HEILES if field is HENON_HEILES else PENDULUM
    y = start(3, 4 if system is HENON_HEILES else 2) / 2
    exact = torch.stack([flow(lambda t, u: system(t, u[None])[0], x, 1.0, rtol=1e-13, atol=1e-13) for x in y])
    hs = [1 / 8, 1 / 16] if order == 4 else [1 / 32, 1 / 64]
    errors = [float((end(field, stepper, y, h=h, steps=round(1 / h)) - exact).norm()) for h in hs]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)
    assert getattr(stepper, "order", order) == order


@pytest.mark.parametrize(
    "rule",
    [discrete_gradient, gonzalez, MeanValue(3), itoh_abe],
    ids=["automatic", "Gonzalez", "mean value", "Itoh-Abe"],
)
def test_discrete_gradients_keep_an_energy_to_rounding(rule):
    """Of a cubic one, for which three nodes of the mean are enough; composed to order 4 too."""
    y = start(4, 4) / 2
    one = DiscreteGradient(rule)
    for stepper in (one,) if rule is itoh_abe else (one, yoshida(one)):
        energies = torch.stack([HENON_HEILES.energy(u) for _, u in march(HENON_HEILES, stepper, y, h=0.1, steps=20)])
        assert float((energies - energies[0]).abs().max()) < 1e-13


@pytest.mark.parametrize("h", [0.2, 0.3, 0.5])
def test_steps_of_any_size_keep_the_energy_to_rounding_and_are_the_same_again(h):
    """Where mixing has many small steps behind it, it takes none of them for what rounding leaves."""
    u = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    system = pendulum()
    states = system.simulate(u, h=h, steps=100)
    energies = system.energy(states)
    assert float((energies - energies[0]).abs().max()) < 1e-13
    assert torch.equal(states, system.simulate(u, h=h, steps=100))


@pytest.mark.parametrize("rtol", [1e-12, 1e-8])
def test_a_looser_tolerance_keeps_the_energy_as_well_as_it_says(rtol):
    u = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    system = dataclasses.replace(pendulum(), stepper=DiscreteGradient(rtol=rtol))
    energies = system.energy(system.simulate(u, h=0.3, steps=100))
    assert float((energies - energies[0]).abs().max()) < 100 * rtol


@pytest.mark.parametrize("name", sorted(MOMENTA))
def test_momenta_of_two_bodies_are_kept_to_rounding_by_those_that_can(name):
    """The sums of momenta by all but Gonzalez's and Itoh-Abe's rules; the angular one, quadratic, by fewer."""
    (stepper, kept), system = MOMENTA[name], bodies(2)
    u = torch.tensor([[1.0, 0.0, -1.0, 0.2, 0.1, 0.4, 0.0, -0.5]])
    after = end(TWO_BODIES if "leapfrog" in name else system.field, stepper, u, h=0.1, steps=50)
    measured = (system.conserved[k] for k in ("momentum in x", "momentum in y", "angular momentum"))
    drifts = [float((number(after) - number(u)).abs().max().detach()) for number in measured]
    assert max(drifts[:kept], default=0.0) < 1e-13
    assert kept == 3 or drifts[kept] > 1e-10


def test_others_keep_it_up_to_their_order():
    y = start(4, 4) / 2
    drift = {}
    for name, stepper in {"midpoint": ImplicitMidpoint(), "mean": DiscreteGradient(MeanValue(1))}.items():
        energies = torch.stack([HENON_HEILES.energy(u) for _, u in march(HENON_HEILES, stepper, y, h=0.1, steps=20)])
        drift[name] = float((energies - energies[0]).abs().max())
    assert min(drift.values()) > 1e-6


def test_a_quadratic_invariant_is_kept_by_gauss():
    oscillator = EnergySystem(lambda u: u.square().sum(-1) / 2, PENDULUM.structure)
    for stepper in (ImplicitMidpoint(), Gauss(2)):
        after = end(oscillator, stepper, start(), h=0.3, steps=40)
        torch.testing.assert_close(oscillator.energy(after), oscillator.energy(start()), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("h", [1e-4, 1e-3])
def test_cahn_hilliard_falls_and_keeps_its_mass_far_beyond_explicit_steps(h):
    u = start(3, 32)
    states = [x for _, x in march(CAHN_HILLIARD, DiscreteGradient(), u, h=h, steps=15)]
    energies = torch.stack([interface(x) for x in states])
    assert bool((energies.diff(dim=0) < 0).all())
    assert float((states[-1].mean(-1) - u.mean(-1)).abs().max()) < 1e-13


@pytest.mark.parametrize(
    "stepper",
    [DiscreteGradient(), DiscreteGradient(gonzalez), Gauss(2), Gauss(1)],
    ids=["automatic", "Gonzalez", "Gauss of two stages", "implicit midpoint"],
)
def test_gradients_flow_through_implicit_steps(stepper):
    """In the start and in the energy's parameters, against differences."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    system = EnergySystem(lambda u: net(u)[..., 0] + u.square().sum(-1) / 2, PENDULUM.structure)
    y, weight = start(), torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
    things = [y.requires_grad_(), *net.parameters()]

    def value() -> torch.Tensor:
        return (end(system, stepper, things[0], h=0.2, steps=2) * weight).sum()

    grads = torch.autograd.grad(value(), things, allow_unused=True, materialize_grads=True)
    along = [torch.randn_like(x) for x in things]
    ends = []
    for shift in (1e-5, -1e-5):
        with torch.no_grad():
            for x, d in zip(things, along, strict=True):
                x += shift * d
            ends.append(float(value()))
            for x, d in zip(things, along, strict=True):
                x -= shift * d
    wanted = (ends[0] - ends[1]) / 2e-5
    found = sum(float((g * d).sum()) for g, d in zip(grads, along, strict=True))
    assert found == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("slope", [0.3, -1.9, -0.95])
def test_mixing_solves_without_derivatives(slope):
    """Also where fixed points run away."""
    found = solve(lambda u: slope * torch.sin(u) + 1, torch.zeros(3, 2, dtype=torch.float64))
    assert found.method == "anderson"
    assert found.residual < 1e-14
    torch.testing.assert_close(found.u, slope * torch.sin(found.u) + 1, rtol=0, atol=1e-13)


def test_newton_solves_what_runs_away_from_mixing():
    matrix = torch.diag(-torch.logspace(0, 4, 12, dtype=torch.float64))
    found = solve(lambda u: u @ matrix + torch.sin(u) + 1, torch.zeros(2, 12, dtype=torch.float64))
    assert found.method == "newton"
    assert found.residual < 1e-12


@pytest.mark.parametrize("stepper", [DiscreteGradient(), Gauss(1)], ids=["discrete gradient", "midpoint"])
def test_an_equation_without_solution_names_time_step_and_residuals(stepper):
    """u' = 1 + u^2, of which a step beyond pi / 2 leads nowhere."""
    system = EnergySystem(lambda u: (u**3 / 3 + u).sum(-1), lambda g: g)
    with pytest.raises(StepError, match=r"at time 0 with h = 5, .*not solved to .*anderson: .*newton: .*a smaller"):
        end(system, stepper, torch.zeros(2, 1, dtype=torch.float64), h=5.0, steps=1)


def test_what_a_stepper_does_not_take_is_named():
    with pytest.raises(SettingError, match=r"given a function, expected EnergySystem\(H, G\)"):
        end(lambda t, u: u, DiscreteGradient(), start(), h=0.1, steps=1)
    with pytest.raises(SettingError, match=r"Leapfrog was given a EnergySystem and 2 entries, expected Separable"):
        end(PENDULUM, Leapfrog(), start(), h=0.1, steps=1)
    with pytest.raises(SettingError, match="energy is 3, expected a function of states"):
        EnergySystem(3, PENDULUM.structure)  # type: ignore[arg-type] - as a user may
    with pytest.raises(SettingError, match="stages is 3"):
        Gauss(3)


@pytest.mark.parametrize("stepper", [Gauss(2), DiscreteGradient()], ids=["Gauss", "discrete gradient"])
def test_a_step_may_be_a_tensor(stepper):
    sizes: list[Any] = [0.1, torch.tensor(0.1, dtype=torch.float64)]
    after = [end(PENDULUM, stepper, start(), h=h, steps=1) for h in sizes]
    torch.testing.assert_close(*after, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "h",
    [torch.full((4,), 0.1), torch.full((2, 1), 0.1), None, "0.1", math.nan],
    ids=["for each row, flat", "for other rows", "none", "text", "NaN"],
)
@pytest.mark.parametrize("stepper", [RK4(), Gauss(2), DiscreteGradient()], ids=["RK4", "Gauss", "discrete gradient"])
def test_steps_of_no_size_are_named(h, stepper):
    with pytest.raises(SettingError, match=r"h is .*, expected a finite number, or a tensor \[b, 1\]"):
        end(PENDULUM, stepper, start(), h=h, steps=1)


@pytest.mark.parametrize("steps", [2.5, -1, None, "2"], ids=str)
def test_what_is_no_number_of_steps_is_named(steps):
    with pytest.raises(SettingError, match=r"steps is .*, expected 0 or more, as a whole number"):
        end(PENDULUM, RK4(), start(), h=0.1, steps=steps)


@pytest.mark.parametrize("stepper", [RK4(), Gauss(2), DiscreteGradient()], ids=["RK4", "Gauss", "discrete gradient"])
def test_each_row_may_have_a_step_of_its_own(stepper):
    h: Any = torch.tensor([[0.1], [0.2], [0.1], [0.3]], dtype=torch.float64)
    after = end(PENDULUM, stepper, start(), h=h, steps=2)
    alone = [end(PENDULUM, stepper, y, h=float(k), steps=2) for k, y in zip(h, start(), strict=True)]
    torch.testing.assert_close(after, torch.stack(alone), rtol=0, atol=1e-13)


@pytest.mark.parametrize("rule", [discrete_gradient, gonzalez, MeanValue(2), itoh_abe])
def test_a_network_in_other_floats_is_named_and_its_own_errors_are_its_own(rule):
    net, u = nn.Linear(2, 1).float(), torch.ones(3, 2)
    with pytest.raises(DataError, match=r"states are torch\.float64, and the energy takes torch\.float32 alone"):
        rule(net, u, 2 * u)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        rule(nn.Linear(3, 1), u, 2 * u)


def test_an_energy_that_writes_to_its_states_is_not_said_to_be_of_other_floats():
    with pytest.raises(RuntimeError, match="in-place"):
        gradient(lambda u: u.sub_(1).square().sum(-1), torch.ones(1, 2))


@pytest.mark.parametrize(
    "act",
    [
        lambda u: end(PENDULUM, DiscreteGradient(), u, h=0.1, steps=2),
        lambda u: end(PENDULUM, RK4(), u, h=0.1, steps=2),
        lambda u: end(lambda t, y: -y, Gauss(2), u.requires_grad_(), h=0.1, steps=2),
        lambda u: discrete_gradient(PENDULUM.energy, u, 2 * u),
        lambda u: LagrangianField(nn.Linear(2, 1))(0.0, u),
    ],
    ids=["implicit steps", "explicit steps", "of any field", "discrete gradient", "Lagrangian"],
)
def test_forward_derivatives_that_would_be_wrong_are_refused(act):
    with forward_ad.dual_level(), pytest.raises(SettingError, match=r"has a tangent .* take reverse mode"):
        act(forward_ad.make_dual(torch.ones(1, 2), torch.ones(1, 2)))


def test_forward_derivatives_go_through_reverse_ones_and_iterations():
    y, d = start(3), torch.ones(3, 2)
    reverse = torch.func.jvp(torch.func.vmap(torch.func.grad(lambda u: PENDULUM.energy(u))), (y,), (d,))[1]
    with forward_ad.dual_level():
        slope = gradient(PENDULUM.energy, forward_ad.make_dual(y.clone().requires_grad_(), d))
        torch.testing.assert_close(tangent(slope), reverse, rtol=1e-12, atol=1e-14)
        after = end(lambda t, u: -u, Gauss(2), forward_ad.make_dual(y, d), h=0.1, steps=1)
        torch.testing.assert_close(tangent(after), after.detach() * d / y, rtol=1e-10, atol=1e-12)  # of a linear map


def tangent(x):
    found: Any = forward_ad.unpack_dual(x).tangent
    return found.detach()


@pytest.mark.parametrize("rtol", [math.inf, 1e3, 0, -1.0, "tight"])
def test_a_tolerance_that_is_none_is_named(rtol):
    with pytest.raises(SettingError, match=r"rtol is .*, expected numbers between 0 and 1"):
        DiscreteGradient(rtol=rtol)


@pytest.mark.parametrize("rule", [discrete_gradient, gonzalez, MeanValue(2), itoh_abe])
def test_gradients_flow_through_steps_of_a_linear_energy(rule):
    """u_1 = u_0 + h S w."""
    y, w = start().requires_grad_(), torch.tensor([2.0, 1.0], requires_grad=True)
    after = DiscreteGradient(rule).step(EnergySystem(lambda u: u @ w, PENDULUM.structure), 0.0, 0.1, y, None)[0]
    slopes = torch.autograd.grad((after * torch.tensor([1.0, 3.0])).sum(), [y, w])
    torch.testing.assert_close(slopes[0], torch.tensor([1.0, 3.0]).expand_as(y))
    torch.testing.assert_close(slopes[1], 0.1 * len(y) * torch.tensor([-3.0, 1.0]))
    plain = EnergySystem(lambda u: 2 * u[:, 0] + u[:, 1], PENDULUM.structure)
    (slope,) = torch.autograd.grad(DiscreteGradient(rule).step(plain, 0.0, 0.1, y, None)[0].sum(), y)
    torch.testing.assert_close(slope, torch.ones_like(y))


def test_second_derivatives_through_an_implicit_step_are_refused():
    y = start().requires_grad_()
    after = end(PENDULUM, DiscreteGradient(), y, h=0.1, steps=1)
    with pytest.raises(StepError, match="first derivatives through an implicit step, and no second ones"):
        torch.autograd.grad(after.square().sum(), y, create_graph=True)


def test_a_field_without_parameters_marches_implicitly_where_gradients_are_recorded():
    after = end(lambda t, u: PENDULUM.structure(u), ImplicitMidpoint(), start(), h=0.3, steps=3)
    torch.testing.assert_close(after.square().sum(-1), start().square().sum(-1), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    "stepper",
    [Gauss(2), RK4(), DiscreteGradient(MeanValue(2)), DiscreteGradient(gonzalez), DiscreteGradient(itoh_abe)],
    ids=["Gauss", "Runge-Kutta", "mean value", "Gonzalez", "Itoh-Abe"],
)
@pytest.mark.parametrize("energy", [torch.square, torch.sum], ids=["of each entry", "of the whole batch"])
def test_an_energy_that_is_no_number_for_each_state_is_refused(stepper, energy):
    with pytest.raises(DataError, match=r"the energy of states \[4, 2\] is \[.*\], expected \[4\]: a number for each"):
        end(EnergySystem(energy, PENDULUM.structure), stepper, start(), h=0.1, steps=1)


@pytest.mark.parametrize("rule", [gonzalez, MeanValue(2), itoh_abe], ids=["Gonzalez", "mean value", "Itoh-Abe"])
def test_an_energy_may_keep_its_last_axis(rule):
    kept = EnergySystem(lambda u: PENDULUM.energy(u)[:, None], PENDULUM.structure)
    steps = [end(field, DiscreteGradient(rule), start(), h=0.1, steps=1) for field in (kept, PENDULUM)]
    assert torch.equal(*steps)


@pytest.mark.parametrize(
    ("size", "structure", "message"),
    [
        (4, lambda g: g @ torch.eye(3), r"does not take gradients \[32, 4\]"),
        (2, lambda g: g[:, :1], r"maps \[32, 2\] to \[32, 1\], expected the same"),
    ],
    ids=["other size", "fewer entries"],
)
def test_structures_of_another_size_are_refused(size, structure, message):
    with pytest.raises(SettingError, match=message):
        energy_law(structure, size)


def test_the_law_of_a_matrix_in_float32_is_told():
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert energy_law(lambda g: g @ turn, 2) == "conserves"


class Falling(nn.Module):
    """-c (g + g_shifted / 2), in floats of its own."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.c = nn.Parameter(torch.full((), 0.1, dtype=dtype))

    def forward(self, g: torch.Tensor) -> torch.Tensor:
        return -self.c * (g + g.roll(1, -1) / 2)


@pytest.mark.parametrize("size", [4, 700])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_law_of_a_module_is_told_in_any_floats(dtype, size):
    assert energy_law(Falling(dtype), size) == "dissipates"


def test_a_structure_without_derivatives_is_told_where_they_are_needed():
    detached = lambda g: -g.detach()  # noqa: E731 - twice
    assert energy_law(detached, 4) == "dissipates"
    with pytest.raises(SettingError, match=r"G of 700 entries has no derivative, .* without detach\(\)"):
        energy_law(detached, 700)


@pytest.mark.parametrize("make", [yoshida, suzuki, lambda x: Composed(x, (1.0,), 2)], ids=["Yoshida", "Suzuki", "own"])
@pytest.mark.parametrize("stepper", [4, Leapfrog], ids=["number", "class"])
def test_no_stepper_is_composed(make, stepper):
    with pytest.raises(SettingError, match=r"expected one of order 2, such as Leapfrog\(\)"):
        make(stepper)


@pytest.mark.parametrize(
    "stepper",
    [RK4(), DiscreteGradient(itoh_abe), DiscreteGradient(lambda energy, u, v: gradient(energy, v))],
    ids=["Runge-Kutta", "Itoh-Abe", "own"],
)
def test_what_is_not_symmetric_is_not_composed(stepper):
    with pytest.raises(SettingError, match=r"not symmetric: compose Leapfrog\(\), Gauss or another discrete gradient"):
        yoshida(stepper)


class Midpoint:
    """A rule that is symmetric, and says so."""

    symmetric = True

    def __call__(self, energy, u, v):
        return gradient(energy, (u + v) / 2)


@pytest.mark.parametrize("rule", [gonzalez, MeanValue(2), Midpoint()], ids=["Gonzalez", "mean value", "own"])
def test_what_is_symmetric_is_composed_and_undone_by_the_step_back(rule):
    stepper = suzuki(yoshida(DiscreteGradient(rule)))
    there = end(PENDULUM, stepper, start(), h=0.1, steps=1)
    torch.testing.assert_close(end(PENDULUM, stepper, there, h=-0.1, steps=1), start(), rtol=0, atol=1e-12)


def test_one_direction_of_many_in_which_energy_rises_is_found():
    """-1 in 1999 entries and 1 in one of them, in a hidden direction."""
    n = torch.randn(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert energy_law(lambda g: -g + 2 * (g @ n)[:, None] * n / n.square().sum(), 2000) is None
    assert energy_law(lambda g: 4e6 * (g.roll(1, -1) - 2 * g + g.roll(-1, -1)) + 50 * g, 2000) is None  # a slow wave
    fall = -torch.linspace(1e-3, 1, 2000, dtype=torch.float64)
    fall[7] = 1e-7
    assert energy_law(lambda g: fall * g, 2000) is None  # by little
    assert energy_law(lambda g: -g, 2000) == "dissipates"
    assert energy_law(lambda g: g.roll(1, -1) - g.roll(-1, -1), 2000) == "conserves"


@pytest.mark.parametrize("size", [3, 2000])
@pytest.mark.parametrize(
    "structure",
    [lambda g: -g.abs(), lambda g: -(g**3), lambda g: -g.clamp(-6, 6), lambda g: -nn.functional.hardshrink(g, 1e-3)],
    ids=["absolute", "cube", "clamped when large", "nothing when small"],
)
def test_a_structure_that_is_not_linear_is_told(structure, size):
    with pytest.raises(SettingError, match="not linear"):
        energy_law(structure, size)


def test_a_composition_does_not_step_back_in_time_where_energy_falls():
    with pytest.raises(SettingError, match=r"not skew, .* take DiscreteGradient\(.*\) by itself, with smaller steps"):
        end(CAHN_HILLIARD, yoshida(DiscreteGradient()), start(3, 32), h=1e-4, steps=1)
