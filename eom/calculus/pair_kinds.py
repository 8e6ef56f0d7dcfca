"""Which torch functions are of one kind, so that one rule pulls them all back: by their names."""

from collections.abc import Callable

import torch
from torch import Tensor

from eom.calculus import divided

Function = Callable[..., Tensor]


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


VIEWS = words(
    "view view_as reshape reshape_as flatten unflatten permute transpose swapaxes swapdims movedim moveaxis t T "
    "mT squeeze unsqueeze expand expand_as broadcast_to narrow select getitem diagonal split chunk unbind "
    "tensor_split split_with_sizes contiguous to real imag unfold ravel atleast_1d atleast_2d"
)
AFFINE = VIEWS | words(
    "repeat tile roll flip fliplr flipud rot90 index_select gather take take_along_dim diag tril triu fold "
    "im2col col2im sum mean cumsum neg negative positive clone float double type type_as diff trace pad "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "upsample_nearest1d upsample_nearest2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d "
    "pixel_shuffle pixel_unshuffle add sub subtract rsub cat concat concatenate stack hstack vstack dstack "
    "column_stack fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 view_as_real "
    "view_as_complex complex conj conj_physical resolve_conj index_put"
)
QUADRATIC = words("square var")
# affine in each of two arguments; what else they take is constant
PRODUCTS = QUADRATIC | words(
    "mul multiply matmul mm bmm mv dot inner outer ger einsum tensordot kron linear conv1d conv2d conv3d "
    "conv_transpose1d conv_transpose2d conv_transpose3d bilinear"
)
ELEMENTWISE: dict[str, tuple[Function, Function]] = {
    "tanh": (torch.tanh, divided.tanh),
    "sigmoid": (torch.sigmoid, divided.sigmoid),
    "expit": (torch.sigmoid, divided.sigmoid),
    "sin": (torch.sin, divided.sin),
    "cos": (torch.cos, divided.cos),
    "sinh": (torch.sinh, divided.sinh),
    "cosh": (torch.cosh, divided.cosh),
    "exp": (torch.exp, divided.exp),
    "expm1": (torch.expm1, divided.exp),
    "log": (torch.log, divided.log),
    "log1p": (torch.log1p, divided.log1p),
    "erf": (torch.erf, divided.erf),
    "atan": (torch.atan, divided.atan),
    "arctan": (torch.atan, divided.atan),
    "sqrt": (torch.sqrt, divided.sqrt),
    "rsqrt": (torch.rsqrt, divided.rsqrt),
    "reciprocal": (torch.reciprocal, divided.reciprocal),
    "relu": (torch.relu, divided.relu),
}
# the rank-one rule entry by entry, in whatever order they stand
ENTRYWISE = words(
    "asin acos asinh acosh atanh arcsin arccos arcsinh arccosh arctanh erfc erfinv erfcx exp2 log2 log10 lgamma "
    "gammaln digamma psi i0 i0e i1 i1e sinc logit ndtr log_ndtr entr bessel_j0 bessel_j1"
)
CHOICES = words(
    "gt lt ge le eq ne greater less greater_equal less_equal not_equal isnan isinf isfinite logical_and "
    "logical_or logical_not logical_xor and or xor invert bitwise_not argmax argmin argsort any all bool long "
    "int signbit zeros_like ones_like empty_like full_like new_zeros new_ones new_full rand_like randn_like"
)
ABOUT = words(
    "shape dtype device size dim ndim ndimension numel nelement __len__ layout is_floating_point is_complex "
    "get_device stride requires_grad is_sparse is_quantized is_nested is_cuda is_cpu is_contiguous names "
    "element_size is_mkldnn is_leaf grad_fn __repr__ __format__ __hash__ result_type is_same_size is_meta is_mps "
    "is_xla itemsize nbytes _is_view is_conj is_neg"
)
LEAVES = words("item tolist numpy __array__ __float__ __int__ __index__ __complex__ data detach data_ptr")
KNOWN = AFFINE | PRODUCTS | CHOICES | ELEMENTWISE.keys()
