"""DP-SGD on adapters: DPSFTTrainer, and ``fine_tune_private``. Needs the extra [dp].

One step (Abadi et al., 2016): every row is in it with probability q = expected batch / rows; the gradient of each row's
own mean loss is clipped to norm C; the sum, plus Gaussian noise of standard deviation sigma C, is divided by the
expected batch. A step that draws no row is a step all the same, of noise alone. Batches larger than ``batch_size`` run
in chunks. Sampling, noise and dropout come from ``private_random``, whatever the trainer's seed: were the masks of
dropout known, a row more would move the rows after it to other masks, and so change more of the sum than one row's
share.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import TrainOutput
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning.accounting import NoisySteps, epsilon, noise_multiplier
from gradtx_hf.finetuning.clipping import RowClipper, row_clipper, row_losses
from gradtx_hf.finetuning.dp_checks import require_private_model, require_private_options, require_private_recipe
from gradtx_hf.finetuning.encoding import IGNORED
from gradtx_hf.finetuning.privacy import ClippingMode, PrivacySettings, PrivacyStatement
from gradtx_hf.finetuning.private_random import private_dropout, private_normal, private_uniform
from gradtx_hf.finetuning.progress import StepBar
from gradtx_hf.finetuning.recipe import FineTuningRecipe
from gradtx_hf.finetuning.trainer import AdapterSFTTrainer, pad_token_id, require_tokens, restored, training_arguments


@dataclass(frozen=True)
class PrivateResult:
    """What one private run came to.

    Attributes:
        num_steps: Optimizer steps taken.
        final_loss: Mean over the last ``convergence_window`` steps that drew rows, in nats per completion token; None
            if none did. No noise is on it and epsilon does not cover it: it is for the owner of the data alone.
        privacy: What the run spent.
    """

    num_steps: int
    final_loss: float | None
    privacy: PrivacyStatement


class PoissonSampler(Sampler[list[int]]):
    """Draws batches in which every row is with the same probability, by itself; a batch may be empty.

    Args:
        num_rows: Rows there are.
        sample_rate: The probability, in (0, 1].
        num_batches: Batches to draw.
    """

    def __init__(self, *, num_rows: int, sample_rate: float, num_batches: int) -> None:
        self._num_rows = num_rows
        self._sample_rate = sample_rate
        self._num_batches = num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self._num_batches):
            yield (private_uniform(self._num_rows) < self._sample_rate).nonzero().flatten().tolist()


class DPSFTTrainer(AdapterSFTTrainer):
    """AdapterSFTTrainer that takes DP-SGD's steps; the physical batch is ``per_device_train_batch_size``.

    Attributes:
        steps: Noise, sample rate and number of the steps.
        expected_batch_size: Rows per step on average.
        max_grad_norm: Norm C that every row's gradient is clipped to.

    Args:
        expected_batch_size: Rows per step on average; the sample rate is their share of all rows.
        noise_multiplier: Standard deviation of the noise over ``max_grad_norm``.
        max_grad_norm: Norm C that every row's gradient is clipped to.
        clipping: How norms are found.
        options: Options of SFTTrainer; what would break the guarantee is refused.

    Raises:
        ConfigurationError: If an option, or something of the model, would break the guarantee.
    """

    def __init__(
        self,
        *,
        expected_batch_size: int,
        noise_multiplier: float,
        max_grad_norm: float,
        clipping: ClippingMode = "per_sample",
        **options: Any,  # noqa: ANN401 - the options of SFTTrainer
    ) -> None:
        require_private_options(options)
        require_private_model(options["model"], clipping=clipping)
        self._adapted: PeftModel = options["model"]
        self._rows: Dataset = options["train_dataset"]
        num_rows = len(self._rows)
        if not 1 <= expected_batch_size <= num_rows:
            raise ConfigurationError(
                f"got {expected_batch_size} rows per step on average for {num_rows} rows, expected 1 to {num_rows}. "
                "Set batch_size, or gradient_accumulation_steps."
            )
        self.steps = NoisySteps(noise_multiplier, expected_batch_size / num_rows, options["args"].max_steps)
        self.expected_batch_size = expected_batch_size
        self.max_grad_norm = max_grad_norm
        self._clipping = clipping
        self._clipper: RowClipper | None = None
        super().__init__(**options)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,  # noqa: FBT001 - Trainer's signature
        trial: Any | dict[str, Any] | None = None,  # noqa: ANN401 - Trainer's signature
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train all steps from the start.

        Raises:
            ConfigurationError: If a checkpoint is given, which does not hold what was spent before it, or a trial of a
                search, whose other trials would not be counted; at the second call; or if a callback ended the run
                before its last step.
        """
        if trial is not None:
            raise ConfigurationError(
                "a private run cannot be a trial of a search for hyperparameters, which scores private rows. Choose "
                "them on public data."
            )
        if resume_from_checkpoint:
            raise ConfigurationError(
                "a private run cannot go on from a checkpoint, which does not hold what was spent. Start it anew."
            )
        if self.state.global_step:
            raise ConfigurationError("a private run was trained already and would spend again. Make a new trainer.")
        with row_clipper(self._adapted, mode=self._clipping, max_grad_norm=self.max_grad_norm) as self._clipper:
            output = super().train(ignore_keys_for_eval=ignore_keys_for_eval)
        if self.state.global_step != self.steps.num_steps:
            raise ConfigurationError(
                f"a callback ended the private run after {self.state.global_step} of {self.steps.num_steps} steps: "
                "when a run stops could tell the loss on private rows. Leave the callback out."
            )
        return output

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of Poisson batches, which accelerate must not prepare: it would draw them anew."""
        return DataLoader(self._rows, batch_sampler=self.batches(), collate_fn=self._chunks)

    def batches(self) -> Sampler[list[int]]:
        """Return the rows of every step; an audit leaves canaries out here."""
        return PoissonSampler(
            num_rows=len(self._rows), sample_rate=self.steps.sample_rate, num_batches=self.steps.num_steps
        )

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Set the gradient to the noisy mean of the clipped gradients of a batch's rows.

        Args:
            model: The model in training.
            inputs: ``chunks``: batches of ``input_ids``, ``labels`` and ``attention_mask``, each ``[B, T]``; or none.
            num_items_in_batch: Not used: no row's loss depends on other rows.

        Returns:
            The mean loss of the batch's rows; 0 without rows.
        """
        assert self._clipper is not None, "only train() takes steps"
        model.train()
        chunks: Any = self._prepare_inputs(inputs)["chunks"]
        with private_dropout():
            sums, losses = self.clipped_sums(model, chunks)
        deviation = self.steps.noise_multiplier * self.max_grad_norm
        for parameter, total in zip(self._clipper.parameters, sums, strict=True):
            noise = (deviation * private_normal(total.shape)).to(total)
            parameter.grad = (total + noise) / self.expected_batch_size
        if not len(losses):
            return torch.zeros((), device=sums[0].device)
        self.step_losses.append(losses.mean())
        return self.step_losses[-1]

    def clipped_sums(self, model: torch.nn.Module, chunks: Sequence[dict[str, Tensor]]) -> tuple[list[Tensor], Tensor]:
        """Return the sum of the clipped gradients of a step's rows, before noise; an audit adds its canaries here.

        Args:
            model: The model in training.
            chunks: Batches of ``input_ids``, ``labels`` and ``attention_mask``, each ``[B, T]``; or none.

        Returns:
            One tensor for each trainable parameter, in its shape, and the rows' losses.
        """
        assert self._clipper is not None, "only train() takes steps"
        sums = [torch.zeros_like(parameter) for parameter in self._clipper.parameters]
        losses = [torch.zeros(0, device=sums[0].device)]
        for chunk in chunks:
            outputs = model(input_ids=chunk["input_ids"], attention_mask=chunk["attention_mask"], use_cache=False)
            losses.append(row_losses(outputs.logits, chunk["labels"], ignored=IGNORED))
            for total, clipped in zip(sums, self._clipper.clipped_sum(losses[-1]), strict=True):
                total += clipped
            losses[-1] = losses[-1].detach()
        return sums, torch.cat(losses)

    def _chunks(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        size = self.args.per_device_train_batch_size
        return {"chunks": [self.data_collator(rows[start : start + size]) for start in range(0, len(rows), size)]}


def fine_tune_private(  # noqa: PLR0913 - the arguments of fine_tune, and how private
    model: PeftModel,
    examples: Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase,
    recipe: FineTuningRecipe,
    privacy: PrivacySettings,
    callbacks: Sequence[TrainerCallback] = (),
    show_progress: bool = False,
    trainer_class: Callable[..., DPSFTTrainer] = DPSFTTrainer,
) -> PrivateResult:
    """Fine-tune a model's active adapter by DP-SGD, in place, from the values that it has.

    Args:
        model: A model with a trainable LoRA adapter; left in evaluation mode, its base untouched.
        examples: Columns ``input_ids`` and ``labels``, from ``tokenize_examples``; each row is one unit of privacy.
        tokenizer: The model's tokenizer; for padding.
        recipe: How to train: a step draws ``batch_size * gradient_accumulation_steps`` rows on average, ``batch_size``
            in memory at a time. Its ``max_grad_norm`` has no part: that of ``privacy`` clips every row.
        privacy: How private.
        callbacks: Further callbacks, such as recorders of snapshots: what they see of the adapter is covered.
        show_progress: Show a bar of the steps on stderr.
        trainer_class: What takes the steps; an audit gives one that inserts canaries.

    Raises:
        ConfigurationError: If something would break the guarantee, or the loss did not stay finite.
        DataError: If the examples are not tokenized.
    """
    require_tokens(examples)
    require_private_recipe(recipe)
    expected = recipe.batch_size * recipe.gradient_accumulation_steps
    with tempfile.TemporaryDirectory(prefix="gradtx-") as scratch, restored(model):
        arguments = training_arguments(
            replace(recipe, gradient_accumulation_steps=1, max_grad_norm=0.0), seed=0, scratch=scratch
        )
        arguments.bf16 = False  # rounding after the norms are known would let rows pass C
        rate = min(expected / len(examples), 1.0)
        delta = privacy.delta_for(len(examples))
        trainer = trainer_class(
            expected_batch_size=expected,
            noise_multiplier=_noise(privacy, rate, recipe.num_steps, delta),
            max_grad_norm=privacy.max_grad_norm,
            clipping=privacy.clipping,
            model=model,
            args=arguments,
            train_dataset=examples,
            processing_class=tokenizer,
            data_collator=DataCollatorForLanguageModeling(pad_token_id=pad_token_id(tokenizer)),
            callbacks=[*callbacks, *([StepBar("fine-tuning")] if show_progress else [])],
        )
        spent = epsilon(**vars(trainer.steps), delta=delta)
        trainer.train()
    last = torch.stack(trainer.step_losses[-recipe.convergence_window :]).tolist() if trainer.step_losses else []
    statement = PrivacyStatement(
        epsilon=spent,
        delta=delta,
        steps=trainer.steps,
        expected_batch_size=expected,
        max_grad_norm=privacy.max_grad_norm,
        clipping=privacy.clipping,
    )
    return PrivateResult(trainer.state.global_step, math.fsum(last) / len(last) if last else None, statement)


def _noise(privacy: PrivacySettings, rate: float, num_steps: int, delta: float) -> float:
    if privacy.epsilon is None:
        assert privacy.noise_multiplier is not None
        return privacy.noise_multiplier
    return noise_multiplier(epsilon=privacy.epsilon, sample_rate=rate, num_steps=num_steps, delta=delta)
