"""Report: one format for what a quickstart, an evaluation or a study found; report.json is its file.

Every number that could not be computed is null with its reason; NaN and infinity never reach the file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gradtx_hf.errors import DataError, MissingFileError
from gradtx_hf.evaluation.client_scores import ClientScores
from gradtx_hf.evaluation.pgr import Recovered
from gradtx_hf.evaluation.summary import Estimate, GroupSummary, MethodSummary, summarise
from gradtx_hf.hub.cards import installed_versions


LIBRARIES = ("gradtx-hf", "torch", "transformers", "peft", "trl", "datasets")
"""Distributions whose versions a report names, where they are installed."""


@dataclass(frozen=True)
class Report:
    """Scores of all methods on all clients, and how they came about.

    Attributes:
        metric: Name of the metric, such as ``exact_match`` or ``bits_per_character``.
        higher_is_better: Whether the metric rises with quality.
        clients: The clients, in the order in which they are shown.
        summary: ``all``, ``seen``, ``unseen`` (those that have clients) to the group's means.
        seconds: Phase to wall-clock time in seconds.
        config: The configuration that was used, JSON values and paths.
        versions: Library to version.
        command: The command line that makes this report; empty if there is none.
        not_run: Method that was asked for to why it was not run, on all clients or on some.
    """

    metric: str
    higher_is_better: bool
    clients: tuple[ClientScores, ...]
    summary: Mapping[str, GroupSummary]
    seconds: Mapping[str, float]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    command: str = ""
    not_run: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_clients(
        cls,
        clients: Sequence[ClientScores],
        *,
        metric: str,
        higher_is_better: bool,
        seconds: Mapping[str, float],
        config: Mapping[str, Any],
        command: str = "",
        not_run: Mapping[str, str] | None = None,
    ) -> Report:
        """Summarise clients and note the versions of the libraries in use.

        Args:
            clients: The clients, at least one.
            metric: Name of the metric.
            higher_is_better: Whether the metric rises with quality.
            seconds: Phase to wall-clock time in seconds.
            config: The configuration that was used; its ``seed``, if any, does not seed the bootstrap.
            command: The command line that makes this report.
            not_run: Method that was asked for to why it was not run.

        Raises:
            DataError: If there is no client.
        """
        return cls(
            metric=metric,
            higher_is_better=higher_is_better,
            clients=tuple(clients),
            summary=summarise(clients, higher_is_better=higher_is_better),
            seconds=dict(seconds),
            config=dict(config),
            versions=library_versions(),
            command=command,
            not_run=dict(not_run or {}),
        )

    @property
    def groups(self) -> list[str]:
        """Names of the groups to show: seen and unseen, or all where some client is neither."""
        split = [name for name in ("seen", "unseen") if name in self.summary]
        return split if all(client.seen is not None for client in self.clients) else ["all", *split]

    def to_json(self) -> dict[str, Any]:
        """Return the contents of report.json: JSON values only."""
        values = {
            "metric": {"name": self.metric, "higher_is_better": self.higher_is_better},
            "clients": [self._client_to_json(client) for client in self.clients],
            "summary": {name: asdict(group) for name, group in self.summary.items()},
            "seconds": self.seconds,
            "config": self.config,
            "versions": self.versions,
            "command": self.command,
            **({"not_run": self.not_run} if self.not_run else {}),
        }
        cleaned: dict[str, Any] = _json_value(values)
        return cleaned

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Report:
        """Rebuild a report from ``to_json``'s values.

        Raises:
            DataError: If the values are not those of a report.
        """
        try:
            return cls(
                metric=values["metric"]["name"],
                higher_is_better=values["metric"]["higher_is_better"],
                clients=tuple(_client_from_json(client) for client in values["clients"]),
                summary={name: _group_from_json(group) for name, group in values["summary"].items()},
                seconds={phase: time for phase, time in values["seconds"].items() if time is not None},
                config=values["config"],
                versions=values["versions"],
                command=values.get("command", ""),
                not_run=values.get("not_run", {}),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"got values that are no report ({error!r}).") from error

    @classmethod
    def load(cls, path: Path | str) -> Report:
        """Read a report.json, or the one in a folder.

        Raises:
            MissingFileError: If there is no such file.
            DataError: If the file is not a report.
        """
        file = Path(path)
        if file.is_dir():
            file = file / "report.json"
        if not file.is_file():
            raise MissingFileError(f"there is no report '{file}'.")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"report '{file}' is not JSON ({error}).") from error
        return cls.from_json(values)

    def _client_to_json(self, client: ClientScores) -> dict[str, Any]:
        shares = {
            "pgr": client.pgr(higher_is_better=self.higher_is_better),
            "gain_recovered": client.gain_recovered(higher_is_better=self.higher_is_better),
        }
        return {
            "task": client.task,
            "seen": client.seen,
            "seed": client.seed,
            **({} if client.study_seed is None else {"study_seed": client.study_seed}),
            "scores": client.scores,
            **({"nats_per_token": client.nats_per_token} if client.nats_per_token else {}),
            **({"example_scores": client.example_scores} if client.example_scores else {}),
            **({} if client.test_set is None else {"test_set": client.test_set}),
            **{name: share.value for name, share in shares.items()},
            "reasons": {name: share.reason for name, share in shares.items() if share.reason},
        }


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of ``LIBRARIES``, without those that are not installed."""
    return installed_versions(LIBRARIES)


def _json_value(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a value as JSON can hold it: null for numbers that are not finite, text for paths."""
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _client_from_json(values: Mapping[str, Any]) -> ClientScores:
    return ClientScores(
        values["task"],
        values["seen"],
        values["scores"],
        seed=values.get("seed"),
        nats_per_token=values.get("nats_per_token", {}),
        study_seed=values.get("study_seed"),
        example_scores=values.get("example_scores", {}),
        test_set=values.get("test_set"),
    )


def _group_from_json(values: Mapping[str, Any]) -> GroupSummary:
    methods = {
        name: MethodSummary(
            score=Estimate(**method["score"]),
            gain_recovered=Recovered(**method["gain_recovered"]),
            lead_of_translated=Estimate(**method["lead_of_translated"]) if method["lead_of_translated"] else None,
            nats_per_token=Estimate(**method["nats_per_token"]) if method.get("nats_per_token") else None,
            p_value=method.get("p_value"),
        )
        for name, method in values["methods"].items()
    }
    return GroupSummary(
        num_clients=values["num_clients"],
        num_tasks=values["num_tasks"],
        methods=methods,
        pgr=Recovered(**values["pgr"]),
        gain_recovered=Recovered(**values["gain_recovered"]),
    )
