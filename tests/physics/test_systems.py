"""Systems: their fields by closed forms, solutions, energies and invariants kept to rounding."""

import dataclasses
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eom.dynamics.energy import DiscreteGradient, gradient
from eom.dynamics.runge_kutta import RK4
from eom.dynamics.symplectic import Gauss
from eom.errors import DataError, SettingError, StepError
from eom.physics.lattices import cahn_hilliard, korteweg_de_vries, soliton, wave
from eom.physics.systems import System, bodies, double_pendulum, pendulum, rotate, spring, spring_chain

WIDE = torch.float64


def chain() -> System:
    generator = torch.Generator().manual_seed(1)
    return spring_chain(*(0.5 + torch.rand(n, generator=generator, dtype=WIDE) for n in (6, 5)))


def circling(count: int) -> Tensor:
    """Bodies on a circle, each at the speed that nearly holds it there."""
    angle = torch.arange(count, dtype=WIDE) * (2 * math.pi / count)
    place = torch.stack([angle.cos(), angle.sin()], -1)
    speed = 0.55 * torch.stack([-angle.sin(), angle.cos()], -1)
    return torch.cat([place.flatten(), speed.flatten()])[None]


def hill(points: int = 24) -> Tensor:
    x = torch.arange(points, dtype=WIDE) / points
    return torch.stack([torch.sin(2 * math.pi * x), 0.3 * torch.cos(4 * math.pi * x)])


def hills(points: int = 8) -> Tensor:
    """On a plane."""
    return (hill(points)[:, None] + hill(points).flip(0)[..., None]).flatten(1)


SOME = torch.tensor([[0.7, -0.2], [0.1, 0.9]], dtype=WIDE)
CASES = {
    "spring": (spring(), SOME, 0.1),
    "pendulum": (pendulum(), SOME, 0.1),
    "damped spring": (spring(0.3), SOME, 0.1),
    "damped pendulum": (pendulum(0.3), SOME, 0.1),
    "double pendulum": (double_pendulum(), torch.cat([SOME, 0 * SOME], -1), 0.02),
    "two bodies": (bodies(2), circling(2), 0.05),
    "three bodies": (bodies(3), circling(3), 0.05),
    "chain": (chain(), 0.3 * torch.ones(1, 10, dtype=WIDE), 0.1),
    "KdV, two dimensions": (korteweg_de_vries(8, 4.0, 2), 1 + 0.5 * hills(), 1e-3),
    "KdV": (korteweg_de_vries(24), 1 + 0.5 * hill(), 1e-3),
    "Cahn-Hilliard": (cahn_hilliard(24), 0.3 * hill(), 1e-4),
    "Cahn-Hilliard, two dimensions": (cahn_hilliard(8, dimensions=2), 0.3 * hills(), 1e-4),
    "wave": (wave(24), torch.cat([hill(), 0 * hill()], -1), 0.01),
}


@pytest.mark.parametrize("name", CASES)
def test_the_default_stepper_keeps_energy_and_invariants_or_lets_energy_fall(name):
    system, u, h = CASES[name]
    states = system.simulate(u, h=h, steps=12)
    energies = system.energy(states)
    scale = float(energies.detach().abs().max())
    if system.dissipates:
        assert bool((energies.diff(dim=0) < 0).all())
    else:
        assert float((energies - energies[0]).abs().max()) < 2e-13 * scale
    for kept in system.conserved.values():
        values = kept(states)
        assert float((values - values[0]).abs().max()) < 1e-12
    assert len(system.entries) == u.shape[-1]


@pytest.mark.parametrize("name", ["spring", "damped spring", "chain", "wave"])
def test_solutions_solve_the_equation(name):
    """They begin at the start, and their derivative is the field."""
    system, u, _ = CASES[name]
    assert system.solution is not None
    torch.testing.assert_close(system.solution(0.0, u), u, rtol=0, atol=1e-13)
    here, e = system.solution(0.7, u), 1e-5
    slope = (system.solution(0.7 + e, u) - system.solution(0.7 - e, u)) / (2 * e)
    torch.testing.assert_close(slope, system.field(0.0, here), rtol=1e-6, atol=1e-7 * float(slope.abs().max()))


