"""Fine-tune a small language model on private data, get back a LoRA adapter for a large one.

Importing the package registers the Gradient Transformer with transformers' ``AutoConfig`` and ``AutoModel``.
"""

from gradtx_hf.model import GradTransformerConfig, GradTransformerModel
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates import BlockLayout, UpdateVector


__version__ = "0.1.0"
__all__ = ["BlockLayout", "GradTransformerConfig", "GradTransformerModel", "PeftTranslator", "UpdateVector"]
