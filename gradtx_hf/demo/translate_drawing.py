"""What the translate tab looks like: does an adapter fit, and what came out."""

from __future__ import annotations

from html import escape

from gradtx_hf.demo import drawing
from gradtx_hf.demo.own_adapters import Candidate, Compatibility
from gradtx_hf.translation import PeftTranslator, TranslatedAdapter


def draw_compatibility(found: Compatibility) -> str:
    """Draw the translator, and each adapter's verdict."""
    translator = found.translator
    sides = {
        "translator": translator.name,
        "from": translator.source_init.base_model,
        "to": translator.target_init.base_model,
    }
    return drawing.facts(sides) + "".join(_card(candidate, translator) for candidate in found.candidates)


def draw_translation(translated: TranslatedAdapter) -> str:
    """Draw what came out."""
    report = translated.report
    shown = {
        "adapter for": str(report["target_base_model"]),
        "tensors": str(len(translated.tensors)),
        "numbers": f"{sum(tensor.numel() for tensor in translated.tensors.values()):,}",
        "seconds": f"{report['seconds']:.2f}",
        "norm of the update": f"{report['target_update_norm']:.3g}",
    }
    if len(report["adapters"]) > 1:
        shown["aggregated by"] = str(report["aggregation"]).replace("_", " ")
    warnings = "".join(drawing.note(f"Warning: {warning}", kind="warning") for warning in report["warnings"])
    return drawing.note("Translated. Download it, or push it to a repository of your own.", kind="good") + (
        drawing.facts(shown) + warnings
    )


def _card(candidate: Candidate, translator: PeftTranslator) -> str:
    source = candidate.source
    if source is None:
        return _titled(candidate.name, "refused", "bad", drawing.note(candidate.refusal or "", kind="warning"))
    adapter, init, limit = source.adapter, translator.source_init, translator.start_distance_limit
    shown = {
        "base model": adapter.base_model,
        "rank": str(adapter.config.r),
        "adapts": ", ".join(adapter.layout.projections),
        "blocks": str(adapter.layout.num_blocks),
        "distance to the start" + (f" (limit {limit:.2f})" if limit is not None else ""): (
            f"{source.alignment.start_distance:.2f}"
        ),
    }
    if candidate.distance is not None and translator.input_distance is not None:
        name = f"distance to the shadow sets (limit {translator.input_distance.limit:.2f})"
        shown[name] = f"{candidate.distance:.2f}"
    if source.privacy is not None:
        shown["stated privacy"] = f"ε = {source.privacy['epsilon']:.3g}"
    picture = drawing.heat_map(
        "Norm of its update, by block and tensor", init.layout, drawing.update_norms(source.alignment.state, init)
    )
    warning = drawing.note(f"Warning: {candidate.warning}", kind="warning") if candidate.warning else ""
    verdict, kind = ("fits, with a warning", "fair") if candidate.warning else ("fits", "fine")
    return _titled(candidate.name, verdict, kind, warning + drawing.facts(shown) + picture)


def _titled(name: str, verdict: str, kind: str, content: str) -> str:
    head = f'<h3>{escape(name)} <span class="gx-verdict-{kind}">{escape(verdict)}</span></h3>'
    return f'<section class="gx-card">{head}{content}</section>'
