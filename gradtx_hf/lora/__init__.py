"""LoRA adapters as tensors: read what PEFT wrote, write what PEFT reads."""

from gradtx_hf.lora.adapters import Adapter, is_adapter_folder, load_adapter, peft_key, save_adapter


__all__ = ["Adapter", "is_adapter_folder", "load_adapter", "peft_key", "save_adapter"]
