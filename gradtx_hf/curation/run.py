"""``curate``: public data and two models to a store of update pairs, resumable, in one or several processes.

Every run depends on (seed, side, shadow set), its data and the runs of its pack alone, and packs on the plan; so any
number of workers, in any order, with any interruption, ends with the same bytes. A pack is done as a whole, again if
need be.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

from datasets import Dataset
from filelock import FileLock, Timeout

from gradtx_hf.curation.arguments import CurationArguments
from gradtx_hf.curation.initial import (
    SideSettings,
    discard_initial_adapters,
    initial_layout,
    publish_initial_adapter,
)
from gradtx_hf.curation.packing import plan_packs
from gradtx_hf.curation.shadow_sets import (
    Corpus,
    Mixture,
    choose_target_sets,
    mixture_shares,
    plan_shadow_sets,
    run_seed,
)
from gradtx_hf.curation.worker import Pack, Run, SideRuns, perform_pack, release_models
from gradtx_hf.errors import StoreError
from gradtx_hf.finetuning import FineTuningRecipe, load_examples
from gradtx_hf.finetuning.data import without_bars
from gradtx_hf.finetuning.language_model import load_tokenizer
from gradtx_hf.finetuning.pool import run_jobs
from gradtx_hf.finetuning.public_data import describe_corpus, rows_of_shadow_set, tokenize_corpora
from gradtx_hf.hub import pin_revision
from gradtx_hf.playground import local_name
from gradtx_hf.updates.store import PLAN_FILE, SIDES, Side, UpdateStore


logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"


def curate(arguments: CurationArguments) -> UpdateStore:
    """Fine-tune the source on every shadow set, the target on some or all, and store the updates.

    All runs of a side start from one initial adapter; there is one of the target also where it has no runs.
    Models and data sets of the Hub are those of the commits of the curation's first start, also when it is continued
    after they have moved on.

    Args:
        arguments: What to do; an ``output_dir`` that holds the same curation unfinished is continued.

    Returns:
        The complete store; beside it in its folder, ``source_init`` and ``target_init``, both PEFT adapters.

    Raises:
        MissingFileError: If a model or a data set is not there.
        DataError: If data lack a column, are empty, or too few.
        ConfigurationError: If a model lacks a module, or a run diverged.
        LayoutError: If a module is of none of the token kinds.
        OutputExistsError: If the output folder holds something else.
        StoreError: If it holds another curation, or another process is writing to it.
    """
    folder = Path(arguments.output_dir)
    UpdateStore.require_usable(folder)
    arguments, pins = _pin(arguments, folder)
    examples = {label: load_examples(source) for label, source in arguments.sources.items()}
    settings = {side: _settings(arguments, side) for side in SIDES}
    with _locked(folder):
        source_layout, target_layout = (
            initial_layout(
                folder,
                side,
                settings[side],
                seed=run_seed(arguments.seed, f"{side} init", 0),
                token_kinds=arguments.token_kinds,
            )
            for side in SIDES
        )
        plan = _plan(arguments, examples, settings) | {"pins": pins}
        store = UpdateStore.create(folder, plan=plan, source_layout=source_layout, target_layout=target_layout)
        for side in SIDES:
            publish_initial_adapter(folder, side)
        _perform_missing_runs(store, arguments, examples, settings)
        store.finish()
    num_runs = [len(store.shadow_sets(side)) for side in SIDES]
    logger.info(
        "curated %d source and %d target runs into %s; next: gradtx train --store %s", *num_runs, folder, folder
    )
    return store


def _pin(arguments: CurationArguments, folder: Path) -> tuple[CurationArguments, list[dict[str, str | None]]]:
    """Put commits in place of revisions: those that the folder's plan was made with, or else those of now.

    Returns:
        The arguments with commits, and what the plan is to say of them: repository, revision asked for, commit.
    """
    recorded = UpdateStore.resume(folder).plan.get("pins", []) if (folder / PLAN_FILE).is_file() else None
    commits: dict[tuple[str, str, str | None], str | None] = {
        (pin["type"], pin["name"], pin["revision"]): pin["commit"] for pin in recorded or ()
    }

    def commit_of(name: str, revision: str | None, repo_type: Literal["model", "dataset"]) -> str | None:
        if Path(local_name(name)).exists():
            return revision
        key = (repo_type, name, revision)
        if key not in commits:
            commits[key] = pin_revision(name, revision=revision, repo_type=repo_type)
        return commits[key]

    pinned = replace(
        arguments,
        source_revision=commit_of(arguments.source_model, arguments.source_revision, "model"),
        target_revision=commit_of(arguments.target_model, arguments.target_revision, "model"),
        corpora=[
            values if source.local_path else values | {"revision": commit_of(source.path, source.revision, "dataset")}
            for values, source in zip(arguments.corpora, arguments.sources.values(), strict=True)
        ],
    )
    pins = [{"type": t, "name": name, "revision": r, "commit": c} for (t, name, r), c in commits.items()]
    return pinned, pins if recorded is None else recorded


def _settings(arguments: CurationArguments, side: Side) -> SideSettings:
    return SideSettings(
        model=getattr(arguments, f"{side}_model"),
        revision=getattr(arguments, f"{side}_revision"),
        target_modules=tuple(getattr(arguments, f"{side}_target_modules")),
        rank=arguments.rank,
        alpha=arguments.alpha,
        dropout=arguments.dropout,
        recipe=FineTuningRecipe.from_dict(getattr(arguments, f"{side}_recipe")),
    )


def _plan(
    arguments: CurationArguments, examples: Mapping[str, Dataset], settings: Mapping[Side, SideSettings]
) -> dict[str, Any]:
    """Return all that determines the store's content: models, recipes, data and the rows of every shadow set."""
    mixture = cast("Mixture", arguments.mixture)
    shares = mixture_shares(
        mixture,
        num_corpora=len(examples),
        num_shadow_sets=arguments.num_shadow_sets,
        weights=arguments.mixture_weights or [1.0] * len(examples),
        dirichlet_alpha=arguments.dirichlet_alpha,
        seed=arguments.seed,
    )
    shadow_sets = plan_shadow_sets(
        [Corpus(label, len(rows)) for label, rows in examples.items()],
        num_shadow_sets=arguments.num_shadow_sets,
        samples_per_set=arguments.samples_per_set,
        shares=shares,
        seed=arguments.seed,
    )
    target_shadow_sets = choose_target_sets(
        arguments.num_target_runs,
        mixture=mixture,
        num_corpora=len(examples),
        num_shadow_sets=arguments.num_shadow_sets,
        seed=arguments.seed,
    )
    return {
        "num_shadow_sets": arguments.num_shadow_sets,
        "num_snapshots": arguments.num_snapshots,
        "pack": {"source": arguments.pack, "target": arguments.target_pack},
        "seed": arguments.seed,
        "token_kinds": arguments.token_kinds,
        **{side: settings[side].to_plan() for side in SIDES},
        "corpora": [describe_corpus(label, source, examples[label]) for label, source in arguments.sources.items()],
        "shadow_sets": shadow_sets,
        "target_shadow_sets": target_shadow_sets,
    }


