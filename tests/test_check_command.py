"""`eom check`: a user's own model from the command line."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from eom.checking import check_target
from eom.errors import SettingError
from eom.target import load

MODULE = """
import torch
from torch import nn

X, Y = torch.ones(6, 4).cumsum(0), torch.arange(6) % 3


def loss_fn(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def right():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)), loss_fn, (X, Y)


class Cut(nn.Linear):
    def forward(self, x):
        return torch.tanh(super().forward(x) * self.weight.detach().sum())


def wrong():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), Cut(5, 5), nn.Linear(5, 3)), loss_fn, (X, Y)


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.slope = x.detach().cos()
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.slope


def constant():
    class Wave(nn.Module):
        def forward(self, x):
            return Sine.apply(x)

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), Wave(), nn.Linear(5, 3)), loss_fn, (X, Y)


def pair():
    return right()[:2]


def broken():
    raise RuntimeError("a bug of mine")


number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "mine.py").write_text(MODULE)
    (tmp_path / "careless.py").write_text("import a_module_that_is_not_there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("package", "package.mine", "careless"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def printed(target: str, order: int = 2) -> tuple[bool, str]:
    out = io.StringIO()
    passed = check_target(target, order, Console(file=out, width=100))
    return passed, " ".join(out.getvalue().split())


def test_the_table_of_a_right_model(folder):
    passed, text = printed("package.mine:right")
    assert passed
    for part in (
        "check route error limit verdict",
        "same gradient twice",
        "gradient . v against the loss",
        "H v against differences double-backward",
        "T(v, v) against differences triple-backward",
        "H v: double-backward; T: by triple backward; probed in float64.",
    ):
        assert part in text
    assert "failed" not in text


def test_without_third_derivatives(folder):
    passed, text = printed("package.mine:right", order=1)
    assert passed
    assert "T(v, v) against" not in text
    assert "T: not asked for" in text


def test_a_wrong_model_is_named_with_its_remedy(folder):
    passed, text = printed("package.mine:wrong")
    assert not passed
    assert "the gradient along '1.weight' is not the derivative of the loss; to blame: 1 (Cut); .detach()" in text


def test_another_route_is_named_where_one_fails(folder):
    passed, text = printed("package.mine:constant")
    assert not passed
    assert "to blame: 1 (Wave); for all digits, mend its backward pass. H v is taken by differences" in text
    assert "H v: difference; T: withheld" in text


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("package.mine", "the target is 'package.mine', expected PACKAGE.MODULE:FUNCTION"),
        ("package.mine:", "expected PACKAGE.MODULE:FUNCTION"),
        ("package/mine.py:right", "expected PACKAGE.MODULE:FUNCTION"),
        ("nowhere:right", "there is no module 'nowhere' in"),
        ("package.nowhere:right", "there is no module 'package.nowhere' in"),
        ("package.mine:nothing", "package.mine has no function 'nothing'"),
        ("package.mine:number", "package.mine has no function 'number'"),
        ("package.mine:pair", r"returned a tuple, expected .* returns \(model, loss_fn, data\)"),
    ],
)
def test_a_target_that_is_none_is_refused(folder, target, complaint):
    with pytest.raises(SettingError, match=complaint):
        load(target)


def test_errors_of_the_users_own_come_through(folder):
    with pytest.raises(RuntimeError, match="a bug of mine"):
        load("package.mine:broken")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        load("careless:right")


@pytest.mark.parametrize(("name", "status"), [("wrong", 1), ("nothing", 1)])
def test_the_command_ends_with_a_status(folder, name, status):
    command = [sys.executable, "-m", "eom", "check", f"package.mine:{name}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    if name == "nothing":
        assert done.stderr.startswith("eom: package.mine has no function 'nothing'")
