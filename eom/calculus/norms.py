"""Normalisations as compositions of plain operations; see ``compositions``."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    return native_layer_norm(input, normalized_shape, weight, bias, eps)[0]


def native_layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, variance = _standardized(input, tuple(range(-len(normalized_shape), 0)), eps)
    return affine(y, weight, bias), mean, torch.rsqrt(variance + eps)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:  # a linear map
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    dims = (0, *range(2, input.ndim))
    y, mean, variance = _standardized(input, dims, eps)
    _update(running_mean, running_var, mean, variance, momentum, input.numel() // input.shape[1])
    return affine(y, *_per_channel(input, weight, bias))


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:  # a linear map
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    y, mean, variance = _standardized(input, tuple(range(2, input.ndim)), eps)
    _update(running_mean, running_var, mean.mean(0), variance.mean(0), momentum, input[0, 0].numel())
    return affine(y, *_per_channel(input, weight, bias))


def _in_native_order(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def native(
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        *settings,
        cudnn_enabled: bool = True,
        **named,
    ) -> Tensor:
        return norm(input, running_mean, running_var, weight, bias, *settings[:3], **named)

    return native


native_batch_norm, native_instance_norm = map(_in_native_order, (batch_norm, instance_norm))


def _standardized(x: Tensor, dims: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(x - mean) / sqrt(variance + eps), mean and variance over ``dims``."""
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    variance = centred.square().mean(dims, keepdim=True)
    return centred * torch.rsqrt(variance + eps), mean, variance


def affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _per_channel(x: Tensor, *parameters: Tensor | None) -> list[Tensor | None]:
    """Parameters [c], shaped to be multiplied onto [b, c, ...]."""
    return [None if p is None else p.view(-1, *[1] * (x.ndim - 2)) for p in parameters]


@torch.no_grad()
def _update(
    running_mean: Tensor | None, running_var: Tensor | None, mean: Tensor, var: Tensor, momentum: float, count: int
) -> None:
    """Running statistics, with the unbiased variance of ``count`` samples."""
    if running_mean is not None:
        running_mean.lerp_(mean.reshape(-1).to(running_mean), momentum)
    if running_var is not None:
        running_var.lerp_(var.reshape(-1).to(running_var) * (count / (count - 1)), momentum)


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """v g / |v|, with the norm over all dimensions but ``dim``, or over all for -1."""
    dims = tuple(d for d in range(v.ndim) if d != dim)
    return v * (g / torch.linalg.vector_norm(v, dim=dims, keepdim=True))
