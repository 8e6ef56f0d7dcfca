"""Evaluations leave attributes, frozen parameters and weights as they were."""

from collections import Counter, deque
from typing import Any

import numpy as np
import pytest
import torch
from problems import cross_entropy, seeded, tanh_mlp
from torch import Tensor, nn

from eom.objective import Objective

BATCH = tanh_mlp()[1]


def of(make, loss=cross_entropy, batch: Any = BATCH) -> Objective:
    return Objective(seeded(make), loss, batch)


class Keeping(nn.Module):
    """Keeps all sorts of things in plain attributes, and moves a frozen teacher in every forward pass."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = nn.Linear(4, 3), nn.Linear(4, 3).requires_grad_(False)
        self.aux, self.calls, self.mean = torch.zeros(()), 0, torch.zeros(3)
        self.array, self.list, self.last, self.set = np.zeros(1), [0], deque([0], 2), {0}
        self.dict, self.counter, self.data = {"calls": 0, "a": None}, Counter(), torch.ones(2)
        self.objects, self.shape = np.array([None, torch.ones(2)], dtype=object), torch.ones(3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for a, b in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                a.lerp_(b, 0.1)
        self.aux, self.calls = self.student(x).square().mean(), self.calls + 1
        self.mean.lerp_(self.student(x).detach().mean(0), 0.5)
        self.array += 1
        self.list.append(self.calls)
        self.last.append(self.calls)
        self.dict["calls"] += 1
        self.dict["b"] = self.dict.pop("a", None)
        self.counter["calls"] += 1
        self.data.data.add_(1)
        self.shape.unsqueeze_(0)
        self.array.resize(len(self.array) + 1, refcheck=False)
        self.set.add(self.calls)
        return torch.tanh(self.student(x)) + self.aux * (1 + self.mean.sum() + len(self.list) + self.array[0])


def contents(model: Any) -> str:
    names = ("array", "list", "last", "set", "dict", "counter", "data", "objects", "shape", "mean")
    return repr([getattr(model, name) for name in names])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_evaluations_leave_attributes_and_frozen_parameters_as_they_were(dtype):
    batch = BATCH[0].to(dtype), BATCH[1]
    objective = Objective(seeded(Keeping).to(dtype), cross_entropy, batch)
    model: Any = objective.model
    model.mean = model.mean.to(dtype)
    cross_entropy(model, batch)
    aux, calls, teacher = model.aux, model.calls, model.teacher.weight.clone()
    before = contents(model)
    theta = objective.theta()
    objective.check(2)
    objective.hvp(theta, theta)
    assert model.aux is aux
    assert model.calls == calls
    assert contents(model) == before
    assert torch.equal(model.teacher.weight, teacher)


def test_a_forward_pass_that_writes_to_its_weights_does_not_write_to_theta():
    class Clamped(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.weight.data.clamp_(-0.1, 0.1)
            return super().forward(x)

    objective = of(lambda: Clamped(4, 3))
    theta = objective.theta()
    before = theta.clone()
    objective.gradient(theta)
    objective.gradient(theta)
    assert torch.equal(theta, before)


def test_a_module_that_is_used_twice_holds_its_own_weights_afterwards():
    shared = seeded(lambda: nn.Linear(4, 4))
    weight, before = shared.weight, shared.weight.detach().clone()  # type: ignore[union-attr]
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), seeded(lambda: nn.Linear(4, 3)))
    objective = Objective(model, cross_entropy, BATCH)
    theta = objective.theta()
    objective.loss(theta + 1)
    assert objective.check(2).passed
    objective.hvp(theta, theta)
    assert shared.weight is weight
    assert torch.equal(weight, before)  # type: ignore[arg-type]


def test_an_examination_leaves_attributes_of_modules_as_they_were():
    class Running(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.mean = nn.Linear(4, 3), torch.zeros(3, dtype=torch.float32)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x)
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
            return h * h.detach().mean() - self.mean

    model: Any = seeded(Running).float()
    before = model.mean
    check = Objective(model, cross_entropy, (BATCH[0].float(), BATCH[1])).check()
    assert not check.second
    assert model.mean is before
