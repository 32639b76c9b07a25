from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from gradtx_hf.errors import ConfigurationError, DataError, LayoutError
from gradtx_hf.finetuning import (
    FineTuningRecipe,
    FineTuningResult,
    PackedResult,
    PackedRun,
    adapter_state,
    add_adapter,
    fine_tune,
    fine_tune_pack,
    load_language_model,
    reset_adapter,
    tokenize_examples,
)
from gradtx_hf.finetuning.packed_batches import row_batches
from gradtx_hf.finetuning.packed_checkpoint import PackCheckpoints
from gradtx_hf.playground import Rule, make_lines, source_path
from gradtx_hf.studies.pretrain_playground import build_tokenizer


RECIPE = FineTuningRecipe(num_steps=50, batch_size=4, learning_rate=1e-2, max_length=32)
TOKENIZER = build_tokenizer()
WIDTHS = {"attn.c_attn": (16, 48), "mlp.c_proj": (64, 16)}
LAST_FACTOR = "transformer.h.1.attn.c_attn.lora_B"
SCALES = {f"transformer.h.{n}.{module}": 4.0 for n in range(2) for module in WIDTHS}


@pytest.fixture(scope="module")
def precise_model() -> GPT2LMHeadModel:
    """Return a model in float64 that casts nothing to float32 on the way, as Llama's norms would."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(TOKENIZER),
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=64,
        initializer_range=0.3,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=TOKENIZER.eos_token_id,
    )
    return GPT2LMHeadModel(config).double().eval()


def make_tokens(rule: int, num_rows: int = 18) -> Dataset:
    lines = make_lines([Rule("reverse", rule)], num_rows - 2, seed=rule)
    lines += [{"prompt": "??", "completion": "abc"}] * 2  # rows of two lengths
    return tokenize_examples(Dataset.from_list(lines), TOKENIZER, max_length=32)


def make_start(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    start = {}
    for module in SCALES:
        in_width, out_width = WIDTHS[module.split(".", 3)[-1]]
        for factor, shape in (("lora_A", (2, in_width)), ("lora_B", (out_width, 2))):
            start[f"{module}.{factor}"] = 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return start


def make_runs(num_rows: Sequence[int] = (18, 18, 18)) -> list[PackedRun]:
    return [PackedRun(f"run {k}", make_start(k), make_tokens(k, rows), seed=10 + k) for k, rows in enumerate(num_rows)]


def pack(
    model: PreTrainedModel, runs: Sequence[PackedRun], recipe: FineTuningRecipe
) -> tuple[list[dict[str, Tensor]], list[FineTuningResult]]:
    results = fine_tune_pack(model, runs, tokenizer=TOKENIZER, recipe=recipe, scales=SCALES)
    return [result.tensors for result in results], [result.summary for result in results]


def largest_difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    assert list(first) == list(second)
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize(
    ("num_rows", "changes"),
    [
        ((18, 18, 18), {}),
        pytest.param(
            (18, 18, 18),
            {"gradient_accumulation_steps": 2, "weight_decay": 0.3, "warmup_steps": 5},
            marks=pytest.mark.slow,
        ),
        ((18, 6, 11), {"gradient_accumulation_steps": 2}),
        pytest.param((18, 18, 18), {"max_grad_norm": 0.0, "schedule": "constant"}, marks=pytest.mark.slow),
    ],
    ids=["plain", "accumulated", "of different lengths", "unclipped"],
)
def test_runs_of_a_pack_are_those_of_packs_of_one(
    precise_model: GPT2LMHeadModel, num_rows: Sequence[int], changes: dict[str, object]
) -> None:
    recipe = replace(RECIPE, **changes)  # type: ignore[arg-type]
    runs = make_runs(num_rows)

    together, summaries = pack(precise_model, runs, recipe)

    for run, tensors, summary in zip(runs, together, summaries, strict=True):
        (alone,), (expected,) = pack(precise_model, [run], recipe)
        assert tensors["transformer.h.0.attn.c_attn.lora_A"].dtype == torch.float64
        assert largest_difference(tensors, run.start) > 0.1
        assert largest_difference(tensors, alone) < 1e-10
        assert summary.final_loss == pytest.approx(expected.final_loss, abs=1e-10)
        assert summary.num_steps == 50


def test_converged_runs_leave_and_the_others_go_on_as_before(precise_model: GPT2LMHeadModel) -> None:
    recipe = replace(
        RECIPE,
        until_converged=True,
        convergence_window=5,
        convergence_threshold=0.06,
        convergence_patience=2,
    )
    runs = make_runs((18, 6, 11, 18))

    together, summaries = pack(precise_model, runs, recipe)

    assert len({summary.num_steps for summary in summaries}) > 1
    for run, tensors, summary in zip(runs, together, summaries, strict=True):
        (alone,), (expected,) = pack(precise_model, [run], recipe)
        assert (summary.num_steps, summary.converged) == (expected.num_steps, expected.converged)
        assert largest_difference(tensors, alone) < 1e-10


@pytest.mark.parametrize("changes", [{}, {"batch_size": 5, "gradient_accumulation_steps": 3, "weight_decay": 0.5}])
def test_pack_of_one_is_fine_tune(changes: dict[str, object]) -> None:
    recipe = replace(RECIPE, num_steps=20, **changes)  # type: ignore[arg-type]
    base, tokenizer = load_language_model(str(source_path()))
    model = add_adapter(base, rank=2, alpha=16, target_modules=["q_proj", "v_proj"], seed=0)
    start = adapter_state(model)
    tokens = make_tokens(3, 64)
    summary = fine_tune(model, tokens, tokenizer=tokenizer, recipe=recipe, seed=7)
    trained = adapter_state(model)
    plain, _ = load_language_model(str(source_path()))

    (result,) = fine_tune_pack(
        plain,
        [PackedRun("run", start, tokens, 7)],
        tokenizer=tokenizer,
        recipe=recipe,
        scales={name.rpartition(".")[0]: 8.0 for name in start},
    )

    assert largest_difference(trained, start) > 0.05
    assert largest_difference(trained, result.tensors) < 1e-5
    assert result.summary.final_loss == pytest.approx(summary.final_loss, abs=1e-5)
    reset_adapter(model, result.tensors)  # the same names and shapes


def test_pack_of_one_is_trls_own_trainer(tmp_path: Path) -> None:
    base, tokenizer = load_language_model(str(source_path()))
    model = add_adapter(base, rank=2, alpha=16, target_modules=["q_proj", "v_proj"], seed=0)
    start = adapter_state(model)
    tokens = make_tokens(3, 64)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path),
            max_steps=20,
            per_device_train_batch_size=RECIPE.batch_size,
            learning_rate=2e-3,
            lr_scheduler_type="constant",
            weight_decay=RECIPE.weight_decay,
            max_grad_norm=RECIPE.max_grad_norm,
            seed=7,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=tokens,
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id),
    )
    trainer.train()
    trained = adapter_state(model)
    plain, _ = load_language_model(str(source_path()))

    (result,) = fine_tune_pack(
        plain,
        [PackedRun("run", start, tokens, 7)],
        tokenizer=tokenizer,
        recipe=replace(RECIPE, num_steps=20, learning_rate=2e-3, schedule="constant"),
        scales={name.rpartition(".")[0]: 8.0 for name in start},
    )

    assert largest_difference(trained, start) > 0.02
    assert largest_difference(trained, result.tensors) < 1e-5


def test_rows_are_drawn_without_replacement_epoch_by_epoch() -> None:
    recipe = replace(RECIPE, num_steps=4, batch_size=4, gradient_accumulation_steps=2)

    steps = row_batches(11, recipe, seed=5)

    sizes = [[len(rows) for rows in batches] for batches in steps]
    assert sizes == [[4, 4], [3], [4, 4], [3]]
    assert sorted(torch.cat(steps[0] + steps[1]).tolist()) == list(range(11))
    assert not torch.equal(torch.cat(steps[0]), torch.cat(steps[2]))


class StepList:
    """Keeps one tensor of every step; what it is told to forget it learns again from a checkpoint."""

    def __init__(self) -> None:
        self.steps: dict[int, tuple[list[int], Tensor]] = {}

    def record(self, step: int, running: Sequence[int], factors: Mapping[str, Tensor]) -> None:
        self.steps[step] = (list(running), factors[LAST_FACTOR].detach().clone())

    def state(self) -> dict[str, Any]:
        return {"steps": dict(self.steps)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.steps = dict(state["steps"])


class Interruption(TrainerCallback):
    """Ends a pack after a step as an exception would."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step == self._step:
            raise KeyboardInterrupt


