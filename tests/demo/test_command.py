"""``gradtx demo``: the app on this machine, by one command."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from huggingface_hub import constants

from gradtx_hf.demo import build_demo, launch
from gradtx_hf.errors import ConfigurationError


def test_a_port_that_is_taken_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", constants.HF_HUB_DISABLE_IMPLICIT_TOKEN)
    demo = build_demo()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(ConfigurationError, match=f"port {port} of '127.0.0.1' cannot be listened at"):
            launch(demo, host="127.0.0.1", port=port, is_blocking=False)


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted() -> None:
    command = subprocess.Popen(
        [sys.executable, "-m", "gradtx_hf.cli.main", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        assert command.stdout is not None
        address = command.stdout.readline().strip()
        start = time.perf_counter()
        page = httpx.get(address, timeout=10)
        assert page.status_code == 200
        assert "See an adapter cross over" in page.text
        assert time.perf_counter() - start < 3
        assert address.startswith("http://127.0.0.1:")
    finally:
        command.send_signal(signal.SIGINT)
        _, errors = command.communicate(timeout=30)
    assert command.returncode == 0, errors
    assert "Traceback" not in errors
