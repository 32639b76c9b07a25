"""Further methods of an evaluation: what they are fine-tuned from, their adapters, and who decodes without one.

A client's folder holds, besides those of every evaluation, an adapter by the name of each method that has one,
``source_best`` and ``weak_model``; of several members ``source_best_0`` … and ``weak_model_0`` …, each labelling its
own rows. A method that fails on a client is left out there, with the reason in the report. Source: ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradtx_hf.evaluation.arguments import ClientData, EvaluationArguments
from gradtx_hf.evaluation.controls import State
from gradtx_hf.evaluation.fine_tuning import FineTuningJob
from gradtx_hf.evaluation.method_adapters import (
    public_prompts,
    states_without_training,
    write_adapter,
)
from gradtx_hf.evaluation.method_plan import MethodPlan
from gradtx_hf.evaluation.method_settings import (
    CROSS_LORA,
    LOW_RANK_MAP,
    PROXIES,
    SOURCE_BEST,
    STARTS,
    TRAINED,
    WEAK_METHODS,
    WEAK_MODEL,
)
from gradtx_hf.evaluation.method_training import MethodJob, train_methods
from gradtx_hf.evaluation.methods import SOURCE_CLIENT
from gradtx_hf.evaluation.reuse import SOURCE, numbered
from gradtx_hf.evaluation.seconds import timed
from gradtx_hf.finetuning import FineTuningRecipe, PrivacySettings
from gradtx_hf.finetuning.encoding import Prompt
from gradtx_hf.finetuning.pool import run_jobs
from gradtx_hf.finetuning.public_data import pooled_public_examples
from gradtx_hf.finetuning.samples import Half
from gradtx_hf.lora import Adapter, load_adapter
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.translation.aggregated import aggregate_adapters
from gradtx_hf.translation.reading import ReadingOptions
from gradtx_hf.updates.store import Side, UpdateStore


@dataclass(frozen=True)
class FurtherMethods:
    """The further methods of an evaluation.

    Attributes:
        plan: Which can be run.
        arguments: How they are trained.
        clients: The clients.
        homes: Their folders.
        inits: Folders of the initial adapters.
        recipes: Those of ``source`` and ``target``, for methods whose settings name none.
    """

    plan: MethodPlan
    arguments: EvaluationArguments
    clients: Sequence[ClientData]
    homes: Sequence[Path]
    inits: Mapping[Side, str]
    recipes: Mapping[str, FineTuningRecipe]

    def jobs(self) -> list[FineTuningJob]:
        """Return the source adapters that they need besides the clients' own, also those that are there already."""
        privacy = self.arguments.client_privacy
        recipe = self.arguments.further_settings.recipe("best_recipe", self.recipes["source"])
        wanted: list[tuple[str, Half | None]] = [(SOURCE_BEST, None)] if self._has_best else []
        wanted += [(WEAK_MODEL, "first")] if self.plan.wants_weak else []
        return [
            FineTuningJob(
                self.inits["source"],
                member.train,
                self.arguments.store,
                recipe,
                member.seed,
                str(home / folder),
                None if privacy is None else PrivacySettings.from_dict(privacy),
                half,
            )
            for client, home in zip(self.clients, self.homes, strict=True)
            for name, half in wanted
            for member, folder in zip(client.each, numbered(name, len(client.each)), strict=True)
        ]

    def training_inputs(self) -> dict[str, Any] | None:
        """Return what determines the adapters that no translator changes, besides the clients; None without methods."""
        arguments, settings = self.arguments, self.arguments.further_settings
        if not self.plan.runnable:
            return None
        defaults = {"best_recipe": "source", "weak_recipe": "target", "refinement_recipe": "target"}
        recipes = {name: settings.recipe(name, self.recipes[side]).to_dict() for name, side in defaults.items()}
        read = {name: getattr(arguments, name) for name in ("max_new_tokens", "max_prompt_tokens", "batch_size")}
        values = {**asdict(settings), **recipes, **read, "has_best": self._has_best}
        return dict(json.loads(json.dumps(values)))

    def add_adapters(
        self,
        states: Sequence[dict[str, State]],
        translator: PeftTranslator,
        store: UpdateStore,
        *,
        aligned: Sequence[State],
    ) -> dict[str, str]:
        """Make the adapters that are not there, and add each client's to its target adapters by method.

        Args:
            states: Each client's target adapters by method: translated, and the controls that methods start from.
            translator: The translator, whose initial adapters they start from.
            store: The store.
            aligned: The clients' source factors, aligned to the initial adapter.

        Returns:
            Method that failed on some client to how often, and why it first did.
        """
        if not self.plan.runnable:
            return {}
        untrained = [name for name in (LOW_RANK_MAP, CROSS_LORA) if name in self.plan.runnable]
        trained = [name for name in self.plan.runnable if name in TRAINED]
        with timed(Path(self.arguments.output_dir), "further_methods"):
            self._aggregate_best(translator)
            self._make_untrained(untrained, translator, store, aligned)
            failures = self._train(trained, states, store)
        for home, found in zip(self.homes, states, strict=True):
            there = [name for name in (*untrained, *trained) if (home / name).is_dir()]
            found |= {name: dict(load_adapter(home / name).tensors) for name in there}
        return failures

    def _make_untrained(
        self, names: Sequence[str], translator: PeftTranslator, store: UpdateStore, aligned: Sequence[State]
    ) -> None:
        """Write the adapters of methods that train nothing, where they are not there."""
        if all((home / name).is_dir() for home in self.homes for name in names):
            return
        inits: dict[Side, Adapter] = {"source": translator.source_init, "target": translator.target_init}
        made = states_without_training(
            names,
            inits,
            store,
            source_states=aligned,
            adapters=[load_adapter(self._teachers(home)[SOURCE_BEST]) for home in self.homes],
            basis_rank=self.arguments.further_settings.basis_rank,
        )
        for home, found in zip(self.homes, made, strict=True):
            for name, state in found.items():
                write_adapter(home / name, state, inits["target"])

    def _train(
        self, trained: Sequence[str], states: Sequence[Mapping[str, State]], store: UpdateStore
    ) -> dict[str, str]:
        """Train the methods that fine-tune the target, and return those that failed on some client, with the reason."""
        prompts = self._public_prompts(store, trained)
        jobs = [self._job(i, trained, states[i], prompts[i]) for i in range(len(self.clients))]
        jobs = [job for job in jobs if job.methods]
        failures: dict[str, list[str]] = {}
        for _, failed in run_jobs(
            train_methods, jobs, num_workers=self.arguments.num_workers, description="further methods"
        ):
            for name, why in failed.items():
                failures.setdefault(name, []).append(why)
        return {
            name: f"it failed on {len(whys)} of {len(self.homes)} clients: {whys[0]}" for name, whys in failures.items()
        }

    def proxies(self) -> list[dict[str, str]]:
        """Return each client's methods without an adapter, to the folder of the source's that they decode with."""
        names = [name for name in PROXIES if name in self.plan.runnable]
        return [{name: str(self._teachers(home)[PROXIES[name]]) for name in names} for home in self.homes]

    def source_states(self, own: Sequence[Sequence[State]]) -> list[list[dict[str, State]]]:
        """Return the source adapters by method of each client's members.

        Args:
            own: The members' own adapters.
        """
        found = [[{SOURCE_CLIENT: state} for state in members] for members in own]
        if SOURCE_BEST in self.plan.runnable:
            for members, home in zip(found, self.homes, strict=True):
                for states, name in zip(members, numbered(SOURCE_BEST, len(members)), strict=True):
                    states[SOURCE_BEST] = dict(load_adapter(home / name).tensors)
        return found

    @property
    def _has_best(self) -> bool:
        return self.plan.wants_best and self.arguments.further_settings.best_recipe is not None

    def _teachers(self, home: Path) -> dict[str, Path]:
        return {SOURCE_CLIENT: home / SOURCE, SOURCE_BEST: home / (SOURCE_BEST if self._has_best else SOURCE)}

    def _aggregate_best(self, translator: PeftTranslator) -> None:
        """Make one of several members' best adapters, as of those that are translated."""
        accepted = ReadingOptions(allow_other_start=True, allow_other_base=True)
        for client, home in zip(self.clients, self.homes, strict=True):
            if self._has_best and client.members and not (home / SOURCE_BEST).is_dir():
                folders: list[str | Path] = [home / name for name in numbered(SOURCE_BEST, len(client.each))]
                aggregate_adapters(
                    folders, translator.start, aggregation=self.arguments.aggregation, options=accepted
                ).save_pretrained(home / SOURCE_BEST)

    def _public_prompts(self, store: UpdateStore, trained: Sequence[str]) -> list[tuple[Prompt, ...]]:
        """Return the public inputs of each client; none where no method reads any."""
        if all(name in WEAK_METHODS for name in trained):
            return [() for _ in self.clients]
        examples, number = pooled_public_examples(store), self.arguments.further_settings.num_public_prompts
        return [tuple(public_prompts(examples, number, seed=client.seed)) for client in self.clients]

    def _job(
        self, index: int, trained: Sequence[str], states: Mapping[str, State], prompts: tuple[Prompt, ...]
    ) -> MethodJob:
        client, home = self.clients[index], self.homes[index]
        missing = tuple(name for name in trained if not (home / name).is_dir())
        folders = numbered(WEAK_MODEL, len(client.each))
        return MethodJob(
            methods=missing,
            home=home,
            inits=self.inits,
            teachers=self._teachers(home),
            weak=tuple((home / f, member.train, member.seed) for f, member in zip(folders, client.each, strict=True)),
            starts={name: states[start] for name, (_, start) in STARTS.items() if name in missing},
            prompts=prompts,
            arguments=self.arguments,
            default=self.recipes["target"],
            seed=client.seed,
        )
