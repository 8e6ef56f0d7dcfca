"""Schedules, orders, routes, precision, sharpness and displacements."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import cross_entropy, groupnorm_cnn, seeded, tanh_mlp
from torch import Tensor, nn
from torch.optim import SGD
from trainings import LR, at, bar, dense_hessian, kinds, messages, sources, steps, tracked

import eom
from eom.analysis.errors import prediction_errors
from eom.errors import SettingError, TrackingWarning
from eom.tracking.schedule import make_schedule


def recorded(run: eom.Run) -> list[int]:
    return sorted(set(run.table().step))


@pytest.mark.parametrize(
    ("every", "steps_recorded"),
    [
        (1, list(range(12))),
        (5, [0, 5, 10]),
        (100, [0]),
        ("log", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (lambda step: step in (2, 7), [2, 7]),
        (lambda step: torch.tensor(step == 3), [3]),
    ],
    ids=["1", "5", "100", "log", "function", "function that gives a tensor"],
)
def test_a_schedule_says_which_steps_are_recorded(tmp_path, every, steps_recorded):
    assert recorded(tracked(tmp_path / "run", every=every, order=None, count=12)) == steps_recorded


def test_the_logarithmic_schedule_has_ten_records_a_decade():
    due = make_schedule("log")
    chosen = [step for step in range(100_000) if due(step)]
    assert chosen[:12] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13]
    for decade in (10, 100, 1000, 10_000):
        assert len([s for s in chosen if decade <= s < 10 * decade]) == 10


def test_a_budget_is_converted_once_and_recorded(tmp_path):
    def slow(model: nn.Module, batch) -> Tensor:
        time.sleep(0.002)
        return cross_entropy(model, batch)

    run = tracked(tmp_path / "run", every="10%", loss_fn=slow, count=90)
    every = run.manifest["every"]
    assert isinstance(every, int)
    assert run.manifest["settings"]["every"] == "10%"
    assert messages(run, "budget") == [f"recording every {every} steps to stay within 10% of the time"]
    assert recorded(run) == sorted({0, 10} | {s for s in range(16, 90) if s % every == 0})


@pytest.mark.parametrize("every", [0, -1, 1.5, True, None, "10", "0%", "-5%", "often", [5]], ids=str)
def test_a_schedule_that_is_none_is_refused_before_a_folder_is_made(tmp_path, every):
    model, _ = tanh_mlp()
    with pytest.raises(SettingError, match="expected a whole number of steps"):
        eom.track(model, SGD(model.parameters(), lr=0.1), cross_entropy, tmp_path / "run", every=every)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 3}, "order is 3, expected 0, 1, 2 or None"),
        ({"order": -1}, "order is -1"),
        ({"order": True}, "order is True"),
        ({"order": "1"}, "order is '1'"),
        ({"product": "jvp"}, "product is 'jvp'"),
        ({"sharpness": -1}, "sharpness is -1"),
        ({"sharpness": None}, "sharpness is None"),
        ({"horizon": 0}, "horizon is 0"),
        ({"horizons": 0}, "horizons is 0"),
        ({"horizon": 5, "order": None}, "a horizon asks for predictions"),
        ({"precision": torch.float16}, r"precision is torch\.float16"),
        ({"precision": "float64"}, "precision is 'float64'"),
        ({"groups": "layer"}, "groups is 'layer'"),
        ({"groups": {"a": ["no.such"]}}, "'no.such', which is no trainable parameter"),
        ({"groups": {"a": []}}, "expected a non-empty list"),
        ({"groups": {"a": [0, 0]}}, "an index twice"),
        ({"groups": {"a": [10**6]}}, "whole indices from 0 to"),
        ({"groups": {"all": ["first.weight"]}}, 'a group is named "all"'),
        ({"resume": -1}, "resume is -1"),
        ({"resume": {}}, "that of a disabled tracker is empty"),
        ({"data": []}, "holds no batch"),
    ],
    ids=str,
)
def test_a_setting_outside_what_it_may_be_is_refused_by_name(tmp_path, settings, message):
    model, _ = tanh_mlp()
    with pytest.raises(eom.errors.EomError, match=message):
        eom.track(model, SGD(model.parameters(), lr=0.1), cross_entropy, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_errors_of_predicted_rates_fall_with_the_order_and_stay_within_twice_their_bars(tmp_path):
    run = tracked(tmp_path / "run", order=2)
    for step in (0, 5, 10):
        exact = at(run, step, "norm_squared_rate")
        errors = [abs(at(run, step, "norm_squared_rate", f"order-{k}") - exact) for k in (0, 1, 2)]
        assert errors[1] < errors[0] / 5
        assert errors[2] < errors[1] / 5
        for k, error in enumerate(errors):
            assert error <= 2 * bar(run, step, "norm_squared_rate", f"order-{k}")


def test_order_two_is_withheld_where_third_derivatives_are_wrong(tmp_path):
    def make():
        parts = lambda: nn.Sequential(nn.Linear(4, 6), fused, nn.Tanh(), nn.Linear(6, 3))  # noqa: E731
        return seeded(parts), tanh_mlp()[1]

    fused = torch.jit.script(nn.LayerNorm(6))
    with pytest.warns(TrackingWarning, match="rates of order 2 are withheld"):
        run = tracked(tmp_path / "run", make=make, order=2)
    assert "order-2" not in sources(run)
    assert "order-1" in sources(run)
    assert any("order 2 are withheld" in m for m in messages(run, "self_test"))
    assert [p["verdict"] for p in run.manifest["self_test"]][-1] == "failed"


class Once(torch.autograd.Function):
    """Softplus whose backward pass cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.nn.functional.softplus(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[override]
        return grad * torch.sigmoid(ctx.saved_tensors[0])


def test_order_two_with_differences_is_withheld_in_one_warning(tmp_path):
    with pytest.warns(TrackingWarning, match=r"order 2 are withheld: T\(v, v\) is not tried"):
        run = tracked(tmp_path / "run", order=2, product="difference")
    assert len(messages(run, "self_test")) == 1
    assert "order-1" in sources(run)


def test_products_are_taken_by_differences_where_double_backward_is_missing(tmp_path):
    def loss_fn(model: nn.Module, batch) -> Tensor:
        return Once.apply(cross_entropy(model, batch))  # type: ignore[return-value]

    with pytest.warns(TrackingWarning, match="H v is taken by differences of gradients") as warned:
        run = tracked(tmp_path / "run", loss_fn=loss_fn)
    assert {Path(w.filename).name for w in warned} == {"trainings.py"}  # the training's own line
    exact = at(run, 5, "norm_squared_rate")
    errors = [abs(at(run, 5, "norm_squared_rate", f"order-{k}") - exact) for k in (0, 1)]
    assert errors[1] < errors[0] / 5


@pytest.mark.parametrize("make", [tanh_mlp, groupnorm_cnn], ids=["mlp", "cnn"])
def test_differences_agree_with_double_backward_to_eight_digits(tmp_path, make):
    runs = {p: tracked(tmp_path / p, make=make, product=p) for p in ("double-backward", "difference")}
    for step in (0, 5, 10):
        exact, found = (at(runs[p], step, "norm_squared_rate", "order-1") for p in ("double-backward", "difference"))
        correction = exact - at(runs["difference"], step, "norm_squared_rate", "order-0")
        assert abs(found - exact) < 1e-5 * abs(correction)


def test_predictions_of_a_float32_model_in_float64_are_recorded_as_such(tmp_path):
    def make():
        model, (x, labels) = tanh_mlp()
        return model.float(), (x.float(), labels)

    run = tracked(tmp_path / "run", make=make, precision=torch.float64)
    wide = tracked(tmp_path / "wide", make=lambda: (make()[0].double(), tuple(x for x in doubled(make()[1]))))
    assert run.manifest["settings"]["precision"] == "float64"
    assert run.manifest["dtype"] == "float32"
    assert at(run, 0, "update_mismatch") < 1e-4
    for k in (0, 1):
        source = f"order-{k}"
        assert at(run, 0, "norm_squared_rate", source) == pytest.approx(
            at(wide, 0, "norm_squared_rate", source), rel=1e-12
        )


def doubled(batch: tuple[Tensor, Tensor]) -> list[Tensor]:
    return [x.double() if x.is_floating_point() else x for x in batch]


def test_sharpness_is_the_largest_eigenvalue_of_the_dense_hessian_scaled_by_each_learning_rate(tmp_path):
    model, batch = tanh_mlp()
    rates = {"first": 0.02, "second": 0.05, "head": 0.1}
    optimizer = SGD(
        [{"params": model.get_submodule(k).parameters(), "lr": lr} for k, lr in rates.items()], weight_decay=0.01
    )
    wanted = {}
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=2, sharpness=2) as tracker:
        for step in range(9):
            if step % 4 == 0:
                scale = torch.cat(
                    [torch.full((p.numel(),), rates[k.split(".")[0]] / 0.1) for k, p in model.named_parameters()]
                )
                root = scale.sqrt()
                wanted[step] = torch.linalg.eigvalsh(
                    root[:, None] * dense_hessian(model, cross_entropy, batch, 0.01) * root
                )[-1]
            steps(optimizer, tracker.loss, [batch])
    table = tracker.run.table()
    assert table[table.quantity == "sharpness"].step.tolist() == [0, 4, 8]
    for step, value in wanted.items():
        found = at(tracker.run, step, "sharpness")
        assert found == pytest.approx(float(value), rel=1e-3)
        assert abs(found - float(value)) <= bar(tracker.run, step, "sharpness") + 1e-12


