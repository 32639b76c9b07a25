"""Whatever a folder holds: it is used, or refused with one line of ours, and nothing else happens."""

from __future__ import annotations

import contextlib
import io
import resource
import shutil
from collections import Counter
from pathlib import Path

import pytest

from gradtx_hf.cli import inspect
from gradtx_hf.errors import GradTxError
from gradtx_hf.lora import load_adapter
from gradtx_hf.translation import PeftTranslator
from tests.security.folders import Folders, files_of, make_folders
from tests.security.guard import watched
from tests.security.mutations import Mutator, write_files


QUICK_MUTANTS = {"adapter": 300, "translator": 50, "parts": 25}
ALL_MUTANTS = 10_000
WARM_UP = 300
MOST_GROWTH_KB = 300 * 1024


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def translator(folders: Folders) -> PeftTranslator:
    return PeftTranslator.from_pretrained(folders.translator)


class Fuzzer:
    """Makes mutants of one kind of folder, and uses them as a user would."""

    def __init__(self, kind: str, folders: Folders, translator: PeftTranslator, scratch: Path) -> None:
        self.kind, self.translator, self.scratch = kind, translator, scratch
        self.client = load_adapter(folders.adapter)
        outside = scratch / "outside"
        shutil.copytree(getattr(folders, kind), outside)
        self.mutator = Mutator(files_of(outside), outside)

    def outcome(self, seed: int) -> str:
        """Return ``read`` or the kind of refusal; anything else fails and names the seed."""
        folder = self.scratch / "mutant"
        folder.mkdir()
        write_files(folder, self.mutator.mutate(seed))
        with watched(folder) as seen:
            outcomes = [self._run(seed, step, folder) for step in (self._inspect, self._translate)]
        shutil.rmtree(folder)
        assert seen.misdeeds == [], f"{self.kind}, seed {seed}: {seen.misdeeds}"
        return outcomes[-1]

    def _run(self, seed: int, step: object, folder: Path) -> str:
        try:
            step(folder)  # type: ignore[operator]
        except GradTxError as error:
            message = str(error)
            assert message, f"{self.kind}, seed {seed}: an empty message"
            assert message.isprintable(), f"{self.kind}, seed {seed}: {message!r}"
            assert "password" not in message.replace("a password or token", ""), f"{self.kind}, seed {seed}: {message}"
            return type(error).__name__
        except BaseException as error:  # noqa: BLE001 - a panic in Rust is no Exception
            pytest.fail(f"{self.kind}, seed {seed}: {type(error).__name__}: {error}")
        return "read"

    def _inspect(self, folder: Path) -> None:
        for options in ([], ["--json"]) if self.kind == "adapter" else ([],):
            with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")):
                inspect.run([str(folder), *options])

    def _translate(self, folder: Path) -> None:
        if self.kind == "adapter":
            self.translator.translate(folder, allow_other_base=True)
        else:
            PeftTranslator.from_pretrained(folder).translate(self.client, allow_other_base=True, allow_other_start=True)


@pytest.mark.parametrize("kind", QUICK_MUTANTS)
def test_any_mutant_is_used_or_refused_with_one_line(
    kind: str, folders: Folders, translator: PeftTranslator, tmp_path: Path
) -> None:
    fuzzer = Fuzzer(kind, folders, translator, tmp_path)

    outcomes = Counter(fuzzer.outcome(seed) for seed in range(QUICK_MUTANTS[kind]))

    assert outcomes["read"] > 0  # the mutants are near enough to good folders
    assert len(outcomes) > 2


@pytest.mark.slow
def test_ten_thousand_mutants_take_no_memory(folders: Folders, translator: PeftTranslator, tmp_path: Path) -> None:
    fuzzers = []
    for kind in QUICK_MUTANTS:
        (tmp_path / kind).mkdir()
        fuzzers.append(Fuzzer(kind, folders, translator, tmp_path / kind))
    outcomes: Counter[tuple[str, str]] = Counter()

    for number in range(ALL_MUTANTS):
        fuzzer = fuzzers[number % len(fuzzers)]
        outcomes[fuzzer.kind, fuzzer.outcome(1000 + number)] += 1
        if number == WARM_UP:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"\n{growth / 1024:.0f} MB grown from {before / 1024:.0f}", *sorted(outcomes.items()), sep="\n")  # noqa: T201
    assert growth < MOST_GROWTH_KB
