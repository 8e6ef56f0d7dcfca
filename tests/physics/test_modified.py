"""Modified energies: closed forms of the spring, and orders to which marches conserve and learned systems invert."""

from typing import Any

import pytest
import torch
from torch import nn

from eom.dynamics.energy import EnergySystem
from eom.dynamics.integrate import flow
from eom.dynamics.order import ladder
from eom.dynamics.stepper import end, march
from eom.dynamics.symplectic import Gauss, ImplicitMidpoint, Leapfrog, yoshida
from eom.errors import DataError, SettingError
from eom.physics.models import energy_model, symplectic_network
from eom.physics.modified import Split, learned_energy, mixing, modified_energy
from eom.physics.systems import rotate, rotate_with_friction

SPRING = Split(lambda p: p.square().sum(-1), lambda q: q.square().sum(-1))
PENDULUM = Split(lambda p: p.square().sum(-1), lambda q: 3 * (1 - torch.cos(q)).sum(-1))
HENON_HEILES = Split(
    lambda p: p.square().sum(-1) / 2, lambda q: q.square().sum(-1) / 2 + q[..., 0] ** 2 * q[..., 1] - q[..., 1] ** 3 / 3
)
RELATIVISTIC = Split(lambda p: torch.sqrt(1 + p.square()).sum(-1), PENDULUM.potential)
AT = torch.tensor([[1.0, 0.5], [0.3, 0.9], [-0.4, 0.2]], dtype=torch.float64)
WIDE = torch.cat([AT.flip(0), AT], -1)[:2] / 2


def by_masses(u: torch.Tensor) -> torch.Tensor:
    """p M(q)^-1 p / 2 + V(q), M = 2 + cos q."""
    q, p = u.chunk(2, -1)
    return (p * torch.linalg.solve((2 + torch.cos(q))[..., None], p)).sum(-1) / 2 + PENDULUM.potential(q)


