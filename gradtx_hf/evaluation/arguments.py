"""EvaluationArguments: whose adapters are scored, on what data, and how the controls are trained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.evaluation.method_settings import FURTHER_METHODS, WEAK_MODEL, MethodSettings
from gradtx_hf.evaluation.methods import METHODS
from gradtx_hf.finetuning import FineTuningRecipe, PrivacySettings, Sample
from gradtx_hf.translation.aggregation import Aggregation, AggregationSettings


MetricName = Literal["exact_match", "task_score", "bits_per_answer_token", "bits_per_character"]
RIVAL_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
RESERVED_NAMES = (*METHODS, *FURTHER_METHODS, WEAK_MODEL, "source")
"""What a rival cannot be called: methods, and the folders of a client's own adapters."""
HIGHER_IS_BETTER: dict[str, bool] = {
    "exact_match": True,
    "task_score": True,
    "bits_per_answer_token": False,
    "bits_per_character": False,
}


@dataclass(frozen=True)
class ClientData:
    """One client: private data to fine-tune on, and held-out data of the same kind to be scored on.

    Or several whose adapters become one before translation: each fine-tunes on its own data, the ceiling on the data of
    all, and each is scored on its own held-out data, a row of the report (paper, studies of many clients).

    Attributes:
        task: The task's name in the report.
        train: The private training data; several sources make a mixture; of several clients those of all.
        test: The held-out data; of several clients those of all.
        seen: Whether the task occurred in the shadow sets; None where the question makes no sense.
        seed: Seed of the drawing, of the client's fine-tuning and of its ceiling's.
        members: The clients, if they are several; their seeds count up from this one.
    """

    task: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    seen: bool | None = None
    seed: int = 0
    members: tuple[ClientData, ...] = ()

    @property
    def each(self) -> tuple[ClientData, ...]:
        """The members, or the client itself."""
        return self.members or (self,)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClientData:
        """Build a client from configuration values.

        ``train`` and ``test`` are each one data source, or a list of them; besides the keys of a data source, each
        takes ``num_samples``. In place of both, ``members`` is a list of the keys ``train`` and ``test``
        and, if it is not the client's, ``task``.

        Raises:
            ConfigurationError: If a key is unknown or missing, or the data of members are drawn at random.
        """
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"got client {values!r}, expected the keys task, train and test.")
        if values.get("members"):
            return cls._of_members(values)
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigurationError(f"got unknown client key '{unknown[0]}', expected any of {', '.join(known)}.")
        missing = [name for name in ("task", "train", "test") if not values.get(name)]
        if missing:
            raise ConfigurationError(f"a client lacks '{missing[0]}'. Add it.")
        seed, seen = values.get("seed", 0), values.get("seen")
        if not isinstance(seed, int) or not isinstance(seen, bool | None):
            raise ConfigurationError(
                f"got seed={seed!r}, seen={seen!r} for client '{values['task']}', expected a whole number, and true, "
                "false or null."
            )
        return cls(
            task=str(values["task"]),
            train=_samples(values["train"]),
            test=_samples(values["test"]),
            seen=seen,
            seed=seed,
        )

    @classmethod
    def _of_members(cls, values: Mapping[str, Any]) -> ClientData:
        both = [name for name in ("train", "test") if values.get(name)]
        if both or not isinstance(values["members"], Sequence) or isinstance(values["members"], str):
            raise ConfigurationError(
                f"got {'members and ' + both[0] if both else 'members that are no list'} in client "
                f"'{values.get('task')}', expected a list of members, each with train and test."
            )
        shared = {name: value for name, value in values.items() if name != "members"}
        first = values.get("seed", 0) if isinstance(values.get("seed", 0), int) else 0
        members = tuple(
            cls.from_dict({**shared, **member, "seed": first + i} if isinstance(member, Mapping) else member)
            for i, member in enumerate(values["members"])
        )
        train = tuple(sample for member in members for sample in member.train)
        if any(sample.num_samples is not None for sample in train):
            raise ConfigurationError(
                f"got num_samples in the training data of a member of client '{values['task']}', expected a slice such "
                "as split: train[:10%]: the ceiling is to have the very rows of all members."
            )
        test = tuple(sample for member in members for sample in member.test)
        return replace(members[0], task=str(values["task"]), train=train, test=test, members=members)


