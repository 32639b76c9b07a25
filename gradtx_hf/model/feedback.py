"""Feedback: from what the decoder says of one block to its input for the next one, as one small map.

Between the two stand W_out, the gain, the linear path and W_T_emb, all of them affine. With O, o the weight and bias
of W_out, E, c those of W_T_emb, g the gain, m a block's mask and l what the linear path says of the block,

    E (l + g m (O h + o)) + c  =  (g E m O) h + g E m o  +  (E l + c),

so that g E m O, ``[H, H]``, stands in for two maps of D by H. What is in the last brackets is known before the first
block, and the blocks themselves are wanted after the last: both maps are then multiplied once for all blocks. What is
fed back is not rounded in between.

Axes: B batch, N_S / N_T blocks, H d_model, D the size of a block. Source: paper Eqs. 7 and 9; as one map, ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradtx_hf.model.fused_linear import FusedLinear
from gradtx_hf.model.inference_stack import ReadTensors, StackCache
from gradtx_hf.updates import BlockLayout


class Feedback:
    """The map of the decoder's output to its next input, all but what is known before.

    Args:
        layout: The target's blocks; those of one kind and size have one map.
        read: Returns weights of the model by name.
        gain: The factor on what W_out gives.
        dtype: What the weights of W_out and W_T_emb are rounded to, so that they are the same when they are saved.
        device: Where the maps go; they are float32.
    """

    def __init__(
        self, layout: BlockLayout, *, read: ReadTensors, gain: float, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._keys = [(block.kind, block.size) for block in layout.blocks]
        self._maps: dict[tuple[str, int], FusedLinear] = {}
        for kind, size in dict.fromkeys(self._keys):
            names = (f"W_T_emb.{kind}.weight", f"W_out.{kind}.weight", f"W_out.{kind}.bias")
            tensors = read(names)
            inner, outer = (tensors[name].to(device, dtype).float() for name in names[:2])
            inner, bias = gain * inner[:, :size], tensors[names[2]].to(device, torch.float32)  # [H, size], [D]
            self._maps[kind, size] = FusedLinear(
                {"weight": inner @ outer[:size]}, bias=inner @ bias[:size], dtype=torch.float32, device=device
            )

    def decode(self, decoder: nn.Module, inputs: Tensor, *, encoded: Tensor) -> Tensor:
        """Decode all blocks, one after the other.

        Args:
            decoder: An ``InferenceStack``.
            inputs: What is known of its inputs, ``[1 or B, N_T, H]``: the start, then E l + c of every block but the
                last, and the positions.
            encoded: The encoder's output, ``[B, N_S, H]``.

        Returns:
            The decoder's output ``[B, N_T, H]``.
        """
        cache = StackCache(inputs.shape[1])
        hidden: list[Tensor] = []
        with torch.inference_mode():  # each of the many small operations is then a little cheaper
            for n, known in enumerate(inputs.expand(len(encoded), -1, -1).split(1, dim=1)):
                embedded = known + self._maps[self._keys[n - 1]](hidden[-1]) if n > 0 else known
                decoded = decoder(inputs_embeds=embedded, encoder_hidden_states=encoded, cache=cache, use_cache=True)
                hidden.append(decoded.last_hidden_state)
        return torch.cat(hidden, dim=1)
