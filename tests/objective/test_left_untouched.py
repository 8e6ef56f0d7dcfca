"""Evaluations leave model and generators as they were, and are one function."""

import pytest
import torch
from problems import cross_entropy, randn, seeded, tanh_mlp
from torch import Tensor, nn

from eom.dynamics.field import gradient_flow
from eom.objective import Objective


def squares(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) - 1).square().mean()


def noisy() -> nn.Sequential:
    """Dropout and BatchNorm in train mode: every forward pass moves a generator and three buffers."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3))

    return seeded(make).train()  # type: ignore


def everything(objective: Objective) -> None:
    theta, v = objective.theta(), randn(objective.layout.n)
    objective.loss(theta)
    objective.gradient(theta + v)
    objective.expansion(theta).hvp(v)
    if objective.product != "difference":
        objective.third(theta, v, v)
    objective.check(2)
    gradient_flow(objective)(0.0, theta)


@pytest.mark.parametrize("product", ["double-backward", "difference"])
def test_an_objective_leaves_the_model_and_the_generators_as_they_were(product):
    model, (_, batch) = noisy(), tanh_mlp()
    model[3].eval()  # a mode of its own in one place
    model[4].weight.grad = marked = torch.full((3, 6), 5.0)
    before = {k: x.clone() for k, x in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    generator, random = torch.get_rng_state(), torch.initial_seed()
    everything(Objective(model, cross_entropy, batch, 0.1, product=product))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], x) for k, x in before.items())
    assert [m.training for m in model.modules()] == modes
    assert model[4].weight.grad is marked
    assert (marked == 5.0).all()
    assert all(p.grad is None for k, p in model.named_parameters() if k != "4.weight")
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.initial_seed() == random
    assert all(p.is_leaf and p.requires_grad for p in model.parameters())


def test_dropout_and_batchnorm_are_the_same_function_at_every_evaluation():
    model, (_, batch) = noisy(), tanh_mlp()
    objective = Objective(model, cross_entropy, batch)
    theta = objective.theta()
    value, gradient = objective.loss(theta), objective.gradient(theta)
    model(batch[0])  # the training goes on: generator and running statistics move
    torch.rand(100)
    assert torch.equal(objective.loss(theta), value)
    assert torch.equal(objective.gradient(theta), gradient)
    other = Objective(model, cross_entropy, batch)
    assert not torch.equal(other.loss(theta), value)  # another moment, another mask


def test_a_buffer_that_every_pass_moves_and_reads_is_the_same_at_every_evaluation():
    class Moving(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 3)
            self.register_buffer("scale", torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            self.scale.mul_(0.5)  # type: ignore
            return torch.tanh(self.scale * self.lin(x))  # type: ignore

    objective = Objective(Moving(), squares, randn(8, 4))
    theta = objective.theta()
    assert torch.equal(objective.gradient(theta), objective.gradient(theta))
    assert objective.check(2).passed
    assert (objective.model.get_buffer("scale") == 1).all()


def test_dropout_of_the_training_step_is_replayed():
    model, (_, batch) = noisy(), tanh_mlp()
    objective = Objective(model, cross_entropy, batch)
    loss = cross_entropy(model, batch)  # from the states that the objective was made in
    assert torch.equal(objective.loss(objective.theta()), loss.detach())


def test_a_model_in_eval_mode_uses_its_running_statistics():
    model, (_, batch) = noisy().eval(), tanh_mlp()
    objective = Objective(model, cross_entropy, batch)
    assert torch.equal(objective.loss(objective.theta()), cross_entropy(model, batch).detach())
