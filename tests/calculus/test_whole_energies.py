"""A discrete gradient is of the energy as torch evaluates it: of every part, or none."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from eom.calculus.discrete import discrete_gradient
from eom.errors import DiscreteError, SettingError

WIDE = torch.float64

ENERGIES = {
    "softplus of a threshold": lambda x: F.softplus(x, 1.0, 1.0).sum(-1),
    "clamped root": lambda x: x.clamp(min=1e-12).sqrt().sum(-1),
    "clamped logarithm": lambda x: x.clamp(min=1e-18).log().sum(-1),
    "largest": lambda x: torch.maximum(1e6 * x[:, :1], x[:, 1:]).sum(-1),
    "choice, as a method": lambda x: x.where(x > 0.1, x**2).sum(-1),
    "choice of a number": lambda x: torch.where(x > 0.1, x, 0.1).sum(-1),
    "size": lambda x: x.abs().sum(-1),
    "writing by a mask": lambda x: at_least_zero(x).square().sum(-1),
    "selection by a constant mask": lambda x: (x[:, torch.tensor([True, False])] ** 4).sum(-1),
    "real part": lambda x: torch.exp(1j * x).real.sum(-1),
    "square of a complex size": lambda x: ((z := torch.complex(x, x * x)) * z.conj()).real.sum(-1),
    "complex number in polar form": lambda x: torch.polar(x.exp(), x).sum(-1).abs(),
    "asking for gradients": lambda x: x.requires_grad_().square().sum(-1),
    "large power": lambda x: (x**66).sum(-1),
    "large power below": lambda x: ((2 + x.abs()) ** -67).sum(-1),
    "power of a size": lambda x: (x.abs() ** 2.5).sum(-1),
    "power of each entry": lambda x: (x ** torch.tensor([2, 3.0])).sum(-1) + (x ** torch.tensor([4, 5])).sum(-1),
    "roots of each entry": lambda x: (x.abs() ** torch.tensor([0.5, -1.5])).sum(-1),
    "quotient by whole numbers": lambda x: (x / torch.tensor([3, 7])).sum(-1) + (x * x / torch.tensor(3)).sum(-1),
    "power of a whole number": lambda x: (torch.tensor([3, 5]) ** x).sum(-1),
    "choice of a real or a complex number": lambda x: torch.where(x > 0, x, torch.complex(x, x)).abs().square().sum(-1),
    "size of complex numbers": lambda x: torch.linalg.vector_norm(torch.fft.fft(x), dim=-1) + x.sum(-1),
    "sum of exponentials, one lost": lambda x: torch.logaddexp(x, torch.tensor(-1e9)).square().sum(-1),
    "sum of exponentials, one zero": lambda x: torch.logaddexp(torch.tensor(-math.inf), x).square().sum(-1),
    "entries in one row": lambda x: torch.lgamma(x.reshape(-1) ** 2 + 1).view(x.shape).sum(-1),
    "entries of the transpose": lambda x: torch.asinh(x.T).sum(0),
    "gate": lambda x: (x * (x > 0)).sum(-1) + (x.sin() * (x[:, :1] > 0.1).double()).sum(-1),
    "running statistics": lambda x: RUNNING(x[..., None].expand(-1, -1, 3)).square().sum((1, 2)),
}
RUNNING = torch.nn.InstanceNorm1d(2, affine=True, track_running_stats=True).double().eval()
RUNNING.running_mean.fill_(0.3)  # type: ignore[union-attr, operator] - a buffer


def at_least_zero(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[y < 0] = 0
    return y


@pytest.mark.parametrize("name", ENERGIES)
def test_it_is_of_what_torch_evaluates(name):
    h, v = ENERGIES[name], torch.tensor([[-2.0, 0.3], [3.0, -1.0], [1e-11, 2.0]], dtype=WIDE)
    u = torch.tensor([[1e-11, -0.7], [-1.0, 3.0], [-2.0, 0.05]], dtype=WIDE)
    terms = discrete_gradient(h, u, v).detach() * (u - v)
    size = h(u).abs() + h(v).abs() + terms.abs().sum(1)
    assert float(((h(u) - h(v) - terms.sum(1)).abs() / size).max()) <= 1e-14


@pytest.mark.parametrize("ratio", [3.0, 1e2, 1e4, 1e8, 1e18])
def test_logarithms_have_their_digits_at_any_ratio(ratio):
    u = torch.tensor([[2.0], [2 / ratio]], dtype=WIDE)
    for h in (lambda x: (x * x.log()).sum(-1), lambda x: x.log().sum(-1)):
        terms = (discrete_gradient(h, u, u.flip(0)) * (u - u.flip(0)))[:, 0]
        rise = h(u) - h(u.flip(0))
        assert float((terms - rise).abs().max()) <= 1e-14 * float(h(u).abs().max() + rise.abs().max())


def test_the_slope_of_a_size_at_zero_is_torchs():
    zero = torch.zeros(1, 2, dtype=WIDE)
    assert torch.equal(discrete_gradient(lambda x: x.abs().sum(-1), zero, zero), zero)


AT_ZERO = {
    "power of relu": lambda x: (F.relu(x) ** 2.5).sum(-1),
    "power": lambda x: (x**1.5).sum(-1),
    "power below 1": lambda x: (x**0.3).sum(-1),
    "entropy": lambda x: torch.special.entr(x).sum(-1),
    "x log x": lambda x: torch.xlogy(x, x).sum(-1),
    "norm": lambda x: x.norm(dim=-1),
}


@pytest.mark.parametrize("name", AT_ZERO)
def test_one_of_both_states_may_be_where_the_slope_is_not_finite(name):
    h, u = AT_ZERO[name], torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=WIDE)
    v = torch.tensor([[0.5, 0.0], [3.0, 1.0]], dtype=WIDE)
    rise = (discrete_gradient(h, u, v) * (u - v)).sum(-1)
    torch.testing.assert_close(rise, h(u) - h(v), rtol=1e-14, atol=1e-14)


def test_a_slope_at_zero_is_told_where_it_is_infinite_and_no_other():
    zero = torch.zeros(1, 2, dtype=WIDE)
    assert torch.equal(discrete_gradient(AT_ZERO["power"], zero, zero), zero)
    for name in ("power below 1", "x log x"):
        with pytest.raises(DiscreteError, match="a discrete derivative in it is not finite"):
            discrete_gradient(AT_ZERO[name], zero, zero)


@torch.jit.script
def scripted(x: torch.Tensor) -> torch.Tensor:
    return (x**4).sum(-1)


@pytest.mark.parametrize(
    "part",
    [torch.vmap(lambda x: (x**4).sum()), scripted, lambda x: torch.tensor(x)[:, 0] * x[:, 0]],
    ids=["vmap", "script", "constant"],
)
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
def test_parts_that_go_around_torch_functions_are_refused(part):
    u = torch.tensor([[1.0, 0.5], [0.2, 0.1]], dtype=WIDE)
    with pytest.raises(DiscreteError, match=r"torch\.vmap"):
        discrete_gradient(lambda x: x[:, 1] ** 2 / 2 + part(x), u, u.flip(0))


def test_inference_mode_is_not_taken_for_a_part_outside_of_torch():
    u = torch.ones(1, 2, dtype=WIDE)
    with torch.inference_mode(), pytest.raises(SettingError, match=r"take torch\.no_grad\(\) instead"):
        discrete_gradient(lambda x: x.square().sum(-1), u, 2 * u)


def test_a_sample_that_is_not_exact_is_refused_beside_a_huge_one():
    """The square is the same at -1 and 1, the gate is not: no share of the square is what its product gains."""
    u, v = (torch.tensor([[1e9], [x]], dtype=WIDE) for x in (-1.0, 1.0))
    with pytest.raises(DiscreteError, match="differs from DG"):
        discrete_gradient(lambda x: (x**2 * (x > 0)).sum(-1), u, v)


@pytest.mark.parametrize("constant", [0.0, 1e8])
def test_a_constant_hides_no_part_that_is_not_exact(constant):
    u, v = torch.tensor([[1.0, 1.0]], dtype=WIDE), torch.tensor([[-1.0, 0.5]], dtype=WIDE)
    with pytest.raises(DiscreteError, match="differs from DG"):
        discrete_gradient(lambda x: constant + (x**2 / 2 * (x > 0)).sum(-1), u, v)


def test_an_exponent_has_a_gradient():
    """H = (x^2 + 1)^a, from u to v."""
    u, v = torch.tensor([[1.0]], dtype=WIDE), torch.tensor([[0.5]], dtype=WIDE)
    for shape in ((), (1,)):
        a = torch.full(shape, 2.5, dtype=WIDE, requires_grad=True)
        slope = discrete_gradient(lambda x, a=a: ((x * x + 1) ** a).sum(-1), u, v)
        (found,) = torch.autograd.grad(slope.sum(), a)
        wanted = (2**2.5 * math.log(2) - 1.25**2.5 * math.log(1.25)) / 0.5
        assert found.item() == pytest.approx(wanted, rel=1e-14)


def test_a_hyperbolic_cosine_keeps_its_digits_near_zero():
    u = torch.tensor([[1e-8, 2e-4]], dtype=WIDE)
    torch.testing.assert_close(discrete_gradient(lambda x: x.cosh().sum(-1), u, u), u.sinh(), rtol=1e-15, atol=0)


def test_no_sample_has_no_gradient_and_zeros_are_not_written():
    none, one = torch.zeros(0, 2, dtype=WIDE), torch.ones(1, 2, dtype=WIDE)
    assert discrete_gradient(lambda x: x.prod(1), none, none).shape == (0, 2)
    with pytest.raises(DiscreteError, match="writes in place by zero_: make a new tensor"):
        discrete_gradient(lambda x: (2 * x).zero_().sum(-1), one, 2 * one)


def test_a_view_that_is_written_in_place_is_refused():
    def written(x: torch.Tensor) -> torch.Tensor:
        y = 2 * x
        F.relu(y[:, :1], inplace=True)
        return (y**2).sum(-1)

    u = torch.tensor([[1.0, 0.5], [-0.2, 0.1]], dtype=WIDE)
    with pytest.raises(DiscreteError, match="writes in place to a tensor that has views"):
        discrete_gradient(written, u, u.flip(0))


def cos(x):
    """A function of a user's own, of a name that torch has too."""
    return handle_torch_function(cos, (x,), x) if has_torch_function_unary(x) else x**3


