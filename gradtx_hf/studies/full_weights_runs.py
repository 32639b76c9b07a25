"""What the study ``full_weights`` makes: a store of full-weight updates, the clients' updates, a translator.

A seed's folder holds, beside its ``data``:

    store/                 update pairs, as ``curate`` writes them, but of weights and without initial adapters
    source/, ceiling/      the clients' updates, one safetensors file each, and ``public.safetensors``
    translator/            the translator's model

What is there is not made again. Source: ours.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gradtx_hf.curation.recorder import SnapshotRecorder
from gradtx_hf.curation.shadow_sets import Corpus, choose_target_sets, mixture_shares, plan_shadow_sets, run_seed
from gradtx_hf.evaluation.arguments import ClientData
from gradtx_hf.finetuning import (
    FineTuningRecipe,
    PackedResult,
    PackedRun,
    fine_tune_pack,
    load_examples,
    load_language_model,
    load_samples,
    tokenize_examples,
)
from gradtx_hf.finetuning.public_data import (
    describe_corpus,
    pooled_public_examples,
    public_examples,
    rows_of_shadow_set,
    tokenize_corpora,
)
from gradtx_hf.lora.full_weights import WeightStart, save_weights, weight_start
from gradtx_hf.model import GradTransformerModel
from gradtx_hf.output import new_folder
from gradtx_hf.playground.recipes import source_recipe, target_recipe
from gradtx_hf.studies.ablations import FUNCTIONAL
from gradtx_hf.studies.cells import Clients, World
from gradtx_hf.studies.client_lines import client_values
from gradtx_hf.studies.models import EMBEDDED
from gradtx_hf.studies.world import Place, curation_arguments
from gradtx_hf.training import GradTransformerTrainingArguments
from gradtx_hf.training.functional import FunctionalObjective
from gradtx_hf.training.target import FunctionalTarget, shadow_texts
from gradtx_hf.training.train import train_translator
from gradtx_hf.updates import BlockLayout
from gradtx_hf.updates.store import MANIFEST_FILE, SIDES, Side, UpdateStore


MAX_LENGTH = 32
NUM_STEPS = 300
"""Optimizer steps of a translator that take about a minute on one core: its tokens are 24 times as long as LoRA's."""
T = TypeVar("T")


def _world() -> World:
    """Return the embedded pair, with the learning rates of weights in the place of those of factors."""
    return World(
        runs_per_rule=1,
        source_recipe={**source_recipe(), "learning_rate": 1e-3},
        target_recipe={**target_recipe(), "learning_rate": 1e-3},
    )


def _clients() -> Clients:
    return Clients(num_seen=4, num_unseen=8, num_ceiling_steps=120, num_public_steps=240)


@dataclass(frozen=True)
class FullWeightSettings:
    """All numbers of the study but the seeds.

    Attributes:
        world: The models, the modules whose weights are fine-tuned, the shadow sets, the recipes.
        clients: The clients.
        training: Arguments of the translator's training, by field of ``GradTransformerTrainingArguments``.
        ranks: Ranks of the LoRA adapters that translated updates are also scored as.
        packs: Most runs of a side that are fine-tuned at once.
    """

    world: World = field(default_factory=_world)
    clients: Clients = field(default_factory=_clients)
    training: Mapping[str, Any] = field(default_factory=lambda: {**FUNCTIONAL, "max_steps": NUM_STEPS})
    ranks: tuple[int, ...] = (2, 8, 32)
    packs: Mapping[Side, int] = field(default_factory=lambda: {"source": 16, "target": 6})