def test_no_sharpness_is_recorded_where_none_is_asked_for(tmp_path):
    assert "sharpness" not in set(tracked(tmp_path / "run", sharpness=0).table().quantity)


def test_displacements_are_differences_of_norms_and_their_errors_fall_with_the_order(tmp_path):
    run = tracked(tmp_path / "run", every=5, horizon=10, horizons=2, count=16)
    assert set(run.table().query("quantity == 'position_error'").step) == {5}
    for group in run.manifest["groups"]:
        for quantity in ("norm", "norm_squared"):
            moved = at(run, 15, quantity, group=group) - at(run, 5, quantity, group=group)
            assert at(run, 5, f"{quantity}_displacement", group=group) == pytest.approx(moved, abs=1e-13)
    for quantity in ("norm_squared_displacement", "position_error"):
        exact = at(run, 5, quantity) if quantity != "position_error" else 0.0
        errors = [abs(at(run, 5, quantity, f"order-{k}") - exact) for k in (0, 1, 2)]
        assert errors[1] < errors[0] / 5
        assert errors[2] < errors[1] / 5
        for k, error in enumerate(errors):
            assert error <= 2 * bar(run, 5, quantity, f"order-{k}")


def test_a_displacement_that_the_training_ends_before_is_an_event(tmp_path):
    run = tracked(tmp_path / "run", horizon=50, horizons=1, count=8)
    assert kinds(run) == {"horizon_incomplete"}


