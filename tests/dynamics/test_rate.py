"""Rates of observables: what a symmetry keeps, and the closed forms of norms under decay."""

import math

import pytest
import torch
from problems import cross_entropy, generator, network, quadratic, randn, seeded, symmetric, tanh_mlp
from torch import Tensor, nn

from eom.dynamics.correction import corrected
from eom.dynamics.field import gradient_flow
from eom.dynamics.observable import GroupSum, norm_squared, rate
from eom.dynamics.runge_kutta import Euler
from eom.objective import Objective

LR, DECAY = 0.1, 0.3
SEEDS = range(5)
A = slice(0, 6)  # the scale-invariant block of a state of 10
W = randn(6, 4, seed=20)


def data_loss(y: Tensor) -> Tensor:
    """R(A, b): scale-invariant in the block A."""
    a, b = y[:6] / y[:6].norm(), y[6:]
    return (torch.sin(3 * a) @ W @ torch.cos(b)) + torch.cos(a).prod()


def loss(y: Tensor) -> Tensor:
    return data_loss(y) + DECAY * (y @ y) / 2


def block_norm(y: Tensor) -> Tensor:
    return y[A] @ y[A]


def data_gradient(y: Tensor) -> Tensor:
    return torch.func.grad(data_loss)(y)[A]


def test_a_rate_is_the_derivative_along_the_field():
    """On y' = -S y: d|y|^2/dt = -2 y S y."""
    s, y = symmetric([3.0, 1.0, 0.2, -0.5]), randn(4)
    found = rate(lambda x: x @ x, gradient_flow(quadratic(s)))(0.0, y)
    assert found == pytest.approx(float(-2 * y @ s @ y), rel=1e-13)


def test_a_rate_sees_the_time_of_the_field():
    found = rate(lambda x: x.sum(), lambda t, y: t * y)(3.0, torch.tensor([1.0, 2.0]))
    assert found == pytest.approx(9.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradient_flow_keeps_the_norm_of_a_scale_invariant_block(seed):
    y = randn(10, seed=seed)
    found = rate(block_norm, gradient_flow(data_loss))(0.0, y)
    assert abs(found) < 1e-13 * data_gradient(y).norm() * y.norm() + 1e-14


@pytest.mark.parametrize("seed", SEEDS)
def test_gradient_flow_decays_the_norm_of_a_scale_invariant_block_at_twice_the_decay(seed):
    y = randn(10, seed=seed)
    found = rate(block_norm, gradient_flow(loss))(0.0, y)
    assert found == pytest.approx(float(-2 * DECAY * block_norm(y)), rel=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_order_one_of_a_scale_invariant_block_has_the_closed_form(seed):
    """-(2 lambda + eta lambda^2) |A|^2 + eta |grad_A R|^2."""
    y = randn(10, seed=seed)
    expected = -(2 * DECAY + LR * DECAY**2) * block_norm(y) + LR * data_gradient(y).square().sum()
    found = rate(block_norm, corrected(gradient_flow(loss), Euler(), LR, 1))(0.0, y)
    assert found == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2, 4])
def test_decay_alone_has_the_logarithmic_rate_to_every_order(order):
    """(2 / eta) log(1 - eta lambda) |A|^2, its series cut at the order."""
    y = randn(10)
    series = -2 * sum(LR**m * DECAY ** (m + 1) / (m + 1) for m in range(order + 1))
    flow = gradient_flow(lambda x: DECAY * (x @ x) / 2)
    found = rate(block_norm, corrected(flow, Euler(), LR, order))(0.0, y)
    assert found == pytest.approx(float(series * block_norm(y)), rel=1e-12)
    assert series == pytest.approx(2 / LR * math.log(1 - LR * DECAY), rel=2 * (LR * DECAY) ** (order + 1))


def charge(objective: Objective):
    """Mean over the classes of the last layer's weights and bias, [inputs + 1]: what softmax cannot see."""

    def read(y: Tensor) -> Tensor:
        named = objective.named(y)
        return torch.cat([named["head.weight"].mean(0), named["head.bias"].mean(0, keepdim=True)])

    return read


@pytest.mark.parametrize("method", ["terms", "log-map"])
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_translation_charge_before_a_softmax_decays_by_the_series_of_the_logarithm(seed, order, method):
    """Rate -lambda, then -(lambda + eta lambda^2 / 2), then - eta^2 lambda^3 / 3 more; none without decay."""
    objective = network("mlp", decay=DECAY)
    y = randn(objective.layout.n, seed=seed)
    series = -sum(LR**m * DECAY ** (m + 1) / (m + 1) for m in range(order + 1))
    c = charge(objective)
    found = rate(c, corrected(gradient_flow(objective), Euler(), LR, order, method))(0.0, y)
    torch.testing.assert_close(found, series * c(y), rtol=1e-11, atol=1e-14)
    conserved = rate(c, corrected(gradient_flow(network("mlp")), Euler(), LR, order, method))(0.0, y)
    torch.testing.assert_close(conserved, torch.zeros_like(found), rtol=0.0, atol=1e-14)


