"""PackedAdapters: the factors of K runs on one frozen base, as one module that a trainer can train.

Axes: K runs, R rows of each in a batch, T tokens, r rank. Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gradtx_hf.errors import LayoutError
from gradtx_hf.lora.adapter_dropout import AdapterDropout
from gradtx_hf.lora.stacked import AdapterStack


class PackedAdapters(nn.Module):
    """K adapters of one shape, trainable, on a model that is not.

    Args:
        base: The base model, without adapters of its own.
        starts: Every run's first values: ``lora_A`` ``[r, in]`` and ``lora_B`` ``[out, r]`` by name.
        scales: Module path to the LoRA scale of that module (alpha / r).
        dropout: LoRA dropout, in [0, 1).
        seeds: Seed of every run's dropout.

    Attributes:
        dropout: The runs' generators of masks; None without dropout.

    Raises:
        LayoutError: If the runs start with different tensors, or these are not of the modules of ``scales``.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        starts: Sequence[Mapping[str, Tensor]],
        *,
        scales: Mapping[str, float],
        dropout: float,
        seeds: Sequence[int],
    ) -> None:
        super().__init__()
        _check_starts(starts, scales)
        self.base = base
        self.dropout = AdapterDropout(dropout, seeds=seeds, device=base.device) if dropout else None
        self._stack = AdapterStack(base, scales=scales, dropout=self.dropout)
        self._names = list(starts[0])
        stacked = [torch.stack([start[name] for start in starts]).to(base.device) for name in self._names]
        # as PEFT does: factors learn in float32 also on a base in half precision
        precise = [tensor if tensor.dtype == torch.float64 else tensor.float() for tensor in stacked]
        self._factors = nn.ParameterList([nn.Parameter(tensor) for tensor in precise])

    @property
    def factors(self) -> dict[str, Tensor]:
        """The factors themselves by name, ``[K, r, in]`` and ``[K, out, r]``."""
        return dict(zip(self._names, self._factors, strict=True))

    def forward(
        self, input_ids: Tensor, labels: Tensor, extents: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Return each run's own loss.

        Args:
            input_ids: ``[K · R, T]``, grouped by run.
            labels: ``[K · R, T]``; -100 where no loss is taken.
            extents: Each run's own rows and tokens per row ``[K, 2]``, which its dropout is drawn for.
            attention_mask: ``[K · R, T]``; None where no row is padded.

        Returns:
            ``[K]``, the mean over the run's labelled tokens in nats per token; 0 where there are none.
        """
        if self.dropout is not None:
            self.dropout.extents = extents.tolist()
        return self._stack.losses(self.factors, input_ids=input_ids, labels=labels, attention_mask=attention_mask)

    @torch.no_grad()
    def clip_gradients(self, max_norm: float) -> Tensor:
        """Clip each run's gradient by its own norm, as ``torch.nn.utils.clip_grad_norm_`` clips one run's.

        A gradient that is not finite stays with its run.

        Args:
            max_norm: Norm to clip to.

        Returns:
            The norms before ``[K]``.
        """
        gradients = [parameter.grad for parameter in self._factors if parameter.grad is not None]
        norms: Tensor = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))
        return norms

    def state_of(self, position: int) -> dict[str, Tensor]:
        """Copy one adapter to the CPU, tensors by name."""
        return {name: tensor[position].detach().to("cpu", copy=True) for name, tensor in self.factors.items()}

    @torch.no_grad()
    def keep(self, positions: Sequence[int], optimizer: torch.optim.Optimizer) -> None:
        """Go on with some of the runs, in place.

        Args:
            positions: Which.
            optimizer: The optimizer of the factors; its moments go on with the same runs.
        """
        chosen = torch.tensor(positions, dtype=torch.long, device=self.base.device)
        for parameter in self._factors:
            state = optimizer.state[parameter]
            for name, moment in state.items():
                if moment.shape == parameter.shape:  # not the number of steps, which all runs share
                    state[name] = moment[chosen]
            parameter.grad = None
            parameter.data = parameter.data[chosen]
        if self.dropout is not None:
            self.dropout.keep(positions)

    @torch.no_grad()
    def set_factors(self, factors: Mapping[str, Tensor], *, positions: Sequence[int]) -> None:
        """Go on with some of the runs from other values, before there is an optimizer.

        Args:
            factors: The values of these runs by name, ``[K, r, in]`` and ``[K, out, r]``.
            positions: Which runs they are.
        """
        for name, parameter in zip(self._names, self._factors, strict=True):
            parameter.data = factors[name].to(parameter.device, copy=True)
        if self.dropout is not None:
            self.dropout.keep(positions)


def _check_starts(starts: Sequence[Mapping[str, Tensor]], scales: Mapping[str, float]) -> None:
    shapes = {name: tensor.shape for name, tensor in starts[0].items()}
    for k, start in enumerate(starts):
        if {name: tensor.shape for name, tensor in start.items()} != shapes:
            raise LayoutError(f"start {k} of a pack has other tensors than start 0, expected adapters of one shape.")
    modules = {name.rpartition(".")[0] for name in shapes}
    for module in sorted(modules ^ set(scales)):
        got = "factors and no scale" if module in modules else "a scale and no factors"
        raise LayoutError(f"got {got} of module '{module}', expected both of every adapted module.")
