"""What all cards share: models and their commits, layouts, privacy statements, versions, and the code to copy.

Where something is not known, a card says so in a word or leaves it out.
"""

from __future__ import annotations

import copy
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.hub.destination import COMMIT_PATTERN, is_repo_id
from gradtx_hf.hub.markdown import code, markdown_table
from gradtx_hf.lora import Adapter
from gradtx_hf.playground import SOURCE_NAME, TARGET_NAME, local_name


LIBRARY = "gradtx_hf"
LICENSE_PATTERN = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
EMBEDDED = {SOURCE_NAME: "source_path", TARGET_NAME: "target_path"}
"""Embedded model to the function of ``gradtx_hf.playground`` that returns its folder."""


@dataclass(frozen=True)
class ModelReference:
    """A base model as others find it.

    Attributes:
        name: ``owner/name``, ``name``, or the name of a model embedded in the package.
        revision: What is recorded of its revision: a commit, or a branch or tag that may have moved; or None.
    """

    name: str
    revision: str | None

    @classmethod
    def of(cls, adapter: Adapter) -> ModelReference:
        """Return the base model of an adapter, checked.

        Raises:
            ConfigurationError: If others could not find it by that name.
        """
        if not is_public_name(adapter.base_model):
            got = f"the folder '{adapter.base_model}' of this machine" if adapter.base_model else "no base model"
            raise ConfigurationError(
                f"adapter '{adapter.name}' names {got}, which nobody else can find. Give the id on the Hub of its base "
                "model (gradtx push --source-model ID --target-model ID)."
            )
        return cls(adapter.base_model, adapter.config.revision)

    @property
    def commit(self) -> str | None:
        """The revision if it is a commit, which never moves."""
        return self.revision if COMMIT_PATTERN.fullmatch(self.revision or "") else None

    def to_markdown(self) -> str:
        """Return the name with its commit, or a word where that is not recorded."""
        if self.name in EMBEDDED:
            return f"{code(self.name)} (embedded in {LIBRARY})"
        if self.commit is not None:
            return f"{code(self.name)} at commit {code(self.commit)}"
        return f"{code(self.name)} ({f'revision {code(self.revision)}, ' if self.revision else ''}commit not recorded)"

    def to_json(self) -> dict[str, str | None]:
        """Return the metadata of a card."""
        return {"id": self.name, "revision": self.revision}

    def loading_code(self) -> str:
        """Return the Python lines that load it as ``base``."""
        if self.name in EMBEDDED:
            function = EMBEDDED[self.name]
            imports = f"from gradtx_hf.playground import {function}\n"
            return f"{imports}\nbase = AutoModelForCausalLM.from_pretrained({function}())"
        revision = f", revision={json.dumps(self.revision)}" if self.revision else ""
        return f"\nbase = AutoModelForCausalLM.from_pretrained({json.dumps(self.name)}{revision})"


def with_base_model(adapter: Adapter, name: str | None) -> Adapter:
    """Return an adapter whose configuration names another base model.

    Args:
        adapter: The adapter.
        name: ``owner/name[@revision]``; None leaves the adapter as it is.
    """
    if name is None:
        return adapter
    config = copy.copy(adapter.config)
    config.base_model_name_or_path, _, revision = name.partition("@")
    config.revision = revision or None
    return Adapter(adapter.name, config, adapter.tensors)


def is_public_name(name: str) -> bool:
    """Return whether others find a model by this name: an id on the Hub, or what is embedded; never a local folder."""
    if name in EMBEDDED:
        return True
    return is_repo_id(name) and not Path(local_name(name)).exists()


def license_metadata(license_id: str | None) -> dict[str, str]:
    """Return the metadata of the license that the publisher gives.

    None is written where none is given: a base model's own is not handed on, as whether it binds what was learned from
    its updates, and together with the data's, is for the publisher to say.

    Args:
        license_id: The license as the Hub names it, such as ``apache-2.0``, or ``other``.

    Raises:
        ConfigurationError: If it cannot be such a name.
    """
    if license_id is None:
        return {}
    if not LICENSE_PATTERN.fullmatch(license_id):
        raise ConfigurationError(
            f"got license {license_id!r:.80}, expected its id on the Hub, such as apache-2.0, or other. The list: "
            "https://huggingface.co/docs/hub/repositories-licenses."
        )
    return {"license": license_id}


def peft_code(base: ModelReference, adapter: str, **options: object) -> str:
    """Return the Python lines that load an adapter on its base model with stock PEFT, as ``model``.

    Args:
        base: The base model.
        adapter: The adapter's repository or folder.
        options: Further keyword arguments of ``PeftModel.from_pretrained``; those that are None are left out.
    """
    given = "".join(f", {key}={_literal(value)}" for key, value in options.items() if value is not None)
    return (
        f"from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n{base.loading_code()}\n"
        f"model = PeftModel.from_pretrained(base, {json.dumps(adapter)}{given})"
    )


def layout_table(sides: Mapping[str, Adapter]) -> str:
    """Return what adapters hold: rank, modules, blocks.

    Args:
        sides: Column head to adapter.
    """
    rows: list[list[str]] = [[] for _ in range(6)]
    heads = ("rank", "alpha", "modules", "blocks (tokens)", "largest block (numbers)", "layout fingerprint")
    for adapter in sides.values():
        layout = adapter.layout
        values: Sequence[object] = (
            adapter.config.r,
            adapter.config.lora_alpha,
            ", ".join(layout.projections),
            layout.num_blocks,
            layout.block_dim,
            layout.fingerprint,
        )
        for row, value in zip(rows, values, strict=True):
            row.append(code(value))
    return markdown_table(["", *sides], [[head, *row] for head, row in zip(heads, rows, strict=True)])


def installed_versions(names: Sequence[str] = ("gradtx-hf", "torch", "transformers", "peft")) -> dict[str, str]:
    """Return the versions of Python and of those libraries that are installed."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def versions_text(versions: Mapping[str, Any]) -> str:
    """Return versions as one line."""
    return ", ".join(f"{code(name)} {code(value)}" for name, value in versions.items())


def key_value_table(values: Mapping[str, Any]) -> str:
    """Return a table of values that are not None."""
    rows = [[code(key), code(_shown(value))] for key, value in values.items() if value is not None]
    return markdown_table(["setting", "value"], rows)


def _shown(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _literal(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)
