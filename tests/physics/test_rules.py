"""Rules of learning: residuals that vanish on the true law, with their orders; states that are fitted too."""

import cmath
import copy
import math

import pytest
import torch
from known_laws import WIDE, Quadratic, newton, spring_data, true_spring
from torch import Tensor, nn

import eom
from eom import physics
from eom.errors import SettingError, StepError
from eom.physics import LearnedSystem, Trajectories, data_sets
from eom.physics.rules import Rule, followed
from eom.physics.systems import rotate


def size_of(rule: Rule, h: float) -> float:
    """Of the residual on the true law, for data of step h."""
    data = data_sets.springs(span=4 * h, points=5, noise=0.0).draw(4, seed=0)
    return float(physics.mean_square(true_spring(rule), data.windows()).sqrt().detach())


@pytest.mark.parametrize(
    ("rule", "order"),
    [(physics.midpoint, 2), (physics.match_discrete_gradient, 2), (physics.Shooting(physics.RK4()), 4)],
    ids=["midpoint", "discrete gradient", "Runge-Kutta"],
)
def test_residuals_of_the_true_law_fall_with_the_order_of_the_rule(rule, order):
    slope = eom.testing.observed_order(lambda h: size_of(rule, h), [0.1, 0.05, 0.025])
    assert slope == pytest.approx(order, abs=0.05)


def test_rates_of_the_true_law_leave_nothing_and_a_wrong_sign_leaves_much():
    window = spring_data().windows()
    assert float(physics.mean_square(true_spring(physics.match_slopes), window).detach()) < 1e-28
    wrong = true_spring(physics.match_slopes, Quadratic(start=-1.0))
    assert float(physics.mean_square(wrong, window).detach()) > 1


def test_uneven_times_leave_residuals_as_small():
    data = data_sets.springs(span=0.4, points=5, noise=0.0).draw(20, seed=0, irregular=True)
    for rule in (physics.midpoint, physics.match_discrete_gradient, physics.Shooting(physics.RK4())):
        assert (
            float(physics.mean_square(true_spring(rule), data.windows()).sqrt()) < 0.2
        )  # (4 / 3) h^2 at h = .4, or less


def test_the_adaptive_step_is_the_flow_and_its_adjoint_has_the_same_gradient():
    data = spring_data()
    grads = []
    for adjoint in (False, True):
        rule = physics.Shooting(physics.Adaptive(1e-9, 1e-11, adjoint=adjoint))
        model = true_spring(rule, Quadratic(start=1.1))
        loss = physics.mean_square(model, data.windows())
        loss.backward()
        grads.append(next(model.parameters()).grad)
        assert float(physics.mean_square(true_spring(rule), data.windows()).detach()) < 1e-14
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-6, atol=0)


