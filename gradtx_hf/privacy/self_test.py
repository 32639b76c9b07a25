"""Does a trainer take DP-SGD's steps? Its sums and its noise, step by step, against one row at a time.

A wrong clipping or a wrong noise voids epsilon and leaves no other trace. The test trains a model's adapter at a
vanishing learning rate on a few rows that every step draws, and looks at the gradients that reach the optimizer:

- the sum, nearly without noise, against the sum of the rows' gradients, each found alone and clipped to C;
- the change of that sum when a row is left out, which is at most C: its sensitivity;
- the standard deviation of the noise in every step, over sigma C;
- whether the noise of one step is met again in another, of the same run or of a second one with the same seed.

Source: ours; the steps are those of Abadi et al. (2016).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.finetuning import FineTuningRecipe, adapter_state, reset_adapter
from gradtx_hf.finetuning.dp import DPSFTTrainer
from gradtx_hf.finetuning.encoding import IGNORED
from gradtx_hf.finetuning.privacy import ClippingMode
from gradtx_hf.finetuning.trainer import pad_token_id, restored, training_arguments


LEAST_ROWS = 4
MOST_ROWS = 8
STILL = 1e-30
"""A learning rate at which nothing moves."""
NO_NOISE = 1e-9
NUM_NOISY_RUNS, NUM_NOISY_STEPS = 2, 2
SUM_TOLERANCE = 1e-4
NOISE_DEVIATIONS = 5.5
"""Standard errors that the measured noise may be off: a sound trainer fails once in millions of steps."""


@dataclass(frozen=True)
class SelfTest:
    """What the test found.

    Attributes:
        num_rows: Rows that it was run on.
        max_grad_norm: Norm C that it was run with: the median of the rows' norms.
        noise_multiplier: Noise sigma that the trainer was told.
        sum_error: Distance of the sum without noise from that of rows clipped one at a time, over its norm.
        sensitivity: Largest change of the sum when one row is left out, over C; at most 1 for DP-SGD.
        noise_shares: Standard deviation of the noise in each step over sigma C; 1 for DP-SGD.
        noise_tolerance: How far a share may be from 1.
        noise_correlation: Largest correlation of the noise of two steps, with its sign left out; near 0 for DP-SGD.
        findings: What is wrong, a sentence each; none for a sound trainer.
    """

    num_rows: int
    max_grad_norm: float
    noise_multiplier: float
    sum_error: float
    sensitivity: float
    noise_shares: tuple[float, ...]
    noise_tolerance: float
    noise_correlation: float
    findings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def gradient_self_test(
    model: PeftModel,
    examples: Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase,
    noise_multiplier: float = 1.0,
    clipping: ClippingMode = "per_sample",
    trainer_class: Callable[..., DPSFTTrainer] = DPSFTTrainer,
) -> SelfTest:
    """Test a trainer's steps on a model's active adapter, which is left as it was.

    Args:
        model: A model with a trainable LoRA adapter, in float32 and without dropout.
        examples: Columns ``input_ids`` and ``labels``, from ``tokenize_examples``; the first few rows are used.
        tokenizer: The model's tokenizer; for padding.
        noise_multiplier: Noise sigma that the trainer is told to add.
        clipping: How it finds norms.
        trainer_class: The trainer.

    Raises:
        ConfigurationError: If the model has dropout or half precision: rows alone then differ from rows in a batch.
        DataError: If there are too few rows.
    """
    if len(examples) < LEAST_ROWS:
        raise DataError(f"got {len(examples)} rows for the self-test, expected at least {LEAST_ROWS}.")
    if any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules()):
        raise ConfigurationError("the self-test needs a model without dropout. Set lora_dropout and the model's to 0.")
    if any(parameter.dtype.itemsize < 4 for parameter in model.parameters()):
        raise ConfigurationError("the self-test needs a model in float32. Load it with dtype=torch.float32.")
    rows = examples.select(range(min(len(examples), MOST_ROWS)))
    state = adapter_state(model)
    gradients = torch.stack([_row_gradient(model, row["input_ids"], row["labels"]) for row in rows])  # [rows, P]
    norms = gradients.norm(dim=1)
    limit = float(norms.median())
    expected = ((limit / norms).clamp(max=1)[:, None] * gradients).sum(dim=0)

    def sums(chosen: Dataset, sigma: float, num_steps: int) -> Tensor:
        try:
            kept = _train(
                model, chosen, tokenizer, (sigma, limit, clipping), num_steps=num_steps, trainer_class=trainer_class
            )
        finally:
            reset_adapter(model, state)
        return torch.stack(kept) * len(chosen)

    whole = sums(rows, NO_NOISE, 1)[0]
    left_out = [rows.select([i for i in range(len(rows)) if i != out]) for out in range(len(rows))]
    changes = [float((whole - sums(others, NO_NOISE, 1)[0]).norm()) / limit for others in left_out]
    noisy = torch.cat([sums(rows, noise_multiplier, NUM_NOISY_STEPS) for _ in range(NUM_NOISY_RUNS)])
    noise = (noisy - whole) / (noise_multiplier * limit)  # [runs · steps, P]
    return _judged(
        num_rows=len(rows),
        max_grad_norm=limit,
        noise_multiplier=noise_multiplier,
        sum_error=float((whole - expected).norm() / expected.norm()),
        sensitivity=max(changes),
        noise=noise,
    )


def _judged(
    *, num_rows: int, max_grad_norm: float, noise_multiplier: float, sum_error: float, sensitivity: float, noise: Tensor
) -> SelfTest:
    shares = tuple(noise.double().square().mean(dim=1).sqrt().tolist())
    tolerance = NOISE_DEVIATIONS / math.sqrt(2 * noise.shape[1])
    findings = []
    if sum_error > SUM_TOLERANCE:
        findings.append(f"the sum over rows is off by {sum_error:.2g} of its norm: rows are not clipped each to C.")
    if sensitivity > 1 + SUM_TOLERANCE:
        findings.append(f"one row changes the sum by {sensitivity:.3g} C, expected at most C: epsilon does not hold.")
    worst = max(shares, key=lambda share: abs(share - 1))
    if abs(worst - 1) > tolerance:
        word = "the noise is off" if worst < 1e-3 else "it is not the noise that is accounted for"
        findings.append(f"the noise of a step is {worst:.3g} sigma C, expected 1: {word}.")
    products = noise.double() @ noise.double().T / noise.shape[1]
    correlation = float((products - products.diag().diag()).abs().max())
    if correlation > math.sqrt(2) * tolerance:  # a product varies by 1 / sqrt(P), a share by 1 / sqrt(2 P)
        findings.append(
            f"the noise of one step is met again in another (correlation {correlation:.3g}, expected 0): it can be "
            "subtracted."
        )
    return SelfTest(
        num_rows=num_rows,
        max_grad_norm=max_grad_norm,
        noise_multiplier=noise_multiplier,
        sum_error=sum_error,
        sensitivity=sensitivity,
        noise_shares=shares,
        noise_tolerance=tolerance,
        noise_correlation=correlation,
        findings=tuple(findings),
    )


class _Gradients(TrainerCallback):
    """Keeps the gradients that reach the optimizer, each ``[P]``."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PeftModel | None = None,
        **kwargs: object,
    ) -> None:
        """Keep one step's."""
        assert model is not None
        self.kept.append(_flat([p.grad for p in model.parameters() if p.grad is not None]).cpu())


