"""What a study is: a question, base settings, and the cells that each change something of them. Data only.

Every setting is a number or a text, so that a cell's results are known again by their settings: two cells with one
``World`` share a store, two with one ``World`` and one training share a translator. Source: ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.evaluation.arguments import RESERVED_NAMES
from gradtx_hf.finetuning import PrivacySettings
from gradtx_hf.playground.recipes import source_recipe, target_recipe
from gradtx_hf.training import TranslatorArguments
from gradtx_hf.translation.aggregation import Aggregation


CELL_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
MADE_BY_THE_STUDY = ("store", "output_dir", "seed")
"""Arguments of a training that are not a cell's to choose."""
MODULES = ("q_proj", "v_proj")
SINCE_ADDED = ("source_modules", "target_modules", "token_kinds")
"""Fields of ``World`` that ``to_dict`` names only where they are not the default: folders of before go on."""


@dataclass(frozen=True)
class World:
    """The pair of models, and the shadow sets that a translator learns from.

    Attributes:
        source: Name of the source model, one of ``models.MODELS``.
        target: Name of the target model, one of ``models.MODELS``.
        num_rules: How many of the 108 seen rules have shadow sets; those of fewer are among those of more.
        runs_per_rule: Shadow sets of each of them; one source run each.
        samples_per_set: Lines of a shadow set.
        num_snapshots: Updates kept of a run: its last optimizer steps.
        num_target_runs: Shadow sets with a target run as well; None: all, which the paper's objective learns from.
        source_recipe: How source adapters are fine-tuned, the shadows' and the clients' alike.
        target_recipe: How target adapters are fine-tuned; the ceilings and the public fine-tune take more steps.
        shadow_recipe: Changes of the source recipe for the shadows alone.
        source_modules: Modules of the source that are adapted, by the last parts of their paths.
        target_modules: Modules of the target that are adapted.
        token_kinds: One token per layer and kind, see ``CurationArguments``; empty: one token per layer.
    """

    source: str = "source"
    target: str = "target"
    num_rules: int = 108
    runs_per_rule: int = 4
    samples_per_set: int = 256
    num_snapshots: int = 4
    num_target_runs: int | None = 8
    source_recipe: Mapping[str, Any] = field(default_factory=source_recipe)
    target_recipe: Mapping[str, Any] = field(default_factory=target_recipe)
    shadow_recipe: Mapping[str, Any] = field(default_factory=dict)
    source_modules: tuple[str, ...] = MODULES
    target_modules: tuple[str, ...] = MODULES
    token_kinds: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_shadow_sets(self) -> int:
        """Shadow sets in all."""
        return self.num_rules * self.runs_per_rule

    @property
    def pair(self) -> str:
        """The models, with the target's modules where they are not the usual ones."""
        modules = "" if self.target_modules == MODULES else f" ({', '.join(self.target_modules)})"
        return f"{self.source} → {self.target}{modules}"

    def to_dict(self) -> dict[str, Any]:
        """Return all that determines its stores, as values that ``json`` takes."""
        usual = World()
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in SINCE_ADDED or value != getattr(usual, name)
        }

    def with_pair_of(self, other: World) -> World:
        """Return this world with another's models, adapted modules and recipes; token kinds change no adapter."""
        return replace(
            self,
            source=other.source,
            target=other.target,
            source_recipe=other.source_recipe,
            target_recipe=other.target_recipe,
            source_modules=other.source_modules,
            target_modules=other.target_modules,
        )


@dataclass(frozen=True)
class Clients:
    """Whose adapters are translated: one client per rule, or several whose updates become one first.

    Attributes:
        num_seen: Rules of clients that have shadow sets in every cell.
        num_unseen: Rules of clients that have none.
        unseen: Which rules those are: ``development`` (12, for choosing settings), or ``report`` (24, for a published
            table).
        num_private_lines: Lines of a client's private data.
        num_parts: Parts that a client divides them into, with a run on each; see ``fine_tune_parts``.
        num_test_lines: Held-out lines of a client.
        num_ceiling_steps: Steps of the ceilings, on the private lines of all clients of a translation.
        num_public_steps: Steps of the public fine-tune, a control.
        num_members: Clients of one translation, each with lines of its own.
        has_own_tasks: Whether each of them has a rule of its own; else all have one.
        aggregation: How their updates become one.
        num_mixed_rules: Rules that each client's lines are a mixture of, hidden from each other as ever.
        dirichlet_alpha: Concentration of the mixtures: near 0 a client has one rule, far above 1 all alike.
        source_recipe: Changes of the world's source recipe for the clients' own runs.
        privacy: ``PrivacySettings`` of these runs; empty: not private.

    Raises:
        ConfigurationError: If the numbers do not go together, or the privacy settings are none.
    """

    num_seen: int = 12
    num_unseen: int = 12
    unseen: Literal["development", "report"] = "development"
    num_private_lines: int = 512
    num_parts: int = 1
    num_test_lines: int = 100
    num_ceiling_steps: int = 240
    num_public_steps: int = 480
    num_members: int = 1
    has_own_tasks: bool = False
    aggregation: Aggregation = "mean"
    num_mixed_rules: int = 1
    dirichlet_alpha: float = 1.0
    source_recipe: Mapping[str, Any] = field(default_factory=dict)
    privacy: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.has_own_tasks and (self.num_seen % self.num_members or self.num_unseen % self.num_members):
            raise ConfigurationError(
                f"got {self.num_seen} seen and {self.num_unseen} unseen rules for translations of {self.num_members} "
                "clients with a rule each, expected multiples."
            )
        if self.num_mixed_rules > 1 and self.num_members > 1:
            raise ConfigurationError("got num_mixed_rules with num_members, expected one of the two.")
        if self.privacy and self.num_parts > 1:
            raise ConfigurationError(f"got num_parts={self.num_parts} with privacy, expected 1: a private run is one.")
        if self.privacy:
            PrivacySettings.from_dict(self.privacy)


