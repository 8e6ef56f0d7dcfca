"""What would be silently wrong is refused: no stationary law, no covariance, sums for means, shapes that broadcast."""
# pyright: reportArgumentType=false, reportIndexIssue=false, reportOptionalSubscript=false

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import eom
from eom.dynamics.brownian import Brownian, Place
from eom.dynamics.moments import evolved, moments_at
from eom.dynamics.noise import Additive, Diagonal, General, of_covariance
from eom.dynamics.sampling import strong_errors, weak_differences
from eom.dynamics.sde import Sde
from eom.dynamics.stochastic_steppers import SRA1, EulerMaruyama, Milstein, StochasticHeun
from eom.dynamics.transfer import Circle, Interval, stationary
from eom.errors import EomError, ExplosionError, NoiseError, SettingError
from eom.stochastic.bias import exact_mean, overdamped_mean, splitting_mean
from eom.stochastic.blocks import ShakeShake, StochasticDepth
from eom.stochastic.covariance import GradientNoise, noise_of
from eom.stochastic.density import Density, posterior
from eom.stochastic.langevin import BAOAB, MALA, Splitting
from eom.stochastic.near_minimum import ou_covariance
from eom.stochastic.paths import ensemble
from eom.stochastic.random_depth import uniform_law
from eom.stochastic.sgd import sgd_sde, temperature
from eom.stochastic.thermodynamics import crooks, drive, entropy_of_paths, jarzynski

WELL = Density(lambda x: (x**4 / 4 - x**2 / 2).sum(-1))
BOWL = Density(lambda x: (x**2 / 2).sum(-1))
LINE, SHORT = Interval(121, -4, 4), Interval(60, -1, 1)
ONE = torch.eye(2)


def still(t, y):
    return 0 * y


def march(sde, stepper, y):
    return ensemble(sde, stepper, y, h=0.1, steps=1)


def square(x):
    return x**2


def classes(samples: int = 30):
    torch.manual_seed(0)
    return torch.randn(samples, 2), torch.randint(2, (samples,))


