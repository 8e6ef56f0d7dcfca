"""Discrete gradients: exact between two states, the gradient where they meet, of the second order, and trainable."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from discrete_networks import NETWORKS, SAMPLES
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from eom.calculus.discrete import discrete_gradient
from eom.errors import DiscreteError


def energy(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().double()


def states(gap: float) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    v = torch.randn(SAMPLES, 6, dtype=torch.float64)
    return v + gap * torch.randn_like(v), v


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e-7])
def test_the_energy_rises_by_the_discrete_gradient_times_the_step(name, gap):
    h, (u, v) = energy(name), states(gap)
    found = discrete_gradient(h, u, v)
    with torch.no_grad():
        high, low = (h(x.clone()).flatten() for x in (u, v))
    terms = found * (u - v)
    size = high.abs() + low.abs() + terms.abs().sum(1)
    assert bool((high != low).all()) or gap < 1
    off = (high - low - terms.sum(1)).abs() / size
    assert float(off.detach().max()) <= 1e-14


@pytest.mark.parametrize("name", NETWORKS)
def test_where_both_states_are_one_it_is_the_gradient(name):
    h, (u, _) = energy(name), states(0.0)
    x = u.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(h(x.clone()).sum(), x)
    torch.testing.assert_close(discrete_gradient(h, u, u), wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "name", sorted(set(NETWORKS) - {"every activation", "pooling", "pieces", "recurrent, of ReLU"})
)
def test_it_differs_from_the_gradient_at_the_midpoint_by_the_square_of_the_step(name):
    h, (u, v) = energy(name), states(1.0)

    def off(share: float) -> float:
        top = v + share * (u - v)
        m = ((top + v) / 2).requires_grad_()
        (middle,) = torch.autograd.grad(h(m.clone()).sum(), m)
        return float((discrete_gradient(h, top, v) - middle).norm())

    one, other = off(0.002), off(0.001)
    assert one < 1e-10 or one / other == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize(
    "name",
    [
        "perceptron",
        "convolution",
        "layer norm",
        "GRU",
        "attention",
        "pooling",
        "powers",
        "exponentials",
        "masked attention",
        "recurrent LSTM",
        "without rules",
        "distances",
    ],
)
def test_derivatives_of_it_are_those_of_differences(name):
    """In parameters and in both states."""
    h, (u, v) = energy(name), states(0.3)
    parameters = list(h.parameters())
    weight = torch.randn_like(u)

    def value(shift: float, along: list[torch.Tensor]) -> torch.Tensor:
        saved = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p, d in zip(parameters, along[2:], strict=True):
                p += shift * d
        found = (discrete_gradient(h, u + shift * along[0], v + shift * along[1]) * weight).sum()
        with torch.no_grad():
            for p, s in zip(parameters, saved, strict=True):
                p.copy_(s)
        return found.detach()

    u, v = (x.requires_grad_() for x in (u, v))
    loss = (discrete_gradient(h, u, v) * weight).sum()
    grads = torch.autograd.grad(loss, [u, v, *parameters], allow_unused=True, materialize_grads=True)
    u, v = u.detach(), v.detach()
    along = [torch.randn_like(g) for g in grads]
    wanted = (value(1e-5, along) - value(-1e-5, along)) / 2e-5
    assert float(sum((g * d).sum() for g, d in zip(grads, along, strict=True))) == pytest.approx(
        float(wanted), rel=1e-7
    )


@pytest.mark.parametrize("gap", [1e-6, 1e-8, 1e-10, 1e-13])
def test_without_a_rule_it_has_the_digits_of_the_gradient_however_close_the_states_are(gap):
    """It is off by d^2, or by a rounding over d where that is less."""
    h, (u, v) = energy("without rules"), states(gap)
    middle = ((u + v) / 2).requires_grad_()
    (wanted,) = torch.autograd.grad(h(middle).sum(), middle)
    off = discrete_gradient(h, u, v) - wanted
    assert float((off.norm() / wanted.norm()).detach()) <= torch.finfo(u.dtype).eps ** (2 / 3)


def test_a_scale_that_begins_at_zero_is_trained_as_any_other():
    (u, v), scale = states(1.0), torch.zeros((), dtype=torch.float64, requires_grad=True)
    found = discrete_gradient(lambda x: scale * x.prod(1), u, v)
    wanted = discrete_gradient(lambda x: x.prod(1), u, v)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), scale)[0], wanted.sum(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", ["perceptron", "without rules", "distances"])
@pytest.mark.parametrize("gap", [1.0, 1e-2, 1e-4, 0.0])
def test_gradients_for_training_in_single_precision_are_those_of_double(name, gap):
    """Of the loss of an energy-based model; quotients of differences would lose them as the step shrinks."""
    h, (u, v) = energy(name), states(gap)

    def gradient(net: nn.Module, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        loss = (discrete_gradient(net, u, v) - 1).square().mean()
        grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True)
        return torch.cat([g.flatten().double() for g in grads])

    u, v = u.float().double(), v.float().double()
    for p in h.parameters():
        p.data = p.data.float().double()
    wide, single = gradient(h, u, v), gradient(h.float(), u.float(), v.float())
    assert float((wide - single).norm() / wide.norm()) <= 1e-6


@pytest.mark.parametrize("size", [10.0, 1e3, 1e5])
@pytest.mark.parametrize(
    "h",
    [
        lambda x: torch.logsumexp(x, 1),
        lambda x: F.log_softmax(x, 1)[:, 0],
        lambda x: (x.softmax(1) * torch.arange(6.0, dtype=x.dtype)).sum(1),
    ],
    ids=["logsumexp", "log_softmax", "softmax"],
)
def test_sums_of_exponentials_are_exact_between_states_however_far_apart(h, size):
    u, v = (size * x for x in states(1.0))
    for one, other in ((u, v), (u + 1e3, v + 1e3), (u, u + (v - u) / size)):
        terms, high, low = discrete_gradient(h, one, other) * (one - other), h(one), h(other)
        off = (high - low - terms.sum(1)).abs() / (high.abs() + low.abs() + terms.abs().sum(1))
        assert float(off.detach().max()) <= 1e-14


@pytest.mark.parametrize("name", ["pooling", "recurrent LSTM", "recurrent, of ReLU"])
def test_samples_do_not_see_each_other(name):
    h, (u, v) = energy(name), states(1.0)
    together = discrete_gradient(h, u, v)
    alone = torch.cat([discrete_gradient(h, u[i : i + 1], v[i : i + 1]) for i in range(SAMPLES)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-14)


PACKED, DROPPING = nn.RNN(3, 4).double(), nn.RNN(3, 4, 2, dropout=0.5).double()


@pytest.mark.parametrize(
    ("h", "complaint"),
    [
        (lambda x: x.sum(), r"the energy is torch.float64 \[\], expected floats \[b\] = \[5\]"),
        (lambda x: x, r"the energy is torch.float64 \[5, 6\], expected"),
        (lambda x: x.argmax(1), r"the energy is torch.int64 \[5\], expected floats"),
        (lambda x: torch.complex(x, x).sum(1), r"the energy is torch.complex128 \[5\], expected floats"),
        (lambda x: torch.ones(5), "is a constant, or .* expected a tensor, by torch functions of its batch"),
        (torch.vmap(torch.sum), "made by a transform that is not followed, such as torch.vmap"),
        (lambda x: [x.sum(1)], "is a list, expected a tensor"),
        (lambda x: x.half().exp().sum(1), "outside of torch's functions or in fewer digits"),
        (lambda x: (x - x.mean(0)).exp().sum(1), "samples see each other"),
        (lambda x: torch.zeros_like(x[:, 0]) + (x > 0).sum(1), "outside of torch's functions"),
        (lambda x: (x * x.detach()).sum(1), "makes a constant of what depends on its argument, by detach"),
        (lambda x: x.sum(1) * x.sum().item(), "makes a constant .* by item"),
        (lambda x: torch.from_numpy(x.numpy()).sum(1), "by numpy"),
        (lambda x: torch.dropout(x, 0.5, True).sum(1), "draws random numbers"),
        (lambda x: x.sum(1) if x[0, 0] > 0 else -x.sum(1), "takes one branch at u and another at v"),
        (lambda x: torch.zeros(5, 6).to(x.dtype).copy_(x).sum(1), "writes what depends on its argument into a tensor"),
        (lambda x: x.view(30).add_(1).view(5, 6).sum(1), "writes in place to a tensor that has views"),
        (lambda x: x.log().sum(1), "the energy is not finite"),
        (
            lambda x: PACKED(pack_padded_sequence(x.view(5, 2, 3), [2] * 5, True))[1][0].sum(1),
            "the energy packs sequences",
        ),
        (lambda x: DROPPING(x.view(5, 2, 3))[1][0].sum(1), "draws random numbers"),
        (lambda x: x.norm(1, dim=1), "a norm of order 1: write it out"),
        (lambda x: torch.linalg.norm(x[:, None] * x[..., None], 2, dim=(1, 2)), "a norm of order 2 of matrices"),
        (lambda x: torch.autograd.grad(x.square().sum(), x, create_graph=True)[0].sum(1), "takes a derivative inside"),
        (lambda x: (x // 1).sum(1), "not followed from v to u, .*: derivative for aten::floor_divide"),
        (lambda x: (x / 0.0).sum(1), "the energy is not finite"),
        (lambda x: (x[x > 0] ** 2).sum() + x[:, 0], "not followed from v to u"),
    ],
)
def test_energies_that_have_none_are_refused(h, complaint):
    u = states(1.0)[0].abs() + 0.1
    with pytest.raises(DiscreteError, match=complaint):
        discrete_gradient(h, u, -u)


def test_what_are_no_tensors_are_named():
    with pytest.raises(DiscreteError, match="u and v are a ndarray and a NoneType, expected dense tensors of one kind"):
        discrete_gradient(lambda x: x.sum(1), np.ones((5, 6)), None)  # type: ignore[arg-type] - as a user may


def test_what_is_no_function_is_no_energy():
    with pytest.raises(DiscreteError, match="the energy is 3, expected a function of states"):
        discrete_gradient(3, *states(1.0))  # type: ignore[arg-type] - as a user may


def test_sparse_states_are_named():
    u = states(1.0)[0].to_sparse()
    with pytest.raises(DiscreteError, match=r"are torch\.sparse_coo and torch\.sparse_coo, expected dense"):
        discrete_gradient(lambda x: x.sum(1), u, u)


@pytest.mark.parametrize("settings", [(1,), (1, False)], ids=["of a sample", "of all"])
def test_of_a_variance_it_is_the_gradient_at_the_midpoint_however_close_the_states_are(settings):
    u, v = states(1e-7)
    found, middle = discrete_gradient(lambda x: x.var(*settings), u, v), (u + v) / 2
    wanted = 2 * (middle - middle.mean(1, keepdim=True)) / (6 if len(settings) > 1 else 5)
    torch.testing.assert_close(found, wanted, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_weights_of_absolute_values_count(reduction):
    u, v = states(1.0)
    loss: Any = F.l1_loss  # whose stub has no weight
    weights = torch.linspace(1, 3, u.numel(), dtype=u.dtype).view(u.shape)

    def weighted(x: torch.Tensor) -> torch.Tensor:
        rows = [loss(y, 0 * y, reduction=reduction, weight=w).sum() for y, w in zip(x, weights, strict=True)]
        return torch.stack(rows)

    found = discrete_gradient(weighted, u, v)
    torch.testing.assert_close(found, weights * (u.abs() - v.abs()) / (u - v), rtol=1e-14, atol=0)
    weight = weights  # a name that others have, too
    for plain in (
        lambda x: torch.stack([nn.L1Loss(reduction=reduction)(y, 0 * y).sum() for y in x]),
        lambda x: torch.ops.aten.l1_loss(x, 0 * x, 0).sum(-1),
    ):
        changed = (discrete_gradient(plain, u, v) * (u - v)).sum(-1)
        torch.testing.assert_close(changed, (u.abs() - v.abs()).sum(-1), rtol=1e-13, atol=0)
    assert weight is weights


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_samples_do_not_see_each_other_in_large_batches_and_where_a_derivative_is_none(kind):
    torch.manual_seed(0)
    u = 0.5 * torch.randn(64, 4, dtype=kind)
    v = u + 0.03 * torch.randn_like(u)
    low, high = torch.rand(2, 9, 4, dtype=kind)
    low[0, 0] = 0  # x log x has none there
    for h, x, y in (
        (lambda x: torch.linalg.matrix_exp(x.view(-1, 2, 2)).sum((1, 2)), u, v),
        (lambda x: torch.xlogy(x, x).sum(1), low, high),
    ):
        alone = torch.cat([discrete_gradient(h, a[None], b[None]) for a, b in zip(x, y, strict=True)])
        torch.testing.assert_close(discrete_gradient(h, x, y), alone, rtol=0, atol=100 * torch.finfo(kind).eps)


def in_turn(of: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda u: torch.stack([of(x) for x in u])


def with_masses(x: torch.Tensor) -> torch.Tensor:
    """p M(q)^-1 p / 2 with M [2, 2]."""
    q, p = x[:2], x[2:4]
    c = 0.3 * torch.sin(q[0] - q[1])
    masses = torch.stack([torch.stack([2 + 0 * c, c]), torch.stack([c, 1 + 0 * c])])
    return p @ torch.linalg.solve(masses, p) / 2


def outer(x: torch.Tensor) -> torch.Tensor:
    """|1 + a b^T|^2 with a [2]."""
    return torch.addr(torch.ones(2, 2, dtype=x.dtype), x[:2], x[2:4]).square().sum()


@pytest.mark.parametrize("count", [2, 7, 14])
def test_rows_far_apart_that_see_each_other_are_seen(count):
    torch.manual_seed(0)
    u = 0.5 + torch.rand(count, 14, dtype=torch.float64)
    v = u + 0.05 * torch.randn_like(u)
    h = in_turn(lambda x: torch.cumprod(x.view(2, 7), 0).sum())
    alone = torch.cat([discrete_gradient(h, a[None], b[None]) for a, b in zip(u, v, strict=True)])
    torch.testing.assert_close(discrete_gradient(h, u, v), alone, rtol=1e-12, atol=1e-13)


def test_samples_may_stand_along_the_last_of_two_axes():
    u, v = torch.rand(2, 5, 2, dtype=torch.float64) + 1

    def h(x: torch.Tensor) -> torch.Tensor:
        return torch.mvlgamma(x[:, 0][None] + 3, 2)[0] + torch.atan2(x[:, 0][None], x[:, 1][None])[0]

    changed = ((u - v) * discrete_gradient(h, u, v)).sum(1)
    torch.testing.assert_close(changed, h(u) - h(v), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("gap", [1e-7, 1e-10, 1e-12])
def test_without_a_rule_it_is_the_gradient_where_values_are_small_beside_what_they_are_of(gap):
    torch.manual_seed(0)
    v = torch.randn(500, 4, dtype=torch.float64)
    u = v + gap * torch.randn_like(v)
    unit = torch.eye(4, dtype=torch.float64)

    def h(x: torch.Tensor) -> torch.Tensor:
        return torch.logdet(unit + 0.2 * x.sin()[:, :, None] * x.sin()[:, None])

    middle = ((u + v) / 2).requires_grad_()
    (slope,) = torch.autograd.grad(h(middle).sum(), middle)
    torch.testing.assert_close(discrete_gradient(h, u, v), slope, rtol=0, atol=1e-11)


@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e-8])
def test_what_a_confident_class_leaves_is_rounding_of_its_scores(gap):
    torch.manual_seed(0)
    v = torch.randn(500, 4, dtype=torch.float64)
    u = v + gap * torch.randn_like(v)
    found = discrete_gradient(lambda x: torch.log_softmax(10 * x, -1)[:, 0], u, v)
    wanted = discrete_gradient(lambda x: 10 * x[:, 0] - torch.logsumexp(10 * x, -1), u, v)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


def test_a_sample_that_moves_in_one_entry_alone_has_the_gradient_of_the_others():
    u = torch.tensor([[0.0, 24.0]], dtype=torch.float64)
    v = u - torch.tensor([[0.1, 1e-9]])
    h = in_turn(lambda x: torch.logcumsumexp(x, 0).sum())
    middle = ((u + v) / 2).requires_grad_()
    (slope,) = torch.autograd.grad(h(middle).sum(), middle)
    torch.testing.assert_close(discrete_gradient(h, u, v), slope, rtol=1e-9, atol=0)


@pytest.mark.parametrize("of", [with_masses, outer], ids=["masses", "outer product"])
def test_samples_that_are_taken_in_turn_do_not_depend_on_their_number(of):
    h, (u, v) = in_turn(of), states(1e-3)
    alone = torch.cat([discrete_gradient(h, x[None], y[None]) for x, y in zip(u, v, strict=True)])
    for count in (2, 4):  # as many as rows in them, and twice
        found = discrete_gradient(h, u[:count], v[:count])
        torch.testing.assert_close(found, alone[:count], rtol=1e-12, atol=1e-13)
    middle = ((u + v) / 2).detach().requires_grad_()
    (slope,) = torch.autograd.grad(h(middle).sum(), middle)
    torch.testing.assert_close(alone, slope, rtol=0, atol=1e-5)  # ten times the step's square


def test_samples_may_be_numbers():
    u, v = (x[:, 0] for x in states(1.0))
    torch.testing.assert_close(discrete_gradient(torch.square, u, v), u + v, rtol=1e-14, atol=1e-15)


def test_states_of_two_shapes_are_refused():
    with pytest.raises(DiscreteError, match=r"shapes \[5, 6\] and \[6\], expected"):
        discrete_gradient(lambda x: x.sum(1), *(states(1.0)[0], torch.ones(6)))
