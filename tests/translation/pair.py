"""A tiny pair of models that differ in width, depth and kv width, its translator, and clients' adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from gradtx_hf.lora import Adapter, load_adapter, save_adapter
from gradtx_hf.model import GradTransformerConfig, GradTransformerModel
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates import BlockLayout, align_adapter
from tests.model.blocks import TINY_T5
from tests.tiny import save_tiny_adapter, tiny_llama


SIDES = {
    "source": {"hidden_size": 16, "num_layers": 2, "num_kv_heads": 1},
    "target": {"hidden_size": 24, "num_layers": 12, "num_kv_heads": 2},  # layers.10 sorts before layers.2 as text
}


@dataclass(frozen=True)
class Pair:
    """Folders of two models and of a random translator between them.

    Attributes:
        source: The source model.
        target: The target model.
        translator: The translator; it accepts adapters up to a distance of 0.5 from its start.
    """

    source: Path
    target: Path
    translator: Path


def make_pair(folder: Path) -> Pair:
    """Write both models, both initial adapters as PEFT writes them, and the translator."""
    inits = []
    for seed, (side, shape) in enumerate(SIDES.items()):
        tiny_llama(**shape, seed=seed).save_pretrained(folder / side)
        init = save_tiny_adapter(folder / f"{side}_init", base=folder / side, randomise_b=False, seed=seed)
        inits.append(load_adapter(init))
    layouts = (inits[0].layout, inits[1].layout)
    PeftTranslator(make_model(*layouts), *inits).save_pretrained(folder / "translator")
    return Pair(folder / "source", folder / "target", folder / "translator")


def make_model(source: BlockLayout, target: BlockLayout, *, seed: int = 0) -> GradTransformerModel:
    """Make a random translator model with statistics that are far from the identity."""
    torch.manual_seed(seed)
    config = GradTransformerConfig.from_layouts(source, target, t5=TINY_T5, start_distance_limit=0.5)
    model = GradTransformerModel(config).eval()
    shapes = {"source": (source.num_blocks, source.block_dim), "target": (target.num_blocks, target.block_dim)}
    model.set_statistics(
        source_mean=0.01 * torch.randn(shapes["source"]),
        source_std=0.02 * torch.rand(shapes["source"]) + 0.01,
        target_mean=0.1 * torch.randn(shapes["target"]),
        target_std=0.2 * torch.rand(shapes["target"]) + 0.1,
    )
    return model


def save_client(pair: Pair, folder: Path, *, seed: int) -> Path:
    """Write what a client's training leaves: source_init loaded and saved by stock PEFT, its factors moved a little."""
    base = AutoModelForCausalLM.from_pretrained(pair.source)
    model = PeftModel.from_pretrained(base, pair.translator / "source_init", is_trainable=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


def save_changed(client: Path, folder: Path, tensors: dict[str, Tensor], **config: object) -> Path:
    """Write a client's adapter with other factors and other fields of its configuration."""
    adapter = load_adapter(client)
    for name, value in config.items():
        setattr(adapter.config, name, value)
    save_adapter(folder, config=adapter.config, tensors=tensors)
    return folder


def aligned_update(adapter: Adapter, start: Adapter) -> dict[str, Tensor]:
    """Return what an adapter adds to the start, aligned."""
    state = align_adapter(adapter.tensors, start.tensors, scales=adapter.scales, start_scales=start.scales).state
    return {name: state[name] - start.tensors[name] for name in start.tensors}
