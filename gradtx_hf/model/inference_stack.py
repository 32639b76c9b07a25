"""InferenceStack: a T5 stack that translates and is never trained.

It computes what T5Stack computes, faster where one block after the other is decoded: q, k and v are one product, so
are both inputs of the gated feed-forward; keys and values are written into a cache of fixed size, those of the encoder
once; no masks, no dropout. What is added up over the layers stays in float32, whatever the weights are.

Axes: B batch, T new blocks, S blocks that are looked at, H d_model, A attention heads of size D. Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5Config
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5.modeling_t5 import T5Attention

from gradtx_hf.model.fused_linear import FusedLinear, refuse_to_move


EXACT_LAYERS = 1
"""First layers that stay in float32 beside bfloat16 ones: what they round off, all later layers make larger (ours).
Measured at the paper's size with random weights: 1.05e-2 of error with none, 8.3e-3 with one."""
ONCE = "cross_kv"
"""The product of the encoder's output, which is done once and not for every block."""
BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
FINAL_NORM = "final_layer_norm.weight"

ReadTensors = Callable[[Iterable[str]], Mapping[str, Tensor]]


@dataclass(eq=False)
class StackCache:
    """Keys and values of one generation.

    Attributes:
        num_blocks: How many blocks there will be.
        length: How many have been decoded.
        past: Per layer the keys and values of decoded blocks, each ``[B A, num_blocks, D]``.
        encoded: Per layer the keys and values of the encoder's output, each ``[B A, N_S, D]``.
    """

    num_blocks: int
    length: int = 0
    past: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    encoded: list[tuple[Tensor, Tensor]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Layer:
    """Products and norms of one layer by their place in it."""

    products: dict[str, FusedLinear]
    norms: dict[str, Tensor]

    def multiply(self, place: str, inputs: Tensor) -> Tensor:
        product: Tensor = self.products[place](inputs)
        return product


class InferenceStack(nn.Module):
    """One T5 stack, with the weights' names of a ``T5Stack`` in its state dict.

    Args:
        config: Its shape.
        is_decoder: Whether it is the decoder.
        read: Returns weights by name; called for one layer at a time, so that no more is in memory twice.
        dtype: The weights' number format, but for those of the first ``EXACT_LAYERS`` layers and of the products
            ``ONCE``.
        once_dtype: Theirs.
        device: Where the weights go.
    """

    def __init__(
        self,
        config: T5Config,
        *,
        is_decoder: bool,
        read: ReadTensors,
        dtype: torch.dtype,
        once_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self._config = config
        self._is_decoder = is_decoder
        self._device = device
        num_layers = config.num_decoder_layers if is_decoder and config.num_decoder_layers else config.num_layers
        dtypes = [once_dtype if n < EXACT_LAYERS else dtype for n in range(num_layers)]
        self._layers = [self._read_layer(read, n, dtype, once_dtype) for n, dtype in enumerate(dtypes)]
        own = read([BIAS, FINAL_NORM])
        self._own = {name: own[name].to(device, torch.float32, copy=True) for name in (BIAS, FINAL_NORM)}
        self._activation = _activation(config.dense_act_fn)

    def forward(
        self,
        *,
        inputs_embeds: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: StackCache | None = None,
        use_cache: bool = False,
    ) -> BaseModelOutput:
        """Run the stack; the arguments are those of ``T5Stack.forward``.

        Args:
            inputs_embeds: ``[B, T, H]``.
            encoder_hidden_states: ``[B, N_S, H]``, for a decoder.
            attention_mask: ``[1, 1, T, T]``, added to a decoder's scores in place of a causal mask.
            cache: What was decoded before, which grows by T blocks.
            use_cache: Whether there is such a cache.

        Returns:
            With ``last_hidden_state`` ``[B, T, H]`` float32.
        """
        cache = cache if use_cache else None
        hidden = inputs_embeds.float()
        batch_size, num_new, _ = hidden.shape
        num_past = 0 if cache is None else cache.length
        bias = self._bias(num_new, num_past, attention_mask)
        bias = bias.expand(batch_size, -1, -1, -1).reshape(-1, *bias.shape[2:])  # [B A, T, S]
        for number, layer in enumerate(self._layers):
            hidden = hidden + self._attend_self(layer, hidden, bias, cache, number)
            if encoder_hidden_states is not None:
                hidden = hidden + self._attend_encoded(layer, hidden, encoder_hidden_states, cache, number)
            hidden = hidden + self._feed_forward(layer, hidden)
        if cache is not None:
            cache.length += num_new
        return BaseModelOutput(last_hidden_state=self._norm(hidden, self._own[FINAL_NORM]))

    def _attend_self(
        self, layer: _Layer, hidden: Tensor, bias: Tensor, cache: StackCache | None, number: int
    ) -> Tensor:
        query, key, value = self._heads(layer.multiply("qkv", self._norm(hidden, layer.norms["self"])), 3)
        if cache is not None:
            if len(cache.past) == number:
                shape = (len(key), cache.num_blocks, key.shape[2])
                cache.past.append((key.new_empty(shape), value.new_empty(shape)))
            keys, values = cache.past[number]
            end = cache.length + key.shape[1]
            keys[:, cache.length : end], values[:, cache.length : end] = key, value
            key, value = keys[:, :end], values[:, :end]
        scores = torch.baddbmm(bias, query, key.transpose(1, 2))  # T5 does not divide by the root of D
        return layer.multiply("o", self._merged(torch.bmm(scores.softmax(dim=2), value), len(hidden)))

    def _attend_encoded(
        self, layer: _Layer, hidden: Tensor, encoded: Tensor, cache: StackCache | None, number: int
    ) -> Tensor:
        (query,) = self._heads(layer.multiply("cross_q", self._norm(hidden, layer.norms["cross"])), 1)
        if cache is not None and len(cache.encoded) > number:
            key, value = cache.encoded[number]
        else:
            key, value = self._heads(layer.multiply("cross_kv", encoded), 2)
        if cache is not None and len(cache.encoded) == number:
            cache.encoded.append((key, value))
        scores = torch.bmm(query, key.transpose(1, 2))
        return layer.multiply("cross_o", self._merged(torch.bmm(scores.softmax(dim=2), value), len(hidden)))

    def _feed_forward(self, layer: _Layer, hidden: Tensor) -> Tensor:
        inner = layer.multiply("wi", self._norm(hidden, layer.norms["feed_forward"]))
        if self._config.is_gated_act:
            gate, linear = inner.chunk(2, dim=2)
            return layer.multiply("wo", self._activation(gate) * linear)
        return layer.multiply("wo", self._activation(inner))

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(hidden, weight.shape, weight, self._config.layer_norm_epsilon)

    def _heads(self, projected: Tensor, num_parts: int) -> Tensor:
        """Take ``[B, T, parts A D]`` apart to ``[parts, B A, T, D]``."""
        batch_size, num_new, _ = projected.shape
        parts = projected.view(batch_size, num_new, num_parts, self._config.num_heads, self._config.d_kv)
        return parts.permute(2, 0, 3, 1, 4).reshape(num_parts, -1, num_new, self._config.d_kv)

    def _merged(self, heads: Tensor, batch_size: int) -> Tensor:
        """Put ``[B A, T, D]`` together to ``[B, T, A D]``."""
        if heads.shape[1] == 1:
            return heads.view(batch_size, 1, -1)
        return heads.view(batch_size, self._config.num_heads, *heads.shape[1:]).transpose(1, 2).flatten(2)

    def _bias(self, num_new: int, num_past: int, mask: Tensor | None) -> Tensor:
        """Return what is added to the scores, ``[1, A, T, S]``: T5's bias by distance, and the mask."""
        queries = torch.arange(num_past, num_past + num_new, device=self._device)[:, None]
        distances = torch.arange(num_past + num_new, device=self._device)[None] - queries  # [T, S]
        buckets = T5Attention._relative_position_bucket(
            distances,
            bidirectional=not self._is_decoder,
            num_buckets=self._config.relative_attention_num_buckets,
            max_distance=self._config.relative_attention_max_distance,
        )
        bias = self._own[BIAS][buckets].permute(2, 0, 1)[None]
        if mask is not None:
            return bias + mask
        return bias.masked_fill(distances > 0, -torch.inf) if self._is_decoder and num_new > 1 else bias

    def _read_layer(self, read: ReadTensors, number: int, dtype: torch.dtype, once_dtype: torch.dtype) -> _Layer:
        products, norms = _names(self._config, number, is_decoder=self._is_decoder)
        tensors = read([*norms.values(), *(name for names in products.values() for name in names)])
        return _Layer(
            products={
                place: FusedLinear(
                    {name: tensors[name] for name in names},
                    bias=None,
                    dtype=once_dtype if place == ONCE else dtype,
                    device=self._device,
                )
                for place, names in products.items()
            },
            norms={place: tensors[name].to(self._device, torch.float32, copy=True) for place, name in norms.items()},
        )

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:  # noqa: FBT001
        """Give the weights as a ``T5Stack`` has them."""
        tensors = dict(self._own)
        for number, layer in enumerate(self._layers):
            _, names = _names(self._config, number, is_decoder=self._is_decoder)
            tensors |= {names[place]: norm for place, norm in layer.norms.items()}
            for product in layer.products.values():
                tensors |= product.tensors()
        destination.update({f"{prefix}{name}": tensor for name, tensor in tensors.items()})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> InferenceStack:  # noqa: FBT001, FBT002
        refuse_to_move()


def _names(config: T5Config, number: int, *, is_decoder: bool) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the names of a layer's weights in a ``T5Stack``: of each product its parts, and of the norms."""
    block = f"block.{number}.layer"
    own, dense = f"{block}.0.SelfAttention", f"{block}.{2 if is_decoder else 1}.DenseReluDense"
    inner = ("wi_0", "wi_1") if config.is_gated_act else ("wi",)
    products = {
        "qkv": [f"{own}.{part}.weight" for part in "qkv"],
        "o": [f"{own}.o.weight"],
        "wi": [f"{dense}.{part}.weight" for part in inner],
        "wo": [f"{dense}.wo.weight"],
    }
    norms = {"self": f"{block}.0.layer_norm.weight"}
    if is_decoder:
        cross = f"{block}.1.EncDecAttention"
        products |= {
            "cross_q": [f"{cross}.q.weight"],
            "cross_kv": [f"{cross}.k.weight", f"{cross}.v.weight"],
            "cross_o": [f"{cross}.o.weight"],
        }
        norms["cross"] = f"{block}.1.layer_norm.weight"
    return products, norms | {"feed_forward": f"{block}.{2 if is_decoder else 1}.layer_norm.weight"}


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return an activation; the one of Flan-T5 in a single pass, where transformers takes eight."""
    found: Callable[[Tensor], Tensor] = ACT2FN[name]
    return partial(F.gelu, approximate="tanh") if name == "gelu_new" else found
