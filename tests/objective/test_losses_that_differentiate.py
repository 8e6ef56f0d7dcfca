"""Losses that take derivatives themselves are exact, evaluated once from one state, or refused by name."""

from typing import Any

import pytest
import torch
from awkward import Cube, Symplectic
from problems import cross_entropy, randn, seeded, tanh_mlp
from torch import Tensor, nn
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from eom.calculus.exact import exact
from eom.objective import Objective

BATCH = tanh_mlp()[1]


def of(make, loss=cross_entropy, batch: Any = BATCH) -> Objective:
    return Objective(seeded(make), loss, batch)


def test_torch_func_inside_the_loss_is_no_obstacle():
    """The equation u' = -u, its derivative by torch.func."""

    def residual(model: nn.Module, t: Tensor) -> Tensor:
        u = lambda s: model(s.reshape(1, 1)).squeeze()  # noqa: E731
        return (vmap(grad(u))(t) + vmap(u)(t)).square().mean()

    objective = of(lambda: nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)), residual, randn(9, seed=1))
    assert objective.check(1).passed


class Learned(nn.Module):
    def __init__(self, norm: bool):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), *([nn.LayerNorm(8)] if norm else []), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "LayerNorm"])
def test_a_loss_that_takes_derivatives_itself_is_exact_to_the_order_above(norm):
    """Its first derivative is our second: LayerNorm's third is needed for H v."""

    def loss(model: nn.Module, z: Tensor) -> Tensor:
        z = z.clone().requires_grad_()  # no enable_grad around it, as in a training loop
        (dh,) = torch.autograd.grad(model(z).sum(), z, create_graph=True)
        return (torch.cat([dh[:, 3:], -dh[:, :3]], 1) - z).square().mean()

    check = of(lambda: Learned(norm), loss, randn(10, 6, seed=1)).check(2)
    assert check.passed, check.reason
    assert [p for p in check.probes if p.verdict == "noted"] == []
    assert of(Symplectic, lambda m, z: m(z).square().mean(), randn(10, 6, seed=1)).check(2).passed


def residual_by_backward(model: nn.Module, z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    torch.autograd.backward(model(z).sum(), inputs=[z], create_graph=True)
    return z.grad.square().mean()  # type: ignore


WAYS = {
    "jvp": lambda model, z: jvp(model, (z,), (z.cos(),))[1].square().mean(),
    "jacfwd": lambda model, z: vmap(jacfwd(model))(z).square().mean(),
    "jacrev": lambda model, z: vmap(jacrev(model))(z).square().mean(),
    "backward": residual_by_backward,
}


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize(
    ("way", "norm"), [(way, norm) for way in WAYS for norm in (False, True) if not norm or way not in ("jvp", "jacfwd")]
)
def test_derivatives_inside_a_loss_are_seen_however_they_are_taken(way, norm):
    check = of(lambda: Learned(norm), WAYS[way], randn(10, 6, seed=1)).check(2)
    assert check.passed, check.reason
    assert check.product == "double-backward"
    assert check.third


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_loss_that_takes_derivatives_is_evaluated_anew_from_the_same_state():
    """H v is found to need another evaluation in the middle of the first."""

    class Stepping(Learned):
        def __init__(self):
            super().__init__(False)
            self.calls, self.mean = 0, torch.zeros(())

        def forward(self, z: Tensor) -> Tensor:
            self.calls += 1
            self.mean += 1
            with torch.no_grad():
                self.layers[0].weight.mul_(0.9)  # type: ignore[operator]
            return super().forward(z) * (self.calls + self.mean)

    objective = of(Stepping, residual_by_backward, randn(10, 6, seed=1)).replaced(product="double-backward")
    theta = objective.theta()
    at = objective.expansion(theta)
    torch.testing.assert_close(at.value, objective.loss(theta), rtol=1e-12, atol=0)
    for g in (at.gradient, objective.gradient_and_hvp(theta)[0]):
        torch.testing.assert_close(g, objective.gradient(theta), rtol=1e-10, atol=1e-12)


def test_a_failed_test_is_explained_under_no_grad_too():
    wrong = lambda m, z: residual_by_backward(m, z) + Cube.apply(next(m.parameters())).sum()  # type: ignore  # noqa: E731
    objective = of(lambda: Learned(False), wrong, randn(10, 6, seed=1))
    theta = objective.theta()
    with torch.no_grad(), pytest.warns(UserWarning, match="double backward is off by"):
        objective.hvp(theta, theta)


@pytest.mark.parametrize("way", ["jvp", "jacfwd"])
def test_a_gradient_that_torch_itself_gets_wrong_is_told_from_one_that_was_cut(way):
    """Forward mode through LayerNorm, whose second derivative torch takes for the gradient of the loss."""
    check = of(lambda: Learned(True), WAYS[way], randn(10, 6, seed=1)).check(2)
    assert not check.second
    assert "one of torch's fused normalisations" in check.reason

    def exactly(model: nn.Module, z: Tensor) -> Tensor:
        with exact(3):
            return WAYS[way](model, z)

    assert of(lambda: Learned(True), exactly, randn(10, 6, seed=1)).check(2).passed
