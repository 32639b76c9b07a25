"""``evaluate``: fine-tune the clients, their ceilings and the public control, translate, score all, report.

The output folder holds, besides the report:

    evaluation.json    the arguments, the SHA-256 of the translators', the store's and local clients' files, and what
                       determines the fine-tuned adapters
    translator/        a copy of the translator, whose initial adapters all fine-tuning starts from
    public_finetune/   the adapter of the public control
    clients/           a folder per client with its adapters ``source``, ``ceiling``, ``translated``, and one by the
                       name of each rival and further method; of several members also ``member_0`` …, of which
                       ``source`` is made
    seconds.json       phase to seconds, added up over all runs of the command in this folder

So an interrupted evaluation goes on where it was, with the same arguments and inputs or not at all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradtx_hf.errors import OutputExistsError
from gradtx_hf.evaluation.arguments import HIGHER_IS_BETTER, ClientData, EvaluationArguments
from gradtx_hf.evaluation.client_scoring import score_clients
from gradtx_hf.evaluation.controls import State, num_target_runs, partners, target_states
from gradtx_hf.evaluation.fine_tuning import fine_tuning_jobs, perform_missing, recipes_of
from gradtx_hf.evaluation.further_methods import FurtherMethods
from gradtx_hf.evaluation.inputs import check_data, check_rivals, check_translator_and_store, input_digests
from gradtx_hf.evaluation.method_plan import plan_methods
from gradtx_hf.evaluation.methods import CEILING, TRANSLATED
from gradtx_hf.evaluation.report import Report
from gradtx_hf.evaluation.reuse import (
    PUBLIC_ADAPTER,
    SOURCE,
    copy_adapters,
    find_adapters,
    fine_tuning_inputs,
    source_names,
)
from gradtx_hf.evaluation.saving import save_report
from gradtx_hf.evaluation.seconds import read_seconds, timed
from gradtx_hf.finetuning import PrivacySettings
from gradtx_hf.finetuning.public_data import pooled_public_examples
from gradtx_hf.hub import resolve_folder
from gradtx_hf.lora import load_adapter
from gradtx_hf.output import require_new_folder, write_json
from gradtx_hf.translation import SOURCE_INIT, TARGET_INIT, PeftTranslator
from gradtx_hf.translation.aggregated import aggregate_adapters
from gradtx_hf.translation.reading import ReadingOptions
from gradtx_hf.updates.store import Side, UpdateStore


logger = logging.getLogger(__name__)

CONFIG_FILE = "evaluation.json"
CLIENTS_FOLDER = "clients"


def evaluate(arguments: EvaluationArguments, *, command: str = "") -> Report:
    """Score a translator's adapters beside every control and write report.json, report.md and report.png.

    The report's seconds are added up over all runs of the command in this folder: an interrupted and continued
    evaluation tells what it took, but for the phase in which a process was killed.

    Args:
        arguments: Whom to evaluate and how.
        command: The command line that makes this report, to be printed in it.

    Raises:
        GradTxError: If the translator, the store or the data cannot be used, or the folder holds something else,
            such as an evaluation of other inputs; the message names the first that has changed. Or if the adapters of
            ``adapters_from`` are of another fine-tuning.
    """
    translator = PeftTranslator.from_pretrained(arguments.translator)
    rivals = {name: PeftTranslator.from_pretrained(rival) for name, rival in arguments.rivals.items()}
    store = UpdateStore.open(arguments.store)
    clients = arguments.client_data()
    check_translator_and_store(translator, store)
    check_rivals(rivals, translator)
    train_digests = check_data(clients, metric=arguments.metric)
    folder = Path(arguments.output_dir)
    if not (folder / CONFIG_FILE).is_file():
        pooled_public_examples(store)  # to see that they are what they were
    plan = plan_methods(arguments, translator, store, clients)
    homes = [folder / CLIENTS_FOLDER / client_folder_name(i, client) for i, client in enumerate(clients)]
    recipes = recipes_of(arguments, store)
    inits: dict[Side, str] = {
        "source": str(folder / "translator" / SOURCE_INIT),
        "target": str(folder / "translator" / TARGET_INIT),
    }
    further = FurtherMethods(plan, arguments, clients, homes, inits, recipes)
    fine_tuning = fine_tuning_inputs(
        translator,
        store,
        clients,
        recipes=recipes,
        train_digests=train_digests,
        folders=[home.relative_to(folder).as_posix() for home in homes],
        privacy=arguments.client_privacy,
    ) | {"methods": further.training_inputs()}
    jobs = fine_tuning_jobs(
        clients,
        recipes,
        store=arguments.store,
        inits=inits,
        folder=folder,
        homes=homes,
        privacy=None if arguments.client_privacy is None else PrivacySettings.from_dict(arguments.client_privacy),
    )
    jobs += further.jobs()
    earlier: dict[str, Path] = {}
    if arguments.adapters_from is not None and not all(Path(job.output_dir).is_dir() for job in jobs):
        earlier = find_adapters(Path(arguments.adapters_from), fine_tuning, config_file=CONFIG_FILE)
    _claim(arguments, _digests(arguments, store), fine_tuning)
    with timed(folder, "fine_tuning"):
        if not (folder / "translator").is_dir():
            translator.save_pretrained(folder / "translator")
        copy_adapters(earlier, folder)
        perform_missing(jobs, most_at_once=arguments.pack, num_workers=arguments.num_workers)
    with timed(folder, "translation_and_controls"):
        own = [_own_states(client, home, translator, arguments) for client, home in zip(clients, homes, strict=True)]
        aligned = [_read(home / SOURCE, translator, arguments) for home in homes]
        states = _target_states({TRANSLATED: translator, **rivals}, store, aligned, clients=clients, homes=homes)
        _add_fine_tuned(states, folder, homes)
    failures = further.add_adapters(states, translator, store, aligned=aligned)
    with timed(folder, "scoring"):
        scored = score_clients(
            arguments,
            inits,
            clients=clients,
            states=states,
            source_states=further.source_states(own),
            proxies=further.proxies(),
        )
    report = Report.from_clients(
        scored,
        metric=arguments.metric,
        higher_is_better=HIGHER_IS_BETTER[arguments.metric],
        seconds=read_seconds(folder),
        config=asdict(arguments) | {"num_target_runs": num_target_runs(store)},
        command=command,
        not_run={**plan.not_run, **failures},
    )
    save_report(report, folder)
    logger.info("wrote %s", folder / "report.md")
    return report


def _add_fine_tuned(states: Sequence[dict[str, State]], folder: Path, homes: Sequence[Path]) -> None:
    """Add what was fine-tuned on public and on private data to each client's target adapters by method."""
    public = load_adapter(folder / PUBLIC_ADAPTER).tensors
    for home, methods in zip(homes, states, strict=True):
        methods |= {PUBLIC_ADAPTER: dict(public), CEILING: dict(load_adapter(home / CEILING).tensors)}