def test_a_lagrangian_gives_newtons_equation():
    """L = v^2 / 2 + cos q, of which q'' = -sin q."""

    class Net(nn.Module):
        def forward(self, u: Tensor) -> Tensor:
            return torch.cos(u[..., :1])

    u = torch.randn(5, 2, dtype=WIDE, generator=torch.Generator().manual_seed(0))
    field = physics.LagrangianField(Net())
    torch.testing.assert_close(field(0.0, u), torch.stack([u[:, 1], -torch.sin(u[:, 0])], 1), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(field.energy(u), u[:, 1] ** 2 / 2 - torch.cos(u[:, 0]), rtol=1e-13, atol=1e-14)


def distance(model: LearnedSystem, data: Trajectories, wanted: float, window: int = 1) -> float:
    """Of the fitted c from the wanted one."""
    physics.fit(model, data, optimizer=newton(model), steps=2, window=window, stride=window)
    return float((model.field.energy.c.detach() - wanted).abs().max())  # type: ignore[union-attr]


def test_fitted_states_undo_the_bias_of_noise():
    """A fit of one step to noisy states is off by the noise's share, as a regression with errors in its variables.

    Without noise the discrete gradient would find tan(h) / h, and shots of Runge-Kutta 1.
    """
    data = data_sets.springs(span=8.0, points=41, noise=0.1).draw(20, seed=0)
    plain = true_spring(physics.match_discrete_gradient, Quadratic(start=0.9))
    assert distance(plain, data, math.tan(0.2) / 0.2) > 0.02  # noise of variance .01 on states of .2
    states = true_spring(
        physics.ErrorsInVariables(physics.match_discrete_gradient, data, window=40, stride=40), Quadratic(start=0.9)
    )
    assert distance(states, data, math.tan(0.2) / 0.2, 40) < 0.01
    starts = true_spring(physics.FromFittedStarts(data, physics.RK4(), window=10, stride=10), Quadratic(start=0.9))
    assert distance(starts, data, 1.0, 10) < 0.01


@pytest.mark.parametrize(
    "stepper",
    [physics.Gauss(1), physics.Gauss(2), physics.DiscreteGradient(), physics.RK4()],
    ids=["midpoint", "Gauss", "discrete gradient", "Runge-Kutta"],
)
def test_members_with_times_of_their_own_move_as_they_do_alone(stepper):
    data = data_sets.springs(noise=0.0, points=8).draw(2, seed=0, irregular=True)
    model = true_spring(physics.midpoint)
    model.stepper = stepper
    both = model.predict(data.states[:, 0], data.times).states
    for i in range(2):
        alone = model.predict(data.states[i : i + 1, 0], data.times[i]).states
        torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("size", [1.0, 1e-12])
def test_adaptive_steps_are_as_exact_for_small_states(size):
    """Of a spring, which turns by the time."""
    u = torch.tensor([[size, 0.0]], dtype=WIDE)
    found, _ = physics.Adaptive().step(lambda t, u: rotate(u), 0.0, 1.0, u, None)
    wanted = size * torch.tensor([[math.cos(1), -math.sin(1)]], dtype=WIDE)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


FUSED = {
    "LayerNorm": lambda: nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1)),
    "attention": lambda: nn.Sequential(
        nn.Linear(4, 16), nn.Unflatten(1, (2, 8)),
        nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, activation="gelu", batch_first=True),
        nn.Flatten(), nn.Linear(16, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("net", FUSED)
@pytest.mark.parametrize(
    "model",
    [
        lambda net: physics.hamiltonian_network(4, net),
        lambda net: physics.hamiltonian_network(4, net, rule=physics.midpoint),
        lambda net: physics.energy_model(4, net),
        lambda net: physics.lagrangian_network(4, net),
    ],
    ids=["rates", "midpoint", "discrete gradient", "Lagrangian"],
)
def test_gradients_of_training_are_right_through_what_torch_fuses(net, model):
    """Where a loss holds derivatives of an energy, its gradient needs the second, of a Lagrangian the third."""
    learned = model(FUSED[net]())
    data = Trajectories(0.1 * torch.arange(4.0), torch.randn(6, 4, 4), slopes=torch.randn(6, 4, 4))
    own = [x for x in learned.parameters() if x.requires_grad]
    start, along = [x.detach().clone() for x in own], [torch.randn_like(x) for x in own]
    found = torch.autograd.grad(physics.mean_square(learned, data.windows()), own, allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(found, along, strict=True) if g is not None)

    def beside(e: float) -> float:
        for x, u, d in zip(own, start, along, strict=True):
            x.data = u + e * d
        return float(physics.mean_square(learned, data.windows()).detach())

    e = 1e-5
    differences = [(beside(e / k) - beside(-e / k)) * k / (2 * e) for k in (1, 2)]
    assert slope == pytest.approx((4 * differences[1] - differences[0]) / 3, rel=1e-5)


@pytest.mark.parametrize("rule", [physics.midpoint, physics.match_discrete_gradient], ids=["midpoint", "automatic"])
def test_two_times_that_are_near_do_not_outweigh_all_others(rule):
    """Noise s leaves s^2 / h^2 in a step: weighed by it, a hundredth of a step counts as any other."""
    data = data_sets.springs(noise=0.0).draw(20, seed=0)
    near = data.times.clone()
    near[:, 10] = near[:, 9] + (near[:, 10] - near[:, 9]) / 100
    noisy = [
        Trajectories(t, data_sets.springs(noise=0.0).exact(20, 0, t).states + 0.01 * torch.randn(20, 30, 2))
        for t in (data.times, near)
    ]
    even, uneven = (float(physics.mean_square(true_spring(rule), x.windows()).detach()) for x in noisy)
    assert uneven == pytest.approx(even, rel=0.3)


@pytest.mark.parametrize("rule", [physics.midpoint, physics.Shooting(physics.RK4())], ids=["midpoint", "shooting"])
def test_batches_of_uneven_times_weigh_as_the_whole_data_do(rule):
    data = data_sets.springs(noise=0.0).draw(4, seed=0, irregular=True)
    windows, model = data.windows(), true_spring(rule, Quadratic(start=1.1))
    parts = [physics.mean_square(model, windows.rows(torch.tensor([i]))) for i in range(len(windows.u))]
    torch.testing.assert_close(torch.stack(parts).mean(), physics.mean_square(model, windows), rtol=1e-12, atol=0)


@pytest.mark.parametrize("model", [physics.hamiltonian_network, physics.lagrangian_network, physics.energy_model])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("whole", [True, False], ids=["field", "network"])
def test_a_compiled_field_or_network_has_the_same_rates_and_gradients(model, backend, whole):
    """Of fused operations too, of which torch has no second derivatives, or wrong third ones."""
    torch._dynamo.reset()
    parts = nn.Linear(2, 8), nn.LayerNorm(8), nn.Hardsigmoid(), nn.Linear(8, 1)
    plain, u = model(2, nn.Sequential(*parts)).double(), torch.randn(5, 2)
    compiled = copy.deepcopy(plain) if whole else model(2, torch.compile(Chain(*parts), backend=backend)).double()
    if whole:
        compiled.field.compile(backend=backend)
    window = data_sets.springs(noise=0.0).draw(2, seed=0).windows()
    if model is physics.hamiltonian_network:
        plain.rule = compiled.rule = physics.midpoint

    def taken(model):
        with torch.no_grad():
            rates = model(u)
        square = physics.mean_square(model, window)
        return [rates, *torch.autograd.grad(square, model.parameters(), materialize_grads=True)]

    for one, other in zip(taken(compiled), taken(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_adaptive_steps_turn_complex_states():
    found = physics.Adaptive(1e-9).step(lambda t, u: -1j * u, 0.0, 1.0, torch.ones(1, 1) + 0j, None)[0]
    assert complex(found) == pytest.approx(cmath.exp(-1j), abs=1e-8)


def sensed(t: float, u: Tensor) -> Tensor:
    assert bool((u < 1).all()), "out of the sensor's range"
    return u


@pytest.mark.parametrize(
    ("field", "kind", "message"),
    [
        (lambda t, u: u[:, :1], SettingError, r"rate of states \S+ \[3, 2\] is \S+ of shape \[3, 1\], expected one"),
        (lambda t, u: 1.0, SettingError, r"rate of states \S+ \[3, 2\] is a float, expected one"),
        (lambda t, u: 1j * u, SettingError, r"rate of states \S+ \[3, 2\] is torch.complex128 .*, real if they are"),
        (lambda t, u: u / 0, StepError, "the rate is not finite at the start"),
        (lambda t, u: 10 * u**2, StepError, "given up: no step is small enough: the flow runs away"),
        (lambda t, u: -1e6 * (u - math.cos(t)), StepError, "given up: max_steps are used up, as by a stiff field"),
        (sensed, AssertionError, "^out of the sensor's range"),
    ],
    ids=["one entry", "number", "complex", "not finite", "away", "stiff", "its own"],
)
def test_adaptive_steps_that_fail_say_why(field, kind, message):
    with pytest.raises(kind, match=message):
        physics.Adaptive().step(field, 0.0, 1.0, torch.full((3, 2), 0.9), None)


STEPPED = {
    "explicit": (lambda f: lambda t, u: f(u), physics.RK4()),
    "implicit": (lambda f: lambda t, u: f(u), physics.Gauss(2)),
    "force": (lambda f: physics.Separable(lambda p: p, f), physics.Leapfrog()),
    "velocity": (lambda f: physics.Separable(f, lambda q: -q), physics.yoshida(physics.Leapfrog())),
    "structure": (lambda f: physics.EnergySystem(lambda u: (u**2).sum(-1), f), physics.DiscreteGradient()),
}


@pytest.mark.parametrize("name", STEPPED)
@pytest.mark.parametrize(
    ("rate", "came"),
    [
        (lambda u: u[:, :1], r"torch.float64 of shape \[3, 1\]"),
        (lambda u: u[0], r"torch.float64 of shape \[\d\]"),
        (lambda u: 1.0, "a float"),
        (lambda u: 1j * u, "torch.complex128"),
    ],
    ids=["of one entry", "of one state", "number", "complex"],
)
def test_rates_of_another_kind_are_refused(name, rate, came):
    wrap, stepper = STEPPED[name]
    with pytest.raises(SettingError, match=rf"rate of states torch.float64 \[3, \d\] is {came}"):
        list(eom.march(wrap(rate), stepper, torch.ones(3, 4), h=0.1, steps=1))


def test_steps_stay_in_the_floats_of_states():
    start = torch.ones(3, 2, dtype=torch.float32)
    for stepper in (physics.Gauss(2), physics.RK4(), physics.Adaptive()):
        [_, (_, found)] = list(eom.march(lambda t, u: -u.double(), stepper, start, h=0.1, steps=1))
        torch.testing.assert_close(found, math.exp(-0.1) * start, rtol=1e-6, atol=0)


def test_states_that_are_whole_numbers_have_rates_that_are_none():
    found = [
        physics.RK4().step(lambda t, u: -u / 2, 0.0, 0.1, x, None)[0] for x in (torch.ones(1), torch.ones(1).long())
    ]
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)


@pytest.mark.parametrize("rule", [physics.discrete_gradient, physics.MeanValue(2)], ids=["automatic", "mean value"])
def test_states_may_have_any_number_of_axes(rule):
    u = torch.arange(12.0).view(2, 3, 2) / 10
    step = physics.DiscreteGradient(rule).step
    found = step(physics.pendulum().field, 0.0, 0.1, u, None)[0]
    torch.testing.assert_close(found.flatten(0, 1), step(physics.pendulum().field, 0.0, 0.1, u.flatten(0, 1), None)[0])


class Chain(nn.Module):
    """Layers one after the other, and of no length."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def __len__(self) -> int:
        return 0

    def forward(self, u: Tensor) -> Tensor:
        for layer in self.layers:
            u = layer(u)
        return u


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
def test_adaptive_steps_round_as_the_states_do_and_go_by_the_time(method):
    u = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    steps, field = physics.Adaptive(method=method), physics.pendulum().field
    wide, narrow = (steps.step(field, 0.0, 0.005, x, None)[0] for x in (u, u.float()))
    torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=1e-6)  # two or three roundings of numbers up to 4
    push = torch.tensor(1.2, requires_grad=True)  # of u' = -u + k sin 3 t
    one = steps.step(lambda t, u: -u + push * math.sin(3 * t), 0.0, 1.0, torch.tensor([[1.0]]), None)[0]
    (slope,) = torch.autograd.grad(one.sum(), push)
    assert float(slope) == pytest.approx((3 * math.exp(-1) + math.sin(3) - 3 * math.cos(3)) / 10, abs=1e-6)
    [(_, after)] = list(eom.march(lambda t, u: u * 0 + math.cos(t), steps, torch.zeros(1, 2), h=0.1, steps=10))[-1:]
    assert float(after[0, 0]) == pytest.approx(math.sin(1), abs=1e-6)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize(("method", "rtol"), [("bosh3", 1e-6), ("dopri5", 1e-6), ("dopri8", 1e-10)])
@pytest.mark.parametrize("h", [0.03, 0.3])
def test_adaptive_steps_are_as_good_as_their_tolerance_on_dense_times_too(method, rtol, adjoint, h):
    """Of the spring and of its gradient in the rate w: q = cos 2 w t, p = -sin 2 w t. Left alone, 4e-3 for 1e-6."""
    steps = physics.Adaptive(rtol=rtol, method=method, adjoint=adjoint)
    model, times = true_spring(physics.Shooting(steps), Quadratic(size=1)), h * torch.arange(11)
    rate: nn.Parameter = model.field.energy.c  # type: ignore[assignment, union-attr] - a module
    data = Trajectories(times, torch.stack([(2 * times).cos(), -(2 * times).sin()], -1)[None])
    model.stepper = steps
    torch.testing.assert_close(model.predict(data.states[:, 0], times).states, data.states, rtol=0, atol=100 * rtol)
    start, weight = data.states[:, 0], torch.tensor([1.0, 0.5])
    last = list(followed(model.field, steps, start, data.times))[-1]
    (slope,) = torch.autograd.grad((last @ weight).sum(), rate)
    t = float(times[-1])
    wanted = -2 * t * (math.sin(2 * t) + 0.5 * math.cos(2 * t))
    assert float(slope) == pytest.approx(wanted, abs=100 * rtol * t)


@pytest.mark.parametrize("rule", [physics.midpoint, physics.Shooting(physics.RK4())], ids=["midpoint", "shooting"])
def test_windows_of_two_data_sets_have_the_loss_of_both_in_any_order(rule):
    long, short = (data_sets.springs(points=k, noise=0.0).draw(3, seed=k).windows() for k in (60, 8))
    model = true_spring(rule, Quadratic(start=1.1))

    def loss(*parts):
        columns = zip(*(part._replace(slope=part.u) for part in parts), strict=True)
        return physics.mean_square(model, type(long)(*map(torch.cat, columns)))

    both = [float(physics.mean_square(model, x).detach()) * len(x.u) for x in (long, short)]
    for joined in (loss(long, short), loss(short, long)):
        assert float(joined.detach()) == pytest.approx(sum(both) / (len(long.u) + len(short.u)), rel=1e-12)
