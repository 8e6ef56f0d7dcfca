"""Ensembles of paths: those of a march, and a path that explodes is named with its time and size."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import eom
from eom.dynamics.brownian import Brownian
from eom.dynamics.noise import Additive, Diagonal
from eom.dynamics.sde import Sde
from eom.dynamics.stochastic_steppers import EulerMaruyama
from eom.errors import DataError, EomWarning, ExplosionError, NoiseError, SettingError
from eom.stochastic.density import Density, posterior
from eom.stochastic.langevin import BAOAB, MALA, SGHMC, LeimkuhlerMatthews, Underdamped, overdamped
from eom.stochastic.paths import ensemble

OU = Sde(lambda t, y: -y, Diagonal(lambda t, y: 0.5 * torch.cos(y)))


def test_the_states_kept_are_those_of_the_march():
    y = torch.randn(5, 3)
    found = ensemble(OU, EulerMaruyama(Brownian(4)), y, h=0.1, steps=7, every=3)
    marched = list(eom.march(OU, EulerMaruyama(Brownian(4)), y, h=0.1, steps=7))
    assert found.t.tolist() == pytest.approx([0, 0.3, 0.6, 0.7])
    assert all(torch.equal(found.y[i], marched[k][1]) for i, k in enumerate((0, 3, 6, 7)))
    ends = ensemble(OU, EulerMaruyama(Brownian(4)), y, h=0.1, steps=7)
    assert ends.t.tolist() == pytest.approx([0, 0.7])


def test_a_tenth_of_a_unit_in_single_precision_takes_as_many_steps_as_it_says():
    """Steps are counted, not summed up: at h = .01 in float32 there is nothing to bisect."""
    y = torch.ones(4, 2, dtype=torch.float32)
    found = ensemble(OU, EulerMaruyama(), y, h=0.01, steps=100)
    assert found.y.dtype == torch.float32
    assert float(found.t[-1]) == 1.0


@pytest.mark.parametrize(("steps", "step"), [(100, 9), (9, 9), (500, 9)])
def test_a_path_that_explodes_is_named_with_its_time_and_size(steps, step):
    cubic = Sde(lambda t, y: y**3, Additive(0.1))
    y = torch.full((3, 1), 2.0)
    y[1:] = -1e-3
    said = (
        rf"1 of 3 paths left the finite numbers at time {0.1 * step:.4g}, step {step}, from a size of .*e\+\d+ the step"
    )
    with pytest.raises(ExplosionError, match=said):
        ensemble(cubic, EulerMaruyama(), y, h=0.1, steps=steps)
    with pytest.raises(ExplosionError, match="the path left the finite numbers"):
        ensemble(cubic, EulerMaruyama(), y[0], h=0.1, steps=steps)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"h": 0.0}, "h is 0.0, expected a positive step"),
        ({"steps": 0}, "steps is 0, expected a whole number"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"every": 0}, "every is 0"),
        ({"y": torch.tensor([float("nan")])}, r"no tensor \[\.\.\., n\] of finite numbers"),
        ({"y": [0.0]}, r"no tensor \[\.\.\., n\] of finite numbers"),
        ({"y": torch.ones(2, dtype=torch.int64)}, r"no tensor \[\.\.\., n\] of finite numbers"),
    ],
)
def test_bad_input_is_named(settings, complaint):
    given = {"y": torch.zeros(2, 1), "h": 0.1, "steps": 3} | settings
    with pytest.raises(SettingError, match=complaint):
        ensemble(OU, EulerMaruyama(), given.pop("y"), **given)


def stiff(t, y):
    return -torch.tensor([1.0, 30.0]) * y


@pytest.mark.parametrize(
    ("field", "stepper", "limit"),
    [
        (Sde(stiff, Additive(0.1)), EulerMaruyama(), 2 / 30),
        (overdamped(Density(lambda y: 15 * y.square().sum(-1))), LeimkuhlerMatthews(), 2 / 30),
        (Underdamped(lambda t, q: stiff(t, q)), BAOAB(), 2 / 30**0.5),
    ],
    ids=["drift", "density", "splitting"],
)
def test_a_step_beyond_the_stable_ones_of_the_linear_part_is_said(field, stepper, limit, recwarn):
    y = torch.ones(3, 4 if isinstance(field, Underdamped) else 2)
    ensemble(field, stepper, y, h=0.95 * limit, steps=3)
    assert not recwarn
    with pytest.warns(EomWarning, match=rf"h = .* is too large for stability.*take h below {limit:.2g}"):
        found = ensemble(field, stepper, y, h=1.2 * limit, steps=60)
    assert float(found.y.abs().max()) > 1e3


def test_momenta_that_friction_throws_back_by_more_than_they_were_are_refused():
    with pytest.raises(SettingError, match="friction times h is 2, expected less than 2"):
        ensemble(Underdamped(stiff, friction=20.0), SGHMC(), torch.ones(1, 4), h=0.1, steps=3)


@pytest.mark.parametrize("drift", [lambda t, y: y.sum(-1, keepdim=True), lambda t, y: 0.0])
def test_a_drift_of_another_shape_is_named(drift):
    with pytest.raises(SettingError, match=r"the drift gave .* expected \[\.\.\., n\] = \[3, 2\]"):
        ensemble(Sde(drift, Additive(0.1)), EulerMaruyama(), torch.ones(3, 2), h=0.1, steps=3)


def classes(samples: int = 60):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(samples, 2, generator=generator)
    return x, (x[:, 0] > 0).long()


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(2, 2)


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def plain() -> eom.Objective:
    return eom.Objective(network(), cross_entropy, classes())


def test_a_density_is_the_field_of_its_energy():
    density, y = Density(lambda x: (x**4).sum(-1)), torch.randn(3, 4, 2)
    torch.testing.assert_close(density(0.0, y), -4 * y**3)
    torch.testing.assert_close(density.potential(y), (y**4).sum(-1))


def test_the_energy_of_a_posterior_counts_every_sample_once():
    """U = sum of losses + |theta|^2 / (2 prior^2), and the force is minus its gradient."""
    data, model = classes(), network()
    own = posterior(eom.Objective(model, cross_entropy, data), prior=2.0)
    theta = torch.randn(3, 6)
    summed = eom.Objective(model, lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="sum"), data, decay=1 / 4)
    torch.testing.assert_close(own.potential(theta), torch.stack([summed.loss(x) for x in theta]))
    torch.testing.assert_close(own(0.0, theta), torch.stack([-summed.gradient(x) for x in theta]))


def test_the_force_of_batches_has_the_mean_of_the_whole_and_is_known_again():
    own = posterior(eom.Objective(network(), cross_entropy, classes()))
    theta, batches = torch.randn(6), own.by_batches(10, seed=1)
    drawn = torch.stack([batches(0.1 * k, theta) for k in range(3000)])
    error = drawn.std(0) / 3000**0.5
    assert ((drawn.mean(0) - own(0.0, theta)).abs() < 5 * error).all()
    assert torch.equal(batches(0.3, theta), batches(0.3, theta))
    assert not torch.equal(batches(0.3, theta), batches(0.4, theta))


@pytest.mark.slow
def test_chains_draw_batches_of_their_own():
    """Equal members at one time get forces that differ, each of them without bias; one member is as it was."""
    own = posterior(eom.Objective(network(), cross_entropy, classes()))
    force, y = own.by_batches(5, seed=1), own.objective.theta()
    many = force(0.3, y.expand(400, -1))
    assert torch.equal(many[0], force(0.3, y))
    assert torch.equal(many, force(0.3, y.expand(400, -1)))
    error = many.std(0) / 20
    assert float(((many.mean(0) - own(0.0, y)).abs() / error).max()) < 4.5
    apart = torch.corrcoef(many - many.mean(0))
    assert float(apart.fill_diagonal_(0).mean().abs()) < 0.01


def test_a_cold_posterior_is_sampled_cold():
    own = posterior(eom.Objective(network(), cross_entropy, classes()), temperature=0.01)
    for density in (own, own.by_batches(5)):
        assert overdamped(density).noise == Additive(0.02**0.5)


@pytest.mark.slow
def test_samplers_of_a_posterior_agree():
    """Mean energy of MALA, which has no bias, and of others at small steps, by all data and by batches."""
    own = posterior(eom.Objective(network(), cross_entropy, classes()))
    start = torch.zeros(6, 6)
    both = torch.zeros(6, 12)
    runs = {
        "mala": ensemble(own, MALA(Brownian(1)), start, h=0.15, steps=400, every=5).y,
        "lm": ensemble(overdamped(own), LeimkuhlerMatthews(Brownian(2)), start, h=0.08, steps=600, every=5).y,
        "baoab": ensemble(Underdamped(own, 2.0), BAOAB(Brownian(3)), both, h=0.3, steps=400, every=5).y[..., :6],
        "sgld": ensemble(
            overdamped(own.by_batches(30)), EulerMaruyama(Brownian(4)), start, h=0.03, steps=1000, every=8
        ).y,
    }
    energy = {name: own.potential(y[30:]) for name, y in runs.items()}
    means = {name: float(u.mean()) for name, u in energy.items()}
    errors = {name: float(u.mean(0).std()) / 6**0.5 for name, u in energy.items()}
    for name in ("lm", "baoab", "sgld"):
        assert abs(means[name] - means["mala"]) < 4 * (errors[name] + errors["mala"]) + (
            0.3 if name == "sgld" else 0.05
        )


@pytest.mark.parametrize(
    ("act", "error", "complaint"),
    [
        (
            lambda: posterior(
                eom.Objective(network(), lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="sum"), classes())
            ),
            SettingError,
            "does not lie between those of its halves.*Write it as a mean: a posterior multiplies by N itself",
        ),
        (lambda: posterior(eom.Objective(network(), cross_entropy, classes(), 0.1)), SettingError, "has weight decay"),
        (
            lambda: posterior(eom.Objective(network(), cross_entropy, classes()), prior=0.0),
            SettingError,
            "prior is 0.0",
        ),
        (
            lambda: posterior(eom.Objective(network(), cross_entropy, classes())).by_batches(61),
            DataError,
            "the batch size is 61, expected a whole number from 1 to the 60 samples",
        ),
        (
            lambda: posterior(
                eom.Objective(network(), lambda m, b: b[0] * m(torch.ones(2)).sum(), (torch.tensor(1.0),))
            ),
            DataError,
            "the batch has no dimension of samples",
        ),
    ],
)
def test_a_posterior_that_would_be_another_one_is_refused(act, error, complaint):
    with pytest.raises(error, match=complaint):
        act()


def test_the_noise_is_named_where_it_is_what_is_not_finite():
    root = Sde(lambda t, y: -10 * y, Diagonal(lambda t, y: y.sqrt()))
    with pytest.raises(ExplosionError, match="the noise is not finite there"):
        ensemble(root, EulerMaruyama(), torch.full((50, 1), 0.01), h=0.1, steps=20)
    falling = Sde(lambda t, y: -10 * y.sqrt(), Additive(0.0))
    with pytest.raises(ExplosionError, match="the drift is not finite there"):
        ensemble(falling, EulerMaruyama(), torch.full((2, 1), 0.01), h=0.1, steps=20)


def test_a_root_of_another_length_than_the_state_is_refused():
    with pytest.raises(NoiseError, match=r"the root gave shape \[3\], expected .* = \[2\]"):
        ensemble(Sde(lambda t, y: -y, Additive(torch.ones(3))), EulerMaruyama(), torch.ones(10, 2), h=0.1, steps=2)
