"""Clipped sums of the gradients of single rows, by Opacus' hooks on the layers of LoRA. Needs [dp].

The clipped sum of B rows is the sum over b of g_b min(1, C / (|g_b| + 1e-6)), where g_b is the gradient of row b's own
loss by all trainable parameters together. ``ghost`` finds the norms from activations and output gradients, without any
row's gradient (Li et al., 2022), and sums by a second backward pass; ``per_sample`` holds every row's, ``[B, P]``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from gradtx_hf.errors import ConfigurationError, MissingExtraError
from gradtx_hf.finetuning.privacy import ClippingMode


if find_spec("opacus") is None:
    raise MissingExtraError('differential privacy needs opacus. Install it with: pip install "gradtx-hf[dp]"')

from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping


SMALL = 1e-6
"""Added to norms, as Opacus does: a row of norm 0 is left as it is, and no row keeps more than C."""


class RowClipper:
    """Sums the clipped gradients of rows; made by ``row_clipper``.

    Attributes:
        parameters: The trainable parameters, in the model's order.
    """

    def __init__(self, model: Module, *, mode: ClippingMode, max_grad_norm: float) -> None:
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters: list[Parameter] = list(named.values())
        self._names = list(named)
        self._max_grad_norm = max_grad_norm
        model.train()  # Opacus refuses to look at others
        self._ghost: GradSampleHooksFastGradientClipping | None = None
        if mode == "ghost":
            self._ghost = GradSampleHooksFastGradientClipping(model, loss_reduction="sum", max_grad_norm=max_grad_norm)
            self._hooks = self._ghost
        else:
            self._hooks = GradSampleHooks(model, loss_reduction="sum")

    def clipped_sum(self, row_losses: Tensor) -> list[Tensor]:
        """Return the sum of the rows' clipped gradients, one tensor for each parameter, in its shape.

        Args:
            row_losses: Every row's own loss, ``[B]``, from one forward pass since the last call, B at least 1.

        Raises:
            ConfigurationError: If a row's gradient is not finite, or a layer does not tell rows apart.
        """
        try:
            return self._sum_by_ghost(row_losses) if self._ghost else self._sum_per_sample(row_losses)
        finally:
            self._forget()

    def close(self) -> None:
        """Take the hooks off the model, and what they kept."""
        self._forget()
        self._hooks.cleanup()

    def _sum_by_ghost(self, row_losses: Tensor) -> list[Tensor]:
        assert self._ghost is not None
        row_losses.sum().backward(retain_graph=True)
        norms = self._of_rows("_norm_sample", len(row_losses))
        shares = self._shares(torch.stack(norms).norm(dim=0))
        self._ghost.disable_hooks()
        try:
            return list(torch.autograd.grad((shares * row_losses).sum(), self.parameters))
        finally:
            self._ghost.enable_hooks()

    def _sum_per_sample(self, row_losses: Tensor) -> list[Tensor]:
        row_losses.sum().backward()
        gradients = self._of_rows("grad_sample", len(row_losses))  # each [B, …]
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        shares = self._shares(norms)
        return [torch.einsum("b,b...->...", shares, gradient) for gradient in gradients]

    def _of_rows(self, kind: str, num_rows: int) -> list[Tensor]:
        """Return what Opacus left at every parameter, each ``[B, …]``.

        A layer that is given the tokens of all rows in one line, as OPT's ``fc1`` is, has a gradient for each token
        instead: clipped as such, a row would keep C for every one of its tokens.
        """
        found: list[Tensor | None] = [vars(parameter).get(kind) for parameter in self.parameters]
        for name, value in zip(self._names, found, strict=True):
            if value is None or len(value) != num_rows:
                raise ConfigurationError(
                    f"parameter '{name}' does not go with differential privacy: its layer does not read rows one by "
                    "one, so that they cannot be clipped. Leave its module out of target_modules."
                )
        return [value for value in found if value is not None]

    def _shares(self, norms: Tensor) -> Tensor:
        """Return what is left of each row's gradient, ``[B]``."""
        if not torch.isfinite(norms).all():
            raise ConfigurationError(
                "the gradient of a row is no longer finite. Lower learning_rate, or raise warmup_steps."
            )
        return (self._max_grad_norm / (norms + SMALL)).clamp(max=1.0)

    def _forget(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
            vars(parameter)["grad_sample"] = None
            vars(parameter).pop("_norm_sample", None)


@contextmanager
def row_clipper(model: Module, *, mode: ClippingMode, max_grad_norm: float) -> Iterator[RowClipper]:
    """Put hooks on a model's trainable layers for as long as the body runs.

    Args:
        model: The model, with LoRA's linear layers as all that is trainable; left in training mode.
        mode: How norms are found.
        max_grad_norm: Norm C that every row's gradient is clipped to.
    """
    clipper = RowClipper(model, mode=mode, max_grad_norm=max_grad_norm)
    try:
        with warnings.catch_warnings():
            # of the first layer's factors, whose inputs are frozen: what the hook needs is there
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield clipper
    finally:
        clipper.close()


def row_losses(logits: Tensor, labels: Tensor, *, ignored: int) -> Tensor:
    """Return every row's mean loss over its own completion tokens, which no other row enters.

    Args:
        logits: ``[B, T, V]``.
        labels: ``[B, T]``; every row has at least one to learn from.
        ignored: The label of a token without loss.

    Returns:
        ``[B]``, in float32, in nats per token.
    """
    targets = labels[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), targets, ignore_index=ignored, reduction="none"
    )  # [B, T - 1]
    return losses.sum(dim=1) / (targets != ignored).sum(dim=1)
