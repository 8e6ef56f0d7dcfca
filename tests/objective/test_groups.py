"""Groups are named sets of indices into the flat vector."""

import pytest
import torch
from problems import network

from eom.errors import SettingError


def test_groups_by_tensor_are_the_parameters_and_all():
    objective = network("mlp")
    names = [k for k, _ in objective.model.named_parameters()]
    assert list(objective.groups) == [*names, "all"]
    assert torch.equal(torch.cat([objective.groups[k] for k in names]), objective.groups["all"])
    assert torch.equal(objective.groups["all"], torch.arange(objective.layout.n))


def test_groups_by_module_join_the_tensors_that_a_module_owns():
    objective = network("transformer", groups="module")
    assert list(objective.groups) == [
        "(model)", "embed", "norm1", "norm2", "norm3", "qkv", "out", "up", "down", "head", "all",
    ]  # fmt: skip
    layout = objective.layout
    both = torch.cat([torch.arange(*layout.run("qkv.weight")), torch.arange(*layout.run("qkv.bias"))])
    assert torch.equal(objective.groups["qkv"], both)
    assert torch.equal(objective.groups["(model)"], torch.arange(*layout.run("position")))


def test_groups_of_ones_own_may_overlap_and_mix_names_with_indices():
    groups = {"matrices": ["first.weight", "head.weight"], "first": ["first.weight"], "some": torch.tensor([5, 0, 80])}
    objective = network("mlp", groups=groups)
    layout = objective.layout
    assert list(objective.groups) == ["matrices", "first", "some", "all"]
    assert torch.equal(objective.groups["first"], torch.arange(*layout.run("first.weight")))
    assert torch.equal(objective.groups["matrices"][-15:], torch.arange(*layout.run("head.weight")))
    assert objective.groups["some"].tolist() == [5, 0, 80]


@pytest.mark.parametrize(
    ("groups", "complaint"),
    [
        ("layer", 'groups is \'layer\', expected "tensor", "module", or a mapping'),
        (["head.weight"], 'expected "tensor", "module", or a mapping'),
        ({"all": ["head.weight"]}, 'named "all", which stands for every parameter'),
        ({"a": ["nope"]}, "group 'a' names 'nope', which is no trainable parameter .first.weight"),
        ({"a": ["head.weight", 3]}, "group 'a' names 3, which is no trainable parameter"),
        ({"a": "head.weight"}, "expected a non-empty list of parameter names or indices"),
        ({"a": []}, "expected a non-empty list of parameter names or indices"),
        ({"a": 3}, "expected a non-empty list of parameter names or indices"),
        ({"a": [0, 83]}, "other things than whole indices from 0 to 82"),
        ({"a": [-1]}, "other things than whole indices from 0 to 82"),
        ({"a": torch.tensor([0.5])}, "other things than whole indices from 0 to 82"),
        ({"a": torch.ones(83, dtype=torch.bool)}, "other things than whole indices from 0 to 82"),
        ({"a": torch.tensor([[0, 1]])}, "other things than whole indices from 0 to 82"),
        ({"a": [3, 3]}, "group 'a' holds an index twice"),
        ({"a": ["head.bias", "head.bias"]}, "group 'a' holds an index twice"),
    ],
    ids=str,
)
def test_groups_that_make_no_sense_are_refused(groups, complaint):
    with pytest.raises(SettingError, match=complaint):
        _ = network("mlp", groups=groups).groups