@pytest.mark.parametrize("name", ["spring", "damped spring", "chain"])
def test_the_default_stepper_tends_to_the_solution_with_order_two(name):
    system, u, _ = CASES[name]
    assert system.solution is not None
    exact = system.solution(1.0, u)
    errors = [float((system.simulate(u, h=1 / n, steps=n)[-1] - exact).norm()) for n in (20, 40)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("pendulum", lambda u: torch.stack([2 * u[..., 1], -3 * torch.sin(u[..., 0])], -1)),
        ("damped pendulum", lambda u: torch.stack([2 * u[..., 1], -3 * torch.sin(u[..., 0]) - 0.6 * u[..., 1]], -1)),
        ("KdV", lambda u: (w(u).roll(-1, -1) - w(u).roll(1, -1)) / (2 * 10 / 24)),
        ("Cahn-Hilliard", lambda u: second(u**3 - u - 5e-4 * second(u))),
    ],
)
def test_fields_by_their_closed_forms(name, field):
    system, u, _ = CASES[name]
    torch.testing.assert_close(system.field(0.0, u), field(u), rtol=1e-10, atol=1e-10)


def second(u: Tensor) -> Tensor:
    return (u.roll(-1, -1) - 2 * u + u.roll(1, -1)) * 24**2


def w(u: Tensor) -> Tensor:
    """3 u^2 + u_xx on 24 points over 10."""
    return 3 * u**2 + (u.roll(-1, -1) - 2 * u + u.roll(1, -1)) * (24 / 10) ** 2


@pytest.mark.slow
def test_cahn_hilliard_falls_at_ten_times_the_published_step():
    """Of Matsubara et al.: 50 points and 1e-4; from a random start."""
    system = cahn_hilliard(50)
    u = 0.1 * torch.randn(1, 50, generator=torch.Generator().manual_seed(0), dtype=WIDE)
    with torch.no_grad():
        states = system.simulate(u, h=1e-3, steps=500)
    assert bool((system.energy(states).diff(dim=0) <= 1e-15).all())
    assert float((states.mean(-1) - u.mean(-1)).abs().max()) < 1e-13


