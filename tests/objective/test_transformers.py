"""Whole language and image models from their configurations, with random weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from modules import Case
from problems import randn
from test_modules import error, gradient, objective_of, second, third
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from eom.objective import Objective

transformers = pytest.importorskip("transformers", reason="an extra: pip install 'eom[models]'")
pytestmark = pytest.mark.slow

TOKENS = torch.randint(40, (2, 7), generator=torch.Generator().manual_seed(1))


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().float().train()


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).loss


def gpt2() -> Case:
    """Fused attention, LayerNorm, tied embeddings, dropout."""
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=8, n_embd=16, n_layer=2, n_head=2, attn_implementation="sdpa"
    )
    return Case(built(lambda: transformers.GPT2LMHeadModel(config)), loss, {"input_ids": TOKENS, "labels": TOKENS})


def llama() -> Case:
    """Fused attention with grouped queries, RMSNorm, rotary positions, gated SiLU."""
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=8, attn_implementation="sdpa",
    )  # fmt: skip
    return Case(built(lambda: transformers.LlamaForCausalLM(config)), loss, {"input_ids": TOKENS, "labels": TOKENS})


def vit() -> Case:
    """Patches by a convolution, LayerNorm, plain attention, a classifier."""
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4,
        num_labels=3, attn_implementation="eager",
    )  # fmt: skip
    model = built(lambda: transformers.ViTForImageClassification(config))
    return Case(model, loss, {"pixel_values": randn(4, 3, 8, 8, seed=1).float(), "labels": torch.tensor([0, 2, 1, 1])})


MODELS: dict[str, Callable[[], Any]] = {"GPT-2": gpt2, "Llama": llama, "ViT": vit}


class Double(TorchFunctionMode):
    """The loss of these models rounds logits to single: undone for the differences."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.float:
            return args[0].double()
        swapped = [torch.float64 if x is torch.float32 else x for x in args]
        kwargs = {k: torch.float64 if x is torch.float32 else x for k, x in (kwargs or {}).items()}
        return func(*swapped, **kwargs)


def in_double(make: Callable[[], Case]) -> Callable[[], Case]:
    def case() -> Case:
        model, _, batch = make()

        def loss_in_double(model: nn.Module, batch: Any) -> Tensor:
            with Double():
                return loss(model, batch)

        return Case(model.double(), loss_in_double, batch)

    return case


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_second_and_third_derivatives_of_whole_models_are_right(make):
    """The models are of single precision, and evaluated in double."""
    double = in_double(make)
    _, theta, v, references = second(double)
    objective, scale = objective_of(make), gradient(double, theta)
    assert error(objective.hvp(theta, v), references, scale) < 1e-6
    assert error(objective.third(theta, v, v), third(double), scale) < 1e-4


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_self_test_of_whole_models_passes(make):
    check = objective_of(make).check(2)
    assert check.passed
    assert check.product == "double-backward"
    assert check.third
    assert check.dtype == "float64"


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_model_in_double_whose_loss_rounds_to_single_is_probed_as_one_in_single(make):
    case = make()
    check = Objective(case.model.double(), loss, case.batch).check(1)
    assert check.passed
    assert check.product == "double-backward"
