"""Noise that is of the wrong shape or kind, or of no covariance, is refused; its drag is that of differences."""

import pytest
import torch

from eom.dynamics.brownian import Place
from eom.dynamics.noise import Additive, Diagonal, General, LowRank, Scalar, iterated, of_covariance
from eom.dynamics.runge_kutta import Euler
from eom.dynamics.sde import Sde
from eom.dynamics.stochastic_steppers import SRA1, EulerMaruyama, Milstein, StochasticHeun
from eom.errors import NoiseError, SettingError

Y = torch.tensor([[0.3, -0.4], [1.2, 0.7], [0.0, 0.1]], dtype=torch.float64)
MATRIX = General(lambda t, y: torch.stack([y.flip(-1).sin(), y * y.flip(-1), y.cos()], -1), 3)
KINDS = {
    "scalar": (Scalar(lambda t, y: y.flip(-1).sin()), 1),
    "diagonal": (Diagonal(lambda t, y: y.sin() + t), 2),
    "general": (MATRIX, 3),
    "low rank": (LowRank(lambda t, y, dw: MATRIX(t, y, dw), 3), 3),
    "additive": (Additive(0.3), 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_drag_is_the_derivative_of_each_column_along_itself(kind):
    noise, m = KINDS[kind]
    assert noise.channels(Y) == m
    total, e = torch.zeros_like(Y), 1e-6
    for dw in torch.eye(m, dtype=Y.dtype):
        dw = dw.expand(len(Y), m)
        v = noise(0.2, Y, dw)
        total += (noise(0.2, Y + e * v, dw) - noise(0.2, Y - e * v, dw)) / (2 * e)
    torch.testing.assert_close(noise.drag(0.2, Y), total, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", ["scalar", "diagonal", "additive"])
def test_the_iterated_integral_of_one_brownian_motion(kind):
    """(sigma' sigma / 2)(dW^2 - h), and the general formula."""
    noise, m = KINDS[kind]
    dw = torch.linspace(-1, 2, len(Y) * m, dtype=Y.dtype).reshape(len(Y), m)
    wanted = noise.drag(0.0, Y) * (dw**2 - 0.1) / 2
    torch.testing.assert_close(iterated(noise, 0.0, Y, dw, 0.1), wanted)
    if kind != "additive":
        as_product = LowRank(lambda t, y, w: noise(t, y, w), m)
        torch.testing.assert_close(iterated(as_product, 0.0, Y, dw, 0.1), wanted)


def still(t, y):
    return torch.zeros_like(y)


@pytest.mark.parametrize(
    ("noise", "complaint"),
    [
        (Scalar(lambda t, y: torch.ones(2)), r"scalar noise gave shape \[2\], expected \[..., n\] = \[3, 2\]"),
        (Diagonal(lambda t, y: y[..., :1]), r"diagonal noise gave shape \[3, 1\], expected \[..., n\] = \[3, 2\]"),
        (General(lambda t, y: y, 2), r"general noise gave shape \[3, 2\], expected \[..., n, m\] = \[3, 2, 2\]"),
        (LowRank(lambda t, y, dw: dw, 5), r"low-rank noise gave shape \[3, 5\]"),
        (Additive(torch.ones(3, 2)), r"the root gave shape \[3, 3\]"),
    ],
)
def test_noise_of_the_wrong_shape_is_refused(noise, complaint):
    with pytest.raises(NoiseError, match=complaint):
        EulerMaruyama().step(Sde(still, noise), 0.0, 0.1, Y, Place())


def test_noise_that_does_not_commute_is_refused_by_milstein_alone():
    for noise, why in (
        (MATRIX, "iterated integrals"),
        (Diagonal(lambda t, y: y.flip(-1)), "an entry of diagonal noise depends on other entries"),
    ):
        with pytest.raises(NoiseError, match=why):
            Milstein().step(Sde(still, noise), 0.0, 0.1, Y, Place())
    assert EulerMaruyama().step(Sde(still, MATRIX), 0.0, 0.1, Y, Place())[0].isfinite().all()
    commuting = General(lambda t, y: torch.stack([y, 2 * y], -1), 2)
    assert Milstein().step(Sde(still, commuting), 0.0, 0.1, Y, Place())[0].isfinite().all()


def test_a_reading_is_not_converted_with_entries_that_depend_on_others():
    mixed = Sde(still, Diagonal(lambda t, y: y.flip(-1)))
    with pytest.raises(NoiseError, match="write it as General"):
        StochasticHeun().step(mixed, 0.0, 0.1, Y, Place())


def test_a_scheme_for_additive_noise_takes_no_other():
    with pytest.raises(NoiseError, match="this stepper is for additive noise, and came upon Scalar"):
        SRA1().step(Sde(still, KINDS["scalar"][0]), 0.0, 0.1, Y, Place())


def test_the_root_of_a_covariance():
    c = torch.tensor([[2.0, 1.0], [1.0, 0.5]], dtype=torch.float64)  # of rank one
    root = of_covariance(c).root
    assert isinstance(root, torch.Tensor)
    torch.testing.assert_close(root @ root.T, c, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("covariance", "complaint"),
    [
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "has the eigenvalue -1, so it is that of no noise"),
        (torch.tensor([[1.0, 0.2], [0.1, 1.0]]), "not symmetric"),
        (torch.ones(2, 3), r"has shape \[2, 3\], expected \[n, n\]"),
        (torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]]), "NaN or infinity"),
    ],
)
def test_what_is_no_covariance_is_refused(covariance, complaint):
    with pytest.raises(NoiseError, match=complaint):
        of_covariance(covariance)


def test_an_sde_is_a_drift_and_a_noise():
    with pytest.raises(SettingError, match="expected a drift"):
        Sde(still, lambda t, y: y)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="calculus is 'Ito'"):
        Sde(still, Additive(1.0), "Ito")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"given a function, expected an Sde"):
        EulerMaruyama().step(still, 0.0, 0.1, Y, Place())  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="an Sde has no one slope"):
        Euler().step(Sde(still, Additive(1.0)), 0.0, 0.1, Y, None)
