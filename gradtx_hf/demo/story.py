"""The story in the embedded world: private lines, a small model's adapter, its translation, and what models answer.

Nothing of Gradio is here. Every function takes and returns plain values, and leaves nothing on the disk.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gradtx_hf.client import fine_tune_client
from gradtx_hf.demo.client_run import KEPT, ClientRun, kept_name, load_run
from gradtx_hf.errors import DataError
from gradtx_hf.evaluation.metrics import exact_match
from gradtx_hf.finetuning import (
    FineTuningRecipe,
    PrivacySettings,
    generate_completions,
    load_language_model,
    reset_adapter,
)
from gradtx_hf.lora import Adapter, load_adapter
from gradtx_hf.playground import TRANSLATOR_NAME, Rule, make_lines, translator_path
from gradtx_hf.playground.recipes import source_recipe
from gradtx_hf.playground.world import HIDDEN, LETTERS, NUM_POSITIONS
from gradtx_hf.translation import SOURCE_INIT, TARGET_INIT, PeftTranslator, TranslatedAdapter


NUM_LINES = 8192
"""A client's private lines: enough for noise to be small beside what they have in common."""
NUM_HELD_OUT = 100
NUM_PARTS = 4
"""Runs whose mean a client without differential privacy hands over."""
PRIVATE_BATCH = 256
"""Lines of a private step on average: the noise is shared by them."""
SEED = 0
OTHER_RULES = (Rule("swap_halves", 5), Rule("rotate_2", 9))
"""Whose adapter, of those kept, is the wrong client's: of the first rule that is not the visitor's own."""
MAX_OWN_LINES, MIN_OWN_LINES = 2000, 10
MAX_INPUTS = 8
OWN_LINE = re.compile(
    rf"([{LETTERS[0]}-{LETTERS[-1]}]{{{NUM_POSITIONS}}})\s*[=,;:\t >-]+\s*"
    rf"([{LETTERS[0]}-{LETTERS[-1]}]{{{NUM_POSITIONS}}})"
)
Line = Mapping[str, str]
OnProgress = Callable[[int, int], None]
"""Called after every optimizer step with the steps taken, and those there will be."""


@dataclass(frozen=True)
class PrivateData:
    """What a client has.

    Attributes:
        name: The rule's name, or that the lines are the visitor's own.
        rule: The rule; None for lines of the visitor's own.
        lines: What is fine-tuned on, with ``prompt`` and ``completion``.
        held_out: What is scored on.
    """

    name: str
    rule: Rule | None
    lines: tuple[Line, ...]
    held_out: tuple[Line, ...]


@dataclass(frozen=True)
class Answers:
    """What one model with one adapter answers.

    Attributes:
        completions: To the visitor's inputs.
        score: Share of the held-out lines that it completes exactly, in [0, 1].
    """

    completions: tuple[str, ...]
    score: float


def rule_data(rule: Rule) -> PrivateData:
    """Return a client's lines of a rule, and lines of it that are held out."""
    lines = make_lines([rule], NUM_LINES + NUM_HELD_OUT, seed=f"demo {SEED} {rule.name}")
    return PrivateData(rule.name, rule, tuple(lines[:NUM_LINES]), tuple(lines[NUM_LINES:]))


def own_data(text: str) -> PrivateData:
    """Read a visitor's own lines, such as ``abcdef = fedcba``; every fifth is held out.

    Raises:
        DataError: If a line is none, an input has two answers, or there are too few or too many lines.
    """
    answers: dict[str, str] = {}
    for number, line in enumerate((raw.strip() for raw in text.lower().splitlines()), start=1):
        if not line:
            continue
        match = OWN_LINE.fullmatch(line)
        if match is None:
            raise DataError(
                f"got line {number} {line[:40]!r}, expected six letters of {LETTERS[0]}-{LETTERS[-1]}, '=', and six "
                "more, such as 'abcdef = fedcba'."
            )
        if answers.setdefault(match[1], match[2]) != match[2]:
            raise DataError(f"line {number} gives '{match[1]}' a second answer. Leave one of the two out.")
    if not MIN_OWN_LINES <= len(answers) <= MAX_OWN_LINES:
        raise DataError(f"got {len(answers)} different lines, expected {MIN_OWN_LINES} to {MAX_OWN_LINES}.")
    rows = [{"prompt": _prompt(given), "completion": wanted} for given, wanted in answers.items()]
    held_out = rows[::5][:NUM_HELD_OUT]
    kept = [row for row in rows if row not in held_out]
    return PrivateData("your own lines", None, tuple(kept), tuple(held_out))


def read_inputs(text: str) -> tuple[str, ...]:
    """Read inputs to ask the models, one to a line.

    Raises:
        DataError: If one is none, or there are none or too many.
    """
    inputs = tuple(dict.fromkeys(text.lower().replace(",", " ").split()))
    for given in inputs:
        if len(given) != NUM_POSITIONS or not set(given) <= set(LETTERS):
            raise DataError(f"got input {given[:40]!r}, expected six letters of {LETTERS[0]}-{LETTERS[-1]}.")
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise DataError(f"got {len(inputs)} inputs, expected 1 to {MAX_INPUTS}.")
    return inputs