@dataclass(frozen=True, eq=False)
class SideModel:
    """One side's language model.

    Attributes:
        name: Its folder.
        model: The model.
        tokenizer: Its tokenizer.
        start: Where its updates begin.
        layout: What stands where in their tokens.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    start: WeightStart
    layout: BlockLayout


@dataclass(frozen=True)
class SeedRun:
    """One seed of the study."""

    settings: FullWeightSettings
    place: Place

    @cached_property
    def sides(self) -> dict[Side, SideModel]:
        """Both sides' models."""
        world = self.settings.world
        names = {"source": (world.source, world.source_modules), "target": (world.target, world.target_modules)}
        return {side: _load_side(str(EMBEDDED[names[side][0]]()), names[side][1]) for side in SIDES}

    @cached_property
    def clients(self) -> list[ClientData]:
        """The clients, their lines written."""
        return [ClientData.from_dict(values) for values in client_values(self.settings.clients, self.place)]

    @cached_property
    def recipes(self) -> dict[Side, FineTuningRecipe]:
        """How shadow runs and source clients train; ceilings and the public fine-tune take more steps."""
        world = self.settings.world
        recipes = {"source": world.source_recipe, "target": world.target_recipe}
        return {side: FineTuningRecipe.from_dict(recipes[side]) for side in SIDES}

    def curate(self) -> UpdateStore:
        """Fine-tune the weights on every shadow set, those of the target on some, and return the complete store."""
        folder, world = self.place.home / "store", self.settings.world
        if (folder / MANIFEST_FILE).is_file():
            return UpdateStore.open(folder)
        store = UpdateStore.create(
            folder,
            plan=_plan(world, self.place),
            source_layout=self.sides["source"].layout,
            target_layout=self.sides["target"].layout,
        )
        corpora = public_examples(store)
        for side in SIDES:
            own = self.sides[side]
            tokens = tokenize_corpora(corpora, own.tokenizer, max_length=self.recipes[side].max_length)
            missing = [k for k in store.shadow_sets(side) if not store.has(side, k)]
            for chosen in _batched(missing, self.settings.packs[side]):
                recorder = SnapshotRecorder(
                    own.start.tensors, own.layout, num_snapshots=world.num_snapshots, folder=self.place.home / "work"
                )
                runs = [
                    _run(own, tokens.select(rows_of_shadow_set(store.plan, k)), run_seed(self.place.seed, side, k))
                    for k in chosen
                ]
                results = _fine_tune(own, runs, self.recipes[side], recorder=recorder)
                for position, (k, result) in enumerate(zip(chosen, results, strict=True)):
                    store.write(side, k, recorder.updates(position), asdict(result.summary))
        shutil.rmtree(self.place.home / "work", ignore_errors=True)
        store.finish()
        return store

    def fine_tune(self, store: UpdateStore) -> None:
        """Fine-tune the weights of every client's source and ceiling, and the public control's, where not yet done."""
        clients, recipes = self.settings.clients, self.recipes
        source, target = self.sides["source"], self.sides["target"]
        own = [load_samples(client.train, seed=client.seed) for client in self.clients]
        ceiling = replace(recipes["target"], num_steps=clients.num_ceiling_steps)
        public = replace(recipes["target"], num_steps=clients.num_public_steps)
        files = [[self.update_file(kind, i) for i in range(len(own))] for kind in ("source", "ceiling")]
        self._fine_tune_missing(source, files[0], own, recipes["source"], self.settings.packs["source"])
        self._fine_tune_missing(target, files[1], own, ceiling, self.settings.packs["target"])
        self._fine_tune_missing(target, [self.public_file], [pooled_public_examples(store)], public, 1)

    def train(self, store: UpdateStore) -> GradTransformerModel:
        """Train the translator, or load it where it is there."""
        folder = self.place.home / "translator"
        if not folder.is_dir():
            arguments = GradTransformerTrainingArguments(
                output_dir=str(self.place.home / "work"),
                seed=self.place.seed,
                validation_share=0.0,
                eval_strategy="no",
                save_strategy="no",
                use_cpu=True,
                disable_tqdm=True,
                **self.settings.training,
            )
            trained = train_translator(store, arguments, target=self._functional_target(store))
            shutil.rmtree(self.place.home / "work", ignore_errors=True)
            with new_folder(folder) as temporary:
                trained.model.save_pretrained(temporary)
        return GradTransformerModel.from_pretrained(folder)

    def update_file(self, kind: str, client: int) -> Path:
        """Return the file of a client's update."""
        return self.place.home / kind / f"{client:02d}-{self.clients[client].task}.safetensors"

    @property
    def public_file(self) -> Path:
        """The file of the public control's update."""
        return self.place.home / "public.safetensors"

    def _fine_tune_missing(
        self, side: SideModel, files: Sequence[Path], data: Sequence[Dataset], recipe: FineTuningRecipe, size: int
    ) -> None:
        missing = [(file, examples) for file, examples in zip(files, data, strict=True) if not file.is_file()]
        for chosen in _batched(missing, size):
            runs = [
                _run(
                    side,
                    tokenize_examples(examples, side.tokenizer, max_length=recipe.max_length),
                    run_seed(self.place.seed, file.parent.name, files.index(file)),
                )
                for file, examples in chosen
            ]
            for (file, _), result in zip(chosen, _fine_tune(side, runs, recipe), strict=True):
                file.parent.mkdir(parents=True, exist_ok=True)
                save_weights(file, result.tensors)

    def _functional_target(self, store: UpdateStore) -> FunctionalTarget:
        target = self.sides["target"]
        max_length = self.recipes["target"].max_length
        texts = shadow_texts(store, public_examples(store), target.tokenizer, max_length=max_length)
        return FunctionalTarget(FunctionalObjective(target.model, target.start, target.layout), texts)


