"""Clients whose story was told before: the app's examples, with the models' answers, and the story's controls.

    python -m gradtx_hf.demo.examples --output gradtx_hf/demo/clients

tells every story as the app does, and keeps each client's adapter beside what came of it. So an example shows at once,
in a Space that has just woken too, and nothing of it is written while the app runs. Private runs draw fresh noise, so
that theirs come out differently every time. Source: ours.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from tqdm import tqdm

from gradtx_hf.demo import story
from gradtx_hf.demo.client_run import KEPT, ClientRun, kept_name, load_run, save_run
from gradtx_hf.playground import Rule
from gradtx_hf.translation import TranslatedAdapter


INPUTS = ("abcdef", "fedcba", "hijkla")
"""What the models are asked, unless the visitor asks them something else."""


@dataclass(frozen=True)
class Example:
    """One client.

    Attributes:
        label: How it is offered.
        rule: Of its lines.
        epsilon: Its budget of differential privacy; None: trained without.
    """

    label: str
    rule: Rule
    epsilon: float | None


EXAMPLES = (
    Example("A rule that is new to the provider", Rule("odds_first", 7), None),
    Example("The same rule, privately: ε = 2", Rule("odds_first", 7), 2.0),
    Example("The same rule, too privately: ε = 0.1", Rule("odds_first", 7), 0.1),
    Example("A rule that the provider knows", Rule("rotate_1", 4), None),
)
CONTROLS = tuple(Example("", rule, None) for rule in story.OTHER_RULES)


@dataclass(frozen=True, eq=False)
class Told:
    """A story that was told to its end.

    Attributes:
        data: The private lines.
        run: The fine-tuning.
        translated: The translation.
        answers: Method to what it answers to ``INPUTS``.
    """

    data: story.PrivateData
    run: ClientRun
    translated: TranslatedAdapter
    answers: dict[str, story.Answers]


@cache
def told(example: Example) -> Told:
    """Return the story of an example; read once."""
    run, notes = load_run(KEPT / kept_name(example.rule, example.epsilon))
    answers = {
        method: story.Answers(tuple(found["completions"]), found["score"]) for method, found in notes["answers"].items()
    }
    return Told(story.rule_data(example.rule), run, story.translate(run.adapter), answers)


def keep(example: Example, folder: Path) -> None:
    """Tell the story of an example, and write what is kept of it."""
    data = story.rule_data(example.rule)
    run = story.fine_tune_source(data, epsilon=example.epsilon)
    translated = story.translate(run.adapter).tensors
    answers = story.ask_all(data, source=run.adapter.tensors, translated=translated, inputs=INPUTS)
    notes = {"rule": example.rule.name, "epsilon": example.epsilon, "inputs": INPUTS}
    save_run(folder, run, **notes, answers={method: asdict(found) for method, found in answers.items()})


def keep_control(control: Example, folder: Path) -> None:
    """Fine-tune a control's client, and write what is kept of it."""
    run = story.fine_tune_source(story.rule_data(control.rule), epsilon=None)
    save_run(folder, run, rule=control.rule.name, epsilon=None)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=KEPT)
    output = parser.parse_args().output
    for control in tqdm(CONTROLS, desc="controls"):  # first: the examples' answers are set beside them
        keep_control(control, output / kept_name(control.rule, None))
    for example in tqdm(EXAMPLES, desc="examples"):
        keep(example, output / kept_name(example.rule, example.epsilon))


if __name__ == "__main__":
    main()