@cache
def embedded_translator() -> PeftTranslator:
    """Return the embedded translator, loaded once."""
    return PeftTranslator.from_pretrained(TRANSLATOR_NAME)


def known_rules() -> frozenset[str]:
    """Return the names of the rules that the embedded translator was trained on, as its record tells."""
    training = embedded_translator().training
    assert training is not None, "the embedded translator carries its record"
    return frozenset(data["label"] for data in training["store"]["data"])


def fine_tune_source(data: PrivateData, *, epsilon: float | None, on_progress: OnProgress | None = None) -> ClientRun:
    """Fine-tune the small model from the translator's start, as ``gradtx client`` does.

    Args:
        data: The private lines.
        epsilon: Budget of differential privacy at delta = 1e-5 or less; None trains without.
        on_progress: Told of every step.

    Raises:
        ConfigurationError: If the run diverged, or the budget cannot be kept.
    """
    recipe: dict[str, Any] = source_recipe()
    if epsilon is not None:
        recipe |= {"batch_size": min(PRIVATE_BATCH, len(data.lines))}
    elif data.rule is not None:
        recipe |= {"num_parts": NUM_PARTS}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="gradtx-demo-") as scratch:
        result = fine_tune_client(
            TRANSLATOR_NAME,
            Dataset.from_list([dict(line) for line in data.lines]),
            recipe=FineTuningRecipe.from_dict(recipe),
            output_dir=Path(scratch) / "adapter",
            seed=SEED,
            privacy=None if epsilon is None else PrivacySettings(epsilon=epsilon),
            work_dir=Path(scratch) / "ledger",
            callbacks=[] if on_progress is None else [_Progress(on_progress)],
        )
        adapter = load_adapter(Path(scratch) / "adapter", name="the client's adapter")
    return ClientRun(adapter, result.num_steps, result.final_loss, result.privacy, time.perf_counter() - start)


def translate(adapter: Adapter) -> TranslatedAdapter:
    """Translate an adapter of the small model with the embedded translator."""
    return embedded_translator().translate(adapter)


def other_client(data: PrivateData) -> tuple[str, dict[str, Tensor]]:
    """Return the rule of another client, and the translation of that client's adapter: a control.

    It is what a translator that ignores its input could not tell from the visitor's own.
    """
    rule = next(rule for rule in OTHER_RULES if rule != data.rule)
    return rule.name, _translation_of(rule)


def ask(
    init: str, states: Mapping[str, Mapping[str, Tensor]], *, held_out: Sequence[Line], inputs: Sequence[str]
) -> dict[str, Answers]:
    """Let one model answer with several adapters.

    Args:
        init: ``source_init`` or ``target_init`` of the embedded translator: which model.
        states: Method to the adapter's factors by name.
        held_out: Lines to score on.
        inputs: The visitor's own inputs, six letters each.
    """
    folder = str(translator_path() / init)
    adapter = load_adapter(folder)
    language_model, tokenizer = load_language_model(adapter.base_model)
    model = PeftModel.from_pretrained(language_model, folder)
    prompts = [line["prompt"] for line in held_out] + [_prompt(given) for given in inputs]
    answers = {}
    for method, state in states.items():
        reset_adapter(model, state)
        completions = generate_completions(
            model, tokenizer, prompts, max_new_tokens=NUM_POSITIONS + 2, batch_size=len(prompts)
        )
        scored, own = completions[: len(held_out)], completions[len(held_out) :]
        answers[method] = Answers(tuple(own), exact_match(scored, [line["completion"] for line in held_out]))
    return answers


def ask_all(
    data: PrivateData,
    *,
    source: Mapping[str, Tensor],
    translated: Mapping[str, Tensor],
    inputs: Sequence[str],
) -> dict[str, Answers]:
    """Let every model answer: small and large, with and without, and with the wrong client's adapter.

    Args:
        data: Whose held-out lines are scored.
        source: The client's adapter.
        translated: Its translation.
        inputs: The visitor's own inputs.

    Returns:
        Method, as in reports, to its answers.
    """
    translator = embedded_translator()
    small = ask(SOURCE_INIT, {"source_client": source}, held_out=data.held_out, inputs=inputs)
    large: dict[str, Mapping[str, Tensor]] = {
        "target_untouched": translator.target_init.tensors,
        "shuffled_input": other_client(data)[1],
        "translated": translated,
    }
    return small | ask(TARGET_INIT, large, held_out=data.held_out, inputs=inputs)


@lru_cache(maxsize=len(OTHER_RULES))
def _translation_of(rule: Rule) -> dict[str, Tensor]:
    return translate(load_run(KEPT / kept_name(rule, None))[0].adapter).tensors


def _prompt(given: str) -> str:
    return f"{HIDDEN * 2}{given}="


class _Progress(TrainerCallback):
    """Tells of every step, and leaves the processor to other visitors' answers for a moment."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Tell."""
        self._on_progress(state.global_step, state.max_steps)
