"""Whether two models mean the same by a token: what mixing or comparing their logits rests on. Source: ours."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from gradtx_hf.errors import ConfigurationError


def have_same_vocabulary(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Return whether two tokenizers have the same tokens under the same numbers."""
    return bool(first.get_vocab() == second.get_vocab())


def require_same_vocabulary(source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase, *, what_for: str) -> None:
    """Check that logits of two models can be compared token by token.

    Args:
        source: The small model's tokenizer.
        target: The large model's tokenizer.
        what_for: The method, for the message.

    Raises:
        ConfigurationError: If they differ.
    """
    if not have_same_vocabulary(source, target):
        raise ConfigurationError(
            f"got tokenizers of {len(source)} and {len(target)} tokens that are not the same, which {what_for} needs. "
            "Leave it out for this pair of models."
        )
