"""Change an adapter folder, and collect the one line that it is refused with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from gradtx_hf.errors import AdapterError
from gradtx_hf.lora import load_adapter


def refusal(folder: Path, error: type[Exception] = AdapterError) -> str:
    """Return the message that ``load_adapter`` refuses the folder with: one line that names the adapter."""
    with pytest.raises(error) as caught:
        load_adapter(folder, name="me/tiny")
    message = str(caught.value)
    assert type(caught.value) is error
    assert "\n" not in message
    assert "'me/tiny'" in message
    return message


def change_config(folder: Path, **changes: object) -> None:
    """Overwrite fields of ``adapter_config.json``."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder: Path, changes: dict[str, Tensor | None]) -> None:
    """Overwrite tensors of the weights by their full key; None removes one."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path) | changes
    save_file({key: tensor.contiguous() for key, tensor in tensors.items() if tensor is not None}, path)
