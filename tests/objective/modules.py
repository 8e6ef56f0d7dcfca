"""The table of modules: models with a loss and a batch, one for each thing of torch that a derivative may trip over."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from awkward import (
    Attention,
    Autocast,
    Bag,
    Branch,
    Cell,
    Checkpointed,
    Data,
    Doubled,
    Frozen,
    InForward,
    InPlace,
    InSetup,
    Once,
    Packed,
    Recurrent,
    Sampler,
    SelfAttention,
    Straight,
    Symplectic,
    ThroughNumpy,
    Tied,
    Unused,
    WithJvp,
    compiled,
    scripted,
    scripted_weight_norm,
)
from problems import classes, randn, seeded
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend
from torch.nn.utils import parametrizations, parametrize

Loss = Callable[[nn.Module, Any], Tensor]


class Case(NamedTuple):
    """A model, a loss and a batch, in float64."""

    model: nn.Module
    loss: Loss
    batch: Any


def energy(model: nn.Module, batch: Any) -> Tensor:
    """A smooth function of whatever the model gives out."""
    return smooth(model(batch))


def smooth(y: Tensor) -> Tensor:
    return (torch.sin(y) + y.square() / 3).mean()


def vectors(*layers: Callable[[], nn.Module], loss: Loss = energy, inside: int = 8, out: int = 3) -> Case:
    """Layers between two linear ones, on ten vectors."""
    model = seeded(lambda: nn.Sequential(nn.Linear(6, inside), *(make() for make in layers), nn.Linear(8, out)))
    return Case(model, loss, randn(10, 6, seed=1))


def images(*layers: Callable[[], nn.Module], d: int = 2) -> Case:
    """Layers behind a convolution, on three small images [4, 6, ...] of ``d`` dimensions."""
    first = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1]
    model = seeded(lambda: nn.Sequential(first(2, 4, 3, padding=1), *(make() for make in layers)))
    return Case(model, energy, randn(3, 2, *[6] * d, seed=1))


def of(model: Callable[[], nn.Module], batch: Any, loss: Loss = energy) -> Case:
    return Case(seeded(model), loss, batch)


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, f: Callable[[Tensor], Tensor]):
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


def apply(f: Callable[[Tensor], Tensor], **settings) -> Case:
    return vectors(lambda: Apply(f), **settings)


def classified(f: Callable[[Tensor, Tensor], Tensor], kinds: int = 3) -> Case:
    """A loss of logits [10, kinds] and labels [10]."""
    case = vectors(nn.Tanh, out=kinds, loss=lambda m, b: f(m(b[0]), b[1]))
    return case._replace(batch=(case.batch, classes(10, kinds, seed=2)))


def compared(f: Callable[[Tensor, Tensor], Tensor]) -> Case:
    """A loss of outputs [10, 3] and targets [10, 3] between 0 and 1."""
    case = vectors(nn.Tanh, loss=lambda m, b: f(m(b[0]), b[1]))
    return case._replace(batch=(case.batch, torch.sigmoid(randn(10, 3, seed=2))))


TOKENS = randn(3, 5, 8, seed=1)
LATER = torch.ones(5, 5, dtype=torch.bool).triu(1)
PADDING = torch.arange(5).expand(3, 5) >= torch.tensor([[5], [4], [3]])


def attention(**settings) -> Case:
    return of(lambda: Attention(**settings), TOKENS)


def tokens(model: Callable[[], nn.Module]) -> Case:
    return of(model, TOKENS)


def quantised() -> Case:
    return apply(lambda x: torch.fake_quantize_per_tensor_affine(x.float(), 0.1, 0, -128, 127).double())


def ctc() -> Case:
    targets, lengths = torch.tensor([[1, 2, 2], [3, 1, 0]]), torch.tensor([3, 2])

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        scores = F.log_softmax(model(x), -1).view(7, 2, 4)
        return F.ctc_loss(scores, targets, torch.tensor([7, 6]), lengths)

    case = vectors(nn.Tanh, out=4, loss=loss)
    return case._replace(batch=randn(14, 6, seed=1))


def triple(f: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Case:
    return vectors(nn.Tanh, loss=lambda m, b: f(*(m(b + k) for k in (0.0, 0.3, -0.4))))


def chunked(model: nn.Module, x: Tensor) -> Tensor:
    options = nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(model[:-1](x), model[-1].weight, classes(10, 3, 2), options=options)  # type: ignore


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y).diagonal()


RIGHT: dict[str, Callable[[], Case]] = {
    "Linear": vectors,
    "Bilinear": lambda: of(lambda: nn.Bilinear(6, 6, 3), randn(10, 6, seed=1), lambda m, x: smooth(m(x, x))),
    "Conv1d": lambda: images(nn.Tanh, d=1),
    "Conv2d": lambda: images(nn.Tanh, lambda: nn.Conv2d(4, 4, 3, stride=2, dilation=1, groups=2)),
    "Conv3d": lambda: images(nn.Tanh, d=3),
    "ConvTranspose1d": lambda: images(lambda: nn.ConvTranspose1d(4, 3, 3, stride=2), d=1),
    "ConvTranspose2d": lambda: images(lambda: nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1)),
    "ConvTranspose2d, output_padding": lambda: images(
        lambda: nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1), nn.Tanh
    ),
    "Unfold": lambda: images(lambda: nn.Unfold(2)),
    "Fold": lambda: images(lambda: nn.Flatten(2), lambda: nn.Fold(7, 2)),
    "PixelShuffle": lambda: images(lambda: nn.PixelShuffle(2)),
    # pooling
    "MaxPool1d": lambda: images(lambda: nn.MaxPool1d(2), d=1),
    "MaxPool2d": lambda: images(lambda: nn.MaxPool2d(2)),
    "MaxPool3d": lambda: images(lambda: nn.MaxPool3d(2), d=3),
    "AvgPool1d": lambda: images(lambda: nn.AvgPool1d(2), d=1),
    "AvgPool2d": lambda: images(lambda: nn.AvgPool2d(3, 2, 1)),
    "AvgPool3d": lambda: images(lambda: nn.AvgPool3d(2), d=3),
    "AdaptiveAvgPool2d": lambda: images(lambda: nn.AdaptiveAvgPool2d(4)),
    "AdaptiveMaxPool2d": lambda: images(lambda: nn.AdaptiveMaxPool2d(4)),
    "LPPool2d": lambda: images(nn.Softplus, lambda: nn.LPPool2d(3, 2)),
    "FractionalMaxPool2d": lambda: images(lambda: nn.FractionalMaxPool2d(2, output_size=3)),
    "MaxUnpool2d": lambda: images(lambda: Apply(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2))),  # type: ignore
    # normalisation
    "BatchNorm1d": lambda: vectors(lambda: nn.BatchNorm1d(8)),
    "BatchNorm1d, eval": lambda: vectors(lambda: nn.BatchNorm1d(8).eval()),
    "BatchNorm2d": lambda: images(lambda: nn.BatchNorm2d(4)),
    "BatchNorm2d, no running statistics": lambda: images(lambda: nn.BatchNorm2d(4, track_running_stats=False)),
    "BatchNorm2d, eval": lambda: images(lambda: nn.BatchNorm2d(4).eval()),
    "BatchNorm3d": lambda: images(lambda: nn.BatchNorm3d(4), d=3),
    "LayerNorm": lambda: vectors(lambda: nn.LayerNorm(8)),
    "LayerNorm, eval": lambda: vectors(lambda: nn.LayerNorm(8).eval()),
    "LayerNorm, plain": lambda: images(lambda: nn.LayerNorm([4, 6, 6], elementwise_affine=False)),
    "torch.layer_norm": lambda: apply(lambda x: torch.layer_norm(x, (8,))),
    "torch.native_layer_norm": lambda: apply(
        lambda x: torch.native_layer_norm(x, (8,), torch.ones(8, dtype=x.dtype), None, 1e-5)[0]
    ),
    "torch.ops.aten.layer_norm": lambda: apply(lambda x: torch.ops.aten.layer_norm(x, (8,))),
    "torch.ops.aten.layer_norm.default": lambda: apply(lambda x: torch.ops.aten.layer_norm.default(x, (8,))),
    "GroupNorm": lambda: images(lambda: nn.GroupNorm(2, 4)),
    "GroupNorm, eval": lambda: images(lambda: nn.GroupNorm(2, 4).eval()),
    "InstanceNorm1d": lambda: images(lambda: nn.InstanceNorm1d(4, affine=True), d=1),
    "InstanceNorm2d": lambda: images(lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
    "InstanceNorm2d, eval": lambda: images(lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True).eval()),
    "RMSNorm": lambda: vectors(lambda: nn.RMSNorm(8)),
    "LocalResponseNorm": lambda: images(lambda: nn.LocalResponseNorm(2)),
    "normalize": lambda: apply(lambda x: F.normalize(x)),
    "weight_norm": lambda: vectors(lambda: parametrizations.weight_norm(nn.Linear(8, 8)), nn.Tanh),
    "weight_norm, all dimensions": lambda: vectors(
        lambda: parametrizations.weight_norm(nn.Linear(8, 8), dim=-1), nn.Tanh
    ),
    "weight_norm, old": lambda: vectors(lambda: nn.utils.weight_norm(nn.Linear(8, 8)), nn.Tanh),
    "spectral_norm, eval": lambda: vectors(lambda: parametrizations.spectral_norm(nn.Linear(8, 8)).eval(), nn.Tanh),
    # smooth activations
    **{
        name: lambda name=name: vectors(getattr(nn, name))
        for name in (
            "Tanh",
            "Sigmoid",
            "GELU",
            "SiLU",
            "Mish",
            "Softplus",
            "ELU",
            "CELU",
            "SELU",
            "Softsign",
            "LogSigmoid",
            "Tanhshrink",
        )
    },
    "GELU, tanh": lambda: vectors(lambda: nn.GELU("tanh")),
    **{name: lambda name=name: vectors(lambda: getattr(nn, name)(-1)) for name in ("Softmax", "LogSoftmax", "Softmin")},
    "GLU": lambda: vectors(nn.GLU, inside=16),
    # kinked activations
    **{
        name: lambda name=name: vectors(getattr(nn, name))
        for name in (
            "ReLU",
            "ReLU6",
            "LeakyReLU",
            "PReLU",
            "RReLU",
            "Hardtanh",
            "Hardsigmoid",
            "Hardswish",
            "Hardshrink",
            "Softshrink",
        )
    },
    "Threshold": lambda: vectors(lambda: nn.Threshold(0.1, 0.0)),
    "ReLU, in place": lambda: vectors(lambda: nn.ReLU(inplace=True)),
    # random
    "Dropout": lambda: vectors(nn.Tanh, nn.Dropout),
    "Dropout2d": lambda: images(nn.Tanh, nn.Dropout2d),
    "AlphaDropout": lambda: vectors(nn.SELU, nn.AlphaDropout),
    # tables
    "Embedding": lambda: of(lambda: nn.Embedding(7, 8, padding_idx=2), classes(12, 7, 1)),
    "EmbeddingBag, sum": lambda: of(lambda: Bag("sum"), classes(12, 7, 1).view(4, 3)),
    "EmbeddingBag, mean": lambda: of(lambda: Bag("mean", offsets=True, padding=2), classes(12, 7, 1)),
    "EmbeddingBag, max": lambda: of(lambda: Bag("max", offsets=True), classes(12, 7, 1)),
    "EmbeddingBag, weighted": lambda: of(lambda: Bag("sum", weighted=True), classes(12, 7, 1).view(4, 3)),
    "tied weights": lambda: of(Tied, classes(12, 7, 1)),
    # attention
    "attention": attention,
    "attention, causal": lambda: attention(is_causal=True),
    "attention, bool mask": lambda: attention(attn_mask=~LATER),
    "attention, float mask": lambda: attention(attn_mask=randn(5, 5, seed=3)),
    "attention, dropout": lambda: attention(dropout_p=0.3),
    "attention, grouped queries": lambda: attention(gqa=True, enable_gqa=True),
    "attention, MATH": lambda: attention(backend=SDPBackend.MATH, is_causal=True),
    "attention, FLASH": lambda: attention(backend=SDPBackend.FLASH_ATTENTION, is_causal=True),
    "MultiheadAttention": lambda: tokens(lambda: SelfAttention(need_weights=False)),
    "MultiheadAttention, weights": lambda: tokens(SelfAttention),
    "MultiheadAttention, causal": lambda: tokens(
        lambda: SelfAttention(need_weights=False, attn_mask=LATER, is_causal=True)
    ),
    "MultiheadAttention, padding": lambda: tokens(lambda: SelfAttention(need_weights=False, key_padding_mask=PADDING)),
    "TransformerEncoderLayer": lambda: tokens(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
    "TransformerEncoderLayer, pre-norm": lambda: tokens(
        lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, F.gelu, batch_first=True, norm_first=True)
    ),
    "TransformerDecoderLayer": lambda: of(
        lambda: nn.TransformerDecoderLayer(8, 2, 16, batch_first=True),
        TOKENS,
        lambda m, x: smooth(m(x, x.flip(1))),
    ),
    # recurrent
    "LSTM": lambda: tokens(lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True)),
    "LSTM, packed": lambda: tokens(Packed),
    "LSTMCell": lambda: tokens(Cell),
    "GRU": lambda: tokens(lambda: Recurrent(nn.GRU, num_layers=2, dropout=0.2)),
    "RNN": lambda: tokens(lambda: Recurrent(nn.RNN)),
    # the user's own
    "Function, context in forward": lambda: apply(InForward.apply),  # type: ignore
    "Function, setup_context": lambda: apply(InSetup.apply),  # type: ignore
    "Function, with jvp": lambda: apply(WithJvp.apply),  # type: ignore
    "checkpoint": lambda: vectors(lambda: Checkpointed(False)),
    "data-dependent branch": lambda: vectors(Branch),
    "in-place operations": lambda: vectors(InPlace),
    "unused parameter": lambda: vectors(Unused),
    "frozen parameter": lambda: vectors(Frozen),
    "parametrization": lambda: vectors(
        lambda: parametrize.register_parametrization(nn.Linear(8, 8), "weight", Doubled())
    ),
    "parametrization, orthogonal": lambda: vectors(lambda: parametrizations.orthogonal(nn.Linear(8, 8))),
    "a loss that calls autograd": lambda: of(Symplectic, randn(10, 6, seed=1)),
    "torch.compile, a layer": lambda: vectors(compiled),
    "autocast": lambda: vectors(Autocast),
    # operations
    "grid_sample": lambda: images(nn.Tanh, Sampler),
    "interpolate, bilinear": lambda: images(lambda: nn.Upsample(scale_factor=2, mode="bilinear")),
    "interpolate, bicubic": lambda: images(lambda: nn.Upsample(9, mode="bicubic")),
    "FFT": lambda: apply(lambda x: torch.fft.rfft(x, norm="ortho").abs() @ torch.eye(5, 8, dtype=x.dtype)),
    "FFT, both ways": lambda: apply(
        lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.exp(1j * torch.arange(5, dtype=x.dtype)), 8)
    ),
    "sort": lambda: apply(lambda x: x.sort(-1).values.sin()),
    "topk": lambda: apply(lambda x: F.pad(x.topk(5, -1).values.sin(), (0, 3))),
    "cumprod": lambda: apply(lambda x: x.cumprod(-1)),
    "logsumexp": lambda: apply(lambda x: x + x.logsumexp(-1, keepdim=True)),
    "gather and scatter": lambda: apply(lambda x: x.scatter_add(1, torch.arange(8).flip(0).expand(10, 8), x.sin())),
    "einsum": lambda: apply(lambda x: torch.einsum("bi,bj,bk->bj", x, x, x)),
    "solve": lambda: apply(lambda x: torch.linalg.solve(x.T @ x + torch.eye(8, dtype=x.dtype), x.T).T),
    "cdist": lambda: apply(lambda x: torch.cdist(x, x[:8])),
    "cdist, city block": lambda: apply(lambda x: torch.cdist(x, x[:8], p=1.0)),
    "pdist": lambda: apply(lambda x: F.pdist(x)[:40].view(5, 8)),
    "cosine_similarity": lambda: apply(lambda x: F.cosine_similarity(x[:, None], x[None, :8], dim=-1)),
    "pairwise_distance": lambda: apply(lambda x: x * F.pairwise_distance(x, x.roll(1, 0), keepdim=True)),
    # losses
    "cross_entropy": lambda: classified(F.cross_entropy),
    "cross_entropy, smoothed and ignoring": lambda: classified(
        lambda y, k: F.cross_entropy(
            y, k, label_smoothing=0.1, ignore_index=1, weight=torch.tensor([1.0, 2.0, 0.5], dtype=y.dtype)
        )
    ),
    "linear_cross_entropy, in chunks": lambda: vectors(nn.Tanh, loss=chunked),
    "nll_loss": lambda: classified(lambda y, k: F.nll_loss(F.log_softmax(y, -1), k)),
    "binary_cross_entropy": lambda: compared(lambda y, t: F.binary_cross_entropy(torch.sigmoid(y), t)),
    "binary_cross_entropy_with_logits": lambda: compared(F.binary_cross_entropy_with_logits),
    "kl_div": lambda: compared(lambda y, t: F.kl_div(F.log_softmax(y, -1), F.softmax(t, -1), reduction="batchmean")),
    "mse_loss": lambda: compared(F.mse_loss),
    "l1_loss": lambda: compared(F.l1_loss),
    "huber_loss": lambda: compared(lambda y, t: F.huber_loss(y, t, delta=0.5)),
    "smooth_l1_loss": lambda: compared(F.smooth_l1_loss),
    "soft_margin_loss": lambda: compared(lambda y, t: F.soft_margin_loss(y, (t > 0.5) * 2.0 - 1)),
    "poisson_nll_loss": lambda: compared(F.poisson_nll_loss),
    "gaussian_nll_loss": lambda: compared(lambda y, t: F.gaussian_nll_loss(y, t, y.exp())),
    "ctc_loss": ctc,
    "cosine_embedding_loss": lambda: triple(lambda a, b, c: F.cosine_embedding_loss(a, b, torch.ones(10))),
    "triplet_margin_loss": lambda: triple(F.triplet_margin_loss),
    "margin_ranking_loss": lambda: triple(lambda a, b, c: F.margin_ranking_loss(a, b, torch.ones(10, 3), margin=0.2)),
    "hinge_embedding_loss": lambda: triple(lambda a, b, c: F.hinge_embedding_loss(a, (b > 0) * 2.0 - 1)),
}


LOST: dict[str, Callable[[], Case]] = {  # no second derivative by autograd: differences of gradients take its place
    "Function, once differentiable": lambda: apply(Once.apply),  # type: ignore
    "Function, through numpy": lambda: apply(ThroughNumpy.apply),  # type: ignore
    "multi_margin_loss": lambda: classified(F.multi_margin_loss),
    "multilabel_margin_loss": lambda: classified(
        lambda y, k: F.multilabel_margin_loss(y, F.pad(k[:, None], (0, 2), value=-1))
    ),
    "triplet_margin_with_distance_loss": lambda: triple(
        lambda a, b, c: F.triplet_margin_with_distance_loss(a, b, c, distance_function=_diagonal)
    ),
    "weight_norm in TorchScript": lambda: apply(scripted_weight_norm),
}
NO_THIRD: dict[str, Callable[[], Case]] = {  # T is wrong or missing, and refused
    "checkpoint, LayerNorm": lambda: vectors(lambda: Checkpointed(False, nn.LayerNorm(8))),
    "LayerNorm in TorchScript": lambda: vectors(scripted),
}
REFUSED: dict[str, tuple[Callable[[], Case], str]] = {  # at the door, or by the self-test: case, part of the message
    "Embedding, sparse": (lambda: of(lambda: nn.Embedding(7, 8, sparse=True), classes(12, 7, 1)), "sparse=False"),
    "Embedding, max_norm": (lambda: of(lambda: nn.Embedding(7, 8, max_norm=0.5), classes(12, 7, 1)), "max_norm"),
    "checkpoint, reentrant": (lambda: vectors(lambda: Checkpointed(True)), "use_reentrant=False"),
    "spectral_norm": (
        lambda: vectors(lambda: parametrizations.spectral_norm(nn.Linear(8, 8)), nn.Tanh),
        r"parametrizations.weight.0 \(_SpectralNorm\).*spectral_norm in train mode",
    ),
    "a weight through .data": (
        lambda: vectors(lambda: Data(lambda w: w.data)),
        r"along '1.inner.weight' is not the derivative of the loss; to blame: 1 \(Data\); .detach\(\), .data",
    ),
    "a weight through .detach()": (
        lambda: vectors(lambda: Data(Tensor.detach)),
        r"along '1.inner.weight' is not the derivative of the loss; to blame: 1 \(Data\)",
    ),
    "fake quantisation": (quantised, "straight-through"),
    "straight-through rounding": (lambda: apply(Straight.apply), r"to blame: 1 \(Apply\).*straight-through"),  # type: ignore
}
