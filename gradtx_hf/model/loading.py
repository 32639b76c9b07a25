"""Load a Gradient Transformer: what is read, and from where, is decided here and not by what was downloaded.

transformers would follow an ``adapter_config.json`` to another repository, read a file that ``config.json`` names, and
set up kernels, quantisers and labels as it asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from gradtx_hf.errors import LayoutError
from gradtx_hf.hub import resolve_folder
from gradtx_hf.model.configuration import GradTransformerConfig
from gradtx_hf.model.standardisation import StandardisingModel
from gradtx_hf.model.weights import read_config, read_weights
from gradtx_hf.updates.reading import ForeignFolder


Model = TypeVar("Model", bound="LoadedModel")

FETCH_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
IGNORED_OPTIONS = ("adapter_kwargs", "ignore_mismatched_sizes", "proxies", "use_safetensors", "weights_only")
"""Options of transformers that would change how files are read: they are read in one way only."""


class LoadedModel(StandardisingModel):
    """A model that loads from a folder or a repository of somebody else's."""

    @classmethod
    def from_pretrained(  # type: ignore[override]  # it is typed by tricks that no subclass can repeat
        cls: type[Model],
        pretrained_model_name_or_path: str | Path,
        **options: Any,  # noqa: ANN401 - transformers' own signature
    ) -> Model:
        """Load weights and configuration; as ``PreTrainedModel.from_pretrained``, from safetensors only.

        Raises:
            MissingFileError: If it is not there, or lacks a file.
            LayoutError: If the weights are not those of the configuration, or its statistics are unusable.
            ConfigurationError: If the configuration cannot be used.
        """
        name = str(pretrained_model_name_or_path)
        fetching = {option: options.pop(option) for option in FETCH_OPTIONS if option in options}
        if Path(name).is_dir():  # AutoModel gives a folder a revision too
            fetching.pop("revision", None)
        return cls.from_folder(resolve_folder(name, **fetching).path, name=name, **options)

    @classmethod
    def from_folder(
        cls: type[Model],
        folder: Path,
        *,
        name: str,
        config: GradTransformerConfig | None = None,
        **options: Any,  # noqa: ANN401 - transformers' own
    ) -> Model:
        """Load weights and configuration from a folder on this machine; raises as ``from_pretrained`` does.

        Args:
            folder: The folder.
            name: What messages call the translator.
            config: The configuration; the folder's if None.
            options: What ``PreTrainedModel.from_pretrained`` takes beside it, such as ``dtype``.
        """
        files = ForeignFolder(folder, f"translator '{name}'", LayoutError)
        config = config or read_config(files)
        state = read_weights(files, config, build=cls)
        for option in IGNORED_OPTIONS:
            options.pop(option, None)
        loaded: Any = super().from_pretrained(None, config=config, state_dict=state, **options)
        model = loaded[0] if options.get("output_loading_info") else loaded
        model.config.name_or_path = model.name_or_path = name
        model.config.architectures = [cls.__name__]
        model._check_statistics()
        result: Model = loaded  # with the info, a pair as in transformers
        return result