@dataclass
class EvaluationArguments:
    """What ``gradtx evaluate`` takes; the configuration is saved beside the report."""

    translator: str = field(metadata={"help": "translator: a folder, or a Hub repository 'owner/name[@revision]'"})
    """Translator: a folder or a repo id."""
    store: str = field(metadata={"help": "the store that the translator was trained on; the controls read it"})
    """The curated store; the controls shadow_mean, nearest_shadow, ridge and public_finetune are made from it."""
    output_dir: str = field(metadata={"help": "folder for report.json, report.md, report.png and all adapters"})
    """Output folder; the same command goes on where it was interrupted, if no argument and no input has changed."""
    clients: list[dict[str, Any]] = field(
        metadata={"help": "clients: a list of task, train, test, seen, seed; train and test are data sources"}
    )
    """Clients, as values of ``ClientData.from_dict``."""
    metric: MetricName = field(
        default="exact_match",
        metadata={"help": "exact_match, task_score, bits_per_answer_token or bits_per_character"},
    )
    """exact_match or task_score of greedy completions, in [0, 1]; bits_per_answer_token of the reference completions,
    which models of one tokenizer alone can be compared by; or bits_per_character of texts."""
    source_recipe: dict[str, Any] | None = field(
        default=None, metadata={"help": "recipe of the clients' fine-tuning; by default that of the shadow sets"}
    )
    """Recipe values of the source clients; None: as the store's source runs."""
    target_recipe: dict[str, Any] | None = field(
        default=None, metadata={"help": "recipe of the ceilings; by default that of the shadow sets"}
    )
    """Recipe values of the ceilings; None: as the store's target runs."""
    public_recipe: dict[str, Any] | None = field(
        default=None, metadata={"help": "recipe of the public fine-tune; by default that of the shadow sets"}
    )
    """Recipe values of the public fine-tune; None: as the store's target runs, whatever the ceilings' recipe."""
    client_privacy: dict[str, Any] | None = field(
        default=None,
        metadata={"help": "privacy of the clients' runs, as in gradtx client; null: not private"},
    )
    """``PrivacySettings`` of the clients' fine-tuning; None: not private. Ceilings are never private."""
    aggregation: Aggregation = field(
        default="mean", metadata={"help": "how the adapters of a client's members become one"}
    )
    """How the adapters of a client of several members become one, before translation."""
    max_new_tokens: int = field(default=64, metadata={"help": "most tokens of a completion"})
    """Most new tokens per completion, for exact_match."""
    max_prompt_tokens: int | None = field(
        default=None, metadata={"help": "most tokens of a prompt that is completed; longer ones lose their beginning"}
    )
    """Most tokens of a prompt that is completed, of which a longer one loses its beginning; None: all."""
    max_length: int = field(
        default=512, metadata={"help": "most tokens of a text, or of a prompt with its reference completion"}
    )
    """Most tokens per text for bits_per_character, per prompt with its reference completion for nats and bits of a
    token."""
    batch_size: int = field(default=64, metadata={"help": "held-out examples at once"})
    """Held-out examples per forward pass."""
    num_workers: int = field(default=1, metadata={"help": "processes, each with one thread"})
    """One-thread processes side by side."""
    pack: int = field(
        default=1,
        metadata={
            "help": "runs at once on one model, each part of a client being one: faster, and that much more memory"
        },
    )
    """Runs that are fine-tuned at once on one model; changes the last bits, and the masks of LoRA dropout."""
    allow_other_start: bool = field(default=False, metadata={"help": "accept clients that are far from source_init"})
    """Accept clients beyond the translator's distance limit; the report then rests on unreliable inputs."""
    rivals: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "further translators to score on the same clients: method name to a folder or repository"},
    )
    """Method name, in snake case, to another translator of the same initial adapters."""
    methods: list[str] = field(
        default_factory=list,
        metadata={"help": f"further methods to score on the same clients: {', '.join(FURTHER_METHODS)}"},
    )
    """Further methods; one that these models or data do not allow is named in the report with the reason."""
    method_settings: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "how further methods are trained: values of MethodSettings"}
    )
    """Values of ``MethodSettings``; the small model labels with ``max_new_tokens`` and ``max_prompt_tokens``."""
    adapters_from: str | None = field(
        default=None, metadata={"help": "folder of an earlier evaluation whose fine-tuned adapters are taken over"}
    )
    """Folder of an earlier evaluation of the same clients, whose fine-tuned adapters are copied, not made again."""

    def __post_init__(self) -> None:
        """Check what can be checked before anything runs.

        Raises:
            ConfigurationError: If a value is out of its range.
        """
        if self.metric not in HIGHER_IS_BETTER:
            raise ConfigurationError(f"got metric {self.metric!r}, expected one of {', '.join(HIGHER_IS_BETTER)}.")
        if not isinstance(self.clients, Sequence) or not self.clients:
            raise ConfigurationError("got no clients to evaluate, expected at least one.")
        for name in ("max_new_tokens", "max_prompt_tokens", "max_length", "batch_size", "num_workers", "pack"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"got {name}={value}, expected at least 1.")
        self.client_data()
        AggregationSettings.of(self.aggregation)
        if self.client_privacy is not None:
            PrivacySettings.from_dict(self.client_privacy)
        self._check_rivals()
        for name in self.methods:
            if name not in FURTHER_METHODS:
                raise ConfigurationError(f"got method {name!r}, expected any of {', '.join(FURTHER_METHODS)}.")
        MethodSettings.from_dict(self.method_settings)
        for name in ("source_recipe", "target_recipe", "public_recipe"):
            if getattr(self, name) is not None:
                FineTuningRecipe.from_dict(getattr(self, name))

    def client_data(self) -> list[ClientData]:
        """Return the clients.

        Raises:
            ConfigurationError: If one of them is not complete.
        """
        return [ClientData.from_dict(values) for values in self.clients]

    @property
    def further_settings(self) -> MethodSettings:
        """The further methods' settings."""
        return MethodSettings.from_dict(self.method_settings)

    def _check_rivals(self) -> None:
        if not isinstance(self.rivals, Mapping):
            raise ConfigurationError(f"got rivals {self.rivals!r}, expected method names and their translators.")
        for name, translator in self.rivals.items():
            if not isinstance(name, str) or not RIVAL_NAME.fullmatch(name):
                raise ConfigurationError(
                    f"got {name!r} as the name of a rival, expected small letters, digits and single underscores, "
                    "such as 'functional_linear'."
                )
            if name in RESERVED_NAMES:
                raise ConfigurationError(f"got '{name}' as the name of a rival, which means something else. Rename it.")
            if not isinstance(translator, str) or not translator:
                raise ConfigurationError(
                    f"got {translator!r} as the translator of rival '{name}', expected a folder or a repository id."
                )


def _samples(values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> tuple[Sample, ...]:
    listed = [values] if isinstance(values, Mapping | str) else list(values)
    return tuple(Sample.from_dict(entry) for entry in listed)
