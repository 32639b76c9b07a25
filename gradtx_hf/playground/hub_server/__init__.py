"""A small local Hugging Face Hub: what the Hub's clients call, over real HTTP, with faults on demand. Extra [server].

It serves models, data sets and Spaces to ``huggingface_hub``, ``transformers``, ``peft``, ``datasets`` and the ``hf``
command, unmodified, once ``HF_ENDPOINT`` names it. ``HF_HUB_DISABLE_XET=1`` must be set too: uploads then take the LFS
protocol. Both are read when ``huggingface_hub`` is imported. In Python::

    with HubServer(users={"hf_alice": "alice"}) as hub:
        hub.faults.add("503", method="PUT", times=2)
        ...  # clients of hub.url

or ``python -m gradtx_hf.playground.hub_server``. It is for a laptop and for tests: no pull-request pages, no Xet, no
web pages, and tokens are as safe as the process that prints them.
"""

import sys
from importlib.util import find_spec

from gradtx_hf.errors import MissingExtraError


if find_spec("fastapi") is None or find_spec("uvicorn") is None:
    missing = MissingExtraError(
        'gradtx_hf.playground.hub_server needs fastapi and uvicorn. Install them with: pip install "gradtx-hf[server]"'
    )
    if sys.argv[0] == "-m":  # Python looks for __main__, which is to end with one line and not with a traceback
        sys.exit(f"error: {missing}")
    raise missing

from gradtx_hf.playground.hub_server.faults import FAULT_KINDS, FaultKind, Faults
from gradtx_hf.playground.hub_server.recorder import RecordedRequest
from gradtx_hf.playground.hub_server.server import HubServer


__all__ = ["FAULT_KINDS", "FaultKind", "Faults", "HubServer", "RecordedRequest"]
