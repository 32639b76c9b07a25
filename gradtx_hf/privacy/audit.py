"""Audit adapters that are there: membership inference on rows that were trained on and rows that were not.

An adapter's attack score of a row is how much lower it made the row's loss than the untouched model has it (a
reference-model attack). The client's adapter and the translated one are read alike, each with its own base model.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from gradtx_hf.errors import ConfigurationError, DataError, MissingExtraError
from gradtx_hf.finetuning import load_examples, load_language_model, tokenize_examples
from gradtx_hf.finetuning.privacy import USUAL_DELTA
from gradtx_hf.hub import ResolvedFolder, resolve_folder
from gradtx_hf.hub.cards import installed_versions
from gradtx_hf.lora import Adapter, load_adapter
from gradtx_hf.output import new_folder, require_new_folder, write_bytes, write_json, write_text
from gradtx_hf.privacy.arguments import AuditArguments
from gradtx_hf.privacy.audit_card import write_audit
from gradtx_hf.privacy.markdown import render_markdown
from gradtx_hf.privacy.membership import measure_membership
from gradtx_hf.privacy.one_run import ROW_GUESS_SHARES, EpsilonBound, bound_from_scores
from gradtx_hf.privacy.report import ATTACKS, HEADLINE, AdapterAudit, AuditReport, MeanLosses, attack_scores
from gradtx_hf.privacy.row_losses import RowLosses, measure_losses
from gradtx_hf.translation.records import load_privacy, load_translation


logger = logging.getLogger(__name__)


def audit_adapters(arguments: AuditArguments, *, show_progress: bool = False) -> AuditReport:
    """Audit adapters and write report.json, report.md and report.png.

    Args:
        arguments: What to audit, on what, and where the report goes.
        show_progress: Show bars on stderr.

    Raises:
        MissingFileError: If an adapter, a model or the data are not there.
        AdapterError: If an adapter cannot be read.
        DataError: If the data cannot be used, or a row is among members and non-members.
        ConfigurationError: If an adapter names no base model or does not fit it, or a result is to be written into one
            that is not a folder here.
        OutputExistsError: If the output folder exists and is not empty.
    """
    begin = time.perf_counter()
    require_new_folder(arguments.output_dir)
    folders = [resolve_folder(name) for name in arguments.adapters]
    if arguments.write_card:
        _require_local(folders)
    rows = {
        "members": load_examples(arguments.member_source),
        "non-members": load_examples(arguments.non_member_source),
    }
    audits = []
    for i, folder in enumerate(folders):
        base = None if arguments.base_models is None else arguments.base_models[i]
        audits.append(_audit(folder, base, rows, arguments, show_progress=show_progress))
    report = AuditReport(
        adapters=tuple(audits),
        config={
            name: value for name, value in asdict(arguments).items() if name not in ("members", "non_members")
        },  # where private data lie is nobody's business
        seconds=round(time.perf_counter() - begin, 1),
        versions=installed_versions(),
    )
    _save(report, arguments.output_dir)
    if arguments.write_card:
        for folder, audit in zip(folders, audits, strict=True):
            write_audit(folder.path, audit.record(), name=folder.name)
    return report


def _audit(
    folder: ResolvedFolder,
    base: str | None,
    rows: Mapping[str, Dataset],
    arguments: AuditArguments,
    *,
    show_progress: bool,
) -> AdapterAudit:
    adapter = load_adapter(folder.path, name=folder.name)
    privacy = _stated(folder)
    name = base or adapter.base_model
    if not name:
        raise ConfigurationError(f"adapter '{folder.name}' names no base model. Give base_models.")
    language_model, tokenizer = load_language_model(
        name, revision=None if base else adapter.config.revision, max_length=arguments.max_length
    )
    model = _with_adapter(language_model, adapter, folder.path, base=name)
    tokens = {kind: tokenize_examples(part, tokenizer, max_length=arguments.max_length) for kind, part in rows.items()}
    _require_apart(tokens["members"], tokens["non-members"])
    losses = {
        kind: measure_losses(
            model, part, batch_size=arguments.batch_size, show_progress=show_progress, description=kind
        )
        for kind, part in tokens.items()
    }
    return audit_losses(
        folder.name,
        name,
        members=losses["members"],
        non_members=losses["non-members"],
        privacy=privacy,
        split_by_coins=arguments.split_by_coins,
    )


def audit_losses(
    name: str,
    base_model: str,
    *,
    members: RowLosses,
    non_members: RowLosses,
    privacy: Mapping[str, Any] | None = None,
    split_by_coins: bool = False,
) -> AdapterAudit:
    """Return what losses tell of an adapter.

    Args:
        name: What the adapter is called.
        base_model: The model that it was read with.
        members: Losses of rows that it was trained on.
        non_members: Losses of rows that it was not trained on.
        privacy: What is stated of its training.
        split_by_coins: Whether a fair coin of each row's own made it a member.

    Raises:
        DataError: If there are too few rows, or a loss is not finite.
    """
    inside, outside = attack_scores(members), attack_scores(non_members)
    means = (part.mean() for part in (members.adapted, non_members.adapted, members.untouched, non_members.untouched))
    return AdapterAudit(
        name=name,
        base_model=base_model,
        attacks={attack: measure_membership(inside[attack], outside[attack]) for attack in ATTACKS},
        losses=MeanLosses(*map(float, means)),
        privacy=privacy,
        bound=_bound(inside[HEADLINE], outside[HEADLINE], privacy) if split_by_coins else None,
        members=members,
        non_members=non_members,
    )


def _bound(members: Tensor, others: Tensor, privacy: Mapping[str, Any] | None) -> EpsilonBound:
    included = torch.arange(len(members) + len(others)) < len(members)
    scores = torch.cat([members, others])
    delta = USUAL_DELTA if privacy is None else privacy["delta"]
    return bound_from_scores(scores, included, delta=delta, guess_shares=ROW_GUESS_SHARES)


def _stated(folder: ResolvedFolder) -> Mapping[str, Any] | None:
    """Return the privacy that is stated of an adapter, or of the one adapter that it was translated from."""
    own = load_privacy(folder.path, name=folder.name)
    translation = load_translation(folder.path, name=folder.name)
    sources = [] if translation is None else translation["adapters"]
    if own is None and len(sources) == 1:
        stated: Mapping[str, Any] | None = sources[0].get("privacy")
        return stated
    return own


def _with_adapter(model: PreTrainedModel, adapter: Adapter, folder: Path, *, base: str) -> PeftModel:
    try:
        return PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigurationError(f"adapter '{adapter.name}' does not fit the model '{base}': {reason}") from error


def _require_apart(members: Dataset, others: Dataset) -> None:
    both = {tuple(ids) for ids in members["input_ids"]} & {tuple(ids) for ids in others["input_ids"]}
    if both:
        raise DataError(
            f"got {len(both)} rows that are among the members and among the non-members, expected none. Leave them out "
            "of the non-members."
        )


def _require_local(folders: list[ResolvedFolder]) -> None:
    for folder in folders:
        if folder.commit is not None:
            raise ConfigurationError(
                f"the audit of '{folder.name}' cannot be written into a repository. Audit its folder on this machine, "
                "and push that."
            )


def _save(report: AuditReport, output_dir: str | Path) -> None:
    """Write report.png, report.md and report.json; without matplotlib there is no plot, and a warning says so."""
    with new_folder(output_dir) as folder:
        plot = _draw(report)
        if plot is not None:
            write_bytes(folder / "report.png", plot)
        write_text(folder / "report.md", render_markdown(report, plot_file="report.png" if plot else None))
        write_json(folder / "report.json", report.to_json())


def _draw(report: AuditReport) -> bytes | None:
    try:
        from gradtx_hf.privacy.plot import render_png  # here, as matplotlib is optional and slow to import
    except MissingExtraError as error:
        logger.warning("No report.png: %s", error)
        return None
    return render_png(report)