def _perform_missing_runs(
    store: UpdateStore,
    arguments: CurationArguments,
    examples: Mapping[str, Dataset],
    settings: Mapping[Side, SideSettings],
) -> None:
    planned = {side: plan_packs(store.shadow_sets(side), pack=store.plan["pack"][side]) for side in SIDES}
    missing = {
        side: [sets for sets in packs if not all(store.has(side, k) for k in sets)] for side, packs in planned.items()
    }
    num_missing, num_planned = (
        sum(len(sets) for packs in each.values() for sets in packs) for each in (missing, planned)
    )
    logger.info("%d of %d runs are to be done in %s", num_missing, num_planned, store.folder)
    with tempfile.TemporaryDirectory(prefix="gradtx-") as scratch:
        packs: list[Pack] = []
        for side in SIDES:
            if missing[side]:
                tokens_folder = str(Path(scratch) / side)
                shared = SideRuns(str(store.folder), side, settings[side], tokens_folder, arguments.num_snapshots)
                packs += _prepare_packs(store.plan, missing[side], shared, examples)
        try:
            for _ in run_jobs(perform_pack, packs, num_workers=arguments.num_workers, description="curating packs"):
                pass
        except BrokenProcessPool as error:
            raise StoreError(
                f"a worker process of the curation of '{store.folder}' was ended from outside, perhaps for want of "
                "memory: lower num_workers, pack or target_pack. The same gradtx curate command continues."
            ) from error
        finally:
            release_models()


def _prepare_packs(
    plan: Mapping[str, Any], packs: Sequence[Sequence[int]], shared: SideRuns, examples: Mapping[str, Dataset]
) -> list[Pack]:
    """Tokenize the rows that the runs of a side read, save them, and return the packs of these runs.

    Args:
        plan: The store's plan.
        packs: The shadow sets of every pack.
        shared: What the runs share.
        examples: The corpora by label.
    """
    rows_of_set = {k: rows_of_shadow_set(plan, k) for sets in packs for k in sets}
    rows = sorted(set(chain.from_iterable(rows_of_set.values())))
    tokenizer = load_tokenizer(shared.settings.model, revision=shared.settings.revision)
    tokenized = tokenize_corpora(examples, tokenizer, max_length=shared.settings.recipe.max_length, rows=rows)
    with without_bars():
        tokenized.save_to_disk(shared.tokens_folder)
    place = {row: i for i, row in enumerate(rows)}

    def run(k: int) -> Run:
        return Run(k, tuple(place[row] for row in rows_of_set[k]), run_seed(plan["seed"], shared.side, k))

    return [Pack(shared, tuple(run(k) for k in sets)) for sets in packs]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder; the operating system lets go of it when the process ends, however it ends.

    A curation that is refused before its plan is written leaves nothing behind.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise StoreError(f"another process is curating into '{folder}'. Wait for it, or name a new folder.") from error
    try:
        yield
    finally:
        if not (folder / PLAN_FILE).is_file():
            discard_initial_adapters(folder)
            (folder / LOCK_FILE).unlink(missing_ok=True)
            if is_new:
                folder.rmdir()
        lock.release()