def test_steps_are_shown_to_a_recorder(precise_model: GPT2LMHeadModel) -> None:
    recorder = StepList()

    results = fine_tune_pack(
        precise_model,
        make_runs(),
        tokenizer=TOKENIZER,
        recipe=replace(RECIPE, num_steps=3),
        scales=SCALES,
        recorder=recorder,
    )

    assert {step: running for step, (running, _) in recorder.steps.items()} == {step: [0, 1, 2] for step in (1, 2, 3)}
    last = torch.stack([result.tensors[LAST_FACTOR] for result in results])
    assert torch.equal(recorder.steps[3][1], last)
    assert not torch.equal(recorder.steps[2][1], last)


@pytest.mark.parametrize(
    "changes",
    [{}, pytest.param({"gradient_accumulation_steps": 2}, marks=pytest.mark.slow)],
    ids=["plain", "accumulated"],
)
def test_dropout_is_each_runs_own(precise_model: GPT2LMHeadModel, changes: dict[str, object]) -> None:
    runs = make_runs((18, 6, 11, 18))
    recipe = replace(RECIPE, num_steps=8, **changes)  # type: ignore[arg-type]

    def packed(runs: Sequence[PackedRun], dropout: float = 0.3) -> list[dict[str, Tensor]]:
        results = fine_tune_pack(
            precise_model, runs, tokenizer=TOKENIZER, recipe=recipe, scales=SCALES, dropout=dropout
        )
        return [result.tensors for result in results]

    together, without = packed(runs), packed(runs, dropout=0.0)

    for run, tensors, quiet in zip(runs, together, without, strict=True):
        (alone,) = packed([run])
        assert largest_difference(tensors, alone) < 1e-10
        assert largest_difference(tensors, quiet) > 1e-3
    assert all(torch.equal(packed(runs)[2][name], together[2][name]) for name in together[2])


