"""What learned laws say: energies up to their gauge, kernels as equations, conserved quantities of black boxes."""

import copy
import math
import re

import pytest
import torch
from torch import nn

from eom import physics
from eom.errors import DataError, SettingError
from eom.physics import data_sets
from eom.physics.conserved import conserved_quantity
from eom.physics.kernels import read_kernel
from eom.physics.laws import compare_energies
from eom.physics.models import neural_ode
from eom.physics.systems import bodies, pendulum, spring


def code(size: int) -> physics.LearnedSystem:
    return physics.latent_model(size, physics.energy_model(2))


def sample(size: int, n: int) -> torch.Tensor:
    return torch.randn(size, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_energies_agree_up_to_an_offset_and_a_scale():
    system, u = spring(), sample(50, 2)
    same = compare_energies(lambda u: (system.energy(u) - 7) / 3, system.energy, u)
    assert (same.scale, same.offset) == (pytest.approx(3, abs=1e-12), pytest.approx(7, abs=1e-12))
    assert same.residual < 1e-14
    assert same.residual_at_scale_one == pytest.approx(2 / 3, abs=1e-12)  # 1 - 1/3 of the spread


class Dropped(nn.Module):
    """What it is of u, with Dropout."""

    def __init__(self, of):
        super().__init__()
        self.of, self.drop = of, nn.Dropout(0.3)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return self.of(self.drop(u))


def test_the_law_that_is_read_is_the_one_that_predicts():
    u = sample(50, 2)
    model = physics.neural_ode(2, Dropped(lambda u: 2 * physics.systems.rotate(u))).train()
    assert conserved_quantity(model, u).independent == 1
    energy = Dropped(lambda u: (u**2).sum(-1)).train()
    for learned in (energy, physics.energy_model(2, energy)):
        assert compare_energies(learned, spring(), u).residual < 1e-14
    assert all(m.training for m in (*model.modules(), *energy.modules()))


@pytest.mark.parametrize("constant", [1.0, -7.7, 1 / 3])
def test_a_learned_constant_says_nothing_of_the_true_energy(constant):
    other = compare_energies(lambda u: u[:, 0] * 0 + constant, spring().energy, sample(50, 2))
    assert (other.scale, other.residual) == (0, pytest.approx(1))


def test_a_published_kernel_conserves_mass_to_a_thousandth_damps_all_waves_and_is_isotropic():
    k = read_kernel(torch.tensor([[2.450, 1.339, 2.448], [1.328, -15.148, 1.326], [2.447, 1.338, 2.452]]))
    assert k.rate == pytest.approx(-0.020, abs=1e-5)
    assert k.symbol == (pytest.approx(-24.968, abs=1e-5), pytest.approx(-0.020, abs=1e-5))  # at (pi, 0) and 0
    assert k.anisotropy == pytest.approx(math.hypot(12.474 - 12.451, 2 * 0.007) / 12.4625, abs=2e-5)
    assert k.conserves_mass
    assert k.dissipative
    assert k.isotropic
    assert "Mass is nearly (to 0.001 of its entries) conserved" in str(k)
    assert "To second order it is isotropic: diffusion differs by 0.0022 between directions. The fourth order" in str(k)


def test_a_laplacian_and_a_central_difference_are_what_they_are():
    dx = 0.1
    k = read_kernel(torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]) / dx**2, dx)
    torch.testing.assert_close(k.diffusion, torch.eye(2, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert k.symbol == (pytest.approx(-800, rel=1e-6), pytest.approx(0, abs=1e-3))
    assert k.conserves_mass
    assert k.dissipative
    assert k.isotropic
    assert k.symmetric
    assert k.anisotropy_of_fourth == pytest.approx(1)  # no mixed fourth derivative
    one = torch.tensor([1.0, -4, 6, -4, 1], dtype=torch.float64)  # along one axis only
    across = torch.tensor([0.0, 1, -2, 1, 0], dtype=torch.float64)
    both = -torch.outer(across, across)
    both[:, 2] -= one
    assert read_kernel(both).anisotropy_of_fourth == pytest.approx(1)
    d = read_kernel(torch.tensor([-1.0, 0, 1], dtype=torch.float64) / (2 * dx), dx)
    assert d.drift[0] == pytest.approx(1)
    assert d.symbol == (pytest.approx(0, abs=1e-14), pytest.approx(0, abs=1e-14))
    assert d.imaginary == pytest.approx(10)
    assert not d.dissipative
    assert not d.symmetric
    assert not d.isotropic
    assert "It neither damps nor drives: all waves keep their size" in str(d)
    assert "isotropic" not in str(d)  # in one dimension
    growing = read_kernel(torch.tensor([-1.0, 2.5, -1.0]))
    assert not growing.dissipative
    assert not growing.conserves_mass


@pytest.mark.parametrize(
    ("system", "states", "how", "independent"),
    [
        (spring(), sample(60, 2), {}, 1),
        (spring(), sample(200, 2), {"degree": 4}, 1),
        (pendulum(), sample(100, 2), {"angles": [0]}, 1),
    ],
    ids=["spring", "spring, its square too", "pendulum"],
)
def test_the_energy_is_found_from_the_field_alone(system, states, how, independent):
    laws = conserved_quantity(system.field, states, **how)
    assert laws.candidates[0].rate < 1e-10
    assert laws.independent == independent
    assert len(laws.found) == how.get("degree", 2) // 2
    if len(laws.found) == 1:
        assert compare_energies(laws.found[0], system.energy, states).residual < 1e-10


@pytest.mark.parametrize(
    ("middle", "wanted"),
    [(0, "1 u0^2 + 1 u1^2"), (100, "1 (u0 - 100)^2 + 1 u1^2"), (-2e5, "1 (u0 + 200000)^2 + 1 u1^2")],
)
def test_what_is_found_far_from_zero_is_written_around_where_the_states_are(middle, wanted):
    u, far = sample(60, 2), torch.tensor([middle, 0.0], dtype=torch.float64)
    found = conserved_quantity(lambda t, u: spring().field(t, u - far), u + far, tolerance=1e-2)
    assert str(found.found[0]) == wanted


@pytest.mark.parametrize("middle", [2.2, 2.7, 3.1, 3.6, 4.1, 4.4, 4.7, 4.9])
def test_what_is_found_is_written_with_the_digits_that_its_terms_lose_to_each_other(middle):
    u, far = 0.9 * sample(60, 2), torch.tensor([middle, 0.0], dtype=torch.float64)
    found = conserved_quantity(lambda t, u: spring().field(t, u - far), u + far).found[0]
    python = re.sub(r"(\d) u", r"\1*u", str(found)).replace("^", "**")
    written = eval(python, {"u0": u[:, 0] + middle, "u1": u[:, 1]})
    both = torch.stack([torch.ones_like(written), u.square().sum(-1)], 1)
    left = written - both @ torch.linalg.lstsq(both, written[:, None]).solution[:, 0]
    assert float(left.std()) < 0.01 * float(written.std())


def test_what_is_found_is_written_in_the_entries_and_of_a_model_too():
    assert str(conserved_quantity(spring(), sample(60, 2)).found[0]) == "1 u0^2 + 1 u1^2"
    swing = conserved_quantity(pendulum(), 2 + sample(200, 2), angles=[0])
    assert str(swing).endswith("of -3 cos(u0) + 1 u1^2.")
    net = torch.nn.Linear(2, 2, bias=False).double()
    net.weight.data = torch.tensor([[0.0, 2.0], [-1.0, 0.0]], dtype=torch.float64)
    assert str(conserved_quantity(neural_ode(2, net), sample(60, 2)).found[0]) == "0.5 u0^2 + 1 u1^2"


@pytest.mark.slow
def test_a_network_that_has_learned_rates_only_shows_what_it_keeps():
    """The energy of a pendulum's neural ODE."""
    torch.manual_seed(0)
    data = data_sets.pendulums(noise=0.0).draw(50, seed=0)
    net = physics.dense(2, 2, 50)
    model = physics.LearnedSystem(2, physics.PlainField(net), physics.match_slopes, physics.RK4()).double()
    lbfgs = torch.optim.LBFGS(model.parameters(), max_iter=3000, line_search_fn="strong_wolfe")
    physics.fit(model, data, optimizer=lbfgs, steps=1)
    u = data.states.flatten(0, 1)[::5]
    laws = conserved_quantity(model, u, angles=[0], tolerance=0.01)
    assert len(laws.found) == 1
    assert compare_energies(laws.found[0], pendulum().energy, u).residual < 1e-3


def test_a_model_in_single_precision_is_read_on_states_in_double():
    net, energy = (torch.nn.Linear(2, n, bias=False).float() for n in (2, 1))
    net.weight.data = torch.tensor([[0.0, 2.0], [-1.0, 0.0]], dtype=torch.float32)
    assert str(conserved_quantity(neural_ode(2, net), sample(60, 2)).found[0]) == "0.5 u0^2 + 1 u1^2"
    assert compare_energies(energy, lambda u: u @ energy.weight[0].double(), sample(60, 2)).residual < 1e-6
    for make in (physics.energy_model, physics.symplectic_network, physics.lagrangian_network, code):
        wide = copy.deepcopy(model := make(2)).double()
        assert compare_energies(model, wide, sample(60, 2)).residual_at_scale_one < 1e-4


def test_two_bodies_keep_momenta_angular_momentum_and_the_turning_of_their_centre():
    """Of degree 2: two momenta and their three products, two angular momenta; four are independent."""
    system = bodies(2)
    laws = conserved_quantity(system.field, sample(300, 8), tolerance=1e-6)
    assert len(laws.found) == 7
    assert laws.independent == 4
    assert laws.candidates[7].rate > 1e-2
    turning = system.conserved["angular momentum"](sample(300, 8))
    span = torch.stack([torch.ones(300, dtype=torch.float64), *(c(sample(300, 8)) for c in laws.found)], 1)
    assert float((span @ torch.linalg.lstsq(span, turning[:, None]).solution - turning[:, None]).norm()) < 1e-8


@pytest.mark.parametrize("tolerance", [0.05, 0.1, 0.5])
def test_what_is_found_to_a_larger_tolerance_takes_no_independent_one_away(tolerance):
    assert conserved_quantity(spring(), sample(60, 2), tolerance=tolerance).independent == 1
    assert conserved_quantity(bodies(2), sample(300, 8), tolerance=tolerance).independent >= 4


def test_a_field_that_is_nearly_right_has_the_powers_of_its_energy_for_one():
    laws = conserved_quantity(spring(0.02), sample(400, 2), degree=4, tolerance=0.1)
    assert (len(laws.found), laws.independent) == (2, 1)


def test_a_rate_that_is_too_large_by_its_bar_is_said_to_be():
    best = conserved_quantity(spring(2e-3), sample(60, 2)).candidates[0]
    laws = conserved_quantity(spring(2e-3), sample(60, 2), tolerance=best.rate + best.bar / 2)
    assert not laws.found
    assert "the error bar is added to it" in str(laws)


@pytest.mark.parametrize("degree", [2, 4, 6])
def test_nothing_is_found_of_a_damped_spring(degree):
    laws = conserved_quantity(spring(0.3).field, sample(400, 2), degree=degree)
    assert not laws.found
    assert laws.candidates[0].rate > 0.01
    assert "None" in str(laws)


def test_an_error_in_the_field_is_seen_in_the_rate():
    def off(e: float) -> float:
        return conserved_quantity(spring(e).field, sample(400, 2)).candidates[0].rate

    assert off(2e-4) / off(1e-4) == pytest.approx(2, rel=1e-3)
    assert 1e-5 < off(1e-4) < 1e-4


def test_what_cannot_be_read_is_refused_at_the_door():
    u, energy = sample(60, 2), spring().energy
    bad = u.clone()
    bad[3, 1] = math.nan
    for states in (bad, u[:2], u[0], u.long()):
        with pytest.raises(SettingError):
            compare_energies(energy, energy, states)
        with pytest.raises(SettingError):
            conserved_quantity(spring().field, states)
    with pytest.raises(SettingError, match="what is unseen, its entry 0 is 3, expected a function of states"):
        compare_energies(energy, energy, u, [3])  # type: ignore[list-item] - as a user may
    for learned in (lambda u: u, lambda u: u.numpy().sum(-1)):
        with pytest.raises(SettingError, match="one real number each"):
            compare_energies(learned, energy, u)
    for pair in ((bodies(2), spring()), (spring(), physics.energy_model(4))):
        with pytest.raises(SettingError, match=r"states end in 2 entries, those of the (System|LearnedSystem) in [48]"):
            compare_energies(*pair, u)
    with pytest.raises(SettingError, match="different energies"):
        compare_energies(energy, lambda u: 0 * u[:, 0] + 1, u)
    with pytest.raises(SettingError, match="60 states for 27 features"):
        conserved_quantity(spring().field, u, degree=6)
    for field in (lambda t, u: u[:, :1], lambda t, u: [1]):
        with pytest.raises(SettingError, match="the field of states"):
            conserved_quantity(field, u)  # type: ignore[arg-type] - as a user may
    for angles in ((0.0,), (2,), 0, None):
        with pytest.raises(SettingError, match=r"angles are .*, expected entries of 0 to 1"):
            conserved_quantity(spring(), u, angles=angles)  # type: ignore[arg-type] - as a user may
    for settings in ({"tolerance": math.inf}, {"tolerance": -0.1}, {"tolerance": "a"}, {"dx": "a"}):
        with pytest.raises(SettingError, match=r"tolerance is .*: 0 or more, below 1|dx is 'a', expected a positive"):
            read_kernel(torch.ones(3), **settings)  # type: ignore[arg-type] - as a user may
    with pytest.raises(DataError, match=r"the kernel's entries are torch.complex.*, expected real ones"):
        read_kernel(torch.ones(3) + 1j)
    for kernel in (torch.ones(4), torch.ones(3, 2), torch.zeros(3), torch.tensor([1.0, math.nan, 1.0])):
        with pytest.raises(SettingError):
            read_kernel(kernel)


@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e20])
def test_what_the_structure_cannot_see_is_left_out_of_the_comparison(unit):
    states = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    true, mass = (lambda u: u.square().sum(-1)), (lambda u: u.sum(-1))
    agreement = compare_energies(
        lambda u: 2 * true(u) + 3 * mass(u) - 1, true, states, unseen=[lambda u: unit * mass(u)]
    )
    assert (agreement.scale, agreement.offset) == (pytest.approx(0.5, rel=1e-12), pytest.approx(0.5, rel=1e-12))
    assert agreement.residual < 1e-13
    assert compare_energies(lambda u: 2 * true(u) + 3 * mass(u) - 1, true, states).residual > 0.1