@dataclass(frozen=True)
class Cell:
    """One point of a study.

    Attributes:
        name: Its name in commands and in report.json, in snake case.
        label: What tables and plots call it.
        world: Changes of the study's world, by field.
        training: Changes of the study's training, by field of ``TranslatorArguments``.
        client_noise: Standard deviation of Gaussian noise on the clients' updates, in units of the shadow sets'.
        x: Its place on the plot's axis, in the order of the cells; empty where the plot has bars.
        series: Which line of the plot it belongs to.
        clients: Changes of the study's clients, by field.
        panel: Which row of panels of the plot it belongs to, where there are several.
    """

    name: str
    label: str
    world: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    client_noise: float = 0.0
    x: str = ""
    series: str = ""
    clients: Mapping[str, Any] = field(default_factory=dict)
    panel: str = ""


@dataclass(frozen=True)
class Study:
    """A question and the cells that answer it.

    Attributes:
        name: Its name in commands.
        title: What it varies, a few words.
        question: What it asks, one sentence.
        cells: Its cells.
        training: Arguments of the translators' training, by field of ``TranslatorArguments``.
        main: The cell that report.json shows as ``translated``, with the others as rivals; the first by default.
        world: The world that cells change, and that the controls are made from.
        clients: The clients.
        paper: Where the paper does something like it; empty if it does not.
        note: What a reader must know to read the numbers.
        x_axis: What the plot's axis shows; empty where the plot has bars.
        methods_on_axis: Controls that the plot shows along the axis as well, all in the metric's unit; empty: the
            cells alone, as shares of the gain.

    Raises:
        ConfigurationError: If names are double or unknown, or a cell changes what is not there.
    """

    name: str
    title: str
    question: str
    cells: tuple[Cell, ...]
    training: Mapping[str, Any]
    main: str = ""
    world: World = field(default_factory=World)
    clients: Clients = field(default_factory=Clients)
    paper: str = ""
    note: str = ""
    x_axis: str = ""
    methods_on_axis: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [cell.name for cell in self.cells]
        for name in names:
            if not CELL_NAME.fullmatch(name) or name in RESERVED_NAMES or names.count(name) > 1:
                raise ConfigurationError(
                    f"got cell '{name}' in study '{self.name}', expected different names in snake case, and none of a "
                    f"method ({', '.join(RESERVED_NAMES)})."
                )
        if self.main_name not in names:
            raise ConfigurationError(f"got main='{self.main}' in study '{self.name}', expected one of its cells.")
        known = {f.name for f in fields(TranslatorArguments) if f.init} - set(MADE_BY_THE_STUDY)
        for cell in self.cells:
            _require_known(cell.world, {f.name for f in fields(World)}, f"cell '{cell.name}'")
            _require_known(self.training_of(cell), known, f"cell '{cell.name}'")
            _require_known(cell.clients, {f.name for f in fields(Clients)}, f"cell '{cell.name}'")
            num_seen = self.clients_of(cell).num_seen
            if self.world_of(cell).num_rules < num_seen:
                raise ConfigurationError(
                    f"got num_rules={self.world_of(cell).num_rules} in cell '{cell.name}', expected at least the "
                    f"{num_seen} rules of the seen clients."
                )

    @property
    def main_name(self) -> str:
        """Name of the main cell."""
        return self.main or self.cells[0].name

    def cell(self, name: str) -> Cell:
        """Return a cell by its name.

        Raises:
            ConfigurationError: If there is none.
        """
        found = {cell.name: cell for cell in self.cells}
        if name not in found:
            raise ConfigurationError(f"got cell '{name}', expected one of study '{self.name}': {', '.join(found)}.")
        return found[name]

    def world_of(self, cell: Cell) -> World:
        """Return the world of a cell."""
        return replace(self.world, **cell.world)

    def control_world_of(self, cell: Cell) -> World:
        """Return the world whose store a cell's controls are made from: the study's, with the cell's pair."""
        return self.world.with_pair_of(self.world_of(cell))

    def clients_of(self, cell: Cell) -> Clients:
        """Return the clients of a cell."""
        return replace(self.clients, **cell.clients)

    def training_of(self, cell: Cell) -> dict[str, Any]:
        """Return the training arguments of a cell."""
        return {**self.training, **cell.training}

    def settings_of(self, cell: Cell) -> dict[str, Any]:
        """Return all that determines a cell's numbers but the seed, as JSON values."""
        return {
            "world": self.world_of(cell).to_dict(),
            "control_world": self.control_world_of(cell).to_dict(),
            "training": self.training_of(cell),
            "clients": asdict(self.clients_of(cell)),
            "client_noise": cell.client_noise,
        }


def _require_known(changes: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(changes) - known)
    if unknown:
        raise ConfigurationError(f"got '{unknown[0]}' in {where}, expected any of {', '.join(sorted(known))}.")
