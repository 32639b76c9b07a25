"""What goes into a translation and what comes out: an aligned source adapter, and a target adapter with a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from torch import Tensor

from gradtx_hf.hub import Destination, Published
from gradtx_hf.lora import Adapter, peft_key, save_adapter
from gradtx_hf.output import new_folder, write_json
from gradtx_hf.translation.adapter_publishing import publish_adapter
from gradtx_hf.translation.records import TRANSLATION_FILE
from gradtx_hf.updates import Alignment


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
            write_json(temporary / TRANSLATION_FILE, self.report)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        revision: str | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        base_model: str | None = None,
        license_id: str | None = None,
    ) -> Published:
        """Publish PEFT's two files, the report without names of this machine, and a card, as one commit.

        What comes out is a repository that stock PEFT, transformers and vLLM load.

        Args:
            repo_id: ``owner/name``; made if it is not there.
            private: Whether a new repository is private.
            revision: Branch to write to; made if it is not there.
            token: Hub token; by default the one that is logged in.
            commit_message: First line of the commit.
            base_model: Id on the Hub of the base model, where the adapter names a local folder.
            license_id: License of the adapter, as the Hub names it; by default none is written.

        Raises:
            ConfigurationError: If others could not find the base model, or an argument cannot be used.
            HubError: If the repository holds something else, changed meanwhile, or cannot be written.
        """
        return publish_adapter(
            Adapter("the translated adapter", self.peft_config, self.tensors),
            Destination(repo_id, private=private, revision=revision, token=token),
            report=self.report,
            base_model=base_model,
            license_id=license_id,
            commit_message=commit_message,
        )


@dataclass(frozen=True, eq=False)
class SourceUpdate:
    """One client's adapter, aligned to the translator's start.

    Attributes:
        adapter: The adapter as it was read.
        alignment: The aligned factors and their distances.
        commit: The commit it came from, if it came from the Hub.
        privacy: What the client states of its training (see ``records.load_privacy``), if anything.
    """

    adapter: Adapter
    alignment: Alignment
    commit: str | None = None
    privacy: Mapping[str, Any] | None = None
