"""The app, served in this process, with no login but the visitors' own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from huggingface_hub import constants

from gradtx_hf.demo import build_demo, launch


@contextmanager
def served() -> Iterator[str]:
    """Serve the app on a free port; yields its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", constants.HF_HUB_DISABLE_IMPLICIT_TOKEN)
        demo = build_demo()
        address = launch(demo, host="127.0.0.1", is_blocking=False)
        try:
            yield address
        finally:
            demo.close()
