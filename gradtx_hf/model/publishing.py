"""Publish a Gradient Transformer alone: weights, configuration and our card, where transformers would write its own."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from transformers import PreTrainedModel

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.hub import Card, Destination, Published, RepoKind, publish
from gradtx_hf.hub.cards import (
    LIBRARY,
    ModelReference,
    installed_versions,
    is_public_name,
    license_metadata,
    versions_text,
)
from gradtx_hf.hub.markdown import code, markdown_table, plain, render_template
from gradtx_hf.hub.readme import PROVENANCE_KEY
from gradtx_hf.model.configuration import GradTransformerConfig
from gradtx_hf.updates import BlockLayout


MODEL_TAG = "gradtx-model"
MODEL = RepoKind("model", ("config.json", "model*.safetensors", "model.safetensors.index.json"))


class PublishedModel(PreTrainedModel):
    """A model whose ``push_to_hub`` makes one commit, with a card that says what it is."""

    config: GradTransformerConfig

    def push_to_hub(  # type: ignore[override]  # without what transformers offers and nobody here needs
        self,
        repo_id: str,
        *,
        private: bool = True,
        revision: str | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        license_id: str | None = None,
    ) -> Published:
        """Publish weights, configuration and a card. A translator is published by ``PeftTranslator.push_to_hub``.

        Args:
            repo_id: ``owner/name``; made if it is not there.
            private: Whether a new repository is private.
            revision: Branch to write to; made if it is not there.
            token: Hub token; by default the one that is logged in.
            commit_message: First line of the commit.
            license_id: License of the weights, as the Hub names it; by default none is written.

        Raises:
            ConfigurationError: If others could not find a base model, or an argument cannot be used.
            HubError: If the repository holds something else, changed meanwhile, or cannot be written.
        """
        destination = Destination(repo_id, private=private, revision=revision, token=token)
        card = _card(self.config, destination, license_id)
        with tempfile.TemporaryDirectory(prefix="gradtx-") as folder:
            self.save_pretrained(folder)
            files = {path.name: path for path in Path(folder).iterdir()}
            return publish(
                files, destination, kind=MODEL, card=card, commit_message=commit_message or "Model of gradtx_hf"
            )


def _card(config: GradTransformerConfig, destination: Destination, license_id: str | None) -> Card:
    bases = [
        _base(config.source_base_model, config.source_base_revision),
        _base(config.target_base_model, config.target_base_revision),
    ]
    words = ["a model that is not recorded" if base is None else base.to_markdown() for base in bases]
    revision = f", revision={json.dumps(destination.revision)}" if destination.revision else ""
    body = render_template(
        "model",
        {
            "title": plain(destination.repo_id.partition("/")[2]),
            "source_model": words[0],
            "target_model": words[1],
            "load_code": "from gradtx_hf import GradTransformerModel\n\n"
            f"model = GradTransformerModel.from_pretrained({json.dumps(destination.repo_id)}{revision})",
            "layout": _layout(config),
            "versions": f"Published with {versions_text(installed_versions())}.",
        },
    )
    metadata = {
        "library_name": LIBRARY,
        "tags": [LIBRARY, MODEL_TAG],
        **license_metadata(license_id),
        PROVENANCE_KEY: {
            "source_base_model": bases[0].to_json() if bases[0] else None,
            "target_base_model": bases[1].to_json() if bases[1] else None,
            "source_fingerprint": config.source_fingerprint,
            "target_fingerprint": config.target_fingerprint,
        },
    }
    return Card(metadata, body)


def _base(name: str | None, revision: str | None) -> ModelReference | None:
    if name is None:
        return None
    if not is_public_name(name):
        raise ConfigurationError(
            f"the model's configuration names the folder '{name}' of this machine as a base model. Set "
            "model.config.source_base_model and target_base_model to ids on the Hub, or to None."
        )
    return ModelReference(name, revision)


def _layout(config: GradTransformerConfig) -> str:
    layouts: dict[str, BlockLayout] = {"source": config.source_layout, "target": config.target_layout}
    rows = [
        [side, *map(code, (layout.num_blocks, layout.block_dim, ", ".join(layout.projections), layout.fingerprint))]
        for side, layout in layouts.items()
    ]
    return markdown_table(["side", "blocks (tokens)", "largest block (numbers)", "modules", "layout fingerprint"], rows)
