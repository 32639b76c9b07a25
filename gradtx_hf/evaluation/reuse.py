"""Take over fine-tuned adapters of an earlier evaluation, where the very same fine-tuning would make them again.

So several translators can be compared on the same clients without fine-tuning these several times. What determines an
evaluation's fine-tuned adapters is noted in its evaluation.json (``fine_tuning_inputs``). Clients are matched by what
they are, not by their place; an adapter that the earlier evaluation lacks is fine-tuned here. Source: ours.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradtx_hf.errors import ConfigurationError, DataError, MissingFileError
from gradtx_hf.evaluation.arguments import ClientData
from gradtx_hf.evaluation.method_settings import PUBLIC_WEAK_METHODS, SOURCE_BEST, WEAK_METHODS, WEAK_MODEL
from gradtx_hf.evaluation.methods import CEILING
from gradtx_hf.finetuning import FineTuningRecipe
from gradtx_hf.lora import Adapter
from gradtx_hf.output import new_folder
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates.store import SIDES, UpdateStore


PUBLIC_ADAPTER = "public_finetune"
METHOD_FOLDERS = (SOURCE_BEST, WEAK_MODEL)
FREE_OF_TRANSLATORS = (*PUBLIC_WEAK_METHODS, *WEAK_METHODS, "distilled", "distilled_same")
"""Further methods whose adapters are the same whatever the translator."""
SOURCE = "source"
"""Folder of a client's own adapter; of several members, of what their adapters became."""


def source_names(num_members: int) -> list[str]:
    """Return the names of the folders of a client's own adapters: one, or one for each of several members."""
    return [SOURCE] if num_members == 1 else numbered("member", num_members)


def numbered(name: str, number: int) -> list[str]:
    """Return names of so many folders: the name itself for one, else each with its number."""
    return [name] if number == 1 else [f"{name}_{i}" for i in range(number)]


