"""One pack of runs of a curation, in whichever process: fine-tune one side's model and write the shards.

A process keeps one side's model and its tokenized corpora, and takes pack after pack. While a pack runs, its
checkpoints are in a hidden work folder of the store; whoever is given the pack again goes on from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from datasets import Dataset, load_from_disk
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gradtx_hf.curation.initial import SideSettings, init_folder
from gradtx_hf.curation.recorder import SnapshotRecorder
from gradtx_hf.finetuning import PackedRun, fine_tune_pack, load_language_model
from gradtx_hf.finetuning.packed_checkpoint import PackCheckpoints
from gradtx_hf.finetuning.pool import one_thread
from gradtx_hf.finetuning.progress import StepBar
from gradtx_hf.lora import Adapter, load_adapter
from gradtx_hf.updates.store import Side, UpdateStore


WORK_FOLDER = ".work"


@dataclass(frozen=True)
class SideRuns:
    """What all runs of one side share.

    Attributes:
        folder: The store's folder, with the initial adapters in it.
        side: Which side.
        settings: The side's settings.
        tokens_folder: The tokenized rows of the corpora that some run of this side reads.
        num_snapshots: Most snapshots to keep of a run.
        checkpoint_seconds: Time between two checkpoints of a pack, and before its first.
    """

    folder: str
    side: Side
    settings: SideSettings
    tokens_folder: str
    num_snapshots: int
    checkpoint_seconds: float


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        shadow_set: Which shadow set.
        rows: The set's rows among the tokenized ones.
        seed: Seed of the run.
    """

    shadow_set: int
    rows: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Pack:
    """Runs of one side that are fine-tuned together.

    Attributes:
        number: Place of the pack among those of its side in the plan.
        shared: What they share with the other runs of their side.
        runs: The runs.
    """

    number: int
    shared: SideRuns
    runs: tuple[Run, ...]

    @property
    def work_folder(self) -> Path:
        """Where its checkpoints are while it runs."""
        return Path(self.shared.folder) / WORK_FOLDER / f"{self.shared.side}-{self.number:05d}"


@dataclass(frozen=True, eq=False)
class _LoadedSide:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    initial: Adapter
    tokens: Dataset


def perform_pack(pack: Pack, *, show_progress: bool = False) -> None:
    """Fine-tune on the shadow sets of a pack from the initial adapter; write the snapshots' updates to the store.

    It reads the store's plan and initial adapter, the tokenized rows and the model, and nothing else; so it may run
    wherever a copy of these is.

    Args:
        pack: The pack.
        show_progress: Show a bar of its steps on stderr.

    Raises:
        ConfigurationError: If a run diverged.
    """
    shared = pack.shared
    with one_thread():
        loaded = _load_side(shared)
        store = UpdateStore.resume(shared.folder)
        start = loaded.initial.tensors
        recorder = SnapshotRecorder(
            start, store.layout(shared.side), num_snapshots=shared.num_snapshots, folder=pack.work_folder
        )
        results = fine_tune_pack(
            loaded.model,
            packed_runs(shared.side, pack.runs, loaded.tokens, start),
            tokenizer=loaded.tokenizer,
            recipe=shared.settings.recipe,
            scales=loaded.initial.scales,
            dropout=shared.settings.dropout,
            recorder=recorder,
            checkpoints=PackCheckpoints(pack.work_folder, seconds=shared.checkpoint_seconds),
            callbacks=[StepBar(f"{shared.side} pack {pack.number}")] if show_progress else [],
        )
        for position, (run, result) in enumerate(zip(pack.runs, results, strict=True)):
            info = asdict(result.summary) | {"seed": run.seed}
            store.write(shared.side, run.shadow_set, recorder.updates(position), info)
    shutil.rmtree(pack.work_folder, ignore_errors=True)


def packed_runs(side: Side, runs: Sequence[Run], tokens: Dataset, start: Mapping[str, Tensor]) -> list[PackedRun]:
    """Return the runs of a pack with their data.

    Args:
        side: Which side.
        runs: The runs.
        tokens: The tokenized rows that they number.
        start: The initial adapter's tensors by name.
    """
    return [
        PackedRun(f"{side} run of shadow set {run.shadow_set}", start, tokens.select(run.rows), run.seed)
        for run in runs
    ]


def release_models() -> None:
    """Forget the model that this process keeps."""
    _load_side.cache_clear()


@lru_cache(maxsize=1)
def _load_side(shared: SideRuns) -> _LoadedSide:
    settings = shared.settings
    model, tokenizer = load_language_model(
        settings.model, revision=settings.revision, max_length=settings.recipe.max_length
    )
    initial = load_adapter(init_folder(shared.folder, shared.side), name=f"{shared.side}_init")
    return _LoadedSide(model, tokenizer, initial, load_from_disk(shared.tokens_folder))
