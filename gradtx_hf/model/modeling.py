"""GradTransformerModel: a T5 encoder-decoder that reads source block tokens and writes target block tokens.

- Tokens go in and come out in their own units; the model standardises them with statistics of its own.
- One linear map per token kind leads in and out; there is no token embedding and no language-model head.
- One learned start embedding opens the target sequence, in training and in generation alike.

Axes: B batch, N_S / N_T blocks, D_S / D_T size of the largest block, H d_model. Source: paper Sec. 3, Eqs. 6-11;
standardisation and the learned start are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers import initialization as init

from gradtx_hf.errors import LayoutError
from gradtx_hf.model.configuration import GradTransformerConfig
from gradtx_hf.model.output import GradTransformerOutput
from gradtx_hf.model.projection import BlockProjection
from gradtx_hf.model.t5 import build_stack, load_t5
from gradtx_hf.updates import BlockLayout


STATISTICS = ("source_mean", "source_std", "target_mean", "target_std")


class GradTransformerModel(PreTrainedModel):
    """Encoder-decoder Transformer from source to target update vectors (paper: M, Eqs. 6-11).

    Buffers ``source_mean``, ``source_std`` ``[N_S, D_S]`` and ``target_mean``, ``target_std`` ``[N_T, D_T]`` hold
    the standardisation, in float32 whatever the dtype of the weights; the identity until ``set_statistics``.
    """

    config_class = GradTransformerConfig
    config: GradTransformerConfig
    source_mean: Tensor
    source_std: Tensor
    source_mask: Tensor
    target_mean: Tensor
    target_std: Tensor
    target_mask: Tensor
    base_model_prefix = ""
    main_input_name = "source_blocks"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["T5Block"]  # noqa: RUF012 - transformers reads a plain list

    def __init__(self, config: GradTransformerConfig) -> None:
        super().__init__(config)
        self.source_layout = config.source_layout
        self.target_layout = config.target_layout
        hidden_size = config.hidden_size
        self.W_S_emb = BlockProjection(self.source_layout, hidden_size=hidden_size, is_output=False)
        self.W_T_emb = BlockProjection(self.target_layout, hidden_size=hidden_size, is_output=False)
        self.W_out = BlockProjection(self.target_layout, hidden_size=hidden_size, is_output=True)
        self.encoder = build_stack(config.t5_config(), is_decoder=False)
        self.decoder = build_stack(config.t5_config(), is_decoder=True)
        self.start_token = nn.Parameter(torch.zeros(hidden_size))
        for side, layout in (("source", self.source_layout), ("target", self.target_layout)):
            shape = (layout.num_blocks, layout.block_dim)
            self.register_buffer(f"{side}_mean", torch.zeros(shape, dtype=torch.float32))
            self.register_buffer(f"{side}_std", torch.ones(shape, dtype=torch.float32))
            self.register_buffer(f"{side}_mask", torch.ones(shape, dtype=torch.bool), persistent=False)
        self.post_init()

    def forward(self, source_blocks: Tensor, target_blocks: Tensor | None = None) -> GradTransformerOutput:
        """Predict target blocks: with teacher forcing if they are given, else from the model's own blocks.

        Args:
            source_blocks: ``[B, N_S, D_S]``, in the tokens' own units.
            target_blocks: ``[B, N_T, D_T]``, in the tokens' own units, or None.

        Returns:
            Prediction ``[B, N_T, D_T]``; with target blocks also the loss (scalar) and the block errors ``[N_T]``.

        Raises:
            LayoutError: If blocks are not of the layout's shape.
        """
        encoded = self._encode(source_blocks)
        if target_blocks is None:
            return GradTransformerOutput(predicted_blocks=self._to_own_units(self._generate(encoded)))
        _check_shape("target", target_blocks, self.target_layout)
        targets = self._standardise("target", target_blocks)
        predicted = self._predict_forced(encoded, targets)
        squares = (predicted.float() - targets).square() * self.target_mask
        return GradTransformerOutput(
            loss=squares.sum(dim=2).mean(),  # (paper Eq. 10)
            predicted_blocks=self._to_own_units(predicted),
            block_errors=squares.detach().sum(dim=(0, 2)) / (self.target_mask.sum(dim=1) * len(squares)),
        )

    @torch.no_grad()
    def generate_updates(self, source_blocks: Tensor) -> Tensor:
        """Generate target blocks one by one from source blocks (paper Eq. 11).

        Args:
            source_blocks: ``[B, N_S, D_S]``, in the tokens' own units.

        Returns:
            ``[B, N_T, D_T]`` float32, in the tokens' own units, exactly zero in the padding.

        Raises:
            LayoutError: If blocks are not of the layout's shape.
        """
        return self._to_own_units(self._generate(self._encode(source_blocks)))

    def squared_errors(self, predicted_blocks: Tensor, target_blocks: Tensor) -> Tensor:
        """Return the squared norm of each block's error in standardised units.

        Args:
            predicted_blocks: ``[B, N_T, D_T]`` or ``[N_T, D_T]``, in the tokens' own units.
            target_blocks: ``[B, N_T, D_T]``, in the tokens' own units.

        Returns:
            ``[B, N_T]`` float32; the mean over all entries is the loss of paper Eq. 10.
        """
        return (((predicted_blocks - target_blocks) / self.target_std) * self.target_mask).square().sum(dim=2)

    @torch.no_grad()
    def set_statistics(
        self,
        *,
        source_mean: Tensor | None = None,
        source_std: Tensor | None = None,
        target_mean: Tensor | None = None,
        target_std: Tensor | None = None,
    ) -> None:
        """Set the standardisation; what is None stays as it is, and the padding stays the identity.

        Args:
            source_mean: ``[N_S, D_S]``.
            source_std: ``[N_S, D_S]``, > 0.
            target_mean: ``[N_T, D_T]``.
            target_std: ``[N_T, D_T]``, > 0.

        Raises:
            LayoutError: If a shape is wrong, or a value is not finite or not positive.
        """
        given = dict(zip(STATISTICS, (source_mean, source_std, target_mean, target_std), strict=True))
        for name, values in given.items():
            if values is not None:
                side, kind = name.split("_")
                buffer, mask = getattr(self, name), getattr(self, f"{side}_mask")
                if values.shape != buffer.shape:
                    raise LayoutError(f"got {name} of shape {list(values.shape)}, expected {list(buffer.shape)}.")
                identity = 0.0 if kind == "mean" else 1.0
                buffer.copy_(torch.where(mask, values.to(buffer), identity))
        self._check_statistics()

    @classmethod
    def from_pretrained(  # type: ignore[override]  # it is typed by tricks that no subclass can repeat
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args: Any,  # noqa: ANN401 - transformers' own signature
        **options: Any,  # noqa: ANN401 - transformers' own signature
    ) -> GradTransformerModel:
        """Load weights and configuration; as ``PreTrainedModel.from_pretrained``, from safetensors only.

        Raises:
            LayoutError: If the weights are not those of the configuration, or its statistics are unusable.
            ConfigurationError: If the configuration cannot be used.
        """
        wants_info = options.pop("output_loading_info", False)
        options |= {"output_loading_info": True, "use_safetensors": True, "ignore_mismatched_sizes": True}
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *model_args, **options)
        model, info = loaded
        for problem in ("missing", "mismatched", "unexpected"):
            keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[f"{problem}_keys"])
            if keys:
                raise LayoutError(
                    f"translator '{pretrained_model_name_or_path}' has {problem} weight '{keys[0]}' ({len(keys)} "
                    f"{problem} in all). Its config.json and model.safetensors do not belong together: save it again."
                )
        model._check_statistics()
        result: GradTransformerModel = loaded if wants_info else model  # with the info, a pair as in transformers
        return result

    @classmethod
    def from_t5(
        cls,
        path: str | Path,
        *,
        source_layout: BlockLayout,
        target_layout: BlockLayout,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> GradTransformerModel:
        """Start from the stacks of a pretrained T5 (paper: Flan-T5-Large); all the rest is freshly initialised.

        Args:
            path: Folder or repository of a T5 or Flan-T5 of any size, with safetensors weights.
            source_layout: What stands where in source tokens.
            target_layout: What stands where in target tokens.
            revision: Branch, tag or commit.
            token: Access token.
            cache_dir: Where downloads are kept.
            local_files_only: Whether nothing may be downloaded.

        Raises:
            ConfigurationError: If the model there is no T5, or one with fields out of range.
            MissingFileError: If it cannot be found, or has no safetensors weights.
        """
        loaded = load_t5(path, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        model = cls(GradTransformerConfig.from_layouts(source_layout, target_layout, t5=loaded.fields))
        model.encoder.load_state_dict(loaded.encoder)
        model.decoder.load_state_dict(loaded.decoder)
        model.eval()
        return model

    def _encode(self, source_blocks: Tensor) -> Tensor:
        """Return the encoder's output ``[B, N_S, H]`` for source blocks ``[B, N_S, D_S]``."""
        _check_shape("source", source_blocks, self.source_layout)
        embedded = self.W_S_emb(self._standardise("source", source_blocks).to(self.dtype))  # (paper Eq. 6)
        encoded: Tensor = self.encoder(inputs_embeds=embedded).last_hidden_state
        return encoded

    def _predict_forced(self, encoded: Tensor, targets: Tensor) -> Tensor:
        """Predict ``[B, N_T, D_T]`` from the true blocks before each, all standardised."""
        start = self.start_token.expand(len(targets), 1, -1)
        # (paper Eq. 7); the maps go by place, so that all blocks are embedded and the last is dropped
        embedded = self.W_T_emb(targets.to(self.dtype))[:, :-1]
        inputs = torch.cat([start, embedded], dim=1)  # [B, N_T, H]
        hidden = self.decoder(inputs_embeds=inputs, encoder_hidden_states=encoded, use_cache=False)  # (paper Eq. 8)
        predicted: Tensor = self.W_out(hidden.last_hidden_state) * self.target_mask  # (paper Eq. 9)
        return predicted

    def _generate(self, encoded: Tensor) -> Tensor:
        """Predict ``[B, N_T, D_T]`` from the model's own blocks before each, standardised (paper Eq. 11)."""
        config = self.decoder.config
        cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
        inputs = self.start_token.expand(len(encoded), 1, -1)  # [B, 1, H]
        blocks = []
        for n in range(self.target_layout.num_blocks):
            hidden = self.decoder(
                inputs_embeds=inputs, encoder_hidden_states=encoded, past_key_values=cache, use_cache=True
            ).last_hidden_state
            block = self.W_out.project_block(hidden, index=n) * self.target_mask[n]  # [B, 1, D_T]
            inputs = self.W_T_emb.project_block(block, index=n)
            blocks.append(block)
        return torch.cat(blocks, dim=1)

    def _standardise(self, side: str, blocks: Tensor) -> Tensor:
        mean, std, mask = (getattr(self, f"{side}_{name}") for name in ("mean", "std", "mask"))
        standardised: Tensor = (blocks.float() - mean) / std * mask
        return standardised

    def _to_own_units(self, standardised: Tensor) -> Tensor:
        own: Tensor = (standardised.float() * self.target_std + self.target_mean) * self.target_mask
        return own

    def _check_statistics(self) -> None:
        for name in STATISTICS:
            values = getattr(self, name)
            if not bool(values.isfinite().all()) or (name.endswith("std") and not bool((values > 0).all())):
                raise LayoutError(f"got {name} with values that are not finite or not positive: nothing can be scaled.")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a checkpoint lacks; the stacks fill themselves. The maps and the masks are never in one."""
        if isinstance(module, BlockProjection):
            module.init_weights()
        elif module is self:
            init.normal_(self.start_token)
            for side, layout in (("source", self.source_layout), ("target", self.target_layout)):
                init.zeros_(getattr(self, f"{side}_mean"))
                init.ones_(getattr(self, f"{side}_std"))
                init.copy_(getattr(self, f"{side}_mask"), layout.mask())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GradTransformerModel:  # noqa: FBT001, FBT002
        """Move or cast the model, as torch does for ``to``, ``half`` and the like; the statistics stay float32."""
        kept = {name: getattr(self, name) for name in STATISTICS}
        super()._apply(fn, recurse)
        for name, values in kept.items():
            if getattr(self, name).dtype != torch.float32:
                setattr(self, name, values.to(getattr(self, name).device))
        return self


def _check_shape(side: str, blocks: Tensor, layout: BlockLayout) -> None:
    expected = (layout.num_blocks, layout.block_dim)
    if blocks.dim() != 3 or tuple(blocks.shape[1:]) != expected:
        raise LayoutError(
            f"got {side} blocks of shape {list(blocks.shape)}, expected [batch, {expected[0]}, {expected[1]}]."
        )