def client_folder_name(index: int, client: ClientData) -> str:
    """Return the name of a client's folder in the output: its index and task, in safe characters."""
    safe = "".join(character if character.isalnum() or character in "-_+" else "-" for character in client.task)
    return f"{index:03d}-{safe}"


def _digests(arguments: EvaluationArguments, store: UpdateStore) -> dict[str, str]:
    rivals = {name: resolve_folder(rival).path for name, rival in arguments.rivals.items()}
    return input_digests(resolve_folder(arguments.translator).path, store, arguments.client_data(), rivals=rivals)


def _claim(arguments: EvaluationArguments, inputs: Mapping[str, str], fine_tuning: Mapping[str, Any]) -> None:
    """Make the output folder ours, or go on in it if it holds this very evaluation of these very inputs."""
    folder = Path(arguments.output_dir)
    noted = {"arguments": asdict(arguments) | {"num_workers": None}, "inputs": inputs, "fine_tuning": fine_tuning}
    values = json.loads(json.dumps(noted))
    path = folder / CONFIG_FILE
    if path.is_file():
        difference = _first_difference(json.loads(path.read_text(encoding="utf-8")), values)
        if difference:
            raise OutputExistsError(
                f"'{folder}' holds another evaluation: {difference}. Put it back, name a new folder, or remove this "
                "one first."
            )
        return
    require_new_folder(folder).mkdir(parents=True, exist_ok=True)
    write_json(path, values)


def _first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Name the first argument or input that is not what it was."""
    for part in ("arguments", "inputs"):
        old, new = before.get(part, {}), now[part]
        for name in (*new, *old):
            if old.get(name) != new.get(name):
                return f"{name} has changed"
    return None


def _target_states(
    translators: Mapping[str, PeftTranslator],
    store: UpdateStore,
    aligned: Sequence[State],
    *,
    clients: Sequence[ClientData],
    homes: Sequence[Path],
) -> list[dict[str, State]]:
    """Return each client's target adapters by method: of every translator, and of the controls that the store gives."""
    translated = {
        name: [_translated(translator, home, client, name=name) for home, client in zip(homes, clients, strict=True)]
        for name, translator in translators.items()
    }
    states = target_states(
        {"source": translators[TRANSLATED].source_init, "target": translators[TRANSLATED].target_init},
        store,
        aligned,
        translated=translated[TRANSLATED],
        shuffled=partners([client.task for client in clients], [client.seen for client in clients]),
    )
    return [methods | {name: made[i] for name, made in translated.items()} for i, methods in enumerate(states)]


def _own_states(
    client: ClientData, home: Path, translator: PeftTranslator, arguments: EvaluationArguments
) -> list[State]:
    """Return a client's adapter, or those of its members, of which one is made if it is not there."""
    folders: list[str | Path] = [home / name for name in source_names(len(client.each))]
    if client.members and not (home / SOURCE).is_dir():
        accepted = ReadingOptions(allow_other_start=arguments.allow_other_start, allow_other_base=True)
        aggregate_adapters(
            folders, translator.start, aggregation=arguments.aggregation, options=accepted
        ).save_pretrained(home / SOURCE)
    return [_read(folder, translator, arguments) for folder in folders]


def _read(folder: str | Path, translator: PeftTranslator, arguments: EvaluationArguments) -> State:
    """Return a source adapter's factors, aligned to where the translator's clients start."""
    source = translator.read(load_adapter(folder), allow_other_start=arguments.allow_other_start, allow_other_base=True)
    return dict(source.alignment.state)


def _translated(translator: PeftTranslator, home: Path, client: ClientData, *, name: str) -> State:
    """Return what is in a client's folder of a translator, which is written if it is not there: what is scored."""
    if not (home / name).is_dir():
        adapter = load_adapter(home / SOURCE, name=f"{client.task}, seed {client.seed}")
        translated = translator.translate(adapter, allow_other_start=True, allow_other_base=True)
        translated.save_pretrained(home / name)
    return dict(load_adapter(home / name).tensors)