LARGE = """
import sys, torch
from eom.physics import cahn_hilliard

system = cahn_hilliard(128, dimensions=2)
u = 0.1 * torch.randn(1, system.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
with torch.no_grad():
    states = system.simulate(u, h=float(sys.argv[1]), steps=10)
rises, drift = system.energy(states).diff(dim=0).max(), (states.mean(-1) - u.mean(-1)).abs().max()
[peak] = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]  # kB, from exec on
print(float(rises), float(drift), peak / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("h", ["1e-4", "1e-3"])
def test_cahn_hilliard_on_a_large_grid_falls_within_two_gigabytes(h):
    said = subprocess.run([sys.executable, "-c", LARGE, h], capture_output=True, text=True, check=True).stdout
    rises, drift, gigabytes = map(float, said.split())
    assert rises < 0
    assert drift < 1e-13
    assert gigabytes < 2


@pytest.mark.slow
def test_a_soliton_travels_to_the_left_at_four_k_squared():
    points, width, k = 100, 16.0, 0.8
    system, x = korteweg_de_vries(points, width), torch.arange(points, dtype=WIDE) * (width / points)
    after = system.simulate(soliton(x, k, 12.0, width)[None], h=0.02, steps=25)[-1, 0]
    centre = float(x[after.argmax()])
    assert centre == pytest.approx(12 - 2 * k**2, abs=0.16)
    torch.testing.assert_close(after, soliton(x, k, 12 - 2 * k**2, width), rtol=0, atol=0.06)


def test_gradients_flow_through_a_simulation():
    u = SOME.clone().requires_grad_()
    (found,) = torch.autograd.grad(pendulum().simulate(u, h=0.1, steps=5)[-1].square().sum(), u)
    e = torch.tensor([[1e-5, 0.0], [0.0, 0.0]], dtype=WIDE)
    ends = [float(pendulum().simulate(SOME + s * e, h=0.1, steps=5)[-1].square().sum()) for s in (1, -1)]
    assert float(found[0, 0]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-7)
    assert gradient(pendulum().energy, SOME).shape == SOME.shape


@pytest.mark.parametrize(
    ("act", "complaint"),
    [
        (
            lambda: pendulum().simulate(torch.ones(3, 3), h=0.1, steps=1),
            "has the entries angle / rad, p, and u",
        ),
        (lambda: pendulum().simulate(torch.ones(2).long(), h=0.1, steps=1), "u is torch.int64"),
        (lambda: pendulum().simulate(torch.ones(2), h=0.1, steps=2.5), "steps is 2.5"),  # type: ignore[arg-type] - as a user may
        (lambda: bodies(1), "count is 1, expected two bodies or more"),
        (lambda: spring(2.0), "friction is 2.0"),
        (lambda: spring("a"), "friction is 'a', expected 0 or more"),  # type: ignore[arg-type] - as a user may
        (lambda: pendulum(None), "friction is None"),  # type: ignore[arg-type] - as a user may
        (lambda: spring_chain([1.0, 1.0], 2.0), r"stiffness is a list and masses a float, expected tensors \[n"),  # type: ignore[arg-type] - as a user may
        (lambda: spring_chain(torch.ones(3), torch.ones(3)), "3 springs and 3 masses"),
        (lambda: wave(3), "points is 3"),
        (lambda: cahn_hilliard(8, dimensions=3), "dimensions is 3"),
        (lambda: cahn_hilliard(8, dimensions=1.0), "dimensions is 1.0"),  # type: ignore[arg-type] - as a user may
        (lambda: korteweg_de_vries(8, -1.0), "width is -1.0, expected positive and finite numbers"),
        (lambda: korteweg_de_vries(8.0), "points is 8.0, expected a whole number of 4 or more"),  # type: ignore[arg-type] - as a user may
        (lambda: wave(8, math.inf), "width is inf"),
        (lambda: wave(8, speed=math.nan), "speed is nan"),
        (lambda: cahn_hilliard(8, gamma=math.inf), "gamma is inf"),
        (lambda: double_pendulum(math.nan), "gravity is nan"),
        (lambda: bodies(2, -1.0), "gravity is -1.0"),
        (lambda: pendulum(math.nan), "friction is nan"),
        (lambda: spring_chain(torch.tensor([1.0, math.nan]), torch.ones(1)), "positive, finite numbers"),
    ],
)
def test_bad_input_is_named(act, complaint):
    with pytest.raises(SettingError, match=complaint):
        act()


def test_a_step_beyond_convergence_is_named_with_its_number_and_time():
    """Bodies that fall onto each other."""
    still = circling(2) * torch.tensor([1.0] * 4 + [0.0] * 4, dtype=WIDE)
    with pytest.raises(StepError, match=r"in step \d+ of 40, at time .* with h = 0.5.*take a smaller"):
        bodies(2).simulate(still, h=0.5, steps=40)


@pytest.mark.parametrize(
    ("structure", "dissipates", "message"),
    [
        (lambda g: g.roll(1, -1), False, "neither skew nor negative semidefinite: its energy may rise and fall"),
        (lambda g: -g, False, "is negative semidefinite, and a system that conserves energy needs one that is skew"),
        (rotate, True, "is skew, and a system that dissipates energy needs"),
    ],
    ids=["neither", "falls", "keeps"],
)
def test_a_structure_that_breaks_the_promised_law_is_refused(structure, dissipates, message):
    with pytest.raises(SettingError, match=message):
        System("mine", lambda u: u.square().sum(-1), structure, ("a", "b", "c", "d"), dissipates=dissipates)


def test_kdv_in_two_dimensions_is_kdv_where_nothing_depends_on_y():
    line, plane = korteweg_de_vries(12, 4.0), korteweg_de_vries(12, 4.0, 2)
    u = 1 + 0.5 * hill(12)
    rates = plane.field(0.0, u[:, None].expand(-1, 12, -1).flatten(1)).unflatten(-1, (12, 12))
    torch.testing.assert_close(rates, line.field(0.0, u)[:, None].expand_as(rates), rtol=1e-12, atol=1e-12)


OF_TWO: dict[str, Any] = {
    "name": "mine", "energy": lambda u: u.square().sum(-1), "structure": rotate, "entries": ("q", "p"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        ({"grid": (5,)}, SettingError, r"size is 2, expected a multiple of the points of the grid \(5,\)"),
        ({"grid": 2}, SettingError, "grid is 2, expected the points along each axis"),
        ({"entries": ()}, SettingError, r"entries are \(\), expected their names"),
        ({"entries": None}, SettingError, "entries are None, expected their names"),
        ({"entries": (1, 2)}, SettingError, r"entries are \(1, 2\), expected their names"),
        ({"entries": ("q", "q")}, SettingError, "'q' is the name of 2 entries"),
        ({"structure": lambda g: 0}, SettingError, r"G maps \[32, 2\] to a int, expected the same"),
        ({"structure": lambda g: None}, SettingError, "to a NoneType, expected the same"),
        ({"energy": 3}, SettingError, "energy is 3, expected a function of states"),
        ({"structure": nn.Linear}, SettingError, "structure is <class .*Linear'>, expected a function"),
        ({"energy": nn.Linear(2, 1)}, DataError, r"takes torch\.float32 alone.* net\.double\(\)"),
        ({"energy": lambda u: u[0] ** 2 + u[1] ** 2}, DataError, r"index 1 is out .* with entries as u\[\.\.\., 0\]"),
        ({"energy": lambda u: (lambda q, p: q + p)(*u)}, DataError, "no gradient at .* missing 1 .* of a batch"),
        ({"energy": lambda u: u[:, 1] - math.cos(u[:, 0])}, DataError, "to Python scalars.* of torch functions"),
        ({"energy": lambda u: u.detach().square().sum(-1)}, DataError, "no gradient at .* made of torch functions"),
        ({"energy": lambda u: torch.rand(len(u)) * u.sum(-1)}, DataError, "at first and .* it draws random numbers"),
        ({"stepper": DiscreteGradient}, SettingError, "the stepper is 'DiscreteGradient', expected one"),
        ({"energy": lambda u: (u > 0).sum(-1)}, DataError, r"is torch.int64, expected a real number for each"),
        ({"energy": lambda u: 1.0}, DataError, r"energy of states \[2, 2\] is float, expected \[2\]"),
        ({"energy": lambda u: u.detach().numpy().sum(-1)}, DataError, "is ndarray, expected .*, by torch functions"),
    ],
    ids=[
        "grid", "grid as a number", "no entries", "None", "numbers", "twice", "G of a number",
        "G of nothing", "H of none", "class of G",
        "float32", "of one state", "of two numbers", "math", "detached", "drawn", "stepper",
        "H of whole numbers", "H of a float", "numpy",
    ],
)  # fmt: skip
def test_what_makes_no_system_is_named(changed, kind, message):
    with pytest.raises(kind, match=message):
        System(**OF_TWO | changed).simulate(torch.ones(2), h=0.1, steps=1)


@pytest.mark.parametrize(
    ("u", "h", "kind", "message"),
    [
        (np.ones(2), 0.1, SettingError, r"u is a ndarray, expected a dense tensor of floats \[\.\.\., 2\]"),
        (None, 0.1, SettingError, "u is a NoneType"),
        (torch.tensor(1.0), 0.1, SettingError, r"u is torch.float32 of shape \[\]"),
        (torch.ones(2).to_sparse(), 0.1, SettingError, r"u is a torch\.sparse_coo on cpu"),
        (torch.ones(2), None, SettingError, "h is None, expected a finite step other than 0"),
        (torch.ones(2), torch.ones(2), SettingError, r"h is tensor\(\[1"),
        (torch.ones(2), math.nan, SettingError, "h is nan"),
        (torch.ones(2), 10**400, SettingError, "h is 1000"),
        (torch.ones(2), torch.tensor(0.1, requires_grad=True), SettingError, "expected .* that has no gradient"),
        (torch.tensor([1.0, math.nan]), 0.1, DataError, "u holds NaN or infinity in 1 of its 2 entries"),
    ],
    ids=[
        "array",
        "no state",
        "number",
        "sparse",
        "no step",
        "two steps",
        "step of no number",
        "huge step",
        "step with a gradient",
        "NaN",
    ],
)
def test_starts_and_steps_that_are_none_are_named(u, h, kind, message):
    with pytest.raises(kind, match=message):
        pendulum().simulate(u, h=h, steps=1)


@pytest.mark.parametrize("stepper", [DiscreteGradient(), Gauss(2), RK4()], ids=["discrete gradient", "Gauss", "RK4"])
def test_an_energy_that_sees_the_batch_is_refused_by_every_stepper(stepper):
    centred: dict[str, Any] = OF_TWO | {"energy": lambda u: (u - u.mean(0)).square().sum(-1)}
    with pytest.raises(DataError, match="beside a second one and 0 beside itself: samples must not see each other"):
        System(**centred, stepper=stepper).simulate(SOME, h=0.1, steps=1)


def test_a_motion_that_runs_away_from_explicit_steps_is_told():
    falling: dict[str, Any] = OF_TWO | {"energy": lambda u: u[..., 1] ** 2 / 2 - u[..., 0] ** 4, "stepper": RK4()}
    with pytest.raises(StepError, match=r"^in step \d of 30, the motion has left the finite numbers: take a smaller"):
        System(**falling).simulate(torch.tensor([[3.0, 1.0]]), h=0.5, steps=30)


def test_states_of_any_shape_are_simulated_as_rows_are():
    u = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0), dtype=WIDE)
    states = pendulum().simulate(u, h=0.1, steps=2)
    assert torch.equal(states, pendulum().simulate(u.view(6, 2), h=0.1, steps=2).view(3, 2, 3, 2))


def test_a_start_that_is_not_periodic_is_refused_on_a_grid():
    with pytest.raises(DataError, match=r"values jump by 22 from the last to the first .* by 1 at most between neigh"):
        wave(23).simulate(torch.arange(23.0).repeat(2), h=0.01, steps=1)
    wave(23).simulate(torch.eye(46, dtype=WIDE)[0], h=0.01, steps=1)  # a front at the seam, and one beside it


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_a_chain_has_its_solution_with_parameters_of_any_numbers(dtype):
    system = spring_chain(torch.ones(3, dtype=dtype), torch.ones(2, dtype=dtype))
    u = torch.randn(2, 4)
    double = spring_chain(torch.ones(3), torch.ones(2))
    assert torch.equal(system.solution(1.0, u), double.solution(1.0, u))  # type: ignore[misc] - chains have one


@pytest.mark.parametrize(
    "conserved", [{"a": 3}, [lambda u: u[:, 0]], {1: len}, None], ids=["a number", "a list", "no name", "none"]
)
def test_what_is_conserved_are_functions_by_name(conserved):
    with pytest.raises(SettingError, match=r"a is 3, expected a function|conserved is .*, expected functions by name"):
        dataclasses.replace(spring(), conserved=conserved)
