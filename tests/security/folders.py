"""The folders that are mutated: a tiny translator with an input distance, one of two parts, and a client's adapter."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from gradtx_hf.lora import load_adapter, save_adapter
from gradtx_hf.model import GradTransformerConfig, GradTransformerModel
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.translation.distance import InputDistance
from gradtx_hf.updates import BlockLayout
from tests.tiny import save_tiny_adapter


RECORDS: dict[str, Any] = {
    "translator/training.json": {"arguments": {"seed": 0}, "datasets": [{"path": "me/data"}]},
    "translator/report.json": {"metric": {"name": "exact match", "higher_is_better": True}, "summary": {}},
    "adapter/privacy.json": {"epsilon": 3.0, "delta": 1e-5, "accountant": "prv"},
}
"""What is read beside the tensors, too."""
T5 = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}


@dataclass(frozen=True)
class Folders:
    """Good folders.

    Attributes:
        translator: A translator of one model.
        parts: One of two models.
        adapter: A client's adapter, which both translate.
    """

    translator: Path
    parts: Path
    adapter: Path


def make_folders(folder: Path) -> Folders:
    """Write the good folders."""
    inits = [
        load_adapter(save_tiny_adapter(folder / side, base=None, rank=rank, seed=rank))
        for side, rank in (("a", 2), ("b", 3))
    ]
    for init in inits:
        init.config.base_model_name_or_path = "me/model"
    source, target = (init.layout for init in inits)
    options = {"linear_rank": 2, "block_positions": True, "learned_scale": True, "start_distance_limit": 0.9}
    whole = PeftTranslator(_model(source, target, **options), *inits, input_distance=_distance(source))
    whole.save_pretrained(folder / "translator")
    models = {q: _model(source, target.by_projection()[q], decoding="parallel") for q in ("q_proj", "v_proj")}
    PeftTranslator(models, *inits).save_pretrained(folder / "parts")
    moved = {name: tensor + 0.01 * torch.randn(tensor.shape) for name, tensor in inits[0].tensors.items()}
    save_adapter(folder / "adapter", config=inits[0].config, tensors=moved)
    for name, values in RECORDS.items():
        (folder / name).write_text(json.dumps(values))
    return Folders(folder / "translator", folder / "parts", folder / "adapter")


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the contents of a folder by relative name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of an adapter's folder by key."""
    return load_file(folder / "adapter_model.safetensors")


def _model(source: BlockLayout, target: BlockLayout, **options: object) -> GradTransformerModel:
    torch.manual_seed(0)
    return GradTransformerModel(GradTransformerConfig.from_layouts(source, target, t5=T5, **options)).eval()  # type: ignore[arg-type]


def _distance(layout: BlockLayout) -> InputDistance:
    shape = (layout.num_blocks, layout.block_dim)
    return InputDistance(
        layout=layout,
        mean=torch.zeros(shape),
        std=torch.ones(shape),
        components=torch.randn(2, *shape).half(),
        variances=torch.ones(2),
        inside_limit=1.0,
        outside_limit=1.0,
        limit=2.0,
    )
