from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from scipy.stats import binom, chi2, kstest
from torch import Tensor
from transformers import EarlyStoppingCallback, OPTConfig, OPTForCausalLM, TrainerCallback, TrainerControl
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.finetuning import FineTuningRecipe, PrivacySettings, adapter_state
from gradtx_hf.finetuning.accounting import epsilon
from gradtx_hf.finetuning.clipping import row_clipper, row_losses
from gradtx_hf.finetuning.dp import DPSFTTrainer, PoissonSampler, fine_tune_private
from gradtx_hf.finetuning.privacy import ClippingMode
from gradtx_hf.finetuning.private_random import private_dropout, private_normal, private_uniform
from gradtx_hf.finetuning.trainer import training_arguments
from tests.finetuning.private import (
    FAMILIES,
    TOKENIZER,
    clipped_sum,
    distance,
    flat,
    make_model,
    make_rows,
    row_gradients,
)
from tests.tiny import tiny_llama, with_lora


COLLATE = DataCollatorForLanguageModeling(pad_token_id=0)
RECIPE = FineTuningRecipe(num_steps=3, batch_size=4, learning_rate=1e-2, max_length=32)
SETTINGS = PrivacySettings(noise_multiplier=1.0)
OF_SFT_CONFIG = (
    "packing", "padding_free", "gradient_checkpointing", "bf16", "fp16", "gradient_accumulation_steps",
    "auto_find_batch_size", "report_to", "push_to_hub",
)  # fmt: skip


