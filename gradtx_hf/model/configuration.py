"""GradTransformerConfig: what a translator is made of, as one JSON file that a reader can check.

The two block layouts say what the tokens hold, ``t5`` is the shape of the Transformer φ, and the provenance fields
name the pair of language models. Nothing of the file is ever passed on to a loader.

Axes: N_S / N_T blocks, D_S / D_T the size of the largest block, H d_model. Source: paper Sec. 3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any, Literal, get_args

from transformers import PreTrainedConfig, T5Config
from transformers.activations import ACT2FN

from gradtx_hf.errors import ConfigurationError, LayoutError, holds_secret
from gradtx_hf.updates import BlockLayout, is_kind_name


Decoding = Literal["autoregressive", "parallel"]
"""How target blocks are made: one by one, each from those before it (paper Eq. 11), or all in one pass (ours)."""

T5Value = int | float | str
DEFAULT_T5: dict[str, T5Value] = {
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 256,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "initializer_factor": 1.0,
    "feed_forward_proj": "gated-gelu",
}
"""The T5Config fields that ``t5`` may hold, with their defaults: ours, for embedded pairs (paper: Flan-T5-Large)."""
MAX_WHOLE_NUMBER = 2**20
DTYPES = ("float32", "bfloat16", "float16", "float64")
"""Number formats that a configuration may name."""


class GradTransformerConfig(PreTrainedConfig):
    """Configuration of a GradTransformerModel.

    Attributes:
        source_blocks: ``BlockLayout.to_dict`` of the source's tokens.
        target_blocks: ``BlockLayout.to_dict`` of the target's tokens.
        source_fingerprint: Fingerprint of ``source_blocks``; computed if None, else checked.
        target_fingerprint: Fingerprint of ``target_blocks``; computed if None, else checked.
        t5: Fields of T5Config (see ``DEFAULT_T5``), completed with the defaults; ``num_decoder_layers`` follows
            ``num_layers``.
        has_transformer: Whether there is a Transformer φ; without one the translator is the linear path alone, and
            ``t5``, ``decoding``, ``block_positions`` and ``transformer_gain`` play no part.
        linear_rank: Rank >= 0 of a linear path beside φ, from the whole source update to the whole target update;
            0: no such path.
        transformer_gain: Start value > 0 of a learned factor on φ's prediction where there is a linear path beside
            it; without one the factor is 1 and not learned.
        decoding: "autoregressive", block by block (paper), or "parallel", all blocks in one pass from learned block
            queries that see one another in both directions.
        block_positions: Whether each block's place has a learned embedding, added to the encoder's inputs and, in
            autoregressive decoding, to the decoder's (the place of the block that is predicted).
        learned_scale: Whether each kind of target tensor, such as ``q_proj.lora_B``, has a learned factor on the
            standard deviation: for translators trained without target updates to take statistics from.
        source_base_model: Repository or path of the language model that source adapters belong to.
        source_base_revision: Its revision.
        target_base_model: Repository or path of the language model that target adapters belong to.
        target_base_revision: Its revision.
        start_distance_limit: Largest distance to the source's start, in [0, 1], of an adapter that may be
            translated; None: not checked.

    Raises:
        ConfigurationError: If a layout is missing or a value cannot be used.
        LayoutError: If a layout cannot be read, or is not the one of its fingerprint.
    """

    model_type = "grad_transformer"

    source_blocks: dict[str, Any] | None = None
    target_blocks: dict[str, Any] | None = None
    source_fingerprint: str | None = None
    target_fingerprint: str | None = None
    t5: dict[str, T5Value] | None = None
    has_transformer: bool = True
    linear_rank: int = 0
    transformer_gain: float = 0.3
    decoding: Decoding = "autoregressive"
    block_positions: bool = False
    learned_scale: bool = False
    source_base_model: str | None = None
    source_base_revision: str | None = None
    target_base_model: str | None = None
    target_base_revision: str | None = None
    start_distance_limit: float | None = None

    def __post_init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - transformers' own signature
        """Check every value; what transformers adds of its own is left to transformers."""
        self.source_fingerprint = _check_layout("source", self.source_blocks, self.source_fingerprint)
        self.target_fingerprint = _check_layout("target", self.target_blocks, self.target_fingerprint)
        self.t5 = complete_t5(self.t5 or {})
        _check_architecture(self)
        _check_provenance(self)
        super().__post_init__(**kwargs)

    @classmethod
    def from_layouts(  # noqa: PLR0913 - one keyword for each field of the file
        cls,
        source_layout: BlockLayout,
        target_layout: BlockLayout,
        *,
        t5: Mapping[str, T5Value] | None = None,
        has_transformer: bool = True,
        linear_rank: int = 0,
        transformer_gain: float = 0.3,
        decoding: Decoding = "autoregressive",
        block_positions: bool = False,
        learned_scale: bool = False,
        source_base_model: str | None = None,
        source_base_revision: str | None = None,
        target_base_model: str | None = None,
        target_base_revision: str | None = None,
        start_distance_limit: float | None = None,
    ) -> GradTransformerConfig:
        """Make the configuration for a pair of layouts; the keywords are the fields of the same names.

        Raises:
            ConfigurationError: If a value cannot be used.
        """
        return cls(
            source_blocks=source_layout.to_dict(),
            target_blocks=target_layout.to_dict(),
            t5=dict(t5 or {}),
            has_transformer=has_transformer,
            linear_rank=linear_rank,
            transformer_gain=transformer_gain,
            decoding=decoding,
            block_positions=block_positions,
            learned_scale=learned_scale,
            source_base_model=source_base_model,
            source_base_revision=source_base_revision,
            target_base_model=target_base_model,
            target_base_revision=target_base_revision,
            start_distance_limit=start_distance_limit,
        )

    @classmethod
    def from_dict(
        cls,
        config_dict: dict[str, Any],
        **options: Any,  # noqa: ANN401 - transformers' own signature
    ) -> GradTransformerConfig:
        """Make the configuration of a file's values: of our own fields and the number format, whatever else it names.

        A field that is transformers' own could name code to run, kernels to fetch, or other files to read.

        Raises:
            ConfigurationError: If a value cannot be used.
            LayoutError: If a layout cannot be read, or is not the one of its fingerprint.
        """
        own = {field.name for field in fields(cls)} - {field.name for field in fields(PreTrainedConfig)}
        values = {name: value for name, value in config_dict.items() if name in own}
        dtype = config_dict.get("dtype", config_dict.get("torch_dtype"))
        if dtype is not None and str(dtype).removeprefix("torch.") not in DTYPES:
            raise ConfigurationError(f"got dtype={dtype!r}, expected one of {', '.join(DTYPES)}.")
        made: GradTransformerConfig = super().from_dict({**values, "dtype": dtype}, **options)
        return made

    @property
    def source_layout(self) -> BlockLayout:
        """What stands where in source tokens ``[N_S, D_S]``."""
        return _parse_layout(json.dumps(self.source_blocks))

    @property
    def target_layout(self) -> BlockLayout:
        """What stands where in target tokens ``[N_T, D_T]``."""
        return _parse_layout(json.dumps(self.target_blocks))

    @property
    def hidden_size(self) -> int:
        """H, the width of φ."""
        return int(complete_t5(self.t5 or {})["d_model"])

    def t5_config(self) -> T5Config:
        """Return the configuration of the two T5 stacks; they keep no token embedding, so its vocabulary is empty."""
        fields: dict[str, Any] = {**complete_t5(self.t5 or {})}
        config = T5Config(**fields, vocab_size=1, pad_token_id=None, eos_token_id=None)
        config._attn_implementation = self._attn_implementation
        return config


def complete_t5(values: Mapping[str, T5Value]) -> dict[str, T5Value]:
    """Complete T5 fields with the defaults.

    Raises:
        ConfigurationError: If a field is unknown, or its value cannot be used.
    """
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"got t5={values!r}, expected a map of T5Config's fields.")
    unknown = sorted(set(values) - set(DEFAULT_T5))
    if unknown:
        raise ConfigurationError(f"got t5 field '{unknown[0]}', expected only {', '.join(DEFAULT_T5)}.")
    completed = {**DEFAULT_T5, **values}
    if "num_layers" in values and "num_decoder_layers" not in values:
        completed["num_decoder_layers"] = values["num_layers"]
    for name, default in DEFAULT_T5.items():
        _check_t5_value(name, completed[name], default)
        completed[name] = type(default)(completed[name])  # T5Config takes no whole number for a float
    _check_buckets(int(completed["relative_attention_num_buckets"]), int(completed["relative_attention_max_distance"]))
    return completed


def _check_t5_value(name: str, value: object, default: T5Value) -> None:
    if isinstance(default, str):
        parts = str(value).split("-", 1)
        is_valid, expected = parts[-1] in ACT2FN and parts[:-1] in ([], ["gated"]), "such as 'relu' or 'gated-gelu'"
    elif isinstance(default, int):
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        is_valid = is_whole and 0 < value <= MAX_WHOLE_NUMBER  # type: ignore[operator]
        expected = f"a whole number from 1 to {MAX_WHOLE_NUMBER}"
    elif name == "dropout_rate":
        is_valid, expected = _is_number(value) and 0 <= value < 1, "a number in [0, 1)"  # type: ignore[operator]
    else:
        is_valid, expected = _is_number(value) and value > 0, "a number > 0"  # type: ignore[operator]
    if not is_valid:
        raise ConfigurationError(f"got t5 field {name}={value!r}, expected {expected}.")


def _check_buckets(num_buckets: int, max_distance: int) -> None:
    """Check that T5 has a bucket for the nearest places on either side, and a wider one for what lies beyond them."""
    if num_buckets < 4 or max_distance <= num_buckets // 2:
        raise ConfigurationError(
            f"got t5 fields relative_attention_num_buckets={num_buckets} and relative_attention_max_distance="
            f"{max_distance}, expected at least 4 buckets, and a distance of more than half as much."
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2.0**63


def _check_layout(side: str, blocks: object, fingerprint: str | None) -> str:
    """Return the fingerprint of a layout that is there, readable, and the one that was saved."""
    if not isinstance(blocks, dict):
        raise ConfigurationError(
            f"got no {side}_blocks, expected a block layout. Make the configuration with "
            "GradTransformerConfig.from_layouts(source_layout, target_layout)."
        )
    layout = _parse_layout(json.dumps(blocks))
    if fingerprint is not None and fingerprint != layout.fingerprint:
        raise LayoutError(
            f"got a {side} layout of fingerprint {layout.fingerprint}, expected {fingerprint} as config.json says. "
            "The file was changed after it was saved: download it again."
        )
    for kind in layout.kinds:
        if not is_kind_name(kind):
            raise LayoutError(f"got token kind '{kind}' in the {side} layout, expected a plain name such as 'mlp'.")
    return layout.fingerprint


@lru_cache(maxsize=16)
def _parse_layout(text: str) -> BlockLayout:
    """Parse a layout's JSON; a cache by content, so that the configuration itself stays plain JSON values."""
    return BlockLayout.from_dict(json.loads(text))


