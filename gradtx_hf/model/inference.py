"""Load a Gradient Transformer to translate with, and not to train: nothing is in memory twice, and it runs faster.

The weights are read one layer at a time into the order in which they are multiplied. In float16 all of them are
float16, which rounds an eighth as much as bfloat16, and the inputs of products stay float32. In bfloat16 only what is
read again for every block is bfloat16: the decoder's layers but the first; and W_T_emb and W_out, the largest. The
encoder and what the decoder takes from it are computed once, and the first layer's rounding would grow in all that
follow: they stay float32. So does, in every case, what is fed back.

Source: ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.model.configuration import GradTransformerConfig
from gradtx_hf.model.feedback import Feedback
from gradtx_hf.model.fused_linear import FusedLinear, has_float16_products
from gradtx_hf.model.inference_stack import InferenceStack
from gradtx_hf.model.modeling import GradTransformerModel
from gradtx_hf.model.projection import BlockProjection
from gradtx_hf.model.weights import check_weights, read_tensors, require_finite
from gradtx_hf.updates.reading import ForeignFolder, TensorInfo


STACKS = ("encoder", "decoder")
PROJECTIONS = ("W_S_emb", "W_T_emb", "W_out")


def load_for_inference(
    files: ForeignFolder, config: GradTransformerConfig, *, name: str, dtype: torch.dtype, device: torch.device
) -> GradTransformerModel:
    """Load a model with a Transformer; it computes what ``GradTransformerModel.from_folder`` loads, without gradients.

    Args:
        files: The model's folder.
        config: Its configuration.
        name: What messages call the translator.
        dtype: float32, bfloat16, or float16 on a CPU where there are products of it.
        device: Where it goes; it cannot be moved or cast later.

    Raises:
        MissingFileError: If a file is missing.
        LayoutError: If the weights are damaged, or not those of the configuration.
        ConfigurationError: If there are no products of float16 there.
    """
    if dtype == torch.float16 and not has_float16_products(device):
        raise ConfigurationError(
            f"got dtype float16 on {device}, where this torch has no products of float16 weights. Use float32 or "
            "bfloat16."
        )
    once_dtype = torch.float32 if dtype == torch.bfloat16 else dtype
    found, expected = check_weights(files, config, build=GradTransformerModel)
    with torch.device("meta"):
        model = GradTransformerModel(config)
    projections = [child for child, _ in model.named_children() if child in PROJECTIONS]
    for stack in STACKS:
        delattr(model, stack)
    replaced = tuple(f"{child}." for child in (*STACKS, *projections))
    _fill(model, _Reader(files, found, "").read([key for key in expected if not key.startswith(replaced)]), device)
    for child in projections:
        number_format = once_dtype if child == "W_S_emb" else dtype
        _fuse(getattr(model, child), _Reader(files, found, f"{child}."), number_format, device)
    if "W_T_emb" in projections:
        model.feedback = Feedback(
            config.target_layout,
            read=_Reader(files, found, "").read,
            gain=1.0 if model.transformer_gain is None else float(model.transformer_gain),
            dtype=dtype,
            device=device,
        )
    for stack in STACKS:
        is_decoder = stack == "decoder"
        loaded = InferenceStack(
            config.t5_config(),
            is_decoder=is_decoder,
            read=_Reader(files, found, f"{stack}.").read,
            dtype=dtype if is_decoder else once_dtype,
            once_dtype=once_dtype,
            device=device,
        )
        setattr(model, stack, loaded)
    config.name_or_path = model.name_or_path = name
    config.architectures = [GradTransformerModel.__name__]
    model._check_statistics()
    model.eval()
    return model


@dataclass(frozen=True)
class _Reader:
    """Reads tensors of one module by their names in it."""

    files: ForeignFolder
    found: Mapping[str, Mapping[str, TensorInfo]]
    prefix: str

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors; they stay on the file's pages.

        Raises:
            LayoutError: If one holds NaN or infinite values.
        """
        tensors = read_tensors(self.files, self.found, [self.prefix + name for name in names])
        for name, tensor in tensors.items():
            require_finite(name, tensor, owner=self.files.owner)
        return {name.removeprefix(self.prefix): tensor for name, tensor in tensors.items()}


def _fill(model: GradTransformerModel, tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Give memory and values to all that is no large product, and to what is in no checkpoint."""
    model.to_empty(device=device)
    model.load_state_dict(tensors, strict=False)
    for tensor in model.state_dict(keep_vars=True).values():
        tensor._is_hf_initialized = True  # so that transformers' initialisation leaves it alone
    for module in model.modules():
        model._init_weights(module)


def _fuse(projection: BlockProjection, reader: _Reader, dtype: torch.dtype, device: torch.device) -> None:
    """Replace the linear maps of a projection."""
    for kind in list(projection):
        tensors = reader.read([f"{kind}.weight", f"{kind}.bias"])
        projection[kind] = FusedLinear(
            {"weight": tensors[f"{kind}.weight"]}, bias=tensors[f"{kind}.bias"], dtype=dtype, device=device
        )
