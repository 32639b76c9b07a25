"""What goes into a translation and what comes out: an aligned source adapter, and a target adapter with a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from torch import Tensor

from gradtx_hf.lora import Adapter, peft_key, save_adapter
from gradtx_hf.output import new_folder, write_json
from gradtx_hf.updates import Alignment


REPORT_FILE = "translation.json"


@dataclass(frozen=True, eq=False)
class TranslatedAdapter:
    """A target adapter that a translator wrote.

    Attributes:
        peft_config: PEFT's configuration, that of the translator's ``target_init``.
        tensors: Factors by name ``<module path>.<factor>``, float32.
        report: What was translated and how, as JSON values.
    """

    peft_config: LoraConfig
    tensors: dict[str, Tensor]
    report: dict[str, Any]

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """The tensors under PEFT's keys, as ``peft.set_peft_model_state_dict`` takes them."""
        return {peft_key(name): tensor for name, tensor in self.tensors.items()}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that ``PeftModel.from_pretrained`` loads, with the report beside the two PEFT files.

        Raises:
            OutputExistsError: If the folder exists and is not empty.
        """
        with new_folder(folder) as temporary:
            save_adapter(temporary, config=self.peft_config, tensors=self.tensors)
            write_json(temporary / REPORT_FILE, self.report)


@dataclass(frozen=True, eq=False)
class SourceUpdate:
    """One client's adapter, aligned to the translator's start.

    Attributes:
        adapter: The adapter as it was read.
        alignment: The aligned factors and their distances.
        commit: The commit it came from, if it came from the Hub.
    """

    adapter: Adapter
    alignment: Alignment
    commit: str | None = None
