"""Train the methods of one client that fine-tune the target anew, wherever the job runs. Source: ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from gradtx_hf.errors import GradTxError
from gradtx_hf.evaluation.arguments import EvaluationArguments
from gradtx_hf.evaluation.controls import State
from gradtx_hf.evaluation.method_adapters import MethodTrainer, write_adapter
from gradtx_hf.evaluation.method_settings import PUBLIC, SOURCE_BEST, STARTS, WEAK_MODEL
from gradtx_hf.finetuning import FineTuningRecipe, Sample, load_samples
from gradtx_hf.finetuning.encoding import Prompt
from gradtx_hf.finetuning.pool import one_thread
from gradtx_hf.lora import load_adapter
from gradtx_hf.updates.store import Side


@dataclass(frozen=True)
class MethodJob:
    """The methods of one client to train.

    Attributes:
        methods: Their names.
        home: The client's folder, in which the adapters go.
        inits: Folders of the initial adapters.
        teachers: ``source_client`` and ``source_best`` to their folders.
        weak: Folder of each weak model, with the data whose second half it labels and the seed of their drawing.
        starts: Method by distillation to the target's factors that it starts from.
        prompts: Public inputs to label.
        arguments: How methods are trained.
        default: The recipe where the settings name none.
        seed: The client's.
    """

    methods: tuple[str, ...]
    home: Path
    inits: Mapping[Side, str]
    teachers: Mapping[str, Path]
    weak: tuple[tuple[Path, tuple[Sample, ...], int], ...]
    starts: Mapping[str, State]
    prompts: tuple[Prompt, ...]
    arguments: EvaluationArguments
    default: FineTuningRecipe
    seed: int


def train_methods(job: MethodJob) -> dict[str, str]:
    """Train a client's methods and write their adapters; return why not for those that fail, the others go on."""
    failures = {}
    with one_thread():
        trainer = MethodTrainer(
            job.inits,
            job.arguments.further_settings,
            default=job.default,
            max_new_tokens=job.arguments.max_new_tokens,
            max_prompt_tokens=job.arguments.max_prompt_tokens,
            batch_size=job.arguments.batch_size,
            seed=job.seed,
        )
        init, known = load_adapter(job.inits["target"]), {}
        for name in job.methods:
            try:
                key = SOURCE_BEST if name.endswith(PUBLIC) else STARTS[name][0] if name in STARTS else WEAK_MODEL
                if key not in known:
                    known[key] = _labelled(job, trainer, key)
                write_adapter(job.home / name, _trained(job, trainer, name, known[key]), init)
            except GradTxError as error:
                failures[name] = str(error)
    return failures


def _trained(job: MethodJob, trainer: MethodTrainer, name: str, labelled: Dataset) -> State:
    if name not in STARTS:
        return trainer.weak(name, labelled)
    last = trainer.num_refinement_steps
    teacher = job.teachers[STARTS[name][0]]
    return trainer.distilled(job.starts[name], labelled, teacher=teacher, steps=(last,))[last]


def _labelled(job: MethodJob, trainer: MethodTrainer, teacher: str) -> Dataset:
    """Return public prompts labelled by a teacher, or each weak model's half of its client's own."""
    if teacher != WEAK_MODEL:
        return trainer.labelled(job.teachers[teacher], job.prompts)
    parts = [
        trainer.labelled(folder, list(load_samples(samples, seed=seed, half="second")["prompt"]))
        for folder, samples, seed in job.weak
    ]
    return concatenate_datasets(parts)
