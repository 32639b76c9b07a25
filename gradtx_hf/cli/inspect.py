"""``gradtx inspect``: what an adapter or a translator holds; for an adapter, exactly what would leave the house."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from gradtx_hf.errors import safe_text
from gradtx_hf.hub import resolve_folder
from gradtx_hf.lora import Adapter, load_adapter
from gradtx_hf.lora.adapters import WEIGHTS_FILE
from gradtx_hf.translation import PeftTranslator, is_translator_folder
from gradtx_hf.translation.audit_record import audit_text, load_audit
from gradtx_hf.translation.records import load_privacy


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="gradtx inspect", description=(__doc__ or "").strip())
    parser.add_argument(
        "folder", metavar="ADAPTER|TRANSLATOR", help="folder, or Hub repository 'owner/name[@revision]'"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(list(argv))
    resolved = resolve_folder(arguments.folder)
    if is_translator_folder(resolved.path):
        described = describe_translator(PeftTranslator.from_pretrained(resolved.path)) | {"name": resolved.name}
    else:
        described = describe_adapter(load_adapter(resolved.path, name=resolved.name))
        described["metadata"] = _metadata(resolved.path / WEIGHTS_FILE)
        described["privacy"] = load_privacy(resolved.path, name=resolved.name)
        described["audit"] = load_audit(resolved.path, name=resolved.name)
    described |= {"commit": resolved.commit, "files": _files(resolved.path)}
    print(json.dumps(described, indent=2) if arguments.json else _as_text(described))
    return 0


def describe_adapter(adapter: Adapter) -> dict[str, Any]:
    """Return what an adapter holds, as JSON values; norms are Euclidean, sizes in bytes."""
    config = adapter.config
    return {
        "kind": "adapter",
        "name": adapter.name,
        "base_model": adapter.base_model,
        "rank": config.r,
        "alpha": config.lora_alpha,
        "layout": _layout(adapter),
        "tensors": [
            {
                "name": name,
                "shape": list(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "norm": float(tensor.double().norm()),
                "bytes": tensor.numel() * tensor.element_size(),
            }
            for name, tensor in adapter.tensors.items()
        ],
        "bytes": adapter.num_bytes,
    }


def describe_translator(translator: PeftTranslator) -> dict[str, Any]:
    """Return what a translator holds, as JSON values."""
    return {
        "kind": "translator",
        "name": translator.name,
        "source": {"base_model": translator.source_init.base_model} | _layout(translator.source_init),
        "target": {"base_model": translator.target_init.base_model} | _layout(translator.target_init),
        "models": {
            name or "whole update": {
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "source_layout": model.config.source_layout.fingerprint,
                "target_layout": model.config.target_layout.fingerprint,
            }
            for name, model in translator.parts.items()
        },
        "start_distance_limit": translator.start_distance_limit,
        "input_distance_limit": None if translator.input_distance is None else translator.input_distance.limit,
    }


def _layout(adapter: Adapter) -> dict[str, Any]:
    layout = adapter.layout
    return {
        "projections": list(layout.projections),
        "num_blocks": layout.num_blocks,
        "block_dim": layout.block_dim,
        "fingerprint": layout.fingerprint,
    }


def _metadata(weights: Path) -> dict[str, str]:
    """Return the texts that stand in a tensor file's header beside its tensors."""
    with safe_open(weights, framework="pt") as opened:
        metadata: dict[str, str] = opened.metadata() or {}
    return metadata


def _files(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {safe_text(str(path.relative_to(folder))): path.stat().st_size for path in files}


def _as_text(described: dict[str, Any]) -> str:
    lines = []
    for key, value in described.items():
        if key == "tensors":
            width = max(len(tensor["name"]) for tensor in value)
            lines.append("tensors:")
            for t in value:
                size = f"{t['bytes']:>9,} bytes"
                lines.append(
                    f"  {t['name']:<{width}}  {t['shape']!s:<12} {t['dtype']:<9} norm {t['norm']:<10.4g} {size}"
                )
        elif key == "files":
            lines.append("files:")
            lines += [f"  {name}  {size:,} bytes" for name, size in value.items()]
        elif key == "audit":
            lines.append(f"audit: {'none is recorded' if value is None else audit_text(value)}")
        elif isinstance(value, dict):
            lines.append(f"{key}:")
            lines += [f"  {name}: {_plain(entry)}" for name, entry in value.items()]
        elif key == "privacy" and value is None:
            lines.append("privacy: no differential privacy is stated")
        elif key == "input_distance_limit" and value is None:
            lines.append(f"{key}: none, not calibrated: an adapter off the map is translated without a warning")
        elif value is not None:
            lines.append(f"{key}: {_plain(value)}")
    return "\n".join(map(safe_text, lines))


def _plain(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