@torch.library.custom_op("own::tanh", mutates_args=())
def tanh(x: torch.Tensor) -> torch.Tensor:
    return x**3


tanh.register_autograd(
    lambda ctx, w: 3 * w * ctx.saved_tensors[0] ** 2,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


@pytest.mark.parametrize("own", [cos, torch.ops.own.tanh], ids=["function", "op"])
def test_a_users_own_function_is_not_the_one_of_torch_that_has_its_name(own):
    u, v = torch.randn(2, 3, 4)
    d = discrete_gradient(lambda x: own(x).sum(1), u, v)
    torch.testing.assert_close((d * (u - v)).sum(1), (u**3 - v**3).sum(1), rtol=1e-14, atol=1e-14)


def test_strides_are_those_of_states_in_a_row():
    u, v = torch.randn(2, 4, 6)

    def energy(x):
        row, entry = x.stride()
        return x.as_strided((len(x), 3), (row, 2 * entry)).square().sum(1) if x.is_contiguous() else x.sum(1)

    for one, other in ((u, v), (u.T.contiguous().T, v)):
        torch.testing.assert_close(discrete_gradient(energy, one, other)[:, ::2], (u + v)[:, ::2], rtol=1e-14, atol=0)


@pytest.mark.parametrize("part", [1e-9, 1e-11])
def test_samples_that_see_each_other_a_little_are_refused(part):
    u, v = torch.randn(2, 3, 4)
    with pytest.raises(DiscreteError, match="samples see each other"):
        discrete_gradient(lambda x: x.square().sum(1) * (1 + part * x.mean()), u, v)


def test_what_chooses_a_constant_has_no_slope():
    u, v = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 3.0]])
    table = torch.tensor([[1.0], [2.0]])
    d = discrete_gradient(lambda x: torch.nn.functional.embedding(x.argmax(1), table)[:, 0] + x.square().sum(1), u, v)
    torch.testing.assert_close(d, u + v, rtol=1e-15, atol=0)
