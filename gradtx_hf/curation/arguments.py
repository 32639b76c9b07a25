"""CurationArguments: all that ``gradtx curate`` can be told."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from gradtx_hf.curation.share import Share
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning import DataSource, FineTuningRecipe
from gradtx_hf.updates import is_kind_name
from gradtx_hf.updates.plan import STORE_DTYPES


AUTO = "auto"
MIXTURES = ("single", "weights", "dirichlet")
POSITIVE = (
    "num_shadow_sets",
    "samples_per_set",
    "num_snapshots",
    "rank",
    "alpha",
    "num_workers",
)
"""Fields that are at least 1."""


def _attention_modules() -> list[str]:
    return ["q_proj", "v_proj"]


@dataclass
class CurationArguments:
    """What to fine-tune on what, how, and where the update pairs go."""

    source_model: str = field(metadata={"help": "The small model: a folder, or an id on the Hub."})
    """The small model: a folder, or an id on the Hub."""
    target_model: str = field(metadata={"help": "The large model: a folder, or an id on the Hub."})
    """The large model: a folder, or an id on the Hub."""
    output_dir: str = field(metadata={"help": "Folder of the update store; an interrupted curation is continued."})
    """Folder of the update store; an interrupted curation is continued."""
    corpora: list[dict[str, Any]] = field(
        metadata={"help": "Public data: the fields of DataSource each, and an optional label."}
    )
    """Public data: the fields of DataSource each, and an optional ``label``, the path or the task by default."""
    num_shadow_sets: int = field(metadata={"help": "Number of shadow sets; one source run each."})
    """Number of shadow sets K; one source run each (paper: 300)."""
    source_recipe: dict[str, Any] = field(
        metadata={"help": "FineTuningRecipe of the source runs: num_steps, batch_size, learning_rate, …"}
    )
    """FineTuningRecipe of the source runs: num_steps, batch_size, learning_rate, …"""
    target_recipe: dict[str, Any] = field(
        metadata={"help": "FineTuningRecipe of the target runs: num_steps, batch_size, learning_rate, …"}
    )
    """FineTuningRecipe of the target runs: num_steps, batch_size, learning_rate, …"""
    samples_per_set: int = field(metadata={"help": "Examples per shadow set."}, default=1024)
    """Examples per shadow set (paper: 1,024)."""
    num_target_runs: int | None = field(
        metadata={
            "help": "Number of shadow sets with a target run as well, spread over the corpora; null: all, which "
            "training on update pairs needs; 0: none."
        },
        default=8,
    )
    """Number of shadow sets with a target run as well; more than there are sets means all. None: all, which the paper's
    objective needs (ours: 8; the paper runs all). 0: none. A shadow set's content does not depend on it."""
    mixture: str = field(
        metadata={"help": "How a set draws on the corpora: single, weights or dirichlet."}, default="single"
    )
    """How a set draws on the corpora: ``single`` (one each, in turn), ``weights`` or ``dirichlet``."""
    mixture_weights: list[float] | None = field(
        metadata={"help": "Share of each corpus, for mixture weights."}, default=None
    )
    """Share of each corpus up to a factor, for ``weights``; alike by default."""
    dirichlet_alpha: float = field(metadata={"help": "Concentration of the mixture dirichlet."}, default=1.0)
    """Concentration of ``dirichlet``: near 0 a set has one corpus, far above 1 all alike."""
    num_snapshots: int = field(
        metadata={"help": "Update pairs per shadow set: the last so many optimizer steps."}, default=200
    )
    """Update pairs per shadow set: the last so many optimizer steps ("the last 200 steps", paper Sec. 4.1)."""
    store_dtype: Literal["float32", "bfloat16"] = field(
        metadata={"help": "What the store keeps numbers as: float32, or bfloat16, which takes half the room."},
        default="float32",
    )
    """What the store keeps numbers as: ``float32``, or ``bfloat16``, which takes half the room and rounds each to eight
    significant bits (ours). They are read as float32 either way."""
    rank: int = field(metadata={"help": "LoRA rank on both sides."}, default=2)
    """LoRA rank on both sides (paper: 2)."""
    alpha: int = field(metadata={"help": "LoRA alpha on both sides."}, default=32)
    """LoRA alpha on both sides (published scripts: 32)."""
    dropout: float = field(metadata={"help": "LoRA dropout on both sides."}, default=0.05)
    """LoRA dropout on both sides, in [0, 1) (published scripts: 0.05)."""
    source_target_modules: list[str] = field(
        metadata={"help": "Modules of the source to adapt."}, default_factory=_attention_modules
    )
    """Modules of the source to adapt (published scripts: query and value projections)."""
    target_target_modules: list[str] = field(
        metadata={"help": "Modules of the target to adapt."}, default_factory=_attention_modules
    )
    """Modules of the target to adapt (published scripts: query and value projections)."""
    token_kinds: dict[str, str] | None = field(
        metadata={
            "help": "One token per layer and kind: kind name to a pattern in the module path; null: one per layer."
        },
        default=None,
    )
    """Name of each token kind to the pattern that a module path of that kind contains, the first that fits counts
    (see ``gradtx_hf.updates.TOKEN_KINDS``); a layer then has one token per kind. None: one token per layer."""
    source_revision: str | None = field(metadata={"help": "Revision of the source model on the Hub."}, default=None)
    """Revision of the source model on the Hub; the plan and the initial adapter hold its commit."""
    target_revision: str | None = field(metadata={"help": "Revision of the target model on the Hub."}, default=None)
    """Revision of the target model on the Hub; the plan and the initial adapter hold its commit."""
    seed: int = field(metadata={"help": "Seed of the initial adapters, the shadow sets and the runs."}, default=0)
    """Seed of the initial adapters, the shadow sets and the runs."""
    pack: int | Literal["auto"] = field(
        metadata={
            "help": "Most source runs fine-tuned at once on one model; 1: no packing; auto: tried out before the start."
        },
        default=16,
    )
    """Most source runs fine-tuned at once on one model, which for a small model is several times cheaper; 1: none.
    ``auto``: sizes are tried on the model, data and recipe before the start, until a pack does no more in the same time
    or would take more than 80 % of the free memory; the plan holds the number, which a continued curation keeps."""
    target_pack: int | Literal["auto"] = field(
        metadata={"help": "The same of target runs; takes the memory of as many."}, default=4
    )
    """The same of target runs: a large model gains less by it, and takes the memory of so many batches."""
    checkpoint_seconds: float = field(
        metadata={"help": "Seconds between two checkpoints of a pack, and before its first; 0: after every step."},
        default=300.0,
    )
    """Seconds between two checkpoints of a pack, and before its first, so that short packs have none; 0: after every
    step. The result does not depend on it."""
    num_workers: int = field(metadata={"help": "Processes at once, each with one thread and one model."}, default=1)
    """Processes at once, each with one thread and one model; the result does not depend on it."""
    farm: Literal["ray"] | None = field(
        metadata={"help": "ray: packs on a Ray cluster, as many at once as it has room for; null: this machine alone."},
        default=None,
    )
    """``ray``: packs on a Ray cluster, as many at once as it has room for, and ``num_workers`` says nothing. None: on
    this machine alone."""
    ray_address: str | None = field(
        metadata={"help": "host:port of the Ray cluster; null: the one that runs here, or else a new one here."},
        default=None,
    )
    """host:port of the Ray cluster. None: the one that runs on this machine, or else a new one of it alone."""
    plan_only: bool = field(
        metadata={"help": "Write the plan and the initial adapters, and stop: jobs can then take shares of it."},
        default=False,
    )
    """Whether to stop when the plan and the initial adapters are written, so that jobs can take shares of it."""
    share: str | None = field(
        metadata={"help": "i/n: do every n-th pack of the plan from pack i on, and write no manifest; null: all."},
        default=None,
    )
    """``i/n``: do every n-th pack of the plan from pack i on (0 ≤ i < n), and write no manifest. The same without it,
    where the shards of all shares are, completes the store. None: all packs."""

    def __post_init__(self) -> None:
        """Check every field and how they fit together.

        Raises:
            ConfigurationError: If one cannot be used.
        """
        for name in POSITIVE:
            if getattr(self, name) < 1:
                raise ConfigurationError(f"got {name}={getattr(self, name)}, expected at least 1.")
        self._check_packs()
        self._check_farm()
        if self.num_target_runs is not None and self.num_target_runs < 0:
            raise ConfigurationError(
                f"got num_target_runs={self.num_target_runs}, expected 0 or more, or null for all shadow sets."
            )
        if self.store_dtype not in STORE_DTYPES:
            raise ConfigurationError(
                f"got store_dtype={self.store_dtype!r}, expected one of {', '.join(STORE_DTYPES)}."
            )
        if not 0 <= self.dropout < 1:
            raise ConfigurationError(f"got dropout={self.dropout}, expected a share in [0, 1).")
        for name in ("source_target_modules", "target_target_modules"):
            if not getattr(self, name):
                raise ConfigurationError(f"{name} names no module. Name at least one, such as q_proj.")
        self._check_corpora()
        self._check_mixture()
        self._check_token_kinds()
        for name in ("source_recipe", "target_recipe"):
            try:
                FineTuningRecipe.from_dict(getattr(self, name))
            except ConfigurationError as error:
                raise ConfigurationError(f"{name}: {error}") from error

    @property
    def sources(self) -> dict[str, DataSource]:
        """The corpora by label."""
        return {
            str(values.get("label") or values.get("path") or values.get("task")): DataSource.from_dict(
                {key: value for key, value in values.items() if key != "label"}
            )
            for values in self.corpora
        }

    def _check_packs(self) -> None:
        for name in ("pack", "target_pack"):
            size = getattr(self, name)
            if size != AUTO and (not isinstance(size, int) or size < 1):
                raise ConfigurationError(f"got {name}={size!r}, expected at least 1, or {AUTO}.")
        if not 0 <= self.checkpoint_seconds < math.inf:
            raise ConfigurationError(f"got checkpoint_seconds={self.checkpoint_seconds}, expected 0 or more.")

    def _check_farm(self) -> None:
        if self.farm not in (None, "ray"):
            raise ConfigurationError(f"got farm={self.farm!r}, expected ray, or null for this machine alone.")
        if self.ray_address is not None and self.farm is None:
            raise ConfigurationError(f"got ray_address={self.ray_address!r} without farm. Set farm: ray.")
        if self.ray_address is not None and self.ray_address.startswith("ray://"):
            raise ConfigurationError(
                f"got ray_address={self.ray_address!r}, expected host:port: run gradtx curate on a node of the cluster."
            )
        if self.share is not None:
            Share.parse(self.share)
        if self.share is not None and self.plan_only:
            raise ConfigurationError("got plan_only together with share. Make the plan first, then do its shares.")

    def _check_corpora(self) -> None:
        if not self.corpora:
            raise ConfigurationError("corpora is empty. Give at least one data set.")
        for values in self.corpora:
            if not isinstance(values, dict):
                raise ConfigurationError(f"got corpus {values!r}, expected fields of a data source such as path.")
        if len(self.sources) < len(self.corpora):
            raise ConfigurationError("two corpora have the same label, or the same path and no label. Label them.")

    def _check_mixture(self) -> None:
        if self.mixture not in MIXTURES:
            raise ConfigurationError(f"got mixture={self.mixture!r}, expected one of {', '.join(MIXTURES)}.")
        if self.mixture_weights is not None:
            if self.mixture != "weights":
                raise ConfigurationError(f"mixture_weights go with mixture='weights', got {self.mixture!r}.")
            if len(self.mixture_weights) != len(self.corpora):
                raise ConfigurationError(
                    f"got {len(self.mixture_weights)} mixture_weights, expected {len(self.corpora)}, one per corpus."
                )
            if min(self.mixture_weights) < 0 or sum(self.mixture_weights) <= 0:
                raise ConfigurationError("mixture_weights must be 0 or more, and not all 0.")
        if self.dirichlet_alpha <= 0:
            raise ConfigurationError(f"got dirichlet_alpha={self.dirichlet_alpha}, expected a positive number.")

    def _check_token_kinds(self) -> None:
        if self.token_kinds is None:
            return
        if not self.token_kinds:
            raise ConfigurationError("token_kinds names no kind. Name at least one, or leave it out.")
        for kind, pattern in self.token_kinds.items():
            if not is_kind_name(kind):
                raise ConfigurationError(f"got token kind '{kind}', expected a plain name such as 'mlp'.")
            try:
                re.compile(pattern)
            except (TypeError, re.error) as error:
                raise ConfigurationError(
                    f"got token_kinds with {kind}={pattern!r}, expected a regular expression such as 'attn|attention'."
                ) from error