def fine_tuning_inputs(
    translator: PeftTranslator,
    store: UpdateStore,
    clients: Sequence[ClientData],
    *,
    recipes: Mapping[str, FineTuningRecipe],
    train_digests: Sequence[str],
    folders: Sequence[str],
    privacy: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return all that determines an evaluation's fine-tuned adapters, as JSON values.

    Args:
        translator: The translator, whose initial adapters all fine-tuning starts from.
        store: The store, whose public data the public fine-tune is of.
        clients: The clients.
        recipes: How ``source``, ``target`` and ``public`` adapters are fine-tuned.
        train_digests: The SHA-256 of each client's training rows.
        folders: Each client's folder, as seen from the evaluation's.
        privacy: ``PrivacySettings`` of the clients' runs, if they are private.
    """
    return {
        **{f"{side} model": store.plan[side].get("model_sha256") for side in SIDES},
        "source_init": sha256_of_adapter(translator.source_init),
        "target_init": sha256_of_adapter(translator.target_init),
        "public data": _sha256_of_public_data(store),
        "recipes": {name: recipe.to_dict() for name, recipe in recipes.items()},
        "client_privacy": None if privacy is None else dict(privacy),
        "clients": [
            {
                "task": client.task,
                "seed": client.seed,
                "train_sha256": digest,
                "folder": folder,
                "num_members": len(client.each),
            }
            for client, digest, folder in zip(clients, train_digests, folders, strict=True)
        ],
    }


def find_adapters(earlier: Path, inputs: Mapping[str, Any], *, config_file: str) -> dict[str, Path]:
    """Find the fine-tuned adapters that an earlier evaluation has and this one needs.

    Args:
        earlier: The earlier evaluation's folder; it is only read.
        inputs: This evaluation's ``fine_tuning_inputs``, and what determines the adapters of its further ``methods``.
        config_file: Name of the file in that folder that notes those of the earlier one, under ``fine_tuning``.

    Returns:
        Folder of an adapter, as seen from this evaluation's, to its folder in the earlier one.

    Raises:
        MissingFileError: If there is no evaluation.
        DataError: If it does not say what its adapters were made of.
        ConfigurationError: If its adapters are of another fine-tuning; the message names what differs.
    """
    before = _read_inputs(earlier, config_file)
    differing = _difference(before, inputs)
    if differing:
        raise ConfigurationError(
            f"the adapters of '{earlier}' (adapters_from) cannot be taken over: {differing}. Give an evaluation of the "
            "same clients, initial adapters, recipes and public data, or leave adapters_from out."
        )
    pairs = {PUBLIC_ADAPTER: earlier / PUBLIC_ADAPTER}
    for client in inputs["clients"]:
        same = [other for other in before["clients"] if _identity(other) == _identity(client)]
        names = (CEILING, *source_names(client["num_members"]))
        if inputs.get("methods") and inputs["methods"] == before.get("methods"):
            names += tuple(folder for n in METHOD_FOLDERS for folder in numbered(n, client["num_members"]))
            names += FREE_OF_TRANSLATORS
        for name in names if same else ():
            pairs[f"{client['folder']}/{name}"] = earlier / same[0]["folder"] / name
    return {to: origin for to, origin in pairs.items() if origin.is_dir()}


def copy_adapters(adapters: Mapping[str, Path], folder: Path) -> None:
    """Copy adapters into an evaluation's folder, each whole or not at all; those that are there are left."""
    for name, origin in adapters.items():
        if not (folder / name).is_dir():
            with new_folder(folder / name) as temporary:
                for file in origin.iterdir():
                    shutil.copyfile(file, temporary / file.name)


def sha256_of_adapter(adapter: Adapter) -> str:
    """Return the SHA-256 of all that fine-tuning from an adapter depends on: factors, scales, dropout, base model."""
    config = adapter.config
    values = [adapter.base_model, config.revision, config.lora_dropout, sorted(adapter.scales.items())]
    digest = hashlib.sha256(json.dumps(values).encode())
    for name, tensor in sorted(adapter.tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().double().numpy().tobytes())  # exact for every dtype of adapters
    return digest.hexdigest()


def _sha256_of_public_data(store: UpdateStore) -> str:
    """Return the SHA-256 of what tells which rows ``pooled_public_examples`` returns: corpora and rows of the plan."""
    chosen = [
        [corpus["sha256"], sorted({row for rows in store.plan["shadow_sets"] for row in rows.get(corpus["label"], ())})]
        for corpus in store.plan["corpora"]
    ]
    return hashlib.sha256(json.dumps([entry for entry in chosen if entry[1]]).encode()).hexdigest()


def _read_inputs(earlier: Path, config_file: str) -> dict[str, Any]:
    path = earlier / config_file
    if not path.is_file():
        raise MissingFileError(f"adapters_from '{earlier}' is no evaluation: it has no {config_file}. Check the path.")
    try:
        inputs: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["fine_tuning"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"'{path}' does not say what its adapters were made of: it is damaged, or of an earlier version. Leave "
            "adapters_from out, or run that evaluation again into a new folder."
        ) from error
    return inputs


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Name the first thing by which the earlier adapters are of another fine-tuning; None if they are of the same."""
    for name, value in now.items():
        if name not in ("recipes", "clients", "methods") and before.get(name) != value:
            return f"its {name} differs"
    for name, recipe in now["recipes"].items():
        for key, value in recipe.items():
            got = before["recipes"][name].get(key)
            if got != value:
                return f"got {key}={got} in its {name}_recipe, expected {value}"
    earlier = before["clients"]
    for client in now["clients"]:
        same = [other for other in earlier if (other["task"], other["seed"]) == (client["task"], client["seed"])]
        if same and _identity(client) not in map(_identity, same):
            return f"the training data of its client '{client['task']}' with seed {client['seed']} differ"
    return None


def _identity(client: Mapping[str, Any]) -> tuple[Any, ...]:
    return client["task"], client["seed"], client["train_sha256"], client.get("num_members", 1)
