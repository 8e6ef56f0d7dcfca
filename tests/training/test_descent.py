"""torch.optim.SGD read as Euler's step: what is read is what the optimizer does."""

import re
from functools import partial

import pytest
import torch
from problems import cross_entropy, tanh_mlp
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from eom.dynamics.field import SmoothField
from eom.dynamics.runge_kutta import Euler
from eom.dynamics.stepper import end
from eom.errors import WrongModelError
from eom.objective import Objective
from eom.objective.parameters import layout_of, trainable
from eom.training.descent import Descent, check_owner, read, unsupported


def two_groups(model: nn.Module, **settings) -> SGD:
    """Another learning rate and decay for the biases."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": biases, "lr": 0.03}]
    return SGD(groups, lr=0.2, **settings)


def a_part(model: nn.Module) -> SGD:
    """Leaves the head alone."""
    return SGD([p for k, p in model.named_parameters() if not k.startswith("head")], lr=0.2, weight_decay=0.1)


OPTIMIZERS = {
    "plain": lambda model: SGD(model.parameters(), lr=0.2),
    "decay": lambda model: SGD(model.parameters(), lr=0.2, weight_decay=0.1),
    "foreach": lambda model: SGD(model.parameters(), lr=0.2, weight_decay=0.1, foreach=True),
    "one by one": lambda model: SGD(model.parameters(), lr=0.2, weight_decay=0.1, foreach=False),
    "lr as a tensor": lambda model: SGD(model.parameters(), lr=torch.tensor(0.2), weight_decay=0.1),
    "nesterov off, dampening": lambda model: SGD(model.parameters(), lr=0.2, dampening=0.5),
    "two groups": two_groups,
    "two groups foreach": lambda model: two_groups(model, foreach=True),
    "a part of the model": a_part,
    "a group at rest": lambda model: SGD(
        [{"params": list(model.first.parameters())}, {"params": list(model.head.parameters()), "lr": 0.0}], lr=0.2
    ),
}


def flat(tensors) -> Tensor:
    return torch.cat([x.detach().flatten() for x in tensors])


class Step:
    """One real step of an optimizer, and what is read of it."""

    def __init__(self, make, unused: bool = False):
        self.model, self.batch = tanh_mlp()
        if unused:
            self.model.register_parameter("unused", nn.Parameter(torch.ones(3)))
        optimizer = make(self.model)
        parameters = list(trainable(self.model).values())
        self.before = flat(parameters)
        cross_entropy(self.model, self.batch).backward()
        optimizer.step()
        self.after = flat(parameters)
        self.gradient = flat(torch.zeros_like(p) if p.grad is None else p.grad for p in parameters)
        self.descent: Descent = read(optimizer, parameters)

    def field(self) -> SmoothField:
        with torch.no_grad():
            for p, x in zip(
                self.model.parameters(), layout_of(self.model).unflatten(self.before).values(), strict=True
            ):
                p.copy_(x)
        return self.descent.field(Objective(self.model, cross_entropy, self.batch, self.descent.decay))


assert_exact = partial(torch.testing.assert_close, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("unused", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_step_that_is_read_is_the_step_that_was_taken(name, unused):
    step = Step(OPTIMIZERS[name], unused)
    d = step.descent
    assert d.withheld is None
    assert d.lr == pytest.approx(0.2, rel=1e-15)
    predicted = step.before - d.lr * d.scale * (step.gradient + d.decay * step.before)
    assert_exact(step.after, predicted)
    assert not torch.equal(step.after, step.before)


@pytest.mark.parametrize("unused", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_step_is_eulers_on_the_field_that_is_read(name, unused):
    step = Step(OPTIMIZERS[name], unused)
    theirs = end(step.field(), Euler(), step.before, h=step.descent.lr, steps=1)
    torch.testing.assert_close(theirs, step.after, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("unused", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_step_solved_backwards_gives_the_parameters_before_it(name, unused):
    step = Step(OPTIMIZERS[name], unused)
    assert_exact(step.descent.before(step.after, step.gradient), step.before)


def test_a_parameter_without_a_gradient_is_not_decayed():
    step = Step(OPTIMIZERS["decay"], unused=True)
    at = torch.arange(*layout_of(step.model).run("unused"))
    assert not step.descent.scale[at].any()
    assert torch.equal(step.after[at], step.before[at])


def test_one_learning_rate_and_one_decay_are_read_as_numbers():
    d = Step(OPTIMIZERS["decay"]).descent
    assert d.scale.shape == d.decay.shape == ()
    assert (d.scale.item(), d.decay.item()) == (1.0, 0.1)


def test_the_reference_learning_rate_is_the_largest_and_the_others_are_ratios_of_it():
    d = Step(OPTIMIZERS["two groups"]).descent
    assert d.lr == 0.2
    assert sorted(set(d.scale.tolist())) == pytest.approx([0.15, 1.0])


def test_a_scheduler_is_read_at_each_step():
    model, batch = tanh_mlp()
    optimizer = OPTIMIZERS["decay"](model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    parameters = list(model.parameters())
    cross_entropy(model, batch).backward()
    first = read(optimizer, parameters)
    optimizer.step()
    scheduler.step()
    second = read(optimizer, parameters)
    assert (first.lr, second.lr) == (0.2, 0.1)
    assert not first.same_as(second)
    assert first.same_as(first)


def test_steps_with_other_scales_or_decays_are_other_maps():
    plain, decayed = Step(OPTIMIZERS["plain"]).descent, Step(OPTIMIZERS["decay"]).descent
    groups = Step(OPTIMIZERS["two groups"]).descent
    assert not plain.same_as(decayed)
    assert not groups.same_as(decayed)
    assert groups.same_as(Step(OPTIMIZERS["two groups foreach"]).descent)


WITHHELD = {
    "momentum": (lambda ps: SGD(ps, lr=0.1, momentum=0.9), r"momentum yet \(it is 0.9\); there is one for momentum=0"),
    "nesterov": (lambda ps: SGD(ps, lr=0.1, momentum=0.5, nesterov=True), r"momentum yet \(it is 0.5\)"),
    "maximize": (lambda ps: SGD(ps, lr=0.1, maximize=True), "maximize=True; there is one for descent"),
    "Adam": (lambda ps: Adam(ps, lr=0.1), "for Adam yet; there is one for torch.optim.SGD"),
    "AdamW": (lambda ps: AdamW(ps, lr=0.1), "for AdamW yet; there is one for torch.optim.SGD"),
    "at rest": (lambda ps: SGD(ps, lr=0.0), "the learning rate is 0.0: no time passes"),
}


@pytest.mark.parametrize("name", WITHHELD)
def test_an_optimizer_without_an_equation_of_motion_is_read_with_the_reason(name):
    make, reason = WITHHELD[name]
    model, batch = tanh_mlp()
    optimizer: Optimizer = make(list(model.parameters()))
    cross_entropy(model, batch).backward()
    d = read(optimizer, list(model.parameters()))
    assert d.lr == optimizer.param_groups[0]["lr"]
    assert re.search(reason, str(d.withheld))
    assert unsupported(optimizer) == (None if name == "at rest" else d.withheld)


def test_a_subclass_of_sgd_may_do_anything_and_is_not_read():
    class Own(SGD):
        pass

    model, _ = tanh_mlp()
    assert "no equation of motion for Own" in str(unsupported(Own(model.parameters(), lr=0.1)))


def test_an_optimizer_of_another_model_is_refused():
    model, _ = tanh_mlp()
    other, _ = tanh_mlp()
    optimizer = SGD(list(other.parameters()), lr=0.1)
    with pytest.raises(WrongModelError, match="6 of the optimizer's 6 parameters do not belong to this TanhMLP"):
        check_owner(optimizer, model)
    check_owner(optimizer, other)
