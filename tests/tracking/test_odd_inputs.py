"""Models, batches and optimizers that are rare, and what becomes of them: right numbers, or none and a reason."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import TanhMLP, cross_entropy, seeded, tanh_mlp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint
from trainings import LR, assert_same, at, bar, kinds, messages, sources, state_of, steps

import eom
from eom.analysis.self_test import taken
from eom.errors import DataError, TrackingWarning

MEASURED = {"measured", "reconstructed", "order-0", "order-1"}
AHEAD = {"look-ahead", "order-0", "order-1"}


def follow(
    tmp_path: Path, make: Callable[[], tuple[nn.Module, Any]], loss_fn=cross_entropy, **settings: Any
) -> eom.Run:
    """A tracked training that ends with the bits of an untracked one."""
    states = []
    for follow in (False, True):
        torch.manual_seed(3)
        model, batch = make()
        optimizer = SGD(model.parameters(), lr=settings.get("lr", LR))
        chosen = {"every": 3, "disabled": not follow} | {k: v for k, v in settings.items() if k != "lr"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrackingWarning)
            with eom.track(model, optimizer, loss_fn, tmp_path / "run", **chosen) as tracker:
                steps(optimizer, tracker.loss, [batch] * 12)
        states.append(state_of(model, optimizer))
    assert_same(*states)
    return eom.open_run(tmp_path / "run")


def assert_right(run: eom.Run, found: set[str] = MEASURED) -> None:
    """Predictions that order 1 improves."""
    assert sources(run, step=3) == found
    exact = at(run, 3, "norm_squared_rate", "measured" if "measured" in found else "look-ahead")
    errors = [abs(at(run, 3, "norm_squared_rate", f"order-{k}") - exact) for k in (0, 1)]
    assert errors[1] < errors[0] / 5
    assert at(run, 3, "update_mismatch") < 1e-12


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x[:, None])[0][:, -1])


def around(linear: Callable[[], nn.Module]) -> Callable[[], tuple[nn.Module, Any]]:
    return lambda: (seeded(lambda: nn.Sequential(linear(), nn.Tanh(), nn.Linear(6, 3))), tanh_mlp()[1])


def test_a_recurrent_network_is_read_right(tmp_path):
    assert_right(follow(tmp_path, lambda: (seeded(Recurrent), tanh_mlp()[1])))


def test_weight_normalisation_whose_second_derivative_torch_gets_wrong_is_read_right(tmp_path):
    run = follow(tmp_path, around(lambda: parametrizations.weight_norm(nn.Linear(4, 6))))
    assert not kinds(run)
    assert_right(run)


@torch.jit.script
def fused_weight_norm(x: Tensor) -> Tensor:
    return torch._weight_norm(x, 1 + x.square().sum(1, keepdim=True), 0)  # type: ignore[attr-defined]


class WeightNormed(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, fused_weight_norm(self.weight), self.bias)


def test_a_wrong_second_derivative_that_cannot_be_mended_is_taken_by_differences(tmp_path):
    run = follow(tmp_path, around(lambda: WeightNormed(4, 6)))
    assert "to blame: 0 (WeightNormed)" in messages(run, "self_test")[0]
    assert "differences of gradients" in messages(run, "self_test")[0]
    assert run.manifest["routes"] == {"product": "difference", "second": True, "third": False, "dtype": "float64"}
    assert_right(run)


class Rounded(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        steps = 16 * self.weight
        return F.linear(x, (steps + (steps.round() - steps).detach()) / 16, self.bias)


def test_the_gradient_of_a_straight_through_estimator_is_said_to_be_that_of_no_function(tmp_path):
    """The training follows it all the same, and its Jacobian by differences predicts that; H v is refused."""
    run = follow(tmp_path, around(lambda: Rounded(4, 6)))
    (message,) = messages(run, "self_test")
    assert "along '0.weight' is not the derivative of the loss; to blame: 0 (Rounded)" in message
    assert message.endswith("The sharpness, an eigenvalue of H, is not measured")
    assert "sharpness" not in set(run.table().quantity)
    assert taken(run.manifest).startswith("There is no H of the loss")
    assert sources(run, step=3) == MEASURED


class Quantised(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x).float()  # its rounding makes gradients jump at every small step
        return torch.fake_quantize_per_tensor_affine(y, 0.05, 0, -128, 127).double()


def test_a_gradient_that_jumps_is_compared_with_gradient_flow_only(tmp_path):
    run = follow(tmp_path, around(lambda: Quantised(4, 6)))
    assert "rates of order 1 and above are withheld" in messages(run, "self_test")[0]
    assert "0 (Quantised)" in messages(run, "self_test")[0]
    assert "order-0" in sources(run)
    assert "order-1" not in sources(run)


def test_spectral_normalisation_whose_buffers_move_the_loss_is_looked_ahead(tmp_path):
    run = follow(tmp_path, around(lambda: parametrizations.spectral_norm(nn.Linear(4, 6))), horizon=3, horizons=1)
    assert any("buffers that every forward pass changes" in m for m in messages(run, "moving_buffers"))
    assert_right(run, AHEAD)
    assert "norm_displacement" not in set(run.table().quantity)


def test_batch_norm_whose_running_statistics_do_not_move_the_loss_is_measured_along_the_run(tmp_path):
    run = follow(tmp_path, lambda: (seeded(normalised), tanh_mlp()[1]))
    assert not kinds(run)
    assert_right(run)


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


class Checkpointed(TanhMLP):
    def forward(self, x: Tensor) -> Tensor:
        inner = checkpoint(lambda y: self.second(torch.tanh(self.first(y))), x, use_reentrant=False)
        return self.head(torch.tanh(inner))  # type: ignore[arg-type]


def test_activation_checkpointing_which_reads_weights_in_its_backward_pass_is_read_right(tmp_path):
    run = follow(tmp_path, lambda: (seeded(Checkpointed), tanh_mlp()[1]))
    assert not kinds(run)
    assert_right(run)


def single() -> tuple[nn.Module, Any]:
    model, (x, labels) = tanh_mlp()
    return model.float(), (x.float(), labels)


@pytest.mark.parametrize("where", ["in the loss", "around it"])
def test_mixed_precision_is_evaluated_as_the_training_is_or_outside_of_it_by_choice(tmp_path, where):
    def casting(model: nn.Module, batch: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return cross_entropy(model, batch)

    def run(name: str, **settings: Any) -> eom.Run:
        model, batch = single()
        optimizer = SGD(model.parameters(), lr=LR)
        loss_fn = casting if where == "in the loss" else cross_entropy
        with eom.track(model, optimizer, loss_fn, tmp_path / name, every=3, **settings) as tracker:
            for _ in range(12):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=where == "around it"):
                    loss = tracker.loss(batch)
                loss.backward()
                optimizer.step()
        return tracker.run

    same, outside = run("same"), run("outside", precision=torch.float64)
    assert at(same, 3, "update_mismatch") < 1e-5  # a single's rounding of a small step
    assert 1e-4 < at(outside, 3, "update_mismatch") < torch.finfo(torch.bfloat16).eps ** 0.5
    assert {"order-0", "order-1"} <= sources(outside)
    noted = [p["check"] for p in same.manifest["self_test"] if p["verdict"] == "noted"]
    assert noted == ["autocast is on (cpu to bfloat16)"]


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.scalar, self.none = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.ones(0, 3))
        self.weight = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize("groups", ["tensor", "module"])
def test_parameters_without_a_dimension_or_without_an_entry_are_followed(tmp_path, groups):
    def loss_fn(model: Any, batch: Tensor) -> Tensor:
        return (torch.cos((batch * model.weight).sum(1)) - model.scalar).square().mean() + model.none.sum()

    run = follow(tmp_path, lambda: (Bare(), torch.randn(5, 3)), loss_fn, groups=groups)
    assert run.manifest["groups"] == (["scalar", "weight", "all"] if groups == "tensor" else ["(model)", "all"])
    assert_right(run)


@pytest.mark.parametrize(
    ("make_batch", "loss_fn", "found"),
    [
        (lambda: (torch.eye(4).to_sparse(), torch.arange(4) % 3), None, AHEAD),
        (lambda: ["ab", "cd"], "words", MEASURED),
        (lambda: None, "constant", MEASURED),
        (lambda: 0.5, "scaled", MEASURED),
        (lambda: torch.tensor(0.5), "scaled", MEASURED),
    ],
    ids=["sparse", "words", "nothing", "a number", "a tensor without a dimension"],
)
def test_a_batch_may_be_anything_that_the_loss_understands(tmp_path, make_batch, loss_fn, found):
    def dense(model: Any, batch: Any) -> Tensor:
        return F.cross_entropy(
            model.head(torch.tanh(model.second(torch.tanh(sparse(model.first, batch[0]))))), batch[1]
        )

    def sparse(layer: Any, x: Tensor) -> Tensor:
        return torch.sparse.mm(x, layer.weight.T) + layer.bias

    def words(model: nn.Module, batch: list[str]) -> Tensor:
        return model(torch.tensor([[ord(c) / 100 for c in 2 * word] for word in batch])).square().mean()

    known = {
        None: dense,
        "words": words,
        "constant": lambda model, batch: model(torch.ones(2, 4)).square().mean(),
        "scaled": lambda model, batch: model(batch * torch.ones(2, 4)).square().mean(),
    }
    assert_right(follow(tmp_path, lambda: (tanh_mlp()[0], make_batch()), known[loss_fn]), found)


def test_a_batch_that_can_be_read_once_is_refused(tmp_path):
    def loss_fn(model: nn.Module, batch: Iterator[Tensor]) -> Tensor:
        return model(next(batch)).square().mean()

    model, _ = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR)
    with (
        eom.track(model, optimizer, loss_fn, tmp_path / "run") as tracker,
        pytest.raises(DataError, match="Pass what it yields"),
    ):
        tracker.loss(iter([torch.ones(2, 4)]))


@pytest.mark.parametrize("lr", [1e-300, 1e6, 1e300], ids=str)
def test_an_absurd_learning_rate_gives_no_rate_that_is_not_a_number(tmp_path, lr):
    run = follow(tmp_path, tanh_mlp, lr=lr)
    rates = run.table()[lambda t: t.quantity.str.endswith("_rate")]
    assert torch.isfinite(torch.tensor(rates.value.to_numpy())).all()


def test_a_learning_rate_that_is_a_tensor_is_read(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=torch.tensor(LR))
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=3) as tracker:
        steps(optimizer, tracker.loss, [batch] * 12)
    assert tracker.run.manifest["settings"]["lr"] == [LR]
    assert_right(tracker.run)


@pytest.mark.parametrize(
    "options", [{"foreach": True}, {"foreach": False}, {"fused": True}, {"differentiable": False}], ids=str
)
def test_every_implementation_of_sgd_is_plain_descent(tmp_path, options):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR, weight_decay=0.01, **options)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=3) as tracker:
        steps(optimizer, tracker.loss, [batch] * 12)
    assert not kinds(tracker.run)
    assert_right(tracker.run)


def test_a_model_in_data_parallel_is_the_model_inside(tmp_path):
    model, batch = tanh_mlp()
    wrapped = nn.DataParallel(model)
    optimizer = SGD(wrapped.parameters(), lr=LR)
    with eom.track(wrapped, optimizer, cross_entropy, tmp_path / "run", every=3) as tracker:
        steps(optimizer, tracker.loss, [batch] * 12)
    assert "first.weight" in tracker.run.manifest["groups"]
    assert_right(tracker.run)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_measured_with_bars_that_cover_its_rounding(tmp_path, dtype):
    def make():
        model, (x, labels) = tanh_mlp()
        return model.to(dtype), (x.to(dtype), labels)

    run = follow(tmp_path, make)
    assert run.manifest["dtype"] == str(dtype).removeprefix("torch.")
    exact = at(follow(tmp_path / "exact", tanh_mlp), 3, "norm_squared_rate")
    assert abs(at(run, 3, "norm_squared_rate") - exact) <= 3 * bar(run, 3, "norm_squared_rate")


def test_two_trackers_follow_one_optimizer_into_two_folders(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR)
    with (
        eom.track(model, optimizer, cross_entropy, tmp_path / "a", every=3) as a,
        eom.track(model, optimizer, cross_entropy, tmp_path / "b", every=3) as b,
    ):
        for _ in range(12):
            b.observe(batch)
            steps(optimizer, a.loss, [batch])
    assert_right(a.run)
    assert_right(b.run)


def test_settings_that_a_resumed_run_changes_are_said(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=3) as tracker:
        steps(optimizer, tracker.loss, [batch] * 8)
    with pytest.warns(TrackingWarning, match=r"order=0 \(before: 1\), every=2 \(before: 3\)"):
        again = eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=2, order=0, resume=8)
    with again:
        steps(optimizer, again.loss, [batch] * 4)
    assert "settings_changed" in kinds(again.run)