def summed(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def penalised(model, batch):
    return summed(model, batch) + 0.5 * sum(p.square().sum() for p in model.parameters())


@pytest.mark.parametrize(
    ("act", "error", "complaint"),
    [
        (lambda: overdamped_mean(EulerMaruyama(), WELL, 0.2, square, LINE), ExplosionError, "the step is too large"),
        (lambda: overdamped_mean(EulerMaruyama(), BOWL, 2.5, square, LINE), ExplosionError, "the step is too large"),
        (lambda: overdamped_mean(EulerMaruyama(), BOWL, 0.1, square, SHORT), ExplosionError, "interval is too short"),
        (lambda: stationary(torch.eye(5), torch.arange(5.0)), ExplosionError, "differences between starts"),
        (lambda: splitting_mean(BAOAB(), BOWL, 2.5, square, LINE), ExplosionError, "no stationary law of BAOAB"),
        (lambda: splitting_mean(Splitting("BAB"), BOWL, 0.1, square, LINE), SettingError, "expected A, B and O"),
        (lambda: splitting_mean(BAOAB(), BOWL, 0.1, square, LINE, 0.0), SettingError, "expected A, B and O"),
        (lambda: exact_mean(Density(lambda x: x**2 / 2), square, LINE), SettingError, "sum over the last dimension"),
        (lambda: ensemble(Density(lambda x: x**2), MALA(), torch.ones(3, 1), h=0.1, steps=2), SettingError, "sum over"),
        (lambda: Density(BOWL.energy, -1.0), SettingError, "temperature is -1.0"),
        (lambda: Circle(60), SettingError, "points is 60, expected an odd number"),
        (lambda: uniform_law(1), SettingError, "one node has no variance"),
        (lambda: ou_covariance(ONE, torch.diag(torch.tensor([1.0, -1.0])), 0.1), NoiseError, "the eigenvalue -1"),
        (lambda: ou_covariance(ONE, ONE, -0.1), SettingError, "lr is -0.1"),
        (lambda: ou_covariance(ONE + torch.tensor([[0, 0.1], [0, 0]]), ONE, 0.1), SettingError, "symmetric"),
        (lambda: entropy_of_paths(ONE, 1 - ONE, torch.ones(3, 2, 2), 0.1), NoiseError, "the eigenvalue -1"),
        (lambda: entropy_of_paths(ONE, ONE, torch.ones(3, 2, 2), -0.1), SettingError, "a positive step"),
        (lambda: jarzynski(torch.ones(3), -1.0), SettingError, "temperature is -1.0"),
        (lambda: crooks(torch.tensor([1e3, 1.01e3]), torch.tensor([1e3, 1.1e3])), SettingError, "say nothing of dF"),
        (lambda: crooks(torch.ones(0), torch.ones(3)), SettingError, "two finite numbers or more"),
        (lambda: drive(lambda x, lam: lam * BOWL.energy(x), torch.ones(3, 1), [1.0, 2.0], h=0.0), SettingError, "h is"),
        (lambda: temperature(0.1, 0), SettingError, "batch_size 0"),
        (lambda: Additive([0.1, 0.2]), NoiseError, "the root is .*expected a number, or a real tensor"),
        (lambda: Additive(torch.ones(2, dtype=torch.complex64)), NoiseError, "expected a number, or a real tensor"),
        (lambda: of_covariance(torch.eye(2) * 1j), NoiseError, "expected a real tensor"),
        (lambda: General(lambda t, y: y, 2.0), NoiseError, "size is 2.0"),
        (
            lambda: ensemble(
                Sde(lambda t, y: -y, Diagonal(lambda t, y: y[..., :1])),
                StochasticHeun(),
                torch.ones(3, 2),
                h=0.1,
                steps=1,
            ),
            NoiseError,
            "diagonal noise gave shape",
        ),
        (
            lambda: ensemble(
                Sde(lambda t, y: y * 1j, Additive(0.1)), EulerMaruyama(), torch.ones(3, 2), h=0.1, steps=1
            ),
            SettingError,
            "the drift gave torch.complex",
        ),
        (
            lambda: evolved(
                Sde(lambda t, y: 0 * y, Diagonal(lambda t, y: y.flip(-1)), "stratonovich"),
                moments_at(torch.ones(2)),
                1.0,
            ),
            NoiseError,
            "depends on other entries",
        ),
        (
            lambda: ensemble(
                Sde(lambda t, y: 0 * y, Diagonal(lambda t, y: t * y.flip(-1))),
                Milstein(),
                torch.ones(3, 2),
                h=0.1,
                steps=1,
            ),
            NoiseError,
            "depends on other entries",
        ),
        (
            lambda: strong_errors(
                Sde(lambda t, y: y**3, Additive(0.1)), EulerMaruyama(), torch.full((9, 1), 9.0), 9.0, 9, 3
            ),
            ExplosionError,
            "left the finite numbers",
        ),
        (
            lambda: strong_errors(Sde(lambda t, y: -y, Additive(0.1)), SRA1(), torch.ones(2), 1.0, 8, 3),
            SettingError,
            "y is",
        ),
        (
            lambda: weak_differences(
                Sde(lambda t, y: -y, Additive(0.1)), SRA1(), torch.ones(9, 2), lambda y: y, 1.0, 8, 3
            ),
            SettingError,
            r"phi gave \[9, 2\] for the paths, expected \[b\]",
        ),
        (lambda: GradientNoise(torch.ones(1, 3), torch.ones(3)).top(1), SettingError, "from 1 to 0, the rank"),
        (lambda: noise_of(eom.Objective(nn.Linear(2, 2), summed, classes()), torch.ones(3)), SettingError, "theta is"),
        (lambda: posterior(eom.Objective(nn.Linear(2, 2), penalised, classes())), SettingError, "not lie between"),
        (
            lambda: posterior(
                eom.Objective(
                    nn.Linear(2, 2), lambda m, b: F.cross_entropy(m(b[0]), b[1]), classes(), weight=lambda b: 1.0
                )
            ),
            SettingError,
            "weigh 1 together and hold 30 samples",
        ),
        (lambda: ShakeShake(nn.Linear(2, 1), nn.Identity())(torch.ones(3, 2)), SettingError, r"gives \[3, 1\]"),
        (lambda: StochasticDepth(nn.Linear(2, 1))(torch.ones(3, 2)), SettingError, r"gives \[3, 1\]"),
    ],
)
def test_it_is_refused_and_named(act, error, complaint):
    with pytest.raises(error, match=complaint):
        act()


def test_a_march_within_a_coarse_step_is_not_made_coarser():
    y = torch.ones(3)
    _, place = Brownian(0, 1).next(Place(), 0.1, y, 3)
    with pytest.raises(SettingError, match="can be refined, not made coarser"):
        Brownian(0, 0).next(place, 0.2, y, 3)
    Brownian(0, 2).next(place, 0.05, y, 3)


def test_sra1_has_the_bias_of_its_order_on_a_density():
    found = [abs(overdamped_mean(SRA1(), BOWL, h, square, Interval(81, -8, 8)) - 1) for h in (0.2, 0.1)]
    assert math.log2(found[0] / found[1]) == pytest.approx(2, abs=0.1)


def test_an_equation_of_samples_one_by_one_can_be_marched():
    """vmap does not know the LSTM; its noise is of the loop, under no_grad too."""

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 2)

        def forward(self, x):
            return self.out(self.cell(x[:, None])[0][:, -1])

    own = eom.Objective(Last(), lambda m, b: F.cross_entropy(m(b[0]), b[1]), classes(6))
    sde = sgd_sde(own, 0.1, 2)
    try:
        end = ensemble(sde, EulerMaruyama(), own.theta(), h=0.1, steps=1).y[-1]
    except EomError as failure:
        pytest.fail(str(failure))
    assert bool(end.isfinite().all())
    with pytest.raises(NoiseError, match="no derivative in the state that torch can take"):
        ensemble(sde, StochasticHeun(), own.theta(), h=0.1, steps=1)
