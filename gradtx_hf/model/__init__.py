"""The Gradient Transformer: a T5 encoder-decoder that reads and writes block tokens."""

from transformers import AutoConfig, AutoModel

from gradtx_hf.model.configuration import GradTransformerConfig
from gradtx_hf.model.modeling import GradTransformerModel
from gradtx_hf.model.output import GradTransformerOutput
from gradtx_hf.model.statistics import TokenStatistics


AutoConfig.register(GradTransformerConfig.model_type, GradTransformerConfig, exist_ok=True)
AutoModel.register(GradTransformerConfig, GradTransformerModel, exist_ok=True)

__all__ = ["GradTransformerConfig", "GradTransformerModel", "GradTransformerOutput", "TokenStatistics"]
