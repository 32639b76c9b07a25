"""Adapters of visitors' own: does each fit the translator, and what comes out. Nothing of Gradio is here.

Everything that is fetched or unpacked lies in a folder that is gone when the function returns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from gradtx_hf.demo.gpu import on_gpu
from gradtx_hf.demo.limits import MAX_ADAPTER_BYTES, MAX_ADAPTERS, MAX_TRANSLATOR_BYTES
from gradtx_hf.demo.repositories import pinned_repository
from gradtx_hf.demo.uploads import collect_adapter, unpack_adapter
from gradtx_hf.errors import AdapterError, ConfigurationError, GradTxError
from gradtx_hf.hub import ResolvedFolder, fetch_repository
from gradtx_hf.lora import load_adapter
from gradtx_hf.translation import AggregationSettings, PeftTranslator, SourceUpdate, TranslatedAdapter
from gradtx_hf.translation.measured import measure_inputs
from gradtx_hf.translation.records import load_privacy


UPLOADED = "the uploaded folder"


@dataclass(frozen=True)
class Submission:
    """What a visitor hands in.

    Attributes:
        repositories: Adapters' ids on the Hub.
        archives: Adapters' zip archives.
        files: One adapter's files.
        translator: The translator's id.
        token: The visitor's Hub token; it is in no message, and kept nowhere.
    """

    repositories: tuple[str, ...]
    archives: tuple[Path, ...]
    files: tuple[Path, ...]
    translator: str
    token: str | None

    def __repr__(self) -> str:
        return f"Submission({self.repositories}, {self.translator!r})"

    @property
    def num_adapters(self) -> int:
        """How many adapters there are."""
        return len(self.repositories) + len(self.archives) + bool(self.files)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One adapter beside a translator.

    Attributes:
        name: As the visitor named it.
        source: It, read and aligned; None where it was refused.
        refusal: Why, in one line; None where it fits.
        distance: How far its update lies from those that the translator was trained on; None: not measured.
        warning: One line, where that is too far.
    """

    name: str
    source: SourceUpdate | None
    refusal: str | None
    distance: float | None = None
    warning: str | None = None


@dataclass(frozen=True, eq=False)
class Compatibility:
    """Whether adapters fit a translator.

    Attributes:
        translator: The translator.
        candidates: The adapters, in the order of the submission.
    """

    translator: PeftTranslator
    candidates: tuple[Candidate, ...]


def check(submission: Submission) -> Compatibility:
    """Read the translator and every adapter, and translate nothing.

    Raises:
        ConfigurationError: If there is no adapter, or too many.
        GradTxError: If the translator cannot be used; what is wrong with an adapter is said of the adapter.
    """
    with _opened(submission, device="cpu") as (translator, folder):
        return Compatibility(translator, tuple(_candidates(submission, translator, folder)))


@on_gpu
def translate(
    submission: Submission, *, settings: AggregationSettings, weights: list[float] | None
) -> TranslatedAdapter:
    """Translate one adapter, or several aggregated.

    Args:
        submission: The adapters and the translator.
        settings: How several become one.
        weights: One weight per adapter, or None.

    Raises:
        ConfigurationError: If there is no adapter, or settings and weights do not fit.
        GradTxError: If the translator or an adapter cannot be used.
    """
    with _opened(submission, device="cuda" if torch.cuda.is_available() else "cpu") as (translator, folder):
        sources = []
        for candidate in _candidates(submission, translator, folder):
            if candidate.source is None:
                raise AdapterError(candidate.refusal)
            sources.append(candidate.source)
        return translator.translate(sources, aggregation=settings, weights=weights)


def read_names(text: str) -> tuple[str, ...]:
    """Return the ids in a text, one to a line or with commas between, each once."""
    return tuple(dict.fromkeys(text.replace(",", " ").split()))


@contextmanager
def _opened(submission: Submission, *, device: str) -> Iterator[tuple[PeftTranslator, Path]]:
    """Load the translator; yields it and a folder for what is fetched and unpacked."""
    if not 1 <= submission.num_adapters <= MAX_ADAPTERS:
        raise ConfigurationError(
            f"got {submission.num_adapters} adapters, expected 1 to {MAX_ADAPTERS}. Name a repository, or upload one."
        )
    with tempfile.TemporaryDirectory(prefix="gradtx-demo-") as scratch:
        name = pinned_repository(submission.translator, token=submission.token, max_bytes=MAX_TRANSLATOR_BYTES)
        translator = PeftTranslator.from_pretrained(
            name,
            token=submission.token,
            cache_dir=Path(scratch) / "hub",
            device=device,
        )
        yield translator, Path(scratch)


def _candidates(submission: Submission, translator: PeftTranslator, scratch: Path) -> Iterator[Candidate]:
    """Yield every adapter, read and measured, or refused."""
    cache = scratch / "hub"
    for name in submission.repositories:
        yield _candidate(name, partial(_fetch, name, submission.token, cache), translator, submission.token)
    for number, archive in enumerate(submission.archives):
        home = scratch / f"archive-{number}"
        yield _candidate(archive.stem, partial(_unpack, archive, home), translator, submission.token)
    if submission.files:
        collect = partial(_collect, submission.files, scratch / "files")
        yield _candidate(UPLOADED, collect, translator, submission.token)


def _candidate(
    name: str, bring: Callable[[], ResolvedFolder], translator: PeftTranslator, token: str | None
) -> Candidate:
    try:
        folder = bring()
        read = translator.read(load_adapter(folder.path, name=folder.name), token=token)
        source = replace(read, commit=folder.commit, privacy=load_privacy(folder.path, name=folder.name))
    except GradTxError as error:
        return Candidate(name, None, str(error))
    measured = measure_inputs(
        [source],
        start=translator.source_init.tensors,
        distance=translator.input_distance,
        aggregate=None,
        rule="mean",
    )
    return Candidate(name, source, None, measured.adapters[0], next(iter(measured.warnings), None))


def _fetch(name: str, token: str | None, cache: Path) -> ResolvedFolder:
    pinned = pinned_repository(name, token=token, max_bytes=MAX_ADAPTER_BYTES)
    return fetch_repository(pinned, token=token, cache_dir=cache)


def _unpack(archive: Path, home: Path) -> ResolvedFolder:
    home.mkdir()
    unpack_adapter(archive, home)
    return ResolvedFolder(home, archive.stem, None)


def _collect(files: Sequence[Path], home: Path) -> ResolvedFolder:
    home.mkdir()
    collect_adapter(files, home)
    return ResolvedFolder(home, UPLOADED, None)