class HomogeneousNet(nn.Module):
    """Two linear layers with a ReLU between them: W_in -> c W_in, W_out -> W_out / c changes nothing."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 6, bias=False), nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.relu(self.inner(x)))


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_charge_of_a_rescale_invariant_pair_decays_at_twice_the_decay(seed, decay):
    """Q = |W_in|^2 - |W_out|^2, Q' = -2 lambda Q; and Q_{n+1} exactly over one step of descent."""
    _, batch = tanh_mlp()
    objective = Objective(seeded(HomogeneousNet), cross_entropy, batch, decay)

    def charge(y: Tensor) -> Tensor:
        named = objective.named(y)
        return named["inner.weight"].square().sum() - named["outer.weight"].square().sum()

    y = randn(objective.layout.n, seed=seed)
    assert rate(charge, gradient_flow(objective))(0.0, y) == pytest.approx(float(-2 * decay * charge(y)), abs=1e-12)
    gradient = objective.gradient(y) - decay * y
    after = charge(y - LR * objective.gradient(y))
    assert after == pytest.approx(float((1 - LR * decay) ** 2 * charge(y) + LR**2 * charge(gradient)), rel=1e-12)


# Groups


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inner_products_of_groups_are_sums_over_their_entries_in_float64(dtype):
    """Slices, overlaps, gaps, runs in any order, and groups scattered over hundreds of runs."""
    x, y = randn(1000).to(dtype), randn(1000, seed=1).to(dtype)
    groups = {
        "slice": torch.arange(10, 300),
        "overlap": torch.arange(200, 500),
        "runs": torch.cat([torch.arange(700, 720), torch.arange(0, 5), torch.tensor([999])]),
        "one": torch.tensor([250]),
        "even": torch.arange(0, 1000, 2),
        "shuffled": torch.randperm(1000, generator=generator(3))[:400],
        "all": torch.arange(1000),
    }
    found = GroupSum(groups).inner(x, y)
    assert found.dtype == torch.float64
    expected = torch.stack([(x.double()[i] * y.double()[i]).sum() for i in groups.values()])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_inner_products_are_the_same_from_the_tensors_that_the_vectors_are_made_of():
    """Groups that end inside a tensor, at its border, and across several."""
    sizes = [100, 1, 399, 500]
    x, y = randn(1000), randn(1000, seed=1)
    groups = {"inside": torch.arange(120, 300), "across": torch.arange(50, 700), "one": torch.tensor([100])}
    total = GroupSum(groups | {"all": torch.arange(1000)}, sizes)
    assert total.by_tensor
    torch.testing.assert_close(total.inner_of(x.split(sizes), y.split(sizes)), total.inner(x, y), rtol=1e-13, atol=0)
    assert not GroupSum(groups | {"even": torch.arange(0, 1000, 2)}, sizes).by_tensor


@pytest.mark.parametrize("kinds", [["even"], ["slice"], ["even", "odd"]])
def test_groups_may_all_be_scattered_or_all_be_slices(kinds):
    choices = {"even": torch.arange(0, 400, 2), "odd": torch.arange(1, 400, 2), "slice": torch.arange(3, 7)}
    x = randn(400)
    found = GroupSum({k: choices[k] for k in kinds}).inner(x, x)
    assert found.tolist() == pytest.approx([float(x[choices[k]].square().sum()) for k in kinds], rel=1e-13)


def test_norms_squared_of_groups_are_those_of_the_tensors():
    objective = network("cnn")
    found = norm_squared(objective.groups)(objective.theta())
    expected = [p.detach().square().sum().item() for p in objective.model.parameters()]
    assert found.tolist() == pytest.approx([*expected, sum(expected)], rel=1e-14)


def test_rates_of_all_groups_come_from_one_derivative():
    objective = network("cnn", decay=DECAY)
    y, evaluations = objective.theta(), 0

    def field(t: float, y: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return gradient_flow(objective)(t, y)

    found = rate(norm_squared(objective.groups), field)(0.0, y)
    expected = [float(2 * y[i] @ -objective.gradient(y)[i]) for i in objective.groups.values()]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert evaluations == 1
