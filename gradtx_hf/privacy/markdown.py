"""AuditReport as Markdown: the verdict on each adapter first, then every attack's numbers."""

from __future__ import annotations

from gradtx_hf.hub.markdown import code, markdown_table
from gradtx_hf.privacy.membership import FALSE_POSITIVE_RATES, Membership, describe_rates
from gradtx_hf.privacy.report import ATTACKS, CONTROL, HEADLINE, AdapterAudit, AuditReport


LIMITS = (
    "An attack that fails proves nothing: a stronger one may succeed, and only differential privacy bounds them all. "
    "Intervals are of 95 %: AUC's DeLong's, with rows as independent; TPR's Clopper and Pearson's, at the threshold "
    "that the non-members set. The lower bound of ε is Steinke, Nasr and Jagielski's (2023, Theorem 5.2), which needs "
    "a fair coin for every row."
)


def render_markdown(report: AuditReport, *, plot_file: str | None = None) -> str:
    """Return the text of report.md.

    Args:
        report: The report.
        plot_file: The plot's path as seen from the Markdown file; None for no picture.
    """
    sections = ["# Audit", *(verdict(audit) for audit in report.adapters)]
    if plot_file:
        sections.append(f"![ROC curves and scores]({plot_file})")
    for audit in report.adapters:
        sections += [f"## {code(audit.name)}", _attack_table(audit), _losses(audit)]
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    sections += ["## Limits", LIMITS, f"{report.seconds:.1f} seconds; {versions}."]
    return "\n\n".join(sections) + "\n"


def verdict(audit: AdapterAudit) -> str:
    """Return what was found of an adapter in a few sentences."""
    found = audit.attacks[HEADLINE]
    share = f"AUC {_interval(found)}"
    if found.is_caught:
        text = (
            f"{code(audit.name)}: **whoever has it can tell rows that it was trained on from others better than by "
            f"chance**: {share}."
        )
    else:
        text = f"{code(audit.name)}: this attack does not tell what it was trained on from other rows: {share}."
    if audit.differs_before:
        text += (
            f" **But the untouched model, which saw neither, tells them apart too (AUC "
            f"{_interval(audit.attacks[CONTROL])}): members and non-members were drawn unlike, and the audit says "
            "little. Draw both from the same rows.**"
        )
    if audit.bound is not None:
        text += (
            f" Lower bound of ε: {audit.bound.epsilon:.3f} at δ = {audit.bound.delta:.3g}, confidence "
            f"{audit.bound.confidence:.0%} ({audit.bound.num_correct} of {audit.bound.num_guesses} guesses right)."
        )
    if audit.privacy is None:
        return f"{text} No differential privacy is stated for it."
    stated = f"Its maker states ε = {audit.privacy['epsilon']:.3f} at δ = {audit.privacy['delta']:.3g}"
    if audit.is_refuted:
        return f"{text} {stated}: **that is refuted.**"
    return f"{text} {stated}{', which the audit does not refute' if audit.bound is not None else ''}."


def _interval(found: Membership) -> str:
    return f"{found.auc:.3f} [{found.auc_low:.3f}, {found.auc_high:.3f}]"


def _attack_table(audit: AdapterAudit) -> str:
    rows = []
    for name, label in ATTACKS.items():
        found = audit.attacks[name]
        label = f"**{label}**" if name == HEADLINE else label
        rows.append([label, _interval(found), *describe_rates(found.rates)])
    heads = [f"TPR at {rate:.1%} FPR" for rate in FALSE_POSITIVE_RATES]
    return markdown_table(["score", "AUC", *heads], rows)


def _losses(audit: AdapterAudit) -> str:
    losses, members, others = audit.losses, len(audit.members.adapted), len(audit.non_members.adapted)
    return (
        f"{members} members, {others} non-members. Mean loss in nats per token: members {losses.members:.3f} "
        f"(untouched {losses.members_untouched:.3f}), non-members {losses.non_members:.3f} (untouched "
        f"{losses.non_members_untouched:.3f})."
    )
