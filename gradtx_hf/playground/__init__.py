"""The embedded default: two small language models, a translator between them, and the world of edit rules.

What is embedded has names as on the Hub, which mean the same on every machine, where the folder of the installed
package does not: the embedded translator calls its models by them.
"""

from pathlib import Path

from gradtx_hf.playground.world import Rule, RuleSplit, make_lines, split_rules


SOURCE_NAME = "gradtx-hf/playground-source"
TARGET_NAME = "gradtx-hf/playground-target"
TRANSLATOR_NAME = "gradtx-hf/playground-translator"

_ASSETS = Path(__file__).parent / "assets"


def source_path() -> Path:
    """Return the folder of the embedded source model and its tokenizer."""
    return _ASSETS / "source"


def target_path() -> Path:
    """Return the folder of the embedded target model and its tokenizer."""
    return _ASSETS / "target"


def translator_path() -> Path:
    """Return the folder of the embedded translator, with both initial adapters."""
    return _ASSETS / "translator"


def local_name(name: str) -> str:
    """Return the folder of what is embedded under a name, and every other name or path as it is."""
    embedded = {SOURCE_NAME: source_path, TARGET_NAME: target_path, TRANSLATOR_NAME: translator_path}
    return str(embedded[name]()) if name in embedded else name


__all__ = [
    "SOURCE_NAME",
    "TARGET_NAME",
    "TRANSLATOR_NAME",
    "Rule",
    "RuleSplit",
    "local_name",
    "make_lines",
    "source_path",
    "split_rules",
    "target_path",
    "translator_path",
]
