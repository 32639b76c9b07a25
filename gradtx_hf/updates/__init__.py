"""The mathematics of update vectors: layouts, tokens, gauge. No language model, no Hugging Face library."""

from gradtx_hf.updates.block import Block, TensorSlot
from gradtx_hf.updates.codec import decode_update, encode_update
from gradtx_hf.updates.gauge import Alignment, align_adapter
from gradtx_hf.updates.layout import TOKEN_KINDS, BlockLayout, is_kind_name, lies_in_layers
from gradtx_hf.updates.vector import UpdateVector, mean_update


__all__ = [
    "TOKEN_KINDS",
    "Alignment",
    "Block",
    "BlockLayout",
    "TensorSlot",
    "UpdateVector",
    "align_adapter",
    "decode_update",
    "encode_update",
    "is_kind_name",
    "lies_in_layers",
    "mean_update",
]
