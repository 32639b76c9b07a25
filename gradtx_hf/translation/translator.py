"""PeftTranslator: source adapters in, a target adapter out, without loading a language model.

Axes: C clients, N_S / N_T blocks, D_S / D_T block sizes. Source: paper Sec. 4 (deployment) and Eqs. 2-3.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gradtx_hf.hub import Destination, Published, resolve_folder
from gradtx_hf.lora import Adapter, load_adapter, save_adapter
from gradtx_hf.model import GradTransformerModel
from gradtx_hf.output import new_folder, write_json
from gradtx_hf.translation.aggregation import Aggregation, AggregationSettings
from gradtx_hf.translation.checks import check_input_distance, check_parts
from gradtx_hf.translation.contributions import Combined, combine_updates
from gradtx_hf.translation.distance import InputDistance
from gradtx_hf.translation.distance_file import load_input_distance, save_input_distance
from gradtx_hf.translation.generation import generate_targets
from gradtx_hf.translation.loading import PARTS_FOLDER, SOURCE_INIT, TARGET_INIT, load_models
from gradtx_hf.translation.measured import measure_inputs
from gradtx_hf.translation.reading import (
    AnyAdapter,
    ClientStart,
    ReadingOptions,
    as_adapters,
    read_source,
    read_sources,
)
from gradtx_hf.translation.records import RESULTS_FILE, TRAINING_FILE, load_record
from gradtx_hf.translation.report import describe_translation
from gradtx_hf.translation.translated import SourceUpdate, TranslatedAdapter
from gradtx_hf.translation.translator_card import TranslatorFacts
from gradtx_hf.translation.translator_publishing import publish_translator, read_report
from gradtx_hf.updates import UpdateVector


@dataclass(frozen=True, eq=False)
class PeftTranslator:
    """A Gradient Transformer with the two initial adapters that its updates are measured against.

    Attributes:
        model: The model; or several by name, each for a part of the tensors (paper: q and v separately), whose
            outputs are merged. Put into evaluation mode.
        source_init: The adapter that clients start from.
        target_init: The adapter that generated updates are added to.
        name: What messages and reports call the translator.
        commit: The commit it came from, if it came from the Hub.
        input_distance: How far source updates lie from those it was trained on, of the whole update also where
            there are several models; None: not calibrated.
        training: How it was trained, the values of training.json; None: not recorded.
        report: What an evaluation of it found, the values of report.json; None: not evaluated.
    """

    model: GradTransformerModel | Mapping[str, GradTransformerModel]
    source_init: Adapter
    target_init: Adapter
    name: str = "translator"
    commit: str | None = None
    input_distance: InputDistance | None = None
    training: Mapping[str, Any] | None = None
    report: Mapping[str, Any] | None = None
    parts: dict[str, GradTransformerModel] = field(init=False)

    def __post_init__(self) -> None:
        parts = dict(self.model) if isinstance(self.model, Mapping) else {"": self.model}
        object.__setattr__(self, "parts", {name: part.eval() for name, part in parts.items()})
        for side, init in (("source", self.source_init), ("target", self.target_init)):
            layouts = [getattr(part.config, f"{side}_layout") for part in parts.values()]
            check_parts(layouts, init, side=side, name=self.name)
        if self.input_distance is not None:
            check_input_distance(self.input_distance.layout, self.source_init, name=self.name)

    @classmethod
    def from_pretrained(  # noqa: PLR0913 - the keywords of every from_pretrained
        cls,
        repo_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        subfolder: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | Literal["auto"] = "auto",
    ) -> PeftTranslator:
        """Load a translator from a folder or a Hub repository.

        Args:
            repo_or_path: A folder, ``owner/name`` or ``owner/name@revision``.
            revision: Branch, tag or commit of a repository.
            token: Hub token for private repositories; by default the one that is logged in.
            cache_dir: Hub cache folder.
            local_files_only: Whether to use the cache alone.
            subfolder: Where in the repository or folder the translator is; None: at its top.
            device: Where the model goes.
            dtype: float32; float16 (on a CPU alone: half the memory, and the fastest where the machine has no products
                of bfloat16); bfloat16 (within about 1 % of float32; what runs once for an update, such as the encoder,
                stays float32); or "auto" for the one of these that it was saved in.

        Raises:
            MissingFileError: If it is not there, or holds no translator.
            LayoutError: If its model or input distance is damaged, or does not belong to its initial adapters.
        """
        resolved = resolve_folder(
            repo_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            subfolder=subfolder,
        )
        models = load_models(resolved.path, name=resolved.name, device=torch.device(device), dtype=dtype)
        return cls(
            models[""] if list(models) == [""] else models,
            load_adapter(resolved.path / SOURCE_INIT, name=f"{resolved.name}/{SOURCE_INIT}"),
            load_adapter(resolved.path / TARGET_INIT, name=f"{resolved.name}/{TARGET_INIT}"),
            name=resolved.name,
            commit=resolved.commit,
            input_distance=load_input_distance(resolved.path, name=resolved.name),
            training=load_record(resolved.path, TRAINING_FILE, name=resolved.name),
            report=load_record(resolved.path, RESULTS_FILE, name=resolved.name),
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the translator's folder: model, ``source_init/``, ``target_init/``, and all else that it carries.

        Raises:
            OutputExistsError: If the folder exists and is not empty.
        """
        with new_folder(folder) as temporary:
            for name, model in self.parts.items():
                model.save_pretrained(temporary / PARTS_FOLDER / name if name else temporary)
            for subfolder, init in ((SOURCE_INIT, self.source_init), (TARGET_INIT, self.target_init)):
                save_adapter(temporary / subfolder, config=init.config, tensors=init.tensors)
            if self.input_distance is not None:
                save_input_distance(temporary, self.input_distance)
            for file, values in ((TRAINING_FILE, self.training), (RESULTS_FILE, self.report)):
                if values is not None:
                    write_json(temporary / file, values)

    def push_to_hub(  # noqa: PLR0913 - where it goes, and what is said of it
        self,
        repo_id: str,
        *,
        private: bool = True,
        revision: str | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        report: str | Path | Mapping[str, Any] | None = None,
        base_models: Mapping[str, str] | None = None,
        license_id: str | None = None,
    ) -> Published:
        """Publish all that ``save_pretrained`` writes, without what is of this machine, and a card, as one commit.

        Args:
            repo_id: ``owner/name``; made if it is not there.
            private: Whether a new repository is private.
            revision: Branch to write to; made if it is not there.
            token: Hub token; by default the one that is logged in.
            commit_message: First line of the commit.
            report: The report.json of an evaluation, its folder or its values; the translator's own if None.
            base_models: Ids on the Hub, ``owner/name[@revision]``, for base models named by a local folder.
            license_id: License of the translator, as the Hub names it; by default none is written.

        Raises:
            ConfigurationError: If others could not find a base model, or an argument cannot be used.
            DataError: If the report is none.
            MissingFileError: If the report is not there.
            HubError: If the repository holds something else, changed meanwhile, or cannot be written.
        """
        return publish_translator(
            self.save_pretrained,
            TranslatorFacts(
                repo_id=repo_id,
                revision=revision,
                source_init=self.source_init,
                target_init=self.target_init,
                parts=tuple(self.parts),
                start_distance_limit=self.start_distance_limit,
                input_distance_limit=None if self.input_distance is None else self.input_distance.limit,
                training=self.training,
                report=self.report if report is None else read_report(report),
                license_id=license_id,
            ),
            Destination(repo_id, private=private, revision=revision, token=token),
            base_models=base_models,
            commit_message=commit_message,
        )

    def read(  # noqa: PLR0913 - where it is found, and what is accepted
        self,
        adapter: AnyAdapter,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        allow_other_start: bool = False,
        allow_other_base: bool = False,
    ) -> SourceUpdate:
        """Read a client's adapter and align it to ``source_init``.

        Args:
            adapter: A folder, ``owner/name[@revision]``, or an adapter already read, which is checked again.
            revision: Branch, tag or commit of a repository.
            subfolder: Folder inside the repository or folder.
            token: Hub token for private repositories.
            cache_dir: Hub cache folder.
            local_files_only: Whether to use the cache alone.
            allow_other_start: Accept an adapter that was not trained from ``source_init``.
            allow_other_base: Accept an adapter whose base model has another name.

        Raises:
            AdapterError: If it is no LoRA adapter, was trained on another base model, or from another start.
            LayoutError: If it adapts other modules, or modules of other widths.
            MissingFileError: If it is not there.
        """
        options = ReadingOptions(
            revision, subfolder, token, cache_dir, local_files_only, allow_other_start, allow_other_base
        )
        return read_source(adapter, start=self.start, options=options)

    @property
    def start_distance_limit(self) -> float | None:
        """Largest distance to ``source_init`` that is accepted, in [0, 1]; None: any."""
        limits = [part.config.start_distance_limit for part in self.parts.values()]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def start(self) -> ClientStart:
        """Where clients begin."""
        return ClientStart(self.source_init, self.name, self.start_distance_limit)

    def translate(  # noqa: PLR0913 - those of reading and those of aggregating
        self,
        adapters: AnyAdapter | Sequence[AnyAdapter],
        *,
        aggregation: Aggregation | AggregationSettings = "mean",
        weights: Sequence[float] | None = None,
        skip_invalid: bool = False,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        allow_other_start: bool = False,
        allow_other_base: bool = False,
    ) -> TranslatedAdapter:
        """Translate one client's adapter, or several aggregated (paper Eqs. 2-3).

        The report's ``warnings`` name every adapter that lies apart from the other clients' and, where the translator
        has an input distance, every one that lies off the map.

        Args:
            adapters: Folders, ``owner/name[@revision]``, adapters, or what ``read`` returned; one or several.
            aggregation: How several updates become one: a rule such as ``mean`` or ``median``, or all settings.
            weights: One weight per adapter, such as its number of samples; the median and the trimmed mean have none.
            skip_invalid: Leave out adapters that are refused, in place of refusing all; the report names them.
            revision: Branch, tag or commit for adapters from the Hub.
            token: Hub token for private repositories.
            cache_dir: Hub cache folder.
            local_files_only: Whether to use the cache alone.
            allow_other_start: Accept adapters that were not trained from ``source_init``.
            allow_other_base: Accept adapters whose base model has another name.

        Raises:
            AdapterError: If an adapter is refused (see ``read``), or all were left out.
            LayoutError: If an adapter does not fit the translator.
            ConfigurationError: If there is no adapter, or aggregation and weights do not fit.
        """
        start_time = time.perf_counter()
        settings = AggregationSettings.of(aggregation)
        read = read_sources(
            as_adapters(adapters),
            weights=weights,
            settings=settings,
            skip_invalid=skip_invalid,
            start=self.start,
            options=ReadingOptions(
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_other_start=allow_other_start,
                allow_other_base=allow_other_base,
            ),
        )
        states = [source.alignment.state for source in read.sources]
        combined, target = self._translate(states, names=read.names, settings=settings, weights=read.weights)
        tensors = self._added_to_init(target)
        report = describe_translation(
            read,
            combined,
            measure_inputs(
                read.sources,
                start=self.source_init.tensors,
                distance=self.input_distance,
                aggregate=combined.update if settings.merge == "before" else None,
                rule=settings.rule,
            ),
            translator={"name": self.name, "commit": self.commit},
            inits=(self.source_init, self.target_init),
            tensors=tensors,
            settings=settings,
            start_distance_limit=self.start_distance_limit,
        )
        report["seconds"] = round(time.perf_counter() - start_time, 3)
        return TranslatedAdapter(copy.deepcopy(self.target_init.config), tensors, report)

    def translate_states(
        self,
        states: Sequence[Mapping[str, Tensor]],
        *,
        aggregation: Aggregation | AggregationSettings = "mean",
        weights: Sequence[float] | None = None,
    ) -> dict[str, Tensor]:
        """Translate aligned source factors into target factors; see ``translate``."""
        names = [str(number) for number in range(1, len(states) + 1)]
        settings = AggregationSettings.of(aggregation)
        return self._added_to_init(self._translate(states, names=names, settings=settings, weights=weights)[1])

    def _translate(
        self,
        states: Sequence[Mapping[str, Tensor]],
        *,
        names: Sequence[str],
        settings: AggregationSettings,
        weights: Sequence[float] | None,
    ) -> tuple[Combined, UpdateVector]:
        """Return the updates as they were aggregated, of source or target, and the target's update."""
        start = self.source_init
        updates = [UpdateVector.between(state, start.tensors, start.layout) for state in states]
        if settings.merge == "after":
            targets = self._generate(updates)
            combined = combine_updates(targets, names=names, settings=settings, weights=weights)
            return combined, combined.update
        combined = combine_updates(updates, names=names, settings=settings, weights=weights)
        (target,) = self._generate([combined.update])
        return combined, target

    def _generate(self, updates: Sequence[UpdateVector]) -> list[UpdateVector]:
        return generate_targets(self.parts, updates, layout=self.target_init.layout, name=self.name)

    def _added_to_init(self, update: UpdateVector) -> dict[str, Tensor]:
        tensors = update.added_to(self.target_init.tensors)
        return {name: tensors[name] for name in self.target_init.tensors}