def test_records_that_overlap_do_not_disturb_each_other(tmp_path):
    dense, sparse = (tracked(tmp_path / str(k), every=k, sharpness=0, count=24) for k in (1, 6))
    keys = ["step", "quantity", "source", "group"]
    one, other = (r.table()[lambda t: t.step.isin([0, 6, 12])].set_index(keys).sort_index() for r in (dense, sparse))
    assert list(one.index) == list(other.index)
    assert np.allclose(one.value, other.value, rtol=1e-9, atol=1e-13)
    assert np.allclose(one.bar, other.bar, rtol=1e-4, atol=1e-12, equal_nan=True)


def test_the_manifest_describes_the_run(tmp_path):
    run = tracked(tmp_path / "run", observables={"sum": lambda named: named["head.bias"].sum()})
    manifest = run.manifest
    assert manifest["parameters"] == 24 + 6 + 30 + 5 + 15 + 3
    assert manifest["layers"]["first.weight"] == "Linear.weight"
    assert manifest["settings"]["order"] == 1
    assert manifest["settings"]["lr"] == [LR]
    assert manifest["settings"]["weight_decay"] == [0.01]
    assert manifest["units"]["sum_rate"] == "own unit per unit time"
    assert set(manifest["sha256"]) == {"parameters", "constants", "model", "batch"}
    assert all(p["verdict"] == "passed" for p in manifest["self_test"])
    json.dumps(manifest, allow_nan=False)


