"""GradTransformerTrainingArguments: Trainer's arguments with the paper's defaults, and a few of our own.

Source: paper Sec. 4 and appendix; what is ours says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from gradtx_hf.errors import ConfigurationError, MissingExtraError
from gradtx_hf.model.configuration import Decoding, T5Value


Objective = Literal["functional", "parameter"]

BEST_BY = {"functional": "eval_loss", "parameter": "eval_generated_relative_error"}
"""What makes a checkpoint the best, by objective: always that of the model's own generation, as it will be used."""
DEFAULT_LINEAR_RANK = 128
LEAST = {
    "input_noise": 0,
    "num_target_runs": 0,
    "examples_per_adapter": 1,
    "target_batches": 1,
    "parameter_weight": 0,
    "linear_rank": 0,
}
"""Least value of a number that has no other bound."""
T5_FIELDS = (
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_decoder_layers",
    "num_heads",
    "dropout_rate",
    "feed_forward_proj",
)


@dataclass
class GradTransformerTrainingArguments(TrainingArguments):
    """Arguments of the training of a translator.

    Raises:
        ConfigurationError: If a value of ours is out of range, or two do not go together.
    """

    per_device_train_batch_size: int = 32  # "batch size 32" (paper)
    """Pairs in a batch, on each device."""

    per_device_eval_batch_size: int = 32
    """Validation pairs in a batch, on each device."""

    num_train_epochs: float = 30.0  # "30 epochs" (paper)
    """Passes over the training pairs."""

    objective: Objective = "functional"  # ours; "parameter" is the paper's Eq. 10
    """``functional``: generated adapters are judged by the loss of the target that they adapt. ``parameter``: by their
    squared distance to the adapters of the target runs, of which there must then be many."""

    learning_rate: float = 2e-3  # ours, for the small default model; 2e-5…8e-5 for Flan-T5-Large (paper)
    """Learning rate of Adam at the start."""

    optim: str = "adamw_torch_fused"  # with weight_decay 0 it is Adam (paper Eq. 10)
    """The optimizer."""

    logging_steps: float = 50
    """Steps (optimizer updates) between two lines of the log."""

    eval_strategy: str = "epoch"
    """When to validate: ``no``, ``steps`` or ``epoch``."""

    save_strategy: str = "epoch"
    """When to write a checkpoint; as ``eval_strategy``, so that the best one is there to be restored."""

    save_total_limit: int | None = 2
    """Checkpoints kept; the best one is among them."""

    load_best_model_at_end: bool = True
    """Whether the best checkpoint is restored at the end; without validation there is none, and this is ignored."""

    metric_for_best_model: str | None = None
    """What makes a checkpoint the best; None: see ``BEST_BY``."""

    greater_is_better: bool | None = False
    """Errors are better when small."""

    remove_unused_columns: bool = False
    """Pairs have no columns to remove."""

    dataloader_pin_memory: bool = False
    """Whether batches are copied to page-locked memory; worth it for large blocks on a GPU."""

    validation_share: float = 0.05  # "95:5" (paper)
    """Share of the shadow sets kept for validation, in [0, 1); at least one set unless 0."""

    input_noise: float = 0.5  # ours
    """Standard deviation of the Gaussian noise added to source tokens, in standardised units."""

    mixing: float = 0.0  # ours
    """Probability, in [0, 1], that a pair is mixed with another of its batch; for the objective ``parameter``."""

    standardise: bool = True  # ours
    """Whether tokens are standardised; without it little is learned, which an ablation shows."""

    num_target_runs: int | None = None  # ours
    """Target runs, at most, that the mean and scale of the output are taken from; None: all. 0: the mean is zero, and
    the scale of each kind of tensor is learned; for the objective ``functional``."""

    examples_per_adapter: int = 4  # ours
    """Examples of its shadow set on which each generated adapter is judged in a step (objective ``functional``)."""

    target_batches: int = 1  # ours
    """Passes through the target over which a step's examples are spread; more need less memory, and more time."""

    target_checkpointing: bool = False  # ours
    """Whether the target recomputes its activations in the backward pass instead of keeping them."""

    parameter_weight: float = 0.0  # ours
    """Weight of the paper's loss (Eq. 10) beside the functional one, over the updates that have a target run."""

    linear_rank: int | None = None
    """Rank of the linear path beside the Transformer; None: 128 for ``functional`` (ours), 0 for ``parameter``."""

    whiten: bool = True  # ours
    """Whether the linear path begins along the principal directions of the source updates, not at random."""

    has_transformer: bool = True
    """Whether there is a Transformer beside the linear path; False makes the linear map alone, a control."""

    decoding: Decoding = "autoregressive"  # (paper Eq. 11)
    """``autoregressive``: block by block, from the blocks before. ``parallel``: all blocks at once (ours)."""

    block_positions: bool = False  # ours
    """Whether each block has a learned embedding of its place."""

    from_t5: str | None = None  # "Flan-T5-Large" (paper); None, from scratch, is ours
    """Folder or repository of a pretrained T5 whose stacks the translator starts from."""

    from_t5_revision: str | None = None
    """Branch, tag or commit of ``from_t5``."""

    d_model: int | None = None
    """H, the width of the translator. This and the fields below: None is the configuration's default."""

    d_kv: int | None = None
    """Width of an attention head."""

    d_ff: int | None = None
    """Width of the feed-forward layers."""

    num_layers: int | None = None
    """Layers of the encoder."""

    num_decoder_layers: int | None = None
    """Layers of the decoder; None: as many as the encoder."""

    num_heads: int | None = None
    """Attention heads."""

    dropout_rate: float | None = None
    """Dropout, in [0, 1)."""

    feed_forward_proj: str | None = None
    """Activation of the feed-forward layers, such as ``relu`` or ``gated-gelu``."""

    def __post_init__(self) -> None:
        """Check the values of ours, then let transformers check its own."""
        self._check_ranges()
        if self.from_t5 is not None and self.t5_fields:
            raise ConfigurationError(
                f"got {', '.join(self.t5_fields)} together with from_t5={self.from_t5!r}, which brings its own. "
                "Leave out the one or the other."
            )
        if self.from_t5 is not None and not self.has_transformer:
            raise ConfigurationError("got from_t5 together with has_transformer=False. Leave out the one or the other.")
        if self.eval_strategy == "no":
            self.load_best_model_at_end = False
            self.metric_for_best_model = None
        elif self.metric_for_best_model is None:
            self.metric_for_best_model = BEST_BY[self.objective]
        if self.linear_rank is None:
            self.linear_rank = DEFAULT_LINEAR_RANK if self.objective == "functional" else 0
        super().__post_init__()
        self._check_reporters()

    def _check_ranges(self) -> None:
        for name, kind in (("objective", Objective), ("decoding", Decoding)):
            if getattr(self, name) not in get_args(kind):
                raise ConfigurationError(f"got {name}={getattr(self, name)!r}, expected {' or '.join(get_args(kind))}.")
        if not 0 <= self.validation_share < 1:
            raise ConfigurationError(f"got validation_share={self.validation_share}, expected a share in [0, 1).")
        if not 0 <= self.mixing <= 1:
            raise ConfigurationError(f"got mixing={self.mixing}, expected a probability in [0, 1].")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigurationError(f"got {name}={value}, expected at least {least}.")
        if not 1 <= self.target_batches <= self.examples_per_adapter:
            raise ConfigurationError(
                f"got target_batches={self.target_batches}, expected 1 to examples_per_adapter="
                f"{self.examples_per_adapter}."
            )
        self._check_objective()

    def _check_objective(self) -> None:
        if self.objective == "functional" and self.mixing > 0:
            raise ConfigurationError(
                f"got mixing={self.mixing:g} with objective 'functional', which has no pairs to mix. Set it to 0."
            )
        if self.objective == "parameter" and (self.parameter_weight > 0 or self.target_checkpointing):
            raise ConfigurationError(
                "got parameter_weight or target_checkpointing with objective 'parameter', which uses no target. Leave "
                "them out."
            )
        if self.objective == "parameter" and self.num_target_runs == 0:
            raise ConfigurationError("got num_target_runs=0, but objective 'parameter' learns from target runs alone.")

    def _check_reporters(self) -> None:
        """Check that what losses are reported to is there: Trainer itself says so only once the work has begun."""
        available = get_available_reporting_integrations()
        for name in self.report_to or []:
            if name not in INTEGRATION_TO_CALLBACK:
                raise ConfigurationError(f"got report_to={name!r}, expected 'none', 'tensorboard' or 'trackio'.")
            if name not in available:
                raise MissingExtraError(f"report_to={name!r} needs {name}. Install it with: pip install {name}")

    @property
    def t5_fields(self) -> dict[str, T5Value]:
        """The T5 fields that were given."""
        return {name: getattr(self, name) for name in T5_FIELDS if getattr(self, name) is not None}
