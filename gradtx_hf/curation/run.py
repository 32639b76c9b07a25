"""``curate``: public data and two models to a store of update pairs, resumable, in one or several processes.

Every run depends on (seed, side, shadow set), its data and the runs of its pack alone, and packs on the plan; so any
number of workers, in any order, with any interruption, ends with the same bytes. A pack goes on from its last
checkpoint; where a shard of a finished one is missing, it is done again as a whole.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from datasets import Dataset

from gradtx_hf.curation.arguments import CurationArguments
from gradtx_hf.curation.initial import (
    SideSettings,
    discard_initial_adapters,
    initial_layout,
    publish_initial_adapter,
)
from gradtx_hf.curation.packing import choose_packs
from gradtx_hf.curation.shadow_sets import (
    Corpus,
    Mixture,
    choose_target_sets,
    mixture_shares,
    plan_shadow_sets,
    run_seed,
)
from gradtx_hf.curation.share import LOCK_FILE, Share, hold_store
from gradtx_hf.curation.units import missing_packs
from gradtx_hf.curation.worker import WORK_FOLDER, Pack, perform_pack, release_models
from gradtx_hf.errors import StoreError
from gradtx_hf.finetuning import FineTuningRecipe, load_examples
from gradtx_hf.finetuning.pool import run_jobs
from gradtx_hf.finetuning.public_data import describe_corpus
from gradtx_hf.finetuning.worker_processes import begin_imports
from gradtx_hf.hub import pin_revision
from gradtx_hf.playground import local_name
from gradtx_hf.updates.plan import DTYPE_KEY
from gradtx_hf.updates.store import PLAN_FILE, SIDES, Side, UpdateStore


logger = logging.getLogger(__name__)


def curate(arguments: CurationArguments) -> UpdateStore:
    """Fine-tune the source on every shadow set, the target on some or all, and store the updates.

    All runs of a side start from one initial adapter; there is one of the target also where it has no runs.
    Models and data sets of the Hub are those of the commits of the curation's first start, also when it is continued
    after they have moved on.

    Args:
        arguments: What to do; an ``output_dir`` that holds the same curation unfinished is continued.

    Returns:
        The complete store; beside it in its folder, ``source_init`` and ``target_init``, both PEFT adapters. With
        ``plan_only`` or ``share`` the store as far as it goes.

    Raises:
        MissingFileError: If a model or a data set is not there.
        DataError: If data lack a column, are empty, or too few.
        ConfigurationError: If a model lacks a module, or a run diverged.
        LayoutError: If a module is of none of the token kinds.
        OutputExistsError: If the output folder holds something else.
        StoreError: If it holds another curation, another process is writing to it, or it lacks the plan of a share.
        MissingExtraError: If it is to be done on Ray, which is not installed.
    """
    folder = Path(arguments.output_dir)
    share = None if arguments.share is None else Share.parse(arguments.share)
    if arguments.farm == "ray":
        import gradtx_hf.curation.farm  # noqa: F401 - an extra; refused now if it is missing
    UpdateStore.require_usable(folder)
    if arguments.num_workers > 1 and arguments.farm is None and not arguments.plan_only:
        begin_imports()
    if share is not None and not (folder / PLAN_FILE).is_file():
        raise StoreError(
            f"'{folder}' has no plan to take a share of. Make it first: the same gradtx curate command with plan_only: "
            "true in place of share."
        )
    arguments, pins = _pin(arguments, folder)
    examples = {label: load_examples(source) for label, source in arguments.sources.items()}
    settings = {side: _settings(arguments, side) for side in SIDES}
    with _held(folder, share):
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
        plan |= choose_packs(plan, arguments, examples, settings)
        store = UpdateStore.create(folder, plan=plan, source_layout=source_layout, target_layout=target_layout)
        for side in SIDES:
            publish_initial_adapter(folder, side)
        if arguments.plan_only:
            logger.info("wrote the plan of %s", folder)
            return store
        _perform_missing_packs(store, arguments, examples, settings, share=share)
        if share is not None:
            logger.info("did share %s of %s", share, folder)
            return store
        shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)  # of packs that were killed when all was written
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
        "seed": arguments.seed,
        "token_kinds": arguments.token_kinds,
        # named only where it is not float32: plans of before go on
        **({} if arguments.store_dtype == "float32" else {DTYPE_KEY: arguments.store_dtype}),
        **{side: settings[side].to_plan() for side in SIDES},
        "corpora": [describe_corpus(label, source, examples[label]) for label, source in arguments.sources.items()],
        "shadow_sets": shadow_sets,
        "target_shadow_sets": target_shadow_sets,
    }


def _perform_missing_packs(
    store: UpdateStore,
    arguments: CurationArguments,
    examples: Mapping[str, Dataset],
    settings: Mapping[Side, SideSettings],
    *,
    share: Share | None,
) -> None:
    with tempfile.TemporaryDirectory(prefix="gradtx-") as scratch:
        packs = missing_packs(
            store, settings, examples, scratch=Path(scratch), checkpoint_seconds=arguments.checkpoint_seconds
        )
        if share is not None:
            first = {"source": 0, "target": len(store.plan["units"]["source"])}  # places in the whole plan
            packs = [pack for pack in packs if share.takes(first[pack.shared.side] + pack.number)]
        num_missing, num_planned = sum(len(pack.runs) for pack in packs), sum(len(store.shadow_sets(s)) for s in SIDES)
        logger.info("%d of %d runs are to be done in %s", num_missing, num_planned, store.folder)
        _perform(packs, store, arguments)


def _perform(packs: Sequence[Pack], store: UpdateStore, arguments: CurationArguments) -> None:
    if arguments.farm == "ray":
        from gradtx_hf.curation import farm  # an extra

        farm.perform_on_ray(packs, store, address=arguments.ray_address)
        return
    is_alone = arguments.num_workers == 1 or len(packs) == 1
    function = partial(perform_pack, show_progress=is_alone)
    try:
        for _ in run_jobs(function, packs, num_workers=arguments.num_workers, description="curating packs"):
            pass
    except BrokenProcessPool as error:
        raise StoreError(
            f"a worker process of the curation of '{store.folder}' was ended from outside, perhaps for want of "
            "memory: lower num_workers, pack or target_pack. The same gradtx curate command continues."
        ) from error
    finally:
        release_models()


@contextmanager
def _held(folder: Path, share: Share | None) -> Iterator[None]:
    """Hold the folder; a curation that is refused before its plan is written leaves nothing behind."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with hold_store(folder, share):
        try:
            yield
        finally:
            if not (folder / PLAN_FILE).is_file():
                discard_initial_adapters(folder)
                (folder / LOCK_FILE).unlink(missing_ok=True)
                if is_new:
                    folder.rmdir()
