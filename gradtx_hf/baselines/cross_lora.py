"""Cross-LoRA-style transfer: an adapter carried over by the base models' own weights, without data or training.

Every adapted weight of the target is paired with the source's of the same kind at the same relative depth. With their
rank-k singular bases, W_S ≈ U_S Σ V_S^T and W_T ≈ U_T Σ V_T^T, the least-squares maps between the bases are
P = U_T U_S^T and Q = V_T V_S^T, and ΔW_T = P ΔW_S Q^T, in factors: B_T = P B_S and A_T = A_S Q^T. So a direction of the
source's weight is taken for the direction of the same rank of the target's; their signs are anybody's guess.

Axes: R rank of the adapter, k of the bases. Source: after Xia et al. 2025, arXiv 2508.05232 (written from its abstract:
rank-truncated SVD, Frobenius-optimal linear maps).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gradtx_hf.errors import ConfigurationError, LayoutError
from gradtx_hf.lora import Adapter
from gradtx_hf.updates import align_adapter


LAYER_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def cross_lora(
    client: Adapter,
    target_init: Adapter,
    *,
    source_weights: Mapping[str, Tensor],
    target_weights: Mapping[str, Tensor],
    basis_rank: int | None = None,
) -> dict[str, Tensor]:
    """Carry a client's adapter over to the target.

    Args:
        client: The client's adapter of the source.
        target_init: An adapter of the target: modules, rank R and scale of what is returned. If the client's rank is
            larger, the best approximation of rank R is.
        source_weights: Module path to the source's base weight ``[out, in]``, of every module of the adapter.
        target_weights: Module path to the target's.
        basis_rank: k, the same for all weights; None: as many as both weights of a pair have.

    Returns:
        Factors of the target by name, as PEFT loads them with ``target_init``'s configuration.

    Raises:
        LayoutError: If the adapters do not adapt the same kinds of modules, or not linear layers alone.
        ConfigurationError: If ``basis_rank`` is below 1.
    """
    if basis_rank is not None and basis_rank < 1:
        raise ConfigurationError(f"got basis_rank={basis_rank}, expected at least 1.")
    carried: dict[str, Tensor] = {}
    for module, partner in matched_modules(list(client.scales), list(target_init.scales)).items():
        u_s, v_s = _bases(source_weights[partner])
        u_t, v_t = _bases(target_weights[module])
        k = min(u_s.shape[1], u_t.shape[1], basis_rank or u_s.shape[1])
        a, b = (client.tensors[f"{partner}.lora_{letter}"].double() for letter in "AB")
        carried[f"{module}.lora_A"] = a @ v_s[:, :k] @ v_t[:, :k].T  # [R, in]
        carried[f"{module}.lora_B"] = client.scales[partner] * (u_t[:, :k] @ (u_s[:, :k].T @ b))  # [out, R]
    unscaled = dict.fromkeys(target_init.scales, 1.0)
    alignment = align_adapter(carried, target_init.tensors, scales=unscaled, start_scales=target_init.scales)
    return {name: tensor.float() for name, tensor in alignment.state.items()}


def matched_modules(source: list[str], target: list[str]) -> dict[str, str]:
    """Return every target module's partner of the source: of the same kind, at the nearest relative depth.

    Args:
        source: Module paths of the source's adapter, such as ``model.layers.0.self_attn.q_proj``.
        target: Those of the target's.

    Raises:
        LayoutError: If a kind of module has no partner, or a module lies in no numbered layer.
    """
    by_kind: dict[str, list[tuple[int, str]]] = {}
    for module in source:
        by_kind.setdefault(_kind(module), []).append((_layer(module), module))
    deepest = {side: max(map(_layer, modules)) for side, modules in (("source", source), ("target", target))}
    found = {}
    for module in target:
        candidates = by_kind.get(_kind(module))
        if candidates is None:
            raise LayoutError(
                f"the target's module '{module}' has no partner among the source's {', '.join(sorted(by_kind))}. "
                "Cross-LoRA needs adapters of the same kinds of modules."
            )
        depth = _layer(module) / max(deepest["target"], 1) * deepest["source"]
        found[module] = min(candidates, key=lambda candidate: (abs(candidate[0] - depth), candidate[0]))[1]
    return found


def base_weights(model: PreTrainedModel, modules: list[str]) -> dict[str, Tensor]:
    """Return base weights ``[out, in]`` by module path.

    Args:
        model: A model without an adapter.
        modules: Paths of linear layers.

    Raises:
        LayoutError: If one of them is no linear layer.
    """
    named = dict(model.named_modules())
    found = {}
    for path in modules:
        module = named.get(path)
        if not isinstance(module, (torch.nn.Linear, Conv1D)):
            raise LayoutError(f"'{path}' is no linear layer of the model, which Cross-LoRA needs.")
        weight = module.weight.detach()
        found[path] = weight.T if isinstance(module, Conv1D) else weight
    return found


def _bases(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return left and right singular vectors ``[out, min]`` and ``[in, min]``, by falling singular value.

    Of each pair of vectors the sign is chosen that makes the left one's largest element positive, as any would do.
    """
    u, _, vh = torch.linalg.svd(weight.double().cpu(), full_matrices=False)
    largest = u.gather(0, u.abs().argmax(dim=0, keepdim=True))  # [1, min]
    return u * largest.sign(), vh.T * largest.sign()


def _layer(module: str) -> int:
    number = LAYER_NUMBER.search(module)
    if number is None:
        raise LayoutError(f"module '{module}' lies in no numbered layer, so that it has no depth.")
    return int(number[0])


def _kind(module: str) -> str:
    """Return the last part of a path, such as ``q_proj``."""
    return module.rpartition(".")[2]
