from __future__ import annotations

import importlib.util
import runpy

import pytest

import gradtx_hf.finetuning
from gradtx_hf.errors import MissingExtraError


def test_missing_extra_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "trl" else find_spec(name, *rest)
    )

    with pytest.raises(MissingExtraError) as caught:
        runpy.run_path(gradtx_hf.finetuning.__file__)

    expected = 'gradtx_hf.finetuning needs trl. Install it with: pip install "gradtx-hf[train]"'
    assert str(caught.value) == expected
