"""GradTransformerModel: a T5 encoder-decoder that reads source block tokens and writes target block tokens.

- Tokens go in and come out in their own units; the model standardises them with statistics of its own.
- One linear map per token kind leads in and out; there is no token embedding and no language-model head.
- Blocks are decoded one by one, opened by one learned start embedding in training and in generation alike, or all at
  once from learned block queries.
- A low-rank linear path may stand beside the Transformer, or alone.
- Predictions are differentiable, generated ones too, so that a translator can be trained by what its output does.

Axes: B batch, N_S / N_T blocks, D_S / D_T size of the largest block, H d_model. Source: paper Sec. 3, Eqs. 6-11;
standardisation, the learned start, the linear path, positions and parallel decoding are ours.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers import initialization as init
from transformers.models.t5.modeling_t5 import T5Stack

from gradtx_hf.model.configuration import Decoding, GradTransformerConfig
from gradtx_hf.model.feedback import Feedback
from gradtx_hf.model.inference_stack import InferenceStack
from gradtx_hf.model.linear_path import LinearPath
from gradtx_hf.model.loading import LoadedModel
from gradtx_hf.model.output import GradTransformerOutput
from gradtx_hf.model.projection import BlockProjection
from gradtx_hf.model.publishing import PublishedModel
from gradtx_hf.model.t5 import CACHE_ARGUMENT, build_stack, load_t5
from gradtx_hf.model.tensor_scale import TensorScale
from gradtx_hf.updates import BlockLayout


class GradTransformerModel(PublishedModel, LoadedModel):
    """Encoder-decoder Transformer from source to target update vectors (paper: M, Eqs. 6-11).

    In standardised units a prediction is W_out φ(...) without a linear path, else linear_path(source) +
    transformer_gain · W_out φ(...), or the linear path alone. Modules and parameters are there only where the
    configuration asks for them:

    - with a Transformer: ``W_S_emb``, ``W_out``, ``encoder``, ``decoder``; decoding one by one ``W_T_emb`` and
      ``start_token`` ``[H]``, in parallel ``block_queries`` ``[N_T, H]``;
    - with block positions: ``source_positions`` ``[N_S, H]`` and, decoding one by one, ``target_positions``
      ``[N_T, H]``;
    - with a linear path: ``linear_path`` and, beside a Transformer, ``transformer_gain`` ``[1]``;
    - with a learned scale: ``target_scale``.
    """

    config_class = GradTransformerConfig
    W_S_emb: BlockProjection
    W_T_emb: BlockProjection
    W_out: BlockProjection
    encoder: T5Stack | InferenceStack
    decoder: T5Stack | InferenceStack
    linear_path: LinearPath | None
    base_model_prefix = ""
    main_input_name = "source_blocks"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["T5Block"]  # noqa: RUF012 - transformers reads a plain list

    def __init__(self, config: GradTransformerConfig) -> None:
        super().__init__(config)
        layouts = (config.source_layout, config.target_layout)
        has_both = config.has_transformer and config.linear_rank > 0
        if config.has_transformer:
            self._add_transformer(config)
        self.linear_path = LinearPath(*layouts, rank=config.linear_rank) if config.linear_rank > 0 else None
        self.transformer_gain = nn.Parameter(torch.ones(1)) if has_both else None
        self.feedback: Feedback | None = None  # given to a model that translates and is never trained
        self._add_standardisation(config)
        self.post_init()

    def forward(self, source_blocks: Tensor, target_blocks: Tensor | None = None) -> GradTransformerOutput:
        """Predict target blocks: with teacher forcing if they are given, else from the model's own blocks.

        Args:
            source_blocks: ``[B, N_S, D_S]``, in the tokens' own units.
            target_blocks: ``[B, N_T, D_T]``, in the tokens' own units, or None.

        Returns:
            Prediction ``[B, N_T, D_T]``, differentiable in both cases; with target blocks also the loss (scalar) and
            the block errors ``[N_T]``. The loss teaches no learned scale: only the prediction depends on it.

        Raises:
            LayoutError: If blocks are not of the layout's shape.
        """
        source = self._standardise_source(source_blocks)
        if target_blocks is None:
            return GradTransformerOutput(predicted_blocks=self._to_own_units(self._predict(source)))
        targets = self._standardise_target(target_blocks)
        predicted = self._predict(source, targets)
        squares = (predicted.float() - targets).square() * self.target_mask
        return GradTransformerOutput(
            loss=squares.sum(dim=2).mean(),  # (paper Eq. 10)
            predicted_blocks=self._to_own_units(predicted),
            block_errors=squares.detach().sum(dim=(0, 2)) / (self.target_mask.sum(dim=1) * len(squares)),
        )

    @torch.no_grad()
    def generate_updates(self, source_blocks: Tensor) -> Tensor:
        """Generate target blocks from source blocks, one by one (paper Eq. 11) or in parallel.

        Args:
            source_blocks: ``[B, N_S, D_S]``, in the tokens' own units.

        Returns:
            ``[B, N_T, D_T]`` float32, in the tokens' own units, exactly zero in the padding.

        Raises:
            LayoutError: If blocks are not of the layout's shape.
        """
        return self._to_own_units(self._predict(self._standardise_source(source_blocks)))

    @classmethod
    def from_t5(  # noqa: PLR0913 - one keyword for each field of the configuration that is free
        cls,
        path: str | Path,
        *,
        source_layout: BlockLayout,
        target_layout: BlockLayout,
        linear_rank: int = 0,
        transformer_gain: float = 0.3,
        decoding: Decoding = "autoregressive",
        block_positions: bool = False,
        learned_scale: bool = False,
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
            linear_rank: As in the configuration, like the next four.
            transformer_gain: Start value of the factor on the Transformer's prediction.
            decoding: "autoregressive" or "parallel".
            block_positions: Whether each block's place has a learned embedding.
            learned_scale: Whether each kind of target tensor has a learned scale.
            revision: Branch, tag or commit.
            token: Access token.
            cache_dir: Where downloads are kept.
            local_files_only: Whether nothing may be downloaded.

        Raises:
            ConfigurationError: If the model there is no T5, or one with fields out of range, or another value cannot
                be used.
            MissingFileError: If it cannot be found, or has no safetensors weights.
        """
        loaded = load_t5(path, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        config = GradTransformerConfig.from_layouts(
            source_layout,
            target_layout,
            t5=loaded.fields,
            linear_rank=linear_rank,
            transformer_gain=transformer_gain,
            decoding=decoding,
            block_positions=block_positions,
            learned_scale=learned_scale,
        )
        model = cls(config)
        model.encoder.load_state_dict(loaded.encoder)
        model.decoder.load_state_dict(loaded.decoder)
        model.eval()
        return model

    def _add_transformer(self, config: GradTransformerConfig) -> None:
        """Add φ, the maps into and out of it, and the learned embeddings that its decoding needs."""
        source_layout, target_layout, hidden_size = config.source_layout, config.target_layout, config.hidden_size
        is_parallel = config.decoding == "parallel"
        self.W_S_emb = BlockProjection(source_layout, hidden_size=hidden_size, is_output=False)
        if not is_parallel:
            self.W_T_emb = BlockProjection(target_layout, hidden_size=hidden_size, is_output=False)
        self.W_out = BlockProjection(target_layout, hidden_size=hidden_size, is_output=True)
        self.encoder = build_stack(config.t5_config(), is_decoder=False)
        self.decoder = build_stack(config.t5_config(), is_decoder=True)
        rows = (target_layout.num_blocks, hidden_size)
        self.start_token = None if is_parallel else nn.Parameter(torch.zeros(hidden_size))
        self.block_queries = nn.Parameter(torch.zeros(rows)) if is_parallel else None
        has_places, has_target_places = config.block_positions, config.block_positions and not is_parallel
        self.source_positions = nn.Parameter(torch.zeros(source_layout.num_blocks, hidden_size)) if has_places else None
        self.target_positions = nn.Parameter(torch.zeros(rows)) if has_target_places else None

    def _predict(self, source: Tensor, targets: Tensor | None = None) -> Tensor:
        """Predict ``[B, N_T, D_T]`` from the true blocks if they are given, else the model's own; all standardised."""
        linear: Tensor | None = None if self.linear_path is None else self.linear_path(source.to(self.dtype))
        if linear is not None and not self.config.has_transformer:
            return linear
        embedded = self.W_S_emb(source.to(self.dtype))  # (paper Eq. 6)
        if self.source_positions is not None:
            embedded = embedded + self.source_positions
        encoded: Tensor = self.encoder(inputs_embeds=_summable(embedded)).last_hidden_state  # [B, N_S, H]
        if self.block_queries is not None:
            return self._predict_parallel(encoded, linear)
        if targets is not None:
            return self._predict_forced(encoded, linear, targets)
        return self._generate(encoded, linear) if self.feedback is None else self._generate_folded(encoded, linear)

    def _predict_forced(self, encoded: Tensor, linear: Tensor | None, targets: Tensor) -> Tensor:
        """Predict all blocks at once, each from the true ones before it (paper Eqs. 7-9)."""
        hidden = self.decoder(
            inputs_embeds=_summable(self._decoder_inputs(targets)), encoder_hidden_states=encoded, use_cache=False
        ).last_hidden_state
        return self._add_linear(self.W_out(hidden) * self.target_mask, linear)

    def _decoder_inputs(self, blocks: Tensor) -> Tensor:
        """Return the start and all blocks but the last, embedded (paper Eq. 7), with their positions: [B, N_T, H]."""
        # the maps go by place, so that all blocks are embedded and the last is dropped
        embedded = self.W_T_emb(blocks.to(self.dtype))[:, :-1]
        inputs = torch.cat([self._start(len(blocks)), embedded], dim=1)
        return inputs if self.target_positions is None else inputs + self.target_positions

    def _generate(self, encoded: Tensor, linear: Tensor | None) -> Tensor:
        """Predict one block after the other, each from the model's own before it (paper Eq. 11).

        A layer that is recomputed in the backward pass cannot keep keys and values (transformers drops the cache
        without an error), so that under gradient checkpointing all earlier blocks are decoded again for each one.
        """
        cache = self._new_cache()
        is_cached = cache is not None
        inputs = embedded = self._start(len(encoded))  # [B, 1, H]
        blocks: list[Tensor] = []
        for n in range(self.target_layout.num_blocks):
            if n > 0:
                embedded = self.W_T_emb.project_block(blocks[-1], index=n - 1)
            if self.target_positions is not None:
                embedded = embedded + self.target_positions[n]
            inputs = embedded if is_cached or n == 0 else torch.cat([inputs, embedded], dim=1)
            hidden = self.decoder(
                inputs_embeds=_summable(inputs),
                encoder_hidden_states=encoded,
                use_cache=is_cached,
                **{CACHE_ARGUMENT: cache},
            ).last_hidden_state[:, -1:]
            block = self.W_out.project_block(hidden, index=n) * self.target_mask[n]  # [B, 1, D_T]
            blocks.append(self._add_linear(block, None if linear is None else linear[:, n : n + 1]))
        return torch.cat(blocks, dim=1)

    def _generate_folded(self, encoded: Tensor, linear: Tensor | None) -> Tensor:
        """Predict what ``_generate`` predicts; the blocks themselves are made at the end, all at once."""
        assert self.feedback is not None
        known = self.target_mean.new_zeros(1, *self.target_mean.shape) if linear is None else linear
        hidden = self.feedback.decode(self.decoder, self._decoder_inputs(known), encoded=encoded)
        return self._add_linear(self.W_out(hidden) * self.target_mask, linear)

    def _new_cache(self) -> EncoderDecoderCache | None:
        """Return an empty cache of keys and values, or None where none can be kept."""
        assert not isinstance(self.decoder, InferenceStack)  # it goes with a feedback
        if self.training and self.decoder.gradient_checkpointing:
            return None
        config = self.decoder.config
        return EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))

    def _predict_parallel(self, encoded: Tensor, linear: Tensor | None) -> Tensor:
        """Predict all blocks at once from learned queries that see one another in both directions (ours).

        T5's decoder takes a four-dimensional mask as it is instead of making a causal one. Its position bias gives
        all later blocks distance 0; the queries themselves tell them apart.
        """
        assert self.block_queries is not None
        num_blocks = self.target_layout.num_blocks
        hidden = self.decoder(
            inputs_embeds=_summable(self.block_queries).expand(len(encoded), -1, -1),
            attention_mask=encoded.new_zeros(1, 1, num_blocks, num_blocks),  # added to the scores
            encoder_hidden_states=encoded,
            use_cache=False,
        ).last_hidden_state
        return self._add_linear(self.W_out(hidden) * self.target_mask, linear)

    def _start(self, batch_size: int) -> Tensor:
        assert self.start_token is not None
        return self.start_token.expand(batch_size, 1, -1)

    def _add_linear(self, blocks: Tensor, linear: Tensor | None) -> Tensor:
        return blocks if linear is None or self.transformer_gain is None else linear + self.transformer_gain * blocks

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a checkpoint lacks; the stacks fill themselves. Places and masks are never in one."""
        if isinstance(module, BlockProjection | LinearPath | TensorScale):
            module.init_weights()
        elif module is self:
            for name, weight in self.named_parameters(recurse=False):  # the factor, and learned embeddings
                if name == "transformer_gain":
                    init.constant_(weight, self.config.transformer_gain)
                else:
                    init.normal_(weight)
            self._init_standardisation()


def _summable(embedded: Tensor) -> Tensor:
    """Return what enters a stack in float32 or more: the sum over its layers then stays so, whatever their weights."""
    return embedded.to(torch.promote_types(embedded.dtype, torch.float32))