def _train(
    model: PeftModel,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    noise: tuple[float, float, ClippingMode],
    *,
    num_steps: int,
    trainer_class: Callable[..., DPSFTTrainer],
) -> list[Tensor]:
    """Return the gradients of steps that draw all rows and move nothing, for noise (sigma, C, mode)."""
    longest = max(len(ids) for ids in rows["input_ids"])
    recipe = FineTuningRecipe(
        num_steps=num_steps, batch_size=len(rows), learning_rate=STILL, max_length=max(longest, 2), max_grad_norm=0.0
    )
    gradients = _Gradients()
    with tempfile.TemporaryDirectory(prefix="gradtx-") as scratch, restored(model):
        arguments = training_arguments(recipe, seed=0, scratch=scratch)
        arguments.bf16 = False
        trainer_class(
            expected_batch_size=len(rows),
            noise_multiplier=noise[0],
            max_grad_norm=noise[1],
            clipping=noise[2],
            model=model,
            args=arguments,
            train_dataset=rows,
            processing_class=tokenizer,
            data_collator=DataCollatorForLanguageModeling(pad_token_id=pad_token_id(tokenizer)),
            callbacks=[gradients],
        ).train()
    return gradients.kept


def _row_gradient(model: PeftModel, ids: list[int], labels: list[int]) -> Tensor:
    """Return the gradient of one row's mean loss, ``[P]``: one forward and one backward pass, without hooks."""
    device = model.device
    logits = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits
    loss = cross_entropy(logits[0, :-1].float(), torch.tensor(labels, device=device)[1:], ignore_index=IGNORED)
    return _flat(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])).cpu()


def _flat(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])
