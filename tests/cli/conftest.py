"""Run a command in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gradtx_hf.cli.main import main


@dataclass(frozen=True)
class Finished:
    """A command that has ended.

    Attributes:
        status: Its exit status.
        out: What it wrote to standard output.
        err: What it wrote to standard error.
    """

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that it was refused with."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.status == 1, self.err
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0]
        assert "Traceback" not in self.err
        return lines[0].removeprefix("error: ")


@pytest.fixture
def gradtx(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Return a function that runs ``gradtx`` with arguments."""

    def run(*arguments: object) -> Finished:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse: help, or wrong usage
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return Finished(status, captured.out, captured.err)

    return run
