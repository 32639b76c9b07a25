"""The shared GPU, as ZeroGPU lends it: to a request, by name and pickled values; Gradio's errors alone come back."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
import pytest
import torch

from gradtx_hf.demo import limits, own_adapters
from gradtx_hf.demo.gpu import GPU_SECONDS, on_gpu
from gradtx_hf.errors import AdapterError
from gradtx_hf.playground import TRANSLATOR_NAME, translator_path
from gradtx_hf.translation import AggregationSettings
from tests.demo.archives import adapter_zip


Task = Callable[..., Any]


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have ``spaces`` of a ZeroGPU machine; returns for how many seconds each decorated function may run."""
    seconds: list[int] = []

    def decorate(*, duration: int) -> Callable[[Task], Task]:
        seconds.append(duration)

        def wrap(task: Task) -> Task:
            def run(*args: object, **kwargs: object) -> object:
                sent = pickle.loads(pickle.dumps((args, kwargs)))
                try:
                    return pickle.loads(pickle.dumps(task(*sent[0], **sent[1])))
                except gr.Error:
                    raise
                except Exception as error:
                    raise gr.Error(f"ZeroGPU worker error: {type(error).__name__}") from error

            return run

        return wrap

    module = ModuleType("spaces")
    module.GPU = decorate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spaces", module)
    return seconds


def submission(*archives: Path) -> own_adapters.Submission:
    return own_adapters.Submission((), archives, (), TRANSLATOR_NAME, None)


def test_without_such_a_gpu_a_function_stays_what_it_is() -> None:
    assert on_gpu(sum) is sum


def test_a_translation_can_be_sent_there_and_comes_back(lent: list[int], tmp_path: Path) -> None:
    handed_in = submission(adapter_zip(tmp_path / "mine.zip", translator_path() / "source_init"))
    here = own_adapters.translate(handed_in, settings=AggregationSettings(), weights=None)

    there = on_gpu(own_adapters.translate)(handed_in, settings=AggregationSettings(), weights=None)

    assert lent == [GPU_SECONDS]
    assert there.report["adapters"] == here.report["adapters"]
    assert all(torch.equal(there.tensors[name], tensor) for name, tensor in here.tensors.items())


def test_a_refusal_of_ours_comes_back_as_it_is(lent: list[int], tmp_path: Path) -> None:
    handed_in = submission(adapter_zip(tmp_path / "large.zip", translator_path() / "target_init"))

    with pytest.raises(AdapterError, match="'large'"):
        on_gpu(own_adapters.translate)(handed_in, settings=AggregationSettings(), weights=None)


def test_work_within_the_time_knows_whose_request_it_is() -> None:
    request: ContextVar[str] = ContextVar("request")
    request.set("alice's")

    assert limits.within_time(lambda: request.get("nobody's")) == "alice's"
