"""AdapterStack: K adapters on one frozen model in one pass.

The rows of a batch are grouped by adapter: of K · R rows, adapter k has the rows k · R to (k + 1) · R - 1. Every
adapted module adds its K products in two batched multiplications, so that K small models cost little more than one.
Full-weight updates (see ``full_weights``) are placed in the same way, in one multiplication.
The factors are ordinary tensors of the caller's: gradients flow back into whatever made them.

Axes: K adapters, R rows of each, T tokens, r rank, V vocabulary. Source: ours.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from gradtx_hf.errors import LayoutError
from gradtx_hf.lora.adapter_dropout import AdapterDropout
from gradtx_hf.lora.last_layer import WORTH_IT, computed_at, last_feed_forward


IGNORED = -100
"""The label of a token without loss, as torch's cross entropy expects it."""


class AdapterStack:
    """Places K LoRA adapters, or full-weight updates, of one shape on a model, for one pass or several.

    Args:
        model: A causal language model without adapters of its own. Its own parameters are left alone: freeze them if
            only the factors are to learn.
        scales: Module path to the LoRA scale of that module (alpha / r), as ``Adapter.scales``.
        dropout: LoRA dropout, drawn for each adapter by itself, and only while the model is in training mode.

    Raises:
        LayoutError: If the model lacks one of the modules.
    """

    def __init__(self, model: nn.Module, *, scales: Mapping[str, float], dropout: AdapterDropout | None = None) -> None:
        modules = dict(model.named_modules())
        missing = [path for path in scales if path not in modules]
        if missing:
            raise LayoutError(
                f"the model has no module '{missing[0]}' ({len(missing)} missing in all), expected those that the "
                "adapters adapt. Load the base model that the adapters were made for."
            )
        self.model = model
        self._modules = {path: modules[path] for path in scales}
        self._scales = dict(scales)
        self._dropout = dropout
        self._factors: Mapping[str, Tensor] = {}
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._last_block = last_feed_forward(model) if self._keeps_logits else None
        self._last_positions: Tensor | None = None

    @contextmanager
    def placed(self, factors: Mapping[str, Tensor], *, last_positions: Tensor | None = None) -> Iterator[nn.Module]:
        """Adapt the model for the length of a ``with`` block.

        Args:
            factors: ``<module path>.lora_A`` ``[K, r, in]`` and ``.lora_B`` ``[K, out, r]``, for an embedding
                ``.lora_embedding_A`` ``[K, r, V]`` and ``.lora_embedding_B`` ``[K, out, r]``, or ``.weight``, K times
                the shape of a linear layer's weight, which take no dropout; of every module.
            last_positions: Positions that the last layer's feed-forward block is computed at; None: all.

        Raises:
            LayoutError: If factors are missing, or not all of one K.
        """
        num_adapters = _num_adapters(factors)
        self._factors, self._last_positions = factors, last_positions
        with ExitStack() as hooks:
            for path, module in self._modules.items():
                handle = module.register_forward_hook(self._hook(path, module, factors, num_adapters))
                hooks.callback(handle.remove)
            if self._last_block is not None and last_positions is not None:
                hooks.enter_context(computed_at(self._last_block, last_positions))
            yield self.model

    def _hook(
        self, path: str, module: nn.Module, factors: Mapping[str, Tensor], num_adapters: int
    ) -> _LinearHook | _EmbeddingHook | _WeightHook:
        """Return what adds one module's K products."""
        weights = factors.get(f"{path}.weight")
        if weights is not None:
            return _WeightHook(weights if isinstance(module, Conv1D) else weights.transpose(1, 2), self._scales[path])
        is_embedding = isinstance(module, nn.Embedding)
        infix = "embedding_" if is_embedding else ""
        names = [f"{path}.lora_{infix}{letter}" for letter in "AB"]
        if any(name not in factors for name in names):
            raise LayoutError(f"got no factors for module '{path}', expected {' and '.join(names)}.")
        a, b = (factors[name] for name in names)
        hook = _EmbeddingHook if is_embedding else _LinearHook
        return hook(a, b, num_adapters, self._scales[path], self._dropout)

    def recompute_activations(self) -> None:
        """Let the model recompute its activations in the backward pass, with the adapters that were placed.

        The model is put into training mode, where alone transformers does so, with its own dropout at 0: the losses
        stay those of evaluation mode. By the time of the backward pass the ``with`` block of ``placed`` has ended, and
        others may have been placed.

        Raises:
            ValueError: If the model does not support it (transformers' own message).
        """
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(getattr(module, "attention_dropout", None), float):
                module.attention_dropout = 0.0  # type: ignore[assignment]  # a plain number, by the line above
        self.model.activation_checkpointing_enable(  # type: ignore[operator]  # a PreTrainedModel
            activation_checkpointing_kwargs={
                "use_reentrant": False,
                "context_fn": lambda: (
                    nullcontext(),
                    self.placed(self._factors, last_positions=self._last_positions),
                ),
            }
        )

    def losses(
        self, factors: Mapping[str, Tensor], *, input_ids: Tensor, labels: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Return each adapter's own loss: the mean over its rows' labelled tokens.

        Args:
            factors: As in ``placed``.
            input_ids: ``[K · R, T]``, grouped by adapter.
            labels: ``[K · R, T]``; -100 where no loss is taken.
            attention_mask: ``[K · R, T]``; None where no row is padded.

        Returns:
            ``[K]`` float32 (float64 for a model in float64), in nats per token; 0 for an adapter without labels.
        """
        options: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        num_adapters = _num_adapters(factors)
        following = labels[:, 1:]  # what position t predicts
        kept = last_positions = None
        if self._keeps_logits:  # logits only where some row has a label: a large vocabulary is the dearest layer
            kept = (following != IGNORED).any(dim=0).nonzero().squeeze(1)
            options["logits_to_keep"] = kept
            following = following[:, kept]
            last_positions = kept if len(kept) <= WORTH_IT * input_ids.shape[1] else None
        if self._dropout is not None:
            self._dropout.begin((len(input_ids) // num_adapters, input_ids.shape[1]), kept=kept)
        with self.placed(factors, last_positions=last_positions) as model:
            logits: Tensor = model(**options).logits
        if not self._keeps_logits:
            logits = logits[:, :-1]
        return losses_by_adapter(logits, following, num_adapters=num_adapters)


def losses_by_adapter(logits: Tensor, following: Tensor, *, num_adapters: int) -> Tensor:
    """Return the token-mean cross entropy of each adapter's rows.

    Args:
        logits: ``[K · R, T, V]``.
        following: The token that each position is to predict ``[K · R, T]``, or -100.
        num_adapters: K.

    Returns:
        ``[K]``, in nats per token; 0 where nothing is labelled.
    """
    precise = logits if logits.dtype == torch.float64 else logits.float()
    losses = F.cross_entropy(precise.flatten(0, 1), following.flatten(), ignore_index=IGNORED, reduction="none")
    counts = (following != IGNORED).view(num_adapters, -1).sum(dim=1)
    return losses.view(num_adapters, -1).sum(dim=1) / counts.clamp_min(1)


class _LinearHook:
    """Adds the K products to the output of a linear layer (nn.Linear or GPT-2's Conv1D)."""

    def __init__(self, a: Tensor, b: Tensor, num_adapters: int, scale: float, dropout: AdapterDropout | None) -> None:
        self._a, self._b, self._num_adapters = a.transpose(1, 2), b.transpose(1, 2), num_adapters  # [K,in,r], [K,r,out]
        self._scale, self._dropout = scale, dropout

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0].to(self._a.dtype)
        x = x if self._dropout is None or not module.training else self._dropout(x)
        x = x.reshape(self._num_adapters, -1, x.shape[-1])  # [K, R·T, in]
        base = output.reshape(self._num_adapters, -1, output.shape[-1])
        if base.dtype == x.dtype:
            return torch.baddbmm(base, x @ self._a, self._b, alpha=self._scale).view(output.shape)
        return output + (self._scale * (x @ self._a @ self._b)).to(output.dtype).view(output.shape)


class _WeightHook:
    """Adds what K full-weight updates make of the input to the output of a linear layer."""

    def __init__(self, weights: Tensor, scale: float) -> None:
        self._weights, self._scale = weights, scale  # [K, in, out]

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0].to(self._weights.dtype)
        x = x.reshape(len(self._weights), -1, x.shape[-1])  # [K, R·T, in]
        return output + (self._scale * (x @ self._weights)).to(output.dtype).view(output.shape)


class _EmbeddingHook:
    """Adds the K products to the output of an embedding."""

    def __init__(self, a: Tensor, b: Tensor, num_adapters: int, scale: float, dropout: AdapterDropout | None) -> None:
        del dropout  # PEFT takes none on embeddings
        self._a, self._b, self._num_adapters = a.transpose(1, 2), b.transpose(1, 2), num_adapters  # [K,V,r], [K,r,out]
        self._scale = scale

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        vocabulary = self._a.shape[1]
        ids = inputs[0].reshape(self._num_adapters, -1)  # [K, R·T]
        ids = ids + vocabulary * torch.arange(self._num_adapters, device=ids.device)[:, None]
        embedded = F.embedding(ids, self._a.flatten(0, 1))  # [K, R·T, r]
        return output + (self._scale * (embedded @ self._b)).to(output.dtype).view(output.shape)


def _num_adapters(factors: Mapping[str, Tensor]) -> int:
    sizes = {len(factor) for factor in factors.values()}
    if len(sizes) != 1:
        raise LayoutError(f"got factors of {sorted(sizes)} adapters, expected one number of adapters for all tensors.")
    return sizes.pop()