class Normed(nn.Module):
    """T and V of a network that normalises."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(2, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1)).double()

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return self.net(u)


MARCHES = {
    "midpoint, masses": (ImplicitMidpoint(), EnergySystem(by_masses, rotate), AT),
    "leapfrog, layer norm": (Leapfrog(), Split(Normed(), Normed()), WIDE),
    "leapfrog, pendulum": (Leapfrog(), PENDULUM, AT),
    "leapfrog, Henon-Heiles": (Leapfrog(), HENON_HEILES, WIDE),
    "leapfrog, T not quadratic": (Leapfrog(), RELATIVISTIC, AT),
    "midpoint, pendulum": (ImplicitMidpoint(), PENDULUM, AT),
    "midpoint, Henon-Heiles": (ImplicitMidpoint(), HENON_HEILES, WIDE),
    "midpoint, T not quadratic": (ImplicitMidpoint(), RELATIVISTIC, AT),
}


@pytest.mark.parametrize("order", [0, 2, 4])
def test_the_spring_has_closed_forms(order):
    """Leapfrog is p^2 asin h / (h r) + q^2 r asin h / h, r^2 = 1 - h^2; the midpoint H atan h / h; and inverses."""
    h = 0.4
    unit = torch.eye(2, dtype=torch.float64)  # H on them: the coefficients of q^2 and p^2
    powers = torch.tensor([1.0, h**2, h**4], dtype=torch.float64)[: order // 2 + 1]

    def series(*rows: tuple[float, float, float]) -> torch.Tensor:
        return torch.tensor(rows, dtype=torch.float64)[:, : len(powers)] @ powers

    def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
        torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-14)

    leap = modified_energy(SPRING, Leapfrog(), h, order)
    close(leap(unit), series((1, -1 / 3, -2 / 15), (1, 2 / 3, 8 / 15)))
    middle = modified_energy(SPRING, ImplicitMidpoint(), h, order)
    close(middle(unit), series((1, -1 / 3, 1 / 5), (1, -1 / 3, 1 / 5)))
    learned = learned_energy(SPRING, Leapfrog(), h, order, at=AT).energy  # q^2 tan h / h + p^2 sin 2h / 2h
    close(learned(unit), series((1, 1 / 3, 2 / 15), (1, -2 / 3, 2 / 15)))
    learned = learned_energy(SPRING, ImplicitMidpoint(), h, order).energy  # tan h / h
    close(learned(unit), series((1, 1 / 3, 2 / 15), (1, 1 / 3, 2 / 15)))


@pytest.mark.parametrize("order", [0, 2, 4])
@pytest.mark.parametrize("name", MARCHES)
def test_a_march_conserves_its_modified_energy_to_the_next_order(name, order):
    stepper, system, y = MARCHES[name]

    def drift(h: float) -> float:
        with torch.no_grad():
            states = torch.stack([u for _, u in march(system, stepper, y, h=h, steps=round(2 / h))])
        energies = modified_energy(system, stepper, h, order)(states.flatten(0, 1)).view(states.shape[:2])
        return float((energies - energies[0]).abs().max())

    assert ladder(drift, [0.1, 0.05, 0.025]).slopes[-1] == pytest.approx(order + 2, abs=0.05)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("leapfrog, pendulum", 0),
        ("leapfrog, T not quadratic", 2),
        ("midpoint, T not quadratic", 2),
        pytest.param("leapfrog, pendulum", 4, marks=pytest.mark.slow),
    ],
)
def test_its_flow_is_the_step_to_the_next_order(name, order):
    stepper, system, y = MARCHES[name]

    def gap(h: float) -> float:
        whole = EnergySystem(modified_energy(system, stepper, h, order), rotate)
        with torch.no_grad():
            return float((end(system, stepper, y, h=h, steps=1) - flow(whole, y, h, rtol=1e-13, atol=1e-14)).norm())

    hs = [0.1, 0.07, 0.05] if order == 4 else [0.025, 0.0125, 0.00625]  # above rounding
    assert ladder(gap, hs).slopes[-1] == pytest.approx(order + 3, abs=0.1)


@pytest.mark.parametrize(
    ("name", "order"),
    [("pendulum", 0), ("pendulum", 2), pytest.param("pendulum", 4, marks=pytest.mark.slow), ("Henon-Heiles", 2)],
)
def test_a_midpoint_step_of_the_learned_system_is_the_true_flow(name, order):
    _, system, y = MARCHES[f"midpoint, {name}"]

    def gap(h: float) -> float:
        with torch.no_grad():
            exact = flow(system, y, h, rtol=1e-13, atol=1e-14)
            learned = learned_energy(system, ImplicitMidpoint(), h, order)
            return float((end(learned, ImplicitMidpoint(), y, h=h, steps=1) - exact).norm())

    assert ladder(gap, [0.2, 0.1, 0.05]).slopes[-1] == pytest.approx(order + 3, abs=0.1)


@pytest.mark.parametrize("order", [0, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_leapfrog_step_of_the_learned_springs_is_the_true_flow(order):
    """Coupled ones, with different masses."""
    stiff = torch.tensor([[2.0, -0.7], [-0.7, 1.0]], dtype=torch.float64)
    masses = torch.tensor([1.0, 3.0], dtype=torch.float64)
    system = Split(lambda p: (p**2 / masses).sum(-1) / 2, lambda q: (q * (q @ stiff)).sum(-1) / 2)

    zero = torch.zeros(2, 2, dtype=torch.float64)
    matrix = torch.cat([torch.cat([zero, torch.diag(1 / masses)], 1), torch.cat([-stiff, zero], 1)])

    def gap(h: float) -> float:
        with torch.no_grad():
            exact = WIDE @ torch.linalg.matrix_exp(h * matrix).T
            learned = learned_energy(system, Leapfrog(), h, order, at=WIDE)
            return float((end(learned, Leapfrog(), WIDE, h=h, steps=1) - exact).norm())

    assert ladder(gap, [0.2, 0.1, 0.05]).slopes[-1] == pytest.approx(order + 3, abs=0.1)


def test_no_separable_energy_is_named_for_a_pendulum_through_leapfrog():
    with pytest.raises(SettingError, match="mix q and p"):
        learned_energy(PENDULUM, Leapfrog(), 0.1, at=AT)
    assert mixing(PENDULUM.energy, AT) == 0
    turned = mixing(lambda u: u[:, 0] * u[:, 1], AT)
    assert turned == pytest.approx(1)


def test_networks_have_modified_energies_with_gradients_in_their_parameters():
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).double() for _ in "TV"]
    system = Split(lambda p: nets[0](p)[..., 0] + p.square().sum(-1) / 2, lambda q: nets[1](q)[..., 0])
    for stepper in (Leapfrog(), ImplicitMidpoint()):
        energy = modified_energy(system, stepper, 0.3, 2)
        assert energy(AT).shape == (3,)
        pulls = torch.autograd.grad(energy(AT).sum(), list(nets[1].parameters()), allow_unused=True)
        weight, eps = next(nets[1].parameters()), 1e-6
        with torch.no_grad():
            weight[0] += eps
            up = energy(AT).sum()
            weight[0] -= 2 * eps
            down = energy(AT).sum()
            weight[0] += eps
        assert pulls[0] is not None
        assert float(pulls[0][0]) == pytest.approx(float((up - down) / (2 * eps)), rel=1e-6)


@pytest.mark.parametrize("stepper", [Leapfrog(), ImplicitMidpoint()], ids=["leapfrog", "midpoint"])
def test_a_models_own_field_has_the_modified_energy_of_its_parts(stepper):
    torch.manual_seed(0)
    field: Any = symplectic_network(2).double().field
    parts = modified_energy(Split(field.kinetic, field.potential), stepper, 0.3)
    torch.testing.assert_close(modified_energy(field, stepper, 0.3)(AT), parts(AT), rtol=0, atol=0)


def test_what_has_no_modified_energy_is_refused():
    system = EnergySystem(SPRING.energy, rotate)
    for field, stepper, h, order in [
        (SPRING, Leapfrog(), 0.1, 3),
        (SPRING, Leapfrog(), float("nan"), 2),
        (system, Leapfrog(), 0.1, 2),
        (SPRING, yoshida(Leapfrog()), 0.1, 2),
        (SPRING, Gauss(2), 0.1, 2),
        (lambda t, u: u, ImplicitMidpoint(), 0.1, 2),
    ]:
        with pytest.raises(SettingError):
            modified_energy(field, stepper, h, order)  # type: ignore[arg-type]
    odd = torch.ones(2, 3)
    for act in (
        lambda: modified_energy(SPRING, Leapfrog(), 0.1)(odd),
        lambda: modified_energy(SPRING, ImplicitMidpoint(), 0.1)(odd),
        lambda: learned_energy(SPRING, Leapfrog(), 0.1, at=odd),
    ):
        with pytest.raises(SettingError, match="size is 3, expected positions and as many"):
            act()
    with pytest.raises(SettingError, match="give states"):
        learned_energy(SPRING, Leapfrog(), 0.1)


@pytest.mark.parametrize("stepper", [Leapfrog(), ImplicitMidpoint()], ids=["leapfrog", "midpoint"])
def test_energies_may_keep_their_last_axis(stepper):
    kept = Split(lambda p: SPRING.kinetic(p)[:, None], lambda q: SPRING.potential(q)[:, None])
    for make in (modified_energy, lambda *a: learned_energy(*a, at=AT).energy):
        wanted, found = (make(system, stepper, 0.3)(AT) for system in (SPRING, kept))
        torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-14)


def test_energies_of_every_entry_are_refused():
    with pytest.raises(DataError, match=r"energy of states \[2, 2\] is \[2, 2\], expected \[2\]: a number for each"):
        end(Split(torch.square, HENON_HEILES.potential), Leapfrog(), WIDE, h=0.1, steps=1)
    with pytest.raises(DataError, match="a number for each state"):
        modified_energy(EnergySystem(torch.square, rotate), ImplicitMidpoint(), 0.1)(AT)


@pytest.mark.parametrize("make", [modified_energy, lambda *a: learned_energy(*a).energy], ids=["modified", "learned"])
def test_a_structure_that_is_not_skew_has_no_modified_energy(make):
    damped = EnergySystem(SPRING.energy, rotate_with_friction(0.1))
    with pytest.raises(SettingError, match="the structure G is not skew"):
        make(damped, ImplicitMidpoint(), 0.1)(AT)


def test_the_modified_energy_of_a_model_takes_states_in_other_floats():
    model = symplectic_network(2)
    energy, u = modified_energy(model.field, Leapfrog(), 0.1), torch.randn(3, 2)
    assert u.dtype is torch.float64
    model.float()
    assert torch.equal(energy(u), energy(u.float()))
    foretold: Any = learned_energy(energy_model(2).float().field, ImplicitMidpoint(), 0.1).energy
    assert torch.equal(foretold(u), foretold(u.float()))
    with pytest.raises(DataError, match=r"states are torch\.float64, and the energy takes torch\.float32 alone"):
        mixing(nn.Linear(2, 1).float(), u)