@pytest.mark.slow
def test_the_compiled_route_records_what_double_backward_does(tmp_path):
    runs = [tracked(tmp_path / product, product=product) for product in ("compiled", "double-backward")]
    assert runs[0].manifest["routes"]["product"] == "compiled"
    for quantity in ("norm_squared_rate", "norm_rate"):
        for order in ("order-0", "order-1"):
            one, other = (at(run, 5, quantity, order) for run in runs)
            assert one == pytest.approx(other, rel=1e-10)


@pytest.mark.parametrize(("parts", "reference"), [(1, "measured"), (2, "look-ahead")])
def test_the_rounding_of_the_weights_is_in_the_measured_bar(tmp_path, parts, reference):
    """Of a loss that is linear gradient flow's rate is exact, so that all of its error is rounding to single."""
    x = tanh_mlp()[1][0].float()
    model = seeded(lambda: nn.Linear(4, 3)).float()
    optimizer = SGD(model.parameters(), lr=1e-3)
    with eom.track(model, optimizer, lambda m, b: m(b).mean(), tmp_path / "run", every=1) as tracker:
        steps(optimizer, tracker.loss, list(x.chunk(parts)) * (40 // parts))
    errors = prediction_errors(tracker.run)
    own = errors.loc[(errors.source == "order-0") & (errors.reference_source == reference)]
    assert len(own) > 50
    assert own.error.abs().max() > 1e-9
    assert (own.error.abs() <= 2 * own.reference_bar).mean() > 0.9


def test_weights_whose_rounding_takes_the_step_are_not_predicted(tmp_path):
    def make():
        model, (x, labels) = tanh_mlp()
        return model.to(torch.bfloat16), (x.to(torch.bfloat16), labels)

    with pytest.warns(TrackingWarning, match="rounding to bfloat16, as the step is added to the weights, takes 0"):
        run = tracked(tmp_path / "run", make=make, lr=0.01)
    assert "order-0" not in sources(run)
    assert at(run, 5, "update_mismatch") > 0.05


def test_the_noise_of_autocast_is_not_taken_for_rounding_of_the_weights(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(32, 6).float()
    y = torch.sin(x.sum(1, keepdim=True)) * 3 + 10
    model = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 1)).float()
    optimizer = SGD(model.parameters(), lr=0.02)
    mse = lambda m, b: (m(b[0]).float() - b[1]).square().mean()  # noqa: E731
    with eom.track(model, optimizer, mse, tmp_path / "run", precision=torch.float32) as tracker:
        for _ in range(150):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = tracker.loss((x, y))
            loss.backward()
            optimizer.step()
    assert not messages(tracker.run, "update_rounded")


class Crossing(nn.Module):
    """Two parts whose largest eigenvalues pass each other, in eigenvectors that stay: a falls to 0, b rises to 1."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([2.0, 1.0, 0.3], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([0.05, 0.04], dtype=torch.float64))


def test_the_sharpness_changes_over_to_an_eigenvalue_that_becomes_the_largest(tmp_path):
    model, wanted = Crossing(), []
    optimizer = SGD(model.parameters(), lr=0.05)

    def loss_fn(model, batch):
        return (model.a**4).sum() / 4 + ((model.b**2 - 1) ** 2).sum() / 2

    with eom.track(model, optimizer, loss_fn, tmp_path / "run", every=10, sharpness=1) as tracker:
        for step in range(200):
            if step % 10 == 0:
                a, b = model.a.detach(), model.b.detach()
                wanted.append(max(float((3 * a**2).max()), float((6 * b**2 - 2).max())))
            steps(optimizer, tracker.loss, [torch.ones(1)])
    table = tracker.run.table()
    assert table.value[table.quantity == "sharpness"].tolist() == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("power", [1, 2])
def test_models_of_one_tensor_whose_products_share_memory_are_predicted(tmp_path, power):
    """H g is an expanded tensor, or zeros that cannot be written to."""
    model = nn.Linear(5, 1, bias=False).double()
    optimizer = SGD(model.parameters(), lr=0.1)

    def loss_fn(model, batch):
        return model.weight.sum() ** power / 2

    with eom.track(model, optimizer, loss_fn, tmp_path / "run", every=2, sharpness=0) as tracker:
        for _ in range(6):
            steps(optimizer, tracker.loss, [torch.ones(1)])
    table = tracker.run.table()
    assert (table.source == "order-1").any()
    assert not len(tracker.run.events())