def _load_side(name: str, modules: Sequence[str]) -> SideModel:
    model, tokenizer = load_language_model(name, max_length=MAX_LENGTH)
    start = weight_start(model, modules)
    layout = BlockLayout.from_shapes({tensor: tuple(zeros.shape) for tensor, zeros in start.tensors.items()})
    return SideModel(name, model, tokenizer, start, layout)


def _plan(world: World, place: Place) -> dict[str, Any]:
    """Return a store's plan: the shadow sets that ``curate`` would draw, of weights."""
    arguments = curation_arguments(world, place, num_workers=1)
    examples = {label: load_examples(source) for label, source in arguments.sources.items()}
    num_sets, seed = world.num_shadow_sets, place.seed
    shares = mixture_shares(
        "single",
        num_corpora=len(examples),
        num_shadow_sets=num_sets,
        weights=None,
        dirichlet_alpha=1.0,
        seed=seed,
    )
    return {
        "num_shadow_sets": num_sets,
        "num_snapshots": world.num_snapshots,
        "seed": seed,
        "updates": "weights",
        "source": {"model": world.source, "recipe": dict(world.source_recipe)},
        "target": {"model": world.target, "recipe": dict(world.target_recipe)},
        "corpora": [describe_corpus(label, source, examples[label]) for label, source in arguments.sources.items()],
        "shadow_sets": plan_shadow_sets(
            [Corpus(label, len(rows)) for label, rows in examples.items()],
            num_shadow_sets=num_sets,
            samples_per_set=world.samples_per_set,
            shares=shares,
            seed=seed,
        ),
        "target_shadow_sets": choose_target_sets(
            world.num_target_runs, mixture="single", num_corpora=len(examples), num_shadow_sets=num_sets, seed=seed
        ),
    }


def _run(side: SideModel, tokens: Dataset, seed: int) -> PackedRun:
    return PackedRun(f"run of {side.name}", side.start.tensors, tokens, seed)


def _fine_tune(
    side: SideModel, runs: Sequence[PackedRun], recipe: FineTuningRecipe, *, recorder: SnapshotRecorder | None = None
) -> list[PackedResult]:
    return fine_tune_pack(
        side.model, runs, tokenizer=side.tokenizer, recipe=recipe, scales=side.start.scales, recorder=recorder
    )


def _batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
