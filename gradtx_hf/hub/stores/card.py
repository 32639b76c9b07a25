"""The card of a store's repository: what stands in it, how to load it, and what is not known of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gradtx_hf.hub.cards import (
    LIBRARY,
    ModelReference,
    installed_versions,
    is_public_name,
    license_metadata,
    versions_text,
)
from gradtx_hf.hub.destination import Destination
from gradtx_hf.hub.markdown import code, markdown_table, plain, render_template
from gradtx_hf.hub.readme import Card
from gradtx_hf.updates.store import SIDES


TAGS = (LIBRARY, "lora", "weight-space", "update-pairs")
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
"""The Hub's size categories: fewer rows than the number, and the name."""
NUM_LISTED_CORPORA = 40
PACKAGES = ("gradtx-hf", "pyarrow", "torch")


def store_card(
    description: Mapping[str, Any], destination: Destination, *, license_id: str | None, lacking: Sequence[str]
) -> Card:
    """Return the card of a complete store.

    Args:
        description: What ``describe_store`` says of it.
        destination: The repository, and the branch.
        license_id: The license, as the Hub names it; None: none is written.
        lacking: Public data that are not on the Hub (see ``lacking_data``).

    Raises:
        ConfigurationError: If the license cannot be one.
    """
    sides = [side for side in SIDES if description[side]["runs"]]
    num_rows = sum(description[side]["snapshots"] for side in sides)
    base_models = [description[side]["base_model"] for side in SIDES]
    metadata = {
        **license_metadata(license_id),
        "tags": [*TAGS, *(f"base_model:{name}" for name in dict.fromkeys(base_models) if _is_public(name))],
        "size_categories": [next((name for bound, name in SIZES if num_rows < bound), "n>10M")],
        "configs": [
            {"config_name": side, "data_files": f"data/{side}-*.parquet"} | ({"default": True} if index == 0 else {})
            for index, side in enumerate(sides)
        ],
    }
    values = _values(description, destination, license_id=license_id)
    return Card(metadata, render_template("store", {**values, "lacking": _lacking(lacking)}))


def _values(description: Mapping[str, Any], destination: Destination, *, license_id: str | None) -> dict[str, str]:
    """Return what stands at the template's placeholders."""
    repo_id, branch = destination.repo_id, destination.revision
    revision = f", revision={json.dumps(branch)}" if branch else ""
    has_targets = description["target"]["runs"] > 0
    lines = [
        "from datasets import load_dataset",
        "",
        f'source = load_dataset("{repo_id}", "source"{revision}, split="train")',
    ]
    if has_targets:
        lines.append(f'target = load_dataset("{repo_id}", "target"{revision}, split="train", streaming=True)')
    return {
        "title": plain(repo_id.rpartition("/")[2]),
        "num_shadow_sets": f"{description['shadow_sets']:,}",
        "num_target_runs": f"{description['target']['runs']:,}" if has_targets else "none",
        "source_model": _model_name(description["source"]),
        "target_model": _model_name(description["target"]),
        "datasets_code": "\n".join(lines),
        "pull_command": f"gradtx store pull {repo_id}{f'@{branch}' if branch else ''} --output-dir store\n"
        "gradtx train --store store --output-dir translator",
        "layout": _layout_table(description),
        "rounding": f"rounded to {description['dtype']}, " if description["dtype"] != "float32" else "",
        "corpora": _corpora(description["corpora"]),
        "license_note": "none was given." if license_id is None else f"the provider gives it as {code(license_id)}.",
        "versions": versions_text(installed_versions(PACKAGES)),
    }


def _layout_table(description: Mapping[str, Any]) -> str:
    head = ["side", "runs", "snapshots", "blocks", "largest block (numbers)", "layout fingerprint"]
    keys = ("runs", "snapshots", "num_blocks", "block_dim", "layout")
    return markdown_table(head, [[side, *(code(description[side][key]) for key in keys)] for side in SIDES])


def _corpora(labels: list[str]) -> str:
    if not labels:
        return ""
    listed = ", ".join(code(label) for label in labels[:NUM_LISTED_CORPORA])
    rest = len(labels) - NUM_LISTED_CORPORA
    return f"{len(labels)} corpora: {listed}{f' and {rest} more' if rest > 0 else ''}. `plan.json` names their sources."


def _lacking(paths: Sequence[str]) -> str:
    if not paths:
        return ""
    return (
        f"Not on the Hub, and not here: {', '.join(map(code, paths))}. The objective `functional` reads them: put them "
        "into the pulled store's folder under these names. That they are the same is checked by SHA-256."
    )


def _model_name(side: Mapping[str, Any]) -> str:
    """Return a base model as the card names it; a folder has no name on the Hub."""
    name = side["base_model"]
    return ModelReference(name, side["base_revision"]).to_markdown() if _is_public(name) else "(a local model)"


def _is_public(name: str | None) -> bool:
    return name is not None and is_public_name(name)
