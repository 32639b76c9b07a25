"""One run of a curation, in whichever process: fine-tune one side's model on one shadow set and write the shard.

A process keeps one side's model and its tokenized corpora, and takes run after run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache

from datasets import Dataset, load_from_disk
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gradtx_hf.curation.initial import SideSettings, init_folder
from gradtx_hf.curation.recorder import SnapshotRecorder
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning import adapter_parameters, adapter_state, fine_tune, load_language_model, reset_adapter
from gradtx_hf.finetuning.pool import one_thread
from gradtx_hf.updates.store import Side, UpdateStore


@dataclass(frozen=True)
class SideRuns:
    """What all runs of one side share.

    Attributes:
        folder: The store's folder, with the initial adapters in it.
        side: Which side.
        settings: The side's settings.
        tokens_folder: The tokenized corpora, one after the other.
        num_snapshots: Most snapshots to keep of a run.
    """

    folder: str
    side: Side
    settings: SideSettings
    tokens_folder: str
    num_snapshots: int


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        shared: What it shares with the other runs of its side.
        shadow_set: Which shadow set.
        rows: The set's rows of the tokenized corpora.
        seed: Seed of the run.
    """

    shared: SideRuns
    shadow_set: int
    rows: tuple[int, ...]
    seed: int


@dataclass(frozen=True, eq=False)
class _LoadedSide:
    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    start: dict[str, Tensor]
    tokens: Dataset


def perform_run(run: Run) -> None:
    """Fine-tune on one shadow set from the initial adapter, and write the snapshots' updates to the store.

    Raises:
        ConfigurationError: If the run diverged.
    """
    with one_thread():
        loaded = _load_side(run.shared)
        reset_adapter(loaded.model, loaded.start)
        store = UpdateStore.resume(run.shared.folder)
        recorder = SnapshotRecorder(
            adapter_parameters(loaded.model),
            store.layout(run.shared.side),
            num_snapshots=run.shared.num_snapshots,
        )
        try:
            result = fine_tune(
                loaded.model,
                loaded.tokens.select(run.rows),
                tokenizer=loaded.tokenizer,
                recipe=run.shared.settings.recipe,
                seed=run.seed,
                callbacks=[recorder],
            )
        except ConfigurationError as error:
            raise ConfigurationError(f"{run.shared.side} run of shadow set {run.shadow_set}: {error}") from error
        store.write(run.shared.side, run.shadow_set, recorder.updates(), asdict(result) | {"seed": run.seed})


def release_models() -> None:
    """Forget the model that this process keeps."""
    _load_side.cache_clear()


@lru_cache(maxsize=1)
def _load_side(shared: SideRuns) -> _LoadedSide:
    base, tokenizer = load_language_model(shared.settings.model, revision=shared.settings.revision)
    model = PeftModel.from_pretrained(base, str(init_folder(shared.folder, shared.side)), is_trainable=True)
    return _LoadedSide(model, tokenizer, adapter_state(model), load_from_disk(shared.tokens_folder))
