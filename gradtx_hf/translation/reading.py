"""Read clients' adapters: each refused by name, or, where that is asked for, left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gradtx_hf.errors import AdapterError, ConfigurationError, LayoutError
from gradtx_hf.hub import ResolvedFolder, resolve_folder
from gradtx_hf.lora import Adapter, load_adapter
from gradtx_hf.translation.aggregation import AggregationSettings, check_weights
from gradtx_hf.translation.checks import (
    align_to_start,
    check_base,
    check_finite,
    check_modules,
    check_start,
    naming_those_that_fit,
)
from gradtx_hf.translation.records import load_privacy
from gradtx_hf.translation.translated import SourceUpdate


AnyAdapter = str | Path | Adapter | SourceUpdate
"""A folder, ``owner/name[@revision]``, an adapter already read, or one that was aligned too."""


@dataclass(frozen=True, eq=False)
class ClientStart:
    """Where clients begin.

    Attributes:
        init: The initial adapter.
        translator: What messages call its translator.
        distance_limit: Largest distance to it that is accepted, in [0, 1]; None: any.
    """

    init: Adapter
    translator: str
    distance_limit: float | None


@dataclass(frozen=True)
class ReadingOptions:
    """How adapters are found, and what is accepted.

    Attributes:
        revision: Branch, tag or commit of a repository.
        subfolder: Folder inside the repository or folder.
        token: Hub token for private repositories.
        cache_dir: Where fetched files are kept; the Hub's cache if None.
        local_files_only: Whether to use the cache alone.
        allow_other_start: Accept an adapter that was not trained from the start.
        allow_other_base: Accept an adapter whose base model has another name.
    """

    revision: str | None = None
    subfolder: str | None = None
    token: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    allow_other_start: bool = False
    allow_other_base: bool = False


@dataclass(frozen=True)
class SkippedAdapter:
    """An adapter that was left out.

    Attributes:
        name: As the user named it.
        reason: Why, in one line.
        commit: The commit it came from, if it came from the Hub.
    """

    name: str
    reason: str
    commit: str | None


@dataclass(frozen=True, eq=False)
class ReadSources:
    """Clients' adapters that can be aggregated.

    Attributes:
        sources: The adapters, at least one.
        weights: Their weights, or None.
        skipped: Those that were left out.
    """

    sources: tuple[SourceUpdate, ...]
    weights: tuple[float, ...] | None
    skipped: tuple[SkippedAdapter, ...]

    @property
    def names(self) -> list[str]:
        """What messages call the adapters."""
        return [source.adapter.name for source in self.sources]

    @property
    def warnings(self) -> list[str]:
        """One line for every adapter that was left out."""
        return [f"adapter '{skipped.name}' was left out: {skipped.reason}" for skipped in self.skipped]


def read_source(adapter: AnyAdapter, *, start: ClientStart, options: ReadingOptions) -> SourceUpdate:
    """Read a client's adapter and align it to the start; see ``PeftTranslator.read``."""
    return _read_located(_locate(adapter, options), start=start, options=options)


def _locate(adapter: AnyAdapter, options: ReadingOptions) -> Adapter | SourceUpdate | ResolvedFolder:
    """Return an adapter that was read already, or the folder to read it from."""
    if isinstance(adapter, Adapter | SourceUpdate):
        return adapter
    return resolve_folder(
        adapter,
        revision=options.revision,
        subfolder=options.subfolder,
        token=options.token,
        cache_dir=options.cache_dir,
        local_files_only=options.local_files_only,
    )


def _read_located(
    located: Adapter | SourceUpdate | ResolvedFolder, *, start: ClientStart, options: ReadingOptions
) -> SourceUpdate:
    commit = privacy = None
    if isinstance(located, SourceUpdate):
        commit, privacy, adapter = located.commit, located.privacy, located.adapter
    elif isinstance(located, Adapter):
        adapter = located
    else:
        adapter, commit = load_adapter(located.path, name=located.name), located.commit
        privacy = load_privacy(located.path, name=located.name)
    check_finite(adapter.tensors, name=adapter.name)
    with naming_those_that_fit(adapter, start.init, token=options.token, local_files_only=options.local_files_only):
        check_modules(adapter, start.init, translator=start.translator)
        alignment = align_to_start(adapter, start.init, translator=start.translator)
        if not options.allow_other_base:
            check_base(adapter, start.init, translator=start.translator)
    check_finite(alignment.state, name=adapter.name)
    if not options.allow_other_start:
        check_start(adapter, alignment, limit=start.distance_limit, translator=start.translator)
    return SourceUpdate(adapter, alignment, commit, privacy)


def as_adapters(adapters: AnyAdapter | Sequence[AnyAdapter]) -> list[AnyAdapter]:
    """Return one adapter or several as a list.

    Raises:
        ConfigurationError: If there is none.
    """
    listed = [adapters] if isinstance(adapters, (str, Path, Adapter, SourceUpdate)) else list(adapters)
    if not listed:
        raise ConfigurationError("got no adapter to translate, expected at least one.")
    return listed


def read_sources(
    adapters: Sequence[AnyAdapter],
    *,
    weights: Sequence[float] | None,
    settings: AggregationSettings,
    skip_invalid: bool,
    start: ClientStart,
    options: ReadingOptions,
) -> ReadSources:
    """Read clients' adapters.

    Args:
        adapters: The adapters, at least one.
        weights: One weight per adapter, or None.
        settings: How they will be aggregated.
        skip_invalid: Leave out adapters that are refused, in place of refusing all. One that is not there is refused
            all the same: its name may be misspelt.
        start: Where clients begin.
        options: How adapters are found, and what is accepted.

    Raises:
        AdapterError: If an adapter is refused, or none is left.
        LayoutError: If an adapter does not fit.
        MissingFileError: If one is not there.
        ConfigurationError: If the weights do not fit, which is seen before anything is read.
    """
    check_weights(weights, num_clients=len(adapters), rule=settings.rule)
    sources: list[SourceUpdate] = []
    kept_weights: list[float] = []
    skipped: list[SkippedAdapter] = []
    for i, adapter in enumerate(adapters):
        located = _locate(adapter, options)
        try:
            sources.append(_read_located(located, start=start, options=options))
        except (AdapterError, LayoutError) as error:
            if not skip_invalid:
                raise
            skipped.append(_skipped(located, str(error)))
        else:
            kept_weights += [] if weights is None else [weights[i]]
    if not sources:
        raise AdapterError(f"none of {len(adapters)} adapters can be used. The first: {skipped[0].reason}")
    return ReadSources(tuple(sources), None if weights is None else tuple(kept_weights), tuple(skipped))


def _skipped(located: Adapter | SourceUpdate | ResolvedFolder, reason: str) -> SkippedAdapter:
    name = located.adapter.name if isinstance(located, SourceUpdate) else located.name
    return SkippedAdapter(name, reason, None if isinstance(located, Adapter) else located.commit)
