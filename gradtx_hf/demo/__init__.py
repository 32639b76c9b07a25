"""The Gradio app: see an adapter cross over, translate one of your own, read the reports. Needs the extra [demo]."""

from importlib.util import find_spec

from gradtx_hf.errors import MissingExtraError


if find_spec("gradio") is None:
    raise MissingExtraError('gradtx_hf.demo needs gradio. Install it with: pip install "gradtx-hf[demo]"')

from gradtx_hf.demo.app import build_demo, launch


__all__ = ["build_demo", "launch"]
