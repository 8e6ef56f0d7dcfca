"""Parameters as one flat vector, and their decay."""

from functools import partial

import pytest
import torch
from awkward import Strange
from problems import classes, cross_entropy, network, randn, seeded

from eom.objective import Objective
from eom.objective.parameters import layout_of

assert_exact = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-13)


def strange() -> Objective:
    return Objective(seeded(Strange), cross_entropy, (classes(8, 5, seed=1), classes(8, 5, seed=2)))


def test_a_tied_parameter_stands_once_a_frozen_one_not_at_all():
    objective = strange()
    assert objective.layout.names == ("unused", "embed.weight")
    assert objective.layout.n == 3 + 20


def test_the_gradient_of_a_tied_parameter_is_the_sum_over_its_uses():
    objective = strange()
    cross_entropy(objective.model, objective.batches.first).backward()
    expected = objective.model.get_parameter("embed.weight").grad
    gradient = objective.named(objective.gradient(objective.theta()))
    assert_exact(gradient["embed.weight"], expected)


def test_an_unused_parameter_has_no_gradient_but_its_decay():
    objective = strange()
    theta = objective.theta()
    assert not objective.named(objective.gradient(theta))["unused"].any()
    assert not objective.named(objective.hvp(theta, torch.ones_like(theta)))["unused"].any()
    decayed = Objective(objective.model, cross_entropy, objective.batches.first, 0.5)
    assert decayed.named(decayed.gradient(theta))["unused"].tolist() == [0.5] * 3


def test_the_flat_vector_and_the_named_parameters_are_each_others_inverse():
    objective = network("transformer")
    layout, theta = objective.layout, objective.theta()
    named = objective.named(theta)
    assert list(named) == [k for k, _ in objective.model.named_parameters()]
    for k, p in objective.model.named_parameters():
        assert torch.equal(named[k], p)
        assert torch.equal(theta[torch.arange(*layout.run(k))], p.detach().flatten())
    assert torch.equal(layout.flatten(named.values()), theta)
    assert layout == layout_of(objective.model)


def test_theta_is_a_copy_of_the_present_parameters():
    objective = network("mlp")
    objective.theta().zero_()
    assert objective.theta().any()
    with torch.no_grad():
        objective.model.get_parameter("head.bias").fill_(7.0)
    assert objective.named(objective.theta())["head.bias"].tolist() == [7.0] * 3


# Weight decay


def test_decay_of_one_number_is_half_its_square_norm():
    plain, decayed = network("mlp"), network("mlp", decay=0.3)
    theta = plain.theta()
    assert decayed.penalty(theta) == pytest.approx(float(0.15 * theta @ theta), rel=1e-14)
    assert_exact(decayed.loss(theta), plain.loss(theta) + 0.15 * theta @ theta)
    assert_exact(decayed.gradient(theta), plain.gradient(theta) + 0.3 * theta)


def test_decay_by_name_and_by_vector_are_the_same():
    by_name = network("mlp", decay={"first.weight": 0.3, "head.bias": 0.1})
    vector = torch.zeros(by_name.layout.n)
    vector[torch.arange(*by_name.layout.run("first.weight"))] = 0.3
    vector[torch.arange(*by_name.layout.run("head.bias"))] = 0.1
    by_vector = network("mlp", decay=vector)
    theta, v = by_name.theta(), randn(by_name.layout.n)
    assert torch.equal(by_name.loss(theta), by_vector.loss(theta))
    assert torch.equal(by_name.gradient(theta), by_vector.gradient(theta))
    assert torch.equal(by_name.hvp(theta, v), by_vector.hvp(theta, v))
    assert_exact(by_name.hvp(theta, v), network("mlp").hvp(theta, v) + vector * v)
