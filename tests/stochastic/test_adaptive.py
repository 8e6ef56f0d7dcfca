"""RMSProp and Adam as stochastic equations: they agree with the optimizers as the learning rate falls."""

import math

import pytest
import torch
from torch import Tensor

from eom.dynamics.brownian import Brownian
from eom.dynamics.stochastic_steppers import EulerMaruyama
from eom.errors import SettingError
from eom.stochastic.adaptive import Adaptive, adam_sde, rmsprop_sde
from eom.stochastic.paths import ensemble

ROOT = torch.tensor([[1.0, 0.0], [0.4, 0.7]], dtype=torch.float64)  # of the covariance of unit noise
CURVED = torch.tensor([[1.0, 0.2], [0.2, 0.6]], dtype=torch.float64)
START, TIME, PATHS = torch.tensor([1.0, -0.8], dtype=torch.float64), 1.0, 4000


def gradient(theta: Tensor) -> Tensor:
    return theta @ CURVED


def settings(lr: float, adam: bool) -> Adaptive:
    """The limit in which s, c_1, c_2 stand still: sigma as 1 / lr, 1 - beta as lr^2."""
    return Adaptive(lr, 1 / lr, 1 - 2 * lr**2 if adam else 0.0, 1 - 1.5 * lr**2, eps=0.1 / lr)


def optimized(own: Adaptive, steps: int, noise: Tensor) -> Tensor:
    """End points [b, 2] of torch's rule on noisy gradients, v started at its mean for RMSProp."""
    theta = START.expand(noise.shape[1], 2).clone()
    m = torch.zeros_like(theta)
    variance = own.sigma**2 * ROOT.square().sum(1)
    v = torch.zeros_like(theta) if own.beta1 else variance.expand_as(theta).clone()
    for k in range(steps):
        g = gradient(theta) + own.sigma * noise[k] @ ROOT.T
        v = own.beta2 * v + (1 - own.beta2) * g * g
        if own.beta1:
            m = own.beta1 * m + (1 - own.beta1) * g
            first, second = 1 - own.beta1 ** (k + 1), 1 - own.beta2 ** (k + 1)
            theta = theta - own.lr * (m / first) / ((v / second).sqrt() + own.eps)
        else:
            theta = theta - own.lr * g / (v.sqrt() + own.eps)
    return theta


def test_torchs_optimizers_take_these_steps():
    """The rule above is that of torch.optim, on one sequence of gradients."""
    for adam in (True, False):
        own = settings(0.2, adam)
        noise = torch.randn(6, 1, 2, generator=torch.Generator().manual_seed(0))
        parameter = torch.nn.Parameter(START.clone())
        if adam:
            optimizer = torch.optim.Adam([parameter], own.lr, (own.beta1, own.beta2), own.eps)
        else:
            optimizer = torch.optim.RMSprop([parameter], own.lr, own.beta2, own.eps)
            optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                "square_avg": own.sigma**2 * ROOT.square().sum(1),
            }
        for k in range(6):
            parameter.grad = (gradient(parameter) + own.sigma * noise[k, 0] @ ROOT.T).detach()
            optimizer.step()
        torch.testing.assert_close(parameter.detach(), optimized(own, 6, noise)[0], rtol=1e-10, atol=1e-12)


def moments_of(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Means of theta and theta^2 [4], and their standard errors."""
    values = torch.cat([theta, theta.square()], 1)
    return values.mean(0), values.std(0) / len(values) ** 0.5


@pytest.mark.parametrize("adam", [False, True], ids=["RMSProp", "Adam"])
def test_the_equation_agrees_with_the_optimizer_at_a_small_learning_rate(adam):
    """First and second moments at time 1, within five standard errors and four lr^2 = .01."""
    lr = 0.05
    own, steps = settings(lr, adam), round(TIME / lr**2)
    noise = torch.randn(steps, PATHS, 2, generator=torch.Generator().manual_seed(3))
    found, error = moments_of(optimized(own, steps, noise))
    variance = ROOT.square().sum(1).expand(PATHS, 2)
    u = torch.full_like(variance, 1e-12) if adam else variance
    y = torch.cat([START.expand(PATHS, 2), *([torch.zeros(PATHS, 2)] if adam else []), u], 1)
    make = adam_sde if adam else rmsprop_sde
    flow = ensemble(make(gradient, ROOT, own), EulerMaruyama(Brownian(8)), y, h=1 / 400, steps=400).y[-1][:, :2]
    wanted, bar = moments_of(flow)
    assert ((found - wanted).abs() < 5 * (error + bar) + 4 * lr**2).all()
    still = moments_of(START.expand(2, 2))[0]
    assert ((wanted - still).abs() > 10 * (error + bar)).any()  # there was something to agree on


def test_the_square_root_rule_leaves_the_equation_as_it_is():
    """Rates s, e, c_1, c_2 are those of the same process for any size of the batch."""
    own = Adaptive(0.01, 5.0, 0.9, 0.99, 1e-3)
    scaled = own.scaled(4)
    assert scaled.lr == pytest.approx(0.02)
    assert (1 - scaled.beta1, 1 - scaled.beta2) == (pytest.approx(0.4), pytest.approx(0.04))
    assert scaled.eps == pytest.approx(5e-4)
    assert scaled.rates == pytest.approx(own.rates)


def test_at_rest_the_averaged_squares_stay_at_the_variance():
    own = Adaptive(0.1, 10.0, 0.0, 0.9)
    variance = ROOT.square().sum(1)
    sde = rmsprop_sde(gradient, ROOT, own)
    y = torch.cat([torch.zeros(2), variance])[None]
    torch.testing.assert_close(sde.drift(0.0, y), torch.zeros(1, 4))
    torch.testing.assert_close(
        sde.noise(0.0, y, torch.tensor([[1.0, 0.0]])),
        torch.tensor([[-1.0, -0.4 / math.sqrt(0.65), 0, 0]]),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"lr": 0.0}, "lr is 0.0, expected a positive number"),
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"beta2": 1.0}, "beta2 is 1.0, expected a number from 0 to below 1"),
        ({"eps": -1.0}, "eps is -1.0"),
    ],
)
def test_bad_input_is_named(given, complaint):
    with pytest.raises(SettingError, match=complaint):
        Adaptive(**({"lr": 0.1, "sigma": 1.0} | given))
    with pytest.raises(SettingError, match="k is 20, expected a positive number of at most 10"):
        Adaptive(0.1, 1.0).scaled(20)
