"""Publish a translator when its training has ended, and write down what it was trained on."""

from __future__ import annotations

from typing import Any

from transformers import TrainingArguments

from gradtx_hf.errors import ConfigurationError, HubError
from gradtx_hf.finetuning import DataSource
from gradtx_hf.hub import Destination, Published, require_publishable
from gradtx_hf.hub.cards import is_public_name
from gradtx_hf.translation import TRANSLATOR, PeftTranslator
from gradtx_hf.updates.store import UpdateStore


SIDE_KEYS = ("model", "revision", "model_sha256", "target_modules", "rank", "alpha", "dropout", "recipe")
DATA_KEYS = ("name", "split", "revision", "num_rows", "sha256")


def destination_of(arguments: TrainingArguments) -> Destination | None:
    """Return where the arguments ask to publish: Trainer's own fields; None if they do not.

    A new repository is private unless ``hub_private_repo`` says false.

    Raises:
        ConfigurationError: If they name no repository.
    """
    if not arguments.push_to_hub:
        return None
    if not arguments.hub_model_id:
        raise ConfigurationError(
            "got push_to_hub=True without hub_model_id. Give the repository, such as hub_model_id: org/translator."
        )
    return Destination(
        arguments.hub_model_id,
        private=arguments.hub_private_repo is not False,
        revision=arguments.hub_revision,
        token=arguments.hub_token,
    )


def require_place(destination: Destination, base_models: tuple[str, str]) -> None:
    """Check before the training that its translator can be published.

    Raises:
        ConfigurationError: If a base model is a local folder, which nobody else can find.
        HubError: If the repository is something else, or cannot be reached.
    """
    for name in base_models:
        if not is_public_name(name):
            raise ConfigurationError(
                f"the store was curated with the model in the folder '{name}', which nobody else can find. Leave "
                "push_to_hub out, and publish with gradtx push FOLDER REPO --source-model ID --target-model ID."
            )
    require_publishable(destination, kind=TRANSLATOR)


def publish_trained(translator: PeftTranslator, destination: Destination) -> Published:
    """Publish a finished translator.

    Raises:
        HubError: If it cannot be published; it says where the translator is.
    """
    try:
        return translator.push_to_hub(
            destination.repo_id,
            private=destination.private,
            revision=destination.revision,
            token=destination.token,
        )
    except HubError as error:
        raise HubError(
            f"{error} The translator is in '{translator.name}': gradtx push {translator.name} {destination.repo_id}"
        ) from error


def describe_store(store: UpdateStore) -> dict[str, Any]:
    """Return what a translator's training.json says of its store: models, recipes and data, without local paths."""
    plan = store.plan
    described: dict[str, Any] = {
        "num_shadow_sets": store.num_shadow_sets,
        "num_snapshots": plan.get("num_snapshots"),
        "seed": plan.get("seed"),
    }
    for side in ("source", "target"):
        values = plan.get(side)
        if isinstance(values, dict):
            described[side] = {key: values.get(key) for key in SIDE_KEYS}
    described["data"] = [_describe_corpus(corpus) for corpus in plan.get("corpora", [])]
    return described


def _describe_corpus(corpus: dict[str, Any]) -> dict[str, Any]:
    path = DataSource(str(corpus["path"])).local_path
    place = {"is_local": path is not None, "path": corpus["path"] if path is None else path.name}
    label = corpus["label"] if corpus["label"] != corpus["path"] else place["path"]
    return {"label": label} | place | {key: corpus.get(key) for key in DATA_KEYS}
