"""StepBar: a bar of a trainer's steps on stderr; Trainer's own callbacks write to stdout."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


SHOWN = ("loss", "eval_loss", "eval_relative_error", "eval_generated_relative_error")
"""What of the log stands behind the bar."""


class StepBar(TrainerCallback):
    """Shows the steps of one training run and the last values of its log.

    Args:
        description: What stands before the bar.
    """

    def __init__(self, description: str) -> None:
        self._description = description
        self._shown: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Open the bar at the step where training begins."""
        self._bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self._description,
            unit="step",
            file=sys.stderr,
            leave=None,  # but under another bar it goes when it is done
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Move the bar."""
        self._bar.update()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Show the log's values behind the bar."""
        values = logs or {}
        self._shown |= {name: f"{float(values[name]):.3g}" for name in SHOWN if name in values}
        if hasattr(self, "_bar"):
            self._bar.set_postfix(self._shown, refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Close the bar."""
        self._bar.close()
