"""An Objective is the loss of a model as a function of one vector, and leaves the model as it was."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from problems import NETWORKS, cross_entropy, network, randn, seeded, tanh_mlp
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn import functional as F

from eom.errors import EomWarning, SettingError
from eom.objective import Objective
from eom.objective.spectrum import sharpness
from eom.testing import check_derivatives

assert_exact = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-13)


def squares(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) - 1).square().mean()


def bare(objective: Objective, loss_fn: Callable, batch) -> Callable[[Tensor], Tensor]:
    """theta -> loss, with nothing of the package in it but the order of the parameters."""
    shapes = {k: p.shape for k, p in objective.model.named_parameters() if p.requires_grad}

    def loss(theta: Tensor) -> Tensor:
        parts = theta.split([s.numel() for s in shapes.values()])
        state = {k: x.view(s) for (k, s), x in zip(shapes.items(), parts, strict=True)}
        return loss_fn(lambda *xs: functional_call(objective.model, state, xs), batch)

    return loss


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_and_gradient_are_those_of_an_ordinary_backward_pass(name):
    objective = network(name)
    model, batch = NETWORKS[name]()
    loss = cross_entropy(model, batch)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore
    theta = objective.theta()
    assert_exact(objective.loss(theta), loss.detach())
    assert_exact(objective.gradient(theta), gradient)


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_second_and_third_derivatives_are_those_of_the_dense_hessian(decay):
    objective = network("mlp", decay=decay)
    theta = randn(objective.layout.n, seed=4) / 3
    plain = bare(objective, cross_entropy, objective.batches.first)

    def loss(y: Tensor) -> Tensor:
        return plain(y) + decay * (y @ y) / 2

    u, v = randn(objective.layout.n, seed=1), randn(objective.layout.n, seed=2)
    dense = hessian(loss)(theta)
    assert_exact(objective.hvp(theta, v), dense @ v)
    assert_exact(objective.expansion(theta).hvp(v), dense @ v)
    along = torch.func.jvp(lambda y: hessian(loss)(y) @ v, (theta,), (u,))[1]
    assert_exact(objective.third(theta, u, v), along)


def test_an_expansion_holds_value_gradient_and_product():
    objective = network("cnn", decay=0.1)
    theta, v = objective.theta(), randn(objective.layout.n)
    value, gradient, hvp = objective.expansion(theta)
    assert_exact(value, objective.loss(theta))
    assert_exact(gradient, objective.gradient(theta))
    assert torch.equal(hvp(v), hvp(v))


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("product", ["double-backward", "difference"])
def test_products_of_vectors_in_a_graph_are_in_none_and_of_thetas_precision(product, decay):
    objective = network("mlp", decay=decay).replaced(product=product)
    theta, v = objective.theta(), randn(objective.layout.n).float()
    g, hv = objective.gradient_and_hvp(theta.clone().requires_grad_(), v.clone().requires_grad_())
    assert not g.requires_grad
    assert not hv.requires_grad
    assert torch.equal(hv, objective.hvp(theta, v.double()))


@pytest.mark.parametrize("product", ["double-backward", "difference"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("batches", [1, 3])
def test_gradient_and_product_together_are_those_of_an_expansion(batches, decay, product):
    model, (x, labels) = tanh_mlp()
    data = (x, labels) if batches == 1 else list(zip(x.chunk(batches), labels.chunk(batches), strict=True))
    objective = Objective(model, cross_entropy, data, decay, product=product)
    theta, v = objective.theta(), randn(objective.layout.n)
    at = objective.expansion(theta)
    for given in (v, None):
        g, hv = objective.gradient_and_hvp(theta, given)
        assert_exact(g, at.gradient)
        assert_exact(hv, at.hvp(at.gradient if given is None else given))


@pytest.mark.parametrize("batches", [1, 3])
def test_the_difference_route_agrees_with_double_backward_to_the_root_of_rounding(batches):
    model, (x, labels) = tanh_mlp()
    data = (x, labels) if batches == 1 else list(zip(x.chunk(batches), labels.chunk(batches), strict=True))
    theta_of = Objective(model, cross_entropy, data, 0.1)
    differences = Objective(model, cross_entropy, data, 0.1, product="difference")
    theta, v = theta_of.theta(), randn(theta_of.layout.n)
    expected, found = theta_of.expansion(theta), differences.expansion(theta)
    assert_exact(found.value, expected.value)
    assert_exact(found.gradient, expected.gradient)
    assert (found.hvp(v) - expected.hvp(v)).norm() < 1e-6 * expected.hvp(v).norm()


@pytest.mark.parametrize("k", range(1, 6))
def test_sharpness_is_the_largest_eigenvalues_of_the_dense_hessian(k):
    objective = network("mlp", decay=0.1)
    plain = bare(objective, cross_entropy, objective.batches.first)
    dense = torch.linalg.eigvalsh(hessian(lambda y: plain(y) + 0.05 * (y @ y))(objective.theta()))
    found = sharpness(objective, k, rtol=1e-9)
    torch.testing.assert_close(found.eigenvalues, dense.flip(0)[:k], rtol=1e-9, atol=1e-9)
    assert (found.residuals <= 1e-9**0.5 * dense.abs().max()).all()  # an error is of second order in it


@pytest.mark.parametrize("settings", [{"seed": None}, {"seed": 2**70}, {"theta": [1.0] * 5}, {"objective": 3}])
def test_sharpness_of_what_is_none_is_refused(settings):
    (name,) = settings
    with pytest.raises(SettingError, match=f"{name} is "):
        sharpness(**({"objective": network("mlp")} | settings))


def test_eigenvalues_that_are_not_known_as_well_as_wanted_are_said_to_be_so():
    with pytest.warns(
        EomWarning, match="of 3 eigenvalues are not known to 1e-06 after 4 products.*allow more with steps="
    ):
        sharpness(network("mlp"), 3, steps=4)


def test_sharpness_may_be_asked_for_elsewhere_and_of_a_plain_function():
    from eom.calculus.potentials import Function

    objective = network("mlp")
    there = randn(objective.layout.n) / 2
    here = sharpness(objective).eigenvalues
    assert sharpness(objective, theta=there).eigenvalues != here
    bowl = Function(lambda y: (torch.tensor([1.0, 4.0, 2.0]) * y * y).sum() / 2)
    assert sharpness(bowl, 2, theta=torch.ones(3)).eigenvalues.tolist() == pytest.approx([4.0, 2.0], rel=1e-12)


def test_scaled_dot_product_attention_has_second_derivatives():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(4, 12)

        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1), is_causal=True)

    objective = Objective(seeded(Attention), squares, randn(2, 1, 5, 4))
    check = check_derivatives(objective, order=2)
    assert check.product == "double-backward"
    assert check.third