@pytest.mark.parametrize("size", [1e-5, 1.0, 1e5])
def test_a_conserved_polynomial_is_written_in_the_units_of_the_entries(size):
    """Duffing's energy in x = u / size: p^2 / 2 + q^2 / 2 + q^4 / 4."""
    oscillator = physics.System(
        "Duffing",
        lambda u: size**2 * ((u / size).square().sum(-1) / 2 + (u[..., 0] / size) ** 4 / 4),
        lambda g: torch.stack([g[..., 1], -g[..., 0]], -1),
        ("q", "p"),
    )
    u = size * torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = physics.conserved_quantity(oscillator, u, degree=4).found[0]
    terms = {name: float(weight) for weight, name in (term.split(" ") for term in str(found).split(" + "))}
    wanted = {"u0^2": 1.0, "u1^2": 1.0, "u0^4": 0.5 / size**2}
    assert terms == pytest.approx({name: terms["u1^2"] * x for name, x in wanted.items()}, rel=1e-2)


def test_a_wave_that_grows_between_those_of_a_coarse_grid_is_found():
    """.02 - (cos 4 k - cos 4 k_0)^2, whose top is at k_0 = 2 pi 21 / 128."""
    middle, kernel = math.cos(4 * 2 * math.pi * 21 / 128), torch.zeros(17)
    kernel[8], kernel[[4, 12]], kernel[[0, 16]] = 0.02 - 0.5 - middle**2, middle, -0.25
    found = read_kernel(kernel)
    assert found.symbol[1] == pytest.approx(0.02, abs=1e-12)
    assert found.symbol[0] == pytest.approx(0.02 - (1 + abs(middle)) ** 2, abs=1e-12)
    assert not found.dissipative


