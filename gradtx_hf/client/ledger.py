"""The client's ledger: what every private run spent on which rows, so that runs on the same rows add up.

It stays in a folder of the client's own and is never part of an adapter. Rows stand in it as salted digests; the salt
is beside them, so whoever has the file can test whether a row that he guesses is among them: it must not leave the
house. A row is known again by its text, whatever the model. Runs without differential privacy, or with another ledger,
are not in it.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from filelock import FileLock

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning.accounting import NoisySteps, compose
from gradtx_hf.output import write_json


LEDGER_FILE = "ledger.json"
FORMAT = 1
SALT_BYTES = 32
DIGEST_CHARACTERS = 32


@dataclass(frozen=True)
class TotalSpent:
    """What all runs together have spent on the row that they used most.

    Attributes:
        epsilon: Of their composition.
        delta: Probability that epsilon may not hold.
        num_runs: Runs that used that row.
    """

    epsilon: float
    delta: float
    num_runs: int


class Ledger:
    """The runs on a client's rows, in ``ledger.json`` of a folder of its own.

    Args:
        folder: The folder; made at the first run.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder).expanduser()

    def require_usable(self) -> None:
        """Check, before anything is spent, that a run can be entered.

        Raises:
            ConfigurationError: If the ledger cannot be read or written.
        """
        with self._explained():
            self._read()

    def add(self, examples: Dataset, steps: NoisySteps, *, delta: float) -> TotalSpent:
        """Enter a run.

        Args:
            examples: The rows that it could draw, as texts.
            steps: Its noise, sample rate and steps.
            delta: For the total.

        Returns:
            What the runs so far, this one among them, have spent on the one of these rows for which it is most.

        Raises:
            ConfigurationError: If the ledger cannot be read or written, or the total is out of what can be computed.
        """
        with self._explained(), FileLock(str(self._folder / f".{LEDGER_FILE}.lock")):
            return self._add(examples, steps, delta)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Make the folder, and turn what the system refuses into one line."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            yield
        except OSError as error:
            raise ConfigurationError(
                f"the ledger in '{self._folder}' cannot be written ({error.strerror}). Give another work_dir."
            ) from error

    def _add(self, examples: Dataset, steps: NoisySteps, delta: float) -> TotalSpent:
        values = self._read()
        rows = _digests(examples, bytes.fromhex(values["salt"]))
        values["runs"].append({**vars(steps), "rows": sorted(rows)})
        total = _total(values["runs"], rows, delta)
        path = self._folder / LEDGER_FILE
        write_json(path, values)
        path.chmod(0o600)
        return total

    def _read(self) -> dict[str, Any]:
        path = self._folder / LEDGER_FILE
        if not path.exists():
            return {"format": FORMAT, "salt": os.urandom(SALT_BYTES).hex(), "runs": []}
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            is_whole = values["format"] == FORMAT and len(bytes.fromhex(values["salt"])) == SALT_BYTES
            is_whole &= isinstance(values["runs"], list)
            is_whole &= all(_steps(run) is not None and set(map(type, run["rows"])) == {str} for run in values["runs"])
        except (ValueError, KeyError, TypeError):  # ConfigurationError is a ValueError
            is_whole = False
        if not is_whole:
            raise ConfigurationError(
                f"the ledger '{path}' is damaged, and what was spent is not known. Restore it from a copy, or give "
                "another work_dir if these rows were never used."
            )
        return values


def _digests(examples: Dataset, salt: bytes) -> set[str]:
    texts = (json.dumps(row, sort_keys=True, ensure_ascii=False, default=str) for row in examples)
    return {hmac.new(salt, text.encode(), "sha256").hexdigest()[:DIGEST_CHARACTERS] for text in texts}


def _total(runs: list[dict[str, Any]], rows: set[str], delta: float) -> TotalSpent:
    """Return the largest total of these rows: rows that were in the same runs have spent the same."""
    runs_of_row: dict[str, list[int]] = {row: [] for row in rows}
    for number, run in enumerate(runs):
        for row in rows.intersection(run["rows"]):
            runs_of_row[row].append(number)
    totals = [
        TotalSpent(compose([_steps(runs[number]) for number in numbers], delta=delta), delta, len(numbers))
        for numbers in _largest(frozenset(numbers) for numbers in runs_of_row.values())
    ]
    return max(totals, key=lambda total: total.epsilon)


def _largest(sets: Iterable[frozenset[int]]) -> list[frozenset[int]]:
    """Return the sets that are no part of another."""
    distinct = set(sets)
    return [one for one in distinct if not any(one < other for other in distinct)]


def _steps(run: Mapping[str, Any]) -> NoisySteps:
    return NoisySteps(run["noise_multiplier"], run["sample_rate"], run["num_steps"])