class Gradients(TrainerCallback):
    """Keeps the gradients that reach the optimizer."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_pre_optimizer_step(
        self, args: object, state: object, control: object, model: PeftModel | None = None, **kwargs: object
    ) -> None:
        assert model is not None
        self.seen.append(flat(p.grad for p in model.parameters() if p.requires_grad))


def gradients_of_steps(
    model: PeftModel, rows: Dataset, tmp_path: Path, *, physical: int = 4, num_steps: int = 1, **options: object
) -> list[Tensor]:
    """Train without moving, and return the gradient of every step."""
    recipe = replace(RECIPE, num_steps=num_steps, batch_size=physical, learning_rate=1e-30, max_grad_norm=0.0)
    kept = Gradients()
    values = {"expected_batch_size": len(rows), "max_grad_norm": 0.5, "noise_multiplier": 1e-9} | options
    trainer = make_trainer(model, rows, tmp_path, recipe=recipe, callbacks=[kept], **values)
    trainer.train()
    return kept.seen


def make_trainer(
    model: PeftModel, rows: Dataset, tmp_path: Path, *, recipe: FineTuningRecipe = RECIPE, **options: object
) -> DPSFTTrainer:
    arguments = training_arguments(replace(recipe, max_grad_norm=0.0), seed=0, scratch=str(tmp_path))
    for name in OF_SFT_CONFIG:
        if name in options:
            setattr(arguments, name, options.pop(name))
    if "clip_again" in options:
        arguments.max_grad_norm = options.pop("clip_again")
    values: dict[str, Any] = {"expected_batch_size": 4, "noise_multiplier": 1.0, "max_grad_norm": 1.0}
    return DPSFTTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        processing_class=TOKENIZER,
        data_collator=COLLATE,
        **values | options,
    )


@pytest.mark.parametrize("mode", ["ghost", "per_sample"])
@pytest.mark.parametrize("family", FAMILIES)
def test_clipped_sum_is_that_of_one_row_at_a_time(family: str, mode: ClippingMode) -> None:
    model, rows = make_model(family), make_rows(16)
    gradients = row_gradients(model, rows)
    limit = float(gradients.norm(dim=1).median())  # half of the rows are clipped

    batch = COLLATE(list(rows))
    with row_clipper(model, mode=mode, max_grad_norm=limit) as clipper:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        found = clipper.clipped_sum(row_losses(logits, batch["labels"], ignored=-100))

    assert distance(flat(found), clipped_sum(gradients, max_grad_norm=limit)) < 1e-5
    assert not any(vars(p).get("grad_sample") is not None or p.grad is not None for p in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


@pytest.mark.parametrize("mode", ["ghost", "per_sample"])
def test_no_row_keeps_more_than_the_clipping_norm(mode: ClippingMode) -> None:
    model, rows = make_model(), make_rows(8)
    with row_clipper(model, mode=mode, max_grad_norm=0.01) as clipper:
        for row in rows:
            batch = COLLATE([row])
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            found = clipper.clipped_sum(row_losses(logits, batch["labels"], ignored=-100))

            assert 0.0099 < float(flat(found).norm()) <= 0.01 * (1 + 1e-5)


@pytest.mark.parametrize(("mode", "physical"), [("ghost", 1), ("ghost", 5), ("ghost", 64), ("per_sample", 5)])
def test_a_steps_gradient_is_the_clipped_sum_over_the_expected_batch_whatever_the_chunks(
    tmp_path: Path, mode: ClippingMode, physical: int
) -> None:
    model, rows = make_model(), make_rows(16)
    expected = clipped_sum(row_gradients(model, rows), max_grad_norm=0.5) / 16

    (found,) = gradients_of_steps(model, rows, tmp_path, physical=physical, clipping=mode)

    assert distance(found, expected) < 1e-5


def test_noise_has_the_deviation_that_is_accounted_for(tmp_path: Path) -> None:
    model, rows = make_model(rank=8), make_rows(16)
    clipped = clipped_sum(row_gradients(model, rows), max_grad_norm=0.5) / 16
    deviation = 3.0 * 0.5 / 16

    steps = gradients_of_steps(model, rows, tmp_path, num_steps=24, noise_multiplier=3.0)

    samples = [torch.cat([step - clipped for step in steps[i : i + 8]]).double() / deviation for i in (0, 8, 16)]
    squares = [float(sample.square().sum()) for sample in samples]
    assert len(samples[0]) > 5000
    for confidence, least in ((0.99, 1), (1 - 1e-7, 3)):  # nothing is seeded: all three miss 99 % once in a million
        low, high = chi2.interval(confidence, len(samples[0]))
        assert sum(low < square < high for square in squares) >= least
    assert abs(float(torch.cat(samples).mean())) * math.sqrt(3 * len(samples[0])) < 5


def test_steps_without_rows_are_noise_alone(tmp_path: Path) -> None:
    model, rows = make_model(), make_rows(400)

    steps = gradients_of_steps(
        model, rows, tmp_path, num_steps=20, expected_batch_size=1, noise_multiplier=2.0, max_grad_norm=1e-6
    )

    assert len(steps) == 20
    assert all(float(step.abs().min()) > 0 for step in steps)  # the chance of no empty step: 1e-4


def test_rows_are_drawn_by_themselves_at_the_sample_rate() -> None:
    sampler = PoissonSampler(num_rows=50, sample_rate=0.1, num_batches=2000)

    batches = list(sampler)

    sizes = torch.tensor([len(batch) for batch in batches], dtype=torch.float64)
    low, high = binom.interval(1 - 1e-6, 50 * 2000, 0.1)
    assert low <= int(sizes.sum()) <= high
    assert 0.85 < float(sizes.var()) / (50 * 0.1 * 0.9) < 1.15  # a fixed size has variance 0
    together = sum(1 for batch in batches if 3 in batch and 4 in batch)
    assert 2 <= together <= 45  # 20 expected if independent
    assert sizes.min() == 0 or len(sizes[sizes == 0]) == 0
    assert len(sampler) == 2000


def test_private_numbers_are_uniform_normal_and_never_the_same() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = private_normal((100, 100)), private_normal((100, 100))
    uniform = private_uniform(10000)

    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, second)
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1
    assert abs(float(uniform.mean()) - 0.5) < 0.015
    assert abs(float((first**4).mean()) - 3) < 0.6
    assert abs(float((first[:, ::2] * first[:, 1::2]).mean())) < 0.08
    assert private_normal((3,)).shape == (3,)


def test_private_normal_numbers_have_the_deviation_and_shape_of_a_standard_normal() -> None:
    values = private_normal((500_000,)).numpy()

    low, high = chi2.interval(1 - 1e-6, len(values))
    assert low < float((values**2).sum()) < high  # within 0.5 % of 1
    assert kstest(values, "norm").pvalue > 1e-6


def test_one_public_seed_gives_two_different_adapters() -> None:
    rows = make_rows(16)

    states = []
    for _ in range(2):
        model = make_model()
        fine_tune_private(model, rows, tokenizer=TOKENIZER, recipe=RECIPE, privacy=SETTINGS)
        states.append(adapter_state(model))

    assert not any(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_masks_of_dropout_follow_from_no_seed(tmp_path: Path) -> None:
    model, rows = make_model(lora_dropout=0.5), make_rows(8)

    first, second = gradients_of_steps(model, rows, tmp_path, num_steps=2, physical=8)
    again, _ = gradients_of_steps(model, rows, tmp_path, num_steps=2, physical=8)

    assert distance(first, second) > 0.1
    assert distance(first, again) > 0.1  # the trainer's seed is the same, and the noise 1e-9


def test_torchs_generators_are_left_as_they_were() -> None:
    before = torch.get_rng_state()
    with private_dropout():
        one = torch.rand(4)
    with private_dropout():
        other = torch.rand(4)

    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one, other)


def test_masks_of_dropout_have_more_bits_than_a_seed() -> None:
    keys, drawn = [], []
    for _ in range(2):
        with private_dropout():
            state = torch.get_rng_state()
            drawn.append(torch.rand(1000))
        keys.append(state[24 : 24 + 8 * 624].numpy().view(np.uint64))

    for key, values in zip(keys, drawn, strict=True):
        oracle = np.random.MT19937()
        oracle.state = {"bit_generator": "MT19937", "state": {"key": key.astype(np.uint32), "pos": 624}}
        words = oracle.random_raw(1000) & np.uint64(2**24 - 1)
        assert values.tolist() == (words / 2**24).tolist()
        follows = (1812433253 * (key[:-1] ^ (key[:-1] >> np.uint64(30))) + np.arange(1, 624, dtype=np.uint64)) % 2**32
        assert not np.isin(follows, key).any()  # as the words of a seed would
    assert not np.isin(keys[0], keys[1]).all()


def test_adapters_in_half_precision_are_refused() -> None:
    model = make_model().to(torch.bfloat16)

    with pytest.raises(ConfigurationError, match=r"lora_A.* is not in float32"):
        fine_tune_private(model, make_rows(16), tokenizer=TOKENIZER, recipe=RECIPE, privacy=SETTINGS)


def test_the_statement_is_what_was_done() -> None:
    recipe = replace(RECIPE, gradient_accumulation_steps=2)
    privacy = PrivacySettings(epsilon=4.0, delta=1e-4, max_grad_norm=0.7)

    result = fine_tune_private(make_model(), make_rows(32), tokenizer=TOKENIZER, recipe=recipe, privacy=privacy)

    stated = result.privacy
    assert result.num_steps == 3
    assert result.final_loss is not None
    assert 3.9 < stated.epsilon <= 4.0
    assert (stated.delta, stated.expected_batch_size, stated.max_grad_norm) == (1e-4, 8, 0.7)
    assert (stated.steps.sample_rate, stated.steps.num_steps) == (0.25, 3)
    assert stated.epsilon == epsilon(**vars(stated.steps), delta=1e-4)


def test_the_noise_can_be_given_instead() -> None:
    result = fine_tune_private(make_model(), make_rows(32), tokenizer=TOKENIZER, recipe=RECIPE, privacy=SETTINGS)

    assert result.privacy.steps.noise_multiplier == 1.0
    assert result.privacy.delta == min(1e-5, 1 / (32 * math.log(32)))


def test_the_model_is_left_as_plain_training_leaves_it() -> None:
    model = make_model()
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}

    fine_tune_private(model, make_rows(16), tokenizer=TOKENIZER, recipe=RECIPE, privacy=SETTINGS)

    assert not model.training
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    assert not any({"grad_sample", "_forward_counter", "_norm_sample"} & set(vars(p)) for p in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


@pytest.mark.slow
def test_a_run_learns_where_the_noise_is_small() -> None:
    model, rows = make_model(), make_rows(32)
    recipe = replace(RECIPE, num_steps=60, batch_size=16, learning_rate=2e-2, convergence_window=5)
    before = fine_tune_private(
        make_model(), rows, tokenizer=TOKENIZER, recipe=replace(recipe, num_steps=1), privacy=SETTINGS
    )

    after = fine_tune_private(
        model, rows, tokenizer=TOKENIZER, recipe=recipe, privacy=PrivacySettings(noise_multiplier=0.5, max_grad_norm=1)
    )

    assert before.final_loss is not None
    assert after.final_loss is not None
    assert after.final_loss < before.final_loss - 0.03


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packing": True}, "packing does not go"),
        ({"padding_free": True}, "padding_free does not go"),
        ({"gradient_checkpointing": True}, "activation checkpointing does not go"),
        ({"bf16": True}, "autocast does not go"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps does not go"),
        ({"clip_again": 1.0}, "max_grad_norm does not go"),
        ({"eval_dataset": "rows"}, "eval_dataset does not go"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size does not go"),
        ({"report_to": ["wandb"]}, "report_to does not go"),
        ({"push_to_hub": True}, "push_to_hub does not go"),
        ({"callbacks": [EarlyStoppingCallback()]}, "stopping early does not go"),
        ({"expected_batch_size": 17}, "17 rows per step on average for 16 rows"),
        ({"expected_batch_size": 0}, "0 rows per step"),
        ({"noise_multiplier": 0.0}, "noise_multiplier=0.0"),
    ],
)
def test_options_that_break_the_guarantee_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(make_model(), make_rows(16), tmp_path, **dict(options))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"use_dora": True}, "DoRA does not go"),
        ({"modules_to_save": ["lm_head"]}, "parameter '.*lm_head.*' does not go"),
        ({"target_modules": ("embed_tokens",)}, "parameter '.*lora_embedding.*' does not go"),
    ],
)
def test_models_that_break_the_guarantee_are_refused(lora: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fine_tune_private(
            make_model(**lora), make_rows(16), tokenizer=TOKENIZER, recipe=RECIPE, privacy=SETTINGS
        )  # fmt: skip


def test_ghost_clipping_is_refused_in_half_precision() -> None:
    model = with_lora(tiny_llama(vocab_size=len(TOKENIZER)).to(torch.bfloat16))

    ghost = replace(SETTINGS, clipping="ghost")

    with pytest.raises(ConfigurationError, match="needs a model in float32, got bfloat16"):
        fine_tune_private(model, make_rows(16), tokenizer=TOKENIZER, recipe=RECIPE, privacy=ghost)

    assert fine_tune_private(model, make_rows(16), tokenizer=TOKENIZER, recipe=RECIPE, privacy=SETTINGS).num_steps == 3


@pytest.mark.parametrize("clipping", ["ghost", "per_sample"])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_layers_that_read_the_tokens_of_all_rows_in_one_line_are_refused(clipping: Any, batch_size: int) -> None:  # noqa: ANN401
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, word_embed_proj_dim=16,
    )  # fmt: skip
    model = with_lora(OPTForCausalLM(config), target_modules=("fc1", "fc2"))  # a row would keep C for every token

    with pytest.raises(ConfigurationError, match=r"fc1\.lora_A.* does not read rows one by one"):
        fine_tune_private(
            model,
            make_rows(8),
            tokenizer=TOKENIZER,
            recipe=replace(RECIPE, batch_size=batch_size, gradient_accumulation_steps=8 // batch_size),
            privacy=replace(SETTINGS, clipping=clipping),
        )


@pytest.mark.parametrize("clipping", ["ghost", "per_sample"])
def test_lora_on_weights_that_no_layer_reads_is_refused(clipping: Any) -> None:  # noqa: ANN401
    model = make_model(target_modules=(), target_parameters=["q_proj.weight"])

    with pytest.raises(ConfigurationError, match=r"q_proj\.lora_A.* does not read rows one by one"):
        fine_tune_private(
            model,
            make_rows(8),
            tokenizer=TOKENIZER,
            recipe=replace(RECIPE, batch_size=8),
            privacy=replace(SETTINGS, clipping=clipping),
        )


def test_a_run_that_a_callback_ends_is_refused() -> None:
    class EndsOnTheLoss(TrainerCallback):
        def on_step_end(self, args: object, state: object, control: TrainerControl, **kwargs: object) -> None:
            control.should_training_stop = True

    with pytest.raises(ConfigurationError, match="a callback ended the private run after 1 of 3 steps"):
        fine_tune_private(
            make_model(), make_rows(16), tokenizer=TOKENIZER, recipe=RECIPE, privacy=SETTINGS,
            callbacks=[EndsOnTheLoss()],
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"), [({"until_converged": True}, "until_converged"), ({"num_parts": 2}, "num_parts=2")]
)
def test_recipes_that_break_the_guarantee_are_refused(change: dict[str, Any], message: str) -> None:
    recipe = replace(RECIPE, **change)
    with pytest.raises(ConfigurationError, match=message):
        fine_tune_private(make_model(), make_rows(16), tokenizer=TOKENIZER, recipe=recipe, privacy=SETTINGS)


def test_a_private_run_neither_resumes_nor_runs_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot go on from a checkpoint"):
        make_trainer(make_model(), make_rows(16), tmp_path).train(resume_from_checkpoint=True)
    with pytest.raises(ConfigurationError, match="cannot be a trial of a search"):
        make_trainer(make_model(), make_rows(16), tmp_path).train(trial={"learning_rate": 1.0})
    trainer = make_trainer(make_model(), make_rows(16), tmp_path)
    trainer.train()
    with pytest.raises(ConfigurationError, match="was trained already"):
        trainer.train()


def test_a_gradient_that_is_not_finite_ends_the_run() -> None:
    model = make_model()
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "lora_A" in name).fill_(float("nan"))

    with pytest.raises(ConfigurationError, match="no longer finite"):
        fine_tune_private(model, make_rows(16), tokenizer=TOKENIZER, recipe=replace(RECIPE, batch_size=16),
                          privacy=SETTINGS)  # fmt: skip


def test_untokenized_rows_are_refused() -> None:
    rows = Dataset.from_list([{"prompt": "a", "completion": "b"}])
    with pytest.raises(DataError, match="input_ids and labels"):
        fine_tune_private(make_model(), rows, tokenizer=TOKENIZER, recipe=RECIPE, privacy=SETTINGS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "neither of privacy epsilon and noise_multiplier"),
        ({"epsilon": 1, "noise_multiplier": 1}, "both of privacy"),
        ({"epsilon": -1}, "epsilon=-1"),
        ({"epsilon": True}, "epsilon=True"),
        ({"epsilon": "much"}, "epsilon='much'"),
        ({"epsilon": math.inf}, "epsilon=inf"),
        ({"epsilon": 1, "delta": 0}, "delta=0"),
        ({"epsilon": 1, "max_grad_norm": None}, "max_grad_norm=None"),
        ({"epsilon": 1, "clipping": "ew"}, "clipping='ew'"),
        ({"eps": 1}, "unknown privacy key 'eps'"),
    ],
)
def test_settings_refuse_what_cannot_be_meant(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PrivacySettings.from_dict(values)


def test_a_delta_that_would_give_rows_away_is_refused() -> None:
    assert PrivacySettings.from_dict({"epsilon": "8", "delta": "1e-5"}).delta_for(100) == 1e-5
    assert PrivacySettings(epsilon=1).delta_for(1) == 1e-5
    with pytest.raises(ConfigurationError, match=r"delta=0.01 for 100 rows"):
        PrivacySettings(epsilon=1, delta=0.01).delta_for(100)