@pytest.mark.parametrize("shape", [(5,), (3, 5)])
def test_a_symbol_has_the_extremes_of_a_fine_grid(shape):
    kernel = torch.randn(*shape)
    symbol = torch.fft.fftn(kernel, (1024,) * len(shape))
    for i, n in enumerate(shape):
        turn = torch.exp(2j * math.pi / 1024 * torch.arange(1024) * (n // 2))
        symbol = symbol * turn.reshape(-1, *[1] * (len(shape) - 1 - i))
    found = read_kernel(kernel)
    assert found.symbol == pytest.approx((float(symbol.real.min()), float(symbol.real.max())), abs=1e-3)
    assert found.symbol[0] <= float(symbol.real.min()) + 1e-12
    assert found.symbol[1] >= float(symbol.real.max()) - 1e-12
    assert found.imaginary == pytest.approx(float(symbol.imag.abs().max()), abs=1e-3)


def test_an_energy_that_writes_to_its_states_is_compared_as_any_other():
    u = sample(50, 2)
    before, shifted = u.clone(), compare_energies(lambda u: u.sub_(1).square().sum(-1), spring(), u)
    assert torch.equal(u, before)
    assert shifted == compare_energies(lambda u: (u - 1).square().sum(-1), spring(), u)


def test_models_and_systems_are_compared_by_their_energies():
    u, model = sample(50, 2), physics.energy_model(2).double()
    one = compare_energies(model, spring(), u)
    assert one == compare_energies(model.field.energy, spring().energy, u)  # type: ignore[arg-type] - a module
    with pytest.raises(SettingError, match="the learned model has no energy"):
        compare_energies(neural_ode(2), spring(), u)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda u: compare_energies(lambda u: torch.complex(u, u)[:, 0], spring(), u), "complex.*one real"),
        (lambda u: compare_energies(spring(), spring(), u[:3], [lambda u: u[:, 0]]), "3 states, expected 4 or more"),
        (lambda u: compare_energies(spring(), spring(), u, [spring().energy]), "multiples of what is unseen"),
        (lambda u: compare_energies(spring(), spring(), u, spring().energy), "unseen is .*, expected energies in"),  # type: ignore[arg-type] - as a user may
        (lambda u: compare_energies(None, spring(), u), "the learned energy is None, expected a function"),  # type: ignore[arg-type] - as a user may
        (lambda u: conserved_quantity(bodies(2), u), "states end in 2 entries, those of the System in 8"),
        (lambda u: conserved_quantity(neural_ode(3), u), "states end in 2 entries, those of the LearnedSystem in 3"),
        (lambda u: conserved_quantity(None, u), "field is None, expected a function"),  # type: ignore[arg-type] - as a user may
        (lambda u: conserved_quantity(spring(), u, tolerance="a"), "tolerance 'a'; expected"),  # type: ignore[arg-type] - as a user may
    ],
)  # fmt: skip
def test_laws_of_other_things_are_refused(act, message):
    with pytest.raises(SettingError, match=message):
        act(sample(60, 2))
