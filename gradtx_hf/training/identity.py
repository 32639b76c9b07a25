"""What a training is of: all that decides how it goes on from a checkpoint, and nothing of where it runs.

Checkpoints, here or on the Hub, carry it; a training only goes on from those of the same identity.

Source: ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from gradtx_hf.updates.shard import sha256_of_file
from gradtx_hf.updates.store import MANIFEST_FILE, UpdateStore


PLACES = frozenset(
    ["output_dir", "store", "logging_dir", "run_name", "disable_tqdm", "report_to", "project", "push_to_hub"]
)
"""Arguments that say where a training runs and reports, not what it computes."""
PLACE_PREFIXES = ("hub_", "trackio_")


def training_identity(arguments: TrainingArguments, store: UpdateStore) -> dict[str, Any]:
    """Return the identity of a training, as JSON values without a token or a path of the store.

    Args:
        arguments: The training's arguments.
        store: The complete store; its content counts, not its folder.
    """
    values = {
        name: value
        for name, value in arguments.to_dict().items()
        if name not in PLACES and not name.startswith(PLACE_PREFIXES)
    }
    resumed = values.get("resume_from_checkpoint")
    if resumed is not None and not Path(resumed).exists():  # on the Hub: the checkpoint is of this same training
        values["resume_from_checkpoint"] = None
    identity = {
        "arguments": values,
        "store_sha256": sha256_of_file(store.folder / MANIFEST_FILE),
        "num_processes": arguments.world_size,
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity, default=str))
    return plain


def identity_difference(got: Mapping[str, Any], expected: Any) -> str | None:  # noqa: ANN401 - any JSON value
    """Return where two identities differ, in words; None where they are the same.

    Args:
        got: The identity of the training that is to go on.
        expected: What the checkpoints say that they are of.
    """
    if got == expected:
        return None
    if not isinstance(expected, dict) or not isinstance(expected.get("arguments"), dict):
        return "they do not say of what"
    for values, others in ((got["arguments"], expected["arguments"]), (got, expected)):
        for name in sorted({*values, *others} - {"arguments"}):
            if values.get(name) != others.get(name):
                return f"{name} is {json.dumps(values.get(name))}, they have {json.dumps(others.get(name))}"
    return "they hold other values"
