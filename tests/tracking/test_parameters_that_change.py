"""Parameters that are replaced, frozen, moved or added in mid-run: what is recorded from then on."""

import warnings

import pytest
import torch
from problems import cross_entropy, tanh_mlp
from torch import nn
from torch.optim import SGD
from trainings import COUNT, LR, assert_said, assert_same, at, compare, sources, state_of, steps

import eom


def replaced(step, model, optimizer, loss, batch):
    if step == 10:
        model.head = nn.Linear(5, 3)
        optimizer.param_groups[0]["params"] = list(model.parameters())
    steps(optimizer, loss, [batch])


def added(step, model, optimizer, loss, batch):
    if step == 10:
        model.extra = nn.Parameter(torch.ones(2))
        optimizer.add_param_group({"params": [model.extra]})
    steps(optimizer, loss, [batch])


def froze(step, model, optimizer, loss, batch):
    if step == 10:
        model.first.requires_grad_(False)
        model.first.zero_grad()
    steps(optimizer, loss, [batch])


def doubled(step, model, optimizer, loss, batch):
    x, labels = batch
    if step == 10:
        model.double()
    steps(optimizer, loss, [(x.to(model.head.weight.dtype), labels)])


def float_mlp():
    model, (x, labels) = tanh_mlp()
    return model.float(), (x.float(), labels)


@pytest.mark.parametrize(
    ("body", "make", "message"),
    [
        (replaced, tanh_mlp, "parameters were added, replaced, frozen or unfrozen"),
        (added, tanh_mlp, "parameters were added, replaced, frozen or unfrozen"),
        (froze, tanh_mlp, "parameters were added, replaced, frozen or unfrozen"),
        (doubled, float_mlp, "moved to another dtype or device"),
    ],
    ids=["replaced", "added", "frozen", "moved"],
)
def test_parameters_that_change_in_mid_run_end_the_records(tmp_path, body, make, message):
    run, said = compare(tmp_path, body, make=make)
    assert_said(run, said, "parameters_changed", message)
    table = run.table()
    assert table.step.max() == 8
    assert "order-1" in sources(run, step=0)
    assert not sources(run, step=8)  # the six steps after it were not of one training
    assert run.manifest["steps"] == COUNT


def test_a_parameter_group_that_joins_in_mid_run_is_said_and_read(tmp_path):
    def train(disabled: bool):
        model, batch = tanh_mlp()
        optimizer = SGD(model.get_submodule("head").parameters(), lr=LR)
        with (
            warnings.catch_warnings(record=True) as caught,
            eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=4, disabled=disabled) as tracker,
        ):
            warnings.simplefilter("always")
            for step in range(COUNT):
                if step == 10:
                    optimizer.add_param_group({"params": list(model.get_submodule("first").parameters()), "lr": 0.02})
                steps(optimizer, tracker.loss, [batch])
        return state_of(model, optimizer), [str(w.message) for w in caught]

    (bare, _), (state, said) = train(True), train(False)
    assert_same(bare, state)
    run = eom.open_run(tmp_path / "run")
    assert_said(run, said, "optimizer_changed", "the optimizer holds other parameters than before")
    assert at(run, 4, "norm_squared_rate", "order-0", "first.weight") == 0.0
    assert at(run, 12, "norm_squared_rate", "order-0", "first.weight") != 0.0
    assert at(run, 12, "update_mismatch") < 1e-13


def test_a_parameter_group_of_another_model_ends_predictions(tmp_path):
    def body(step, model, optimizer, loss, batch):
        if step == 10:
            optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)]})
        steps(optimizer, loss, [batch])

    run, said = compare(tmp_path, body)
    assert_said(run, said, "optimizer_changed", "not all of this model")
    assert "order-1" in sources(run, step=4)
    assert sources(run, step=16) == {"measured"}