def _check_architecture(config: GradTransformerConfig) -> None:
    for name in ("has_transformer", "block_positions", "learned_scale"):
        if not isinstance(getattr(config, name), bool):
            raise ConfigurationError(f"got {name}={getattr(config, name)!r}, expected true or false.")
    rank, gain = config.linear_rank, config.transformer_gain
    if not isinstance(rank, int) or isinstance(rank, bool) or not 0 <= rank <= MAX_WHOLE_NUMBER:
        raise ConfigurationError(
            f"got linear_rank={rank!r}, expected a whole number from 0 to {MAX_WHOLE_NUMBER} (0: no linear path)."
        )
    if not (_is_number(gain) and gain > 0):
        raise ConfigurationError(f"got transformer_gain={gain!r}, expected a number > 0.")
    if config.decoding not in get_args(Decoding):
        raise ConfigurationError(f"got decoding={config.decoding!r}, expected {' or '.join(get_args(Decoding))}.")
    if not config.has_transformer and rank == 0:
        raise ConfigurationError(
            "got has_transformer=False and linear_rank=0, expected a Transformer, a linear path or both. "
            "Set linear_rank to 1 or more, such as 128."
        )


def _check_provenance(config: GradTransformerConfig) -> None:
    for name in ("source_base_model", "source_base_revision", "target_base_model", "target_base_revision"):
        value = getattr(config, name)
        if value is not None and not (isinstance(value, str) and value.isprintable()):
            raise ConfigurationError(f"got {name}={value!r}, expected text or null.")
        if value is not None and holds_secret(value):
            raise ConfigurationError(f"got {name} with a password or token in it. Remove it from config.json.")
    limit = config.start_distance_limit
    if limit is not None and not (_is_number(limit) and 0 <= limit <= 1):
        raise ConfigurationError(f"got start_distance_limit={limit!r}, expected a number in [0, 1] or null.")