def test_runs_that_converge_leave_the_others_their_dropout(precise_model: GPT2LMHeadModel) -> None:
    recipe = replace(
        RECIPE, until_converged=True, convergence_window=5, convergence_threshold=0.06, convergence_patience=2
    )
    runs = make_runs((18, 6, 11, 18))

    def packed(runs: Sequence[PackedRun]) -> list[PackedResult]:
        return fine_tune_pack(precise_model, runs, tokenizer=TOKENIZER, recipe=recipe, scales=SCALES, dropout=0.1)

    together = packed(runs)

    assert len({result.summary.num_steps for result in together}) > 1
    for run, result in zip(runs, together, strict=True):
        (alone,) = packed([run])
        assert result.summary.num_steps == alone.summary.num_steps
        assert largest_difference(result.tensors, alone.tensors) < 1e-10


def test_interrupted_pack_ends_with_the_same_bits(precise_model: GPT2LMHeadModel, tmp_path: Path) -> None:
    recipe = replace(
        RECIPE,
        num_steps=30,
        gradient_accumulation_steps=2,
        warmup_steps=5,
        until_converged=True,
        convergence_window=5,
        convergence_threshold=0.06,
        convergence_patience=2,
    )

    def packed(
        recorder: StepList, checkpoints: PackCheckpoints | None, callbacks: Sequence[TrainerCallback]
    ) -> list[PackedResult]:
        return fine_tune_pack(
            precise_model,
            make_runs((18, 6, 11, 18)),
            tokenizer=TOKENIZER,
            recipe=recipe,
            scales=SCALES,
            dropout=0.2,
            recorder=recorder,
            checkpoints=checkpoints,
            callbacks=callbacks,
        )

    undisturbed, recorder = StepList(), StepList()
    expected = packed(undisturbed, None, [])
    checkpoints = PackCheckpoints(tmp_path / "work", seconds=0)
    for step in (1, 7, 8, 21):
        with pytest.raises(KeyboardInterrupt):
            packed(StepList(), checkpoints, [Interruption(step)])
        torch.manual_seed(step)  # another process has another state
    got = packed(recorder, checkpoints, [])

    assert len({result.summary.num_steps for result in expected}) > 1
    for one, other in zip(got, expected, strict=True):
        assert one.summary == other.summary
        assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in other.tensors)
    assert list(recorder.steps) == list(undisturbed.steps)
    for step, (running, factor) in undisturbed.steps.items():
        assert recorder.steps[step][0] == running
        assert torch.equal(recorder.steps[step][1], factor)
    assert {path.suffix for path in (tmp_path / "work").rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_checkpoint_that_cannot_be_gone_on_from_is_left_and_the_pack_begins_anew(
    precise_model: GPT2LMHeadModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = replace(RECIPE, num_steps=6)
    checkpoints = PackCheckpoints(tmp_path / "work", seconds=0)
    runs = make_runs()

    def packed(runs: Sequence[PackedRun], callbacks: Sequence[TrainerCallback] = ()) -> list[PackedResult]:
        return fine_tune_pack(
            precise_model,
            runs,
            tokenizer=TOKENIZER,
            recipe=recipe,
            scales=SCALES,
            checkpoints=checkpoints,
            callbacks=callbacks,
        )

    with pytest.raises(KeyboardInterrupt):
        packed(runs, [Interruption(4)])
    (folder,) = (tmp_path / "work").iterdir()
    assert folder.name == "checkpoint-3"
    others = packed(runs[:2])
    assert "is of another pack" in caplog.text
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(KeyboardInterrupt):
        packed(runs, [Interruption(4)])
    tensors = folder / "pack.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-9])
    again = packed(runs)

    assert "is damaged" in caplog.text
    assert largest_difference(again[1].tensors, others[1].tensors) < 1e-10


def test_callbacks_see_the_mean_loss_of_the_runs(precise_model: GPT2LMHeadModel) -> None:
    class Log(TrainerCallback):
        def __init__(self) -> None:
            self.values: list[dict[str, float]] = []

        def on_log(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            logs: dict[str, float] | None = None,
            **kwargs: object,
        ) -> None:
            self.values.append(dict(logs or {}))

    log = Log()
    recipe = replace(RECIPE, num_steps=9, convergence_window=3, warmup_steps=2)

    results = fine_tune_pack(
        precise_model, make_runs(), tokenizer=TOKENIZER, recipe=recipe, scales=SCALES, callbacks=[log]
    )

    losses = [values["loss"] for values in log.values if "loss" in values]
    assert len(losses) == 3
    assert losses[-1] == pytest.approx(sum(result.summary.final_loss for result in results) / 3)
    assert log.values[-1]["train_loss"] == pytest.approx(sum(losses) / 3)
    assert {"learning_rate", "grad_norm"} <= set(log.values[0])


def test_model_comes_back_as_it_was(precise_model: GPT2LMHeadModel) -> None:
    before = {name: p.clone() for name, p in precise_model.named_parameters()}

    pack(precise_model, make_runs(), replace(RECIPE, num_steps=2))

    assert all(torch.equal(before[name], p) for name, p in precise_model.named_parameters())
    assert all(p.requires_grad and p.grad is None for p in precise_model.parameters())
    assert not precise_model.training
    assert all(not module._forward_hooks for module in precise_model.modules())
    assert "forward" not in vars(precise_model)


def test_run_that_diverges_is_named_and_no_other(precise_model: GPT2LMHeadModel) -> None:
    runs = make_runs()
    far = {name: tensor * 1e200 for name, tensor in runs[1].start.items()}
    runs[1] = replace(runs[1], start=far)

    for max_grad_norm in (0.0, 1.0):
        with pytest.raises(ConfigurationError, match="run 1: the loss is no longer finite from step 1 on"):
            pack(precise_model, runs, replace(RECIPE, num_steps=3, max_grad_norm=max_grad_norm))


def test_runs_that_do_not_fit_are_refused(precise_model: GPT2LMHeadModel) -> None:
    first, second, _ = make_runs()
    wide = {name: torch.cat([tensor, tensor]) for name, tensor in second.start.items()}
    raw = Dataset.from_dict({"text": ["a"]})

    with pytest.raises(DataError, match="tokenize_examples"):
        pack(precise_model, [first, replace(second, examples=raw)], RECIPE)
    with pytest.raises(LayoutError, match="start 1 of a pack has other tensors than start 0"):
        pack(precise_model, [first, replace(second, start=wide)], RECIPE)
    with pytest.raises(LayoutError, match=r"got a scale and no factors of module 'lm_head'"):
        fine_tune_pack(precise_model, [first], tokenizer=TOKENIZER, recipe=RECIPE, scales=SCALES | {"lm_head": 1.0})
