"""What a report.json says, for a card: its verdict, the table of all methods, and metadata for the Hub.

Reads the file's values, as a translator's folder holds them, so that a card can be made without the extra ``[eval]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradtx_hf.errors import DataError
from gradtx_hf.hub.markdown import code, markdown_table, plain


TRANSLATED = "translated"
CEILING = "ceiling"
NO_CONTROLS = (TRANSLATED, CEILING, "source_client", "source_best")
"""Methods that a translated adapter is not measured against to see whether it was needed."""
LORA_OF_RANK = "lora_of_rank_"
"""With a number: translated weights, written as a LoRA adapter of that rank; no method of its own."""
LEAD_TOLERANCE = 1e-9
"""Leads up to this are ties, as in a report's own verdict."""


@dataclass(frozen=True)
class _Estimate:
    """A mean with the ends of its interval, if there are any."""

    mean: float | None
    low: float | None
    high: float | None

    @classmethod
    def read(cls, values: Mapping[str, Any] | None, *, key: str = "mean") -> _Estimate:
        values = values or {}
        return cls(*(_number(values.get(name)) for name in (key, "low", "high")))

    def __str__(self) -> str:
        if self.mean is None:
            return "-"
        ends = "" if self.low is None or self.high is None else f" [{_shown(self.low)}, {_shown(self.high)}]"
        return f"{_shown(self.mean)}{ends}"


@dataclass(frozen=True)
class _Method:
    score: _Estimate
    gain: _Estimate
    lead: _Estimate


@dataclass(frozen=True)
class Group:
    """Means over one group of clients.

    Attributes:
        name: ``seen``, ``unseen`` or ``all``.
        num_clients: Number of clients.
        methods: Method, as in report.json, to what it reached.
    """

    name: str
    num_clients: int
    methods: Mapping[str, _Method]

    @property
    def title(self) -> str:
        """Such as ``Seen tasks (12 clients)``."""
        return f"{self.name.capitalize()} tasks ({self.num_clients} client{'' if self.num_clients == 1 else 's'})"


@dataclass(frozen=True)
class Results:
    """A report as a card shows it.

    Attributes:
        metric: Name of the metric, such as ``exact_match``.
        higher_is_better: Whether it rises with quality.
        groups: Seen and unseen tasks, or all where these are not told apart.
    """

    metric: str
    higher_is_better: bool
    groups: tuple[Group, ...]

    @classmethod
    def read(cls, report: Mapping[str, Any]) -> Results:
        """Read the values of a report.json.

        Raises:
            DataError: If they are not those of a report.
        """
        try:
            summary = report["summary"]
            names = [name for name in ("seen", "unseen") if name in summary] or ["all"]
            metric = report["metric"]
            if not isinstance(metric["name"], str) or not isinstance(metric["higher_is_better"], bool):
                raise TypeError("metric")
            return cls(metric["name"], metric["higher_is_better"], tuple(_read_group(n, summary[n]) for n in names))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"got values that are no report ({error!r:.80}), expected a report.json as gradtx evaluate writes it."
            ) from error

    def to_markdown(self) -> str:
        """Return the verdict on every group, and the table of all methods."""
        direction = "higher" if self.higher_is_better else "lower"
        note = (
            f"Metric: {plain(self.metric.replace('_', ' '))} ({direction} is better), means over clients, in brackets "
            "95 % intervals. Gain: the share of the gap between untouched target and ceiling that is recovered."
        )
        head = ["method", *(cell for group in self.groups for cell in (group.title, "gain"))]
        names = dict.fromkeys(name for group in self.groups for name in group.methods)
        rows = []
        for name in names:
            cells = [plain(name.replace("_", " "))]
            for group in self.groups:
                method = group.methods.get(name)
                cells += [str(method.score), str(method.gain)] if method else ["-", "-"]
            rows.append([f"**{cell}**" for cell in cells] if name == TRANSLATED else cells)
        verdicts = "\n".join(f"- {group.title}: {self._verdict(group)}" for group in self.groups)
        return f"{verdicts}\n\n{note}\n\n{markdown_table(head, rows)}"

    def to_model_index(self, name: str) -> list[dict[str, Any]]:
        """Return the Hub's ``model-index``: of every group, all methods' scores and the gain recovered.

        Args:
            name: The model's name.
        """
        results = []
        for group in self.groups:
            metrics = [
                {"type": self.metric, "name": f"{self.metric}, {key}", "value": round(method.score.mean, 6)}
                for key, method in group.methods.items()
                if method.score.mean is not None
            ]
            translated = group.methods.get(TRANSLATED)
            if translated is not None and translated.gain.mean is not None:
                gain = round(translated.gain.mean, 6)
                metrics.insert(0, {"type": "gain_recovered", "name": "gain recovered, translated", "value": gain})
            results.append(
                {
                    "task": {"type": "text-generation", "name": "translation of LoRA adapters"},
                    "dataset": {"type": f"{group.name}_tasks", "name": group.title},
                    "metrics": metrics,
                }
            )
        return [{"name": name, "results": results}]

    def _verdict(self, group: Group) -> str:
        if TRANSLATED not in group.methods:
            return "No translated adapter was scored."
        leads = {
            name: method.lead
            for name, method in group.methods.items()
            if method.lead.mean is not None and not name.startswith(LORA_OF_RANK)
        }
        rivals = {name: lead for name, lead in leads.items() if name not in (TRANSLATED, CEILING)}
        as_good = [name for name, lead in rivals.items() if (lead.mean or 0.0) <= LEAD_TOLERANCE]
        controls = {name: lead for name, lead in leads.items() if name not in NO_CONTROLS}
        sentences = []
        if as_good:
            listed = ", ".join(code(name) for name in as_good)
            sentences.append(f"**At least as good as the translated adapter: {listed}.**")
        if not controls:
            sentences.append("No control was scored, so this says nothing about translation.")
        elif not set(as_good) & set(controls):
            best, lead = min(controls.items(), key=lambda item: item[1].mean or 0.0)
            one = " (one task, so without an interval)" if lead.low is None else ""
            doubtful = [code(name) for name, other in controls.items() if other.low is not None and other.low <= 0]
            chance = f" **Beside {', '.join(doubtful)} that may be chance.**" if doubtful else ""
            sentences.append(f"The translated adapter leads every control, {code(best)} by {lead}{one}.{chance}")
        return " ".join(sentences)


def _shown(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # adding 0.0 turns -0.0 into 0.0


def _read_group(name: str, values: Mapping[str, Any]) -> Group:
    methods = {
        str(key): _Method(
            _Estimate.read(method["score"]),
            _Estimate.read(method["gain_recovered"], key="value"),
            _Estimate.read(method["lead_of_translated"]),
        )
        for key, method in values["methods"].items()
    }
    return Group(name, int(values["num_clients"]), methods)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
