"""The embedded default: two small language models and the world of edit rules that they were pretrained on."""

from pathlib import Path

from gradtx_hf.playground.world import Rule, RuleSplit, make_lines, split_rules


_ASSETS = Path(__file__).parent / "assets"


def source_path() -> Path:
    """Return the folder of the embedded source model and its tokenizer."""
    return _ASSETS / "source"


def target_path() -> Path:
    """Return the folder of the embedded target model and its tokenizer."""
    return _ASSETS / "target"


__all__ = ["Rule", "RuleSplit", "make_lines", "source_path", "split_rules", "target_path"]
