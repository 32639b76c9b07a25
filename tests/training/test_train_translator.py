"""train_translator and its trainer by the paper's objective, on a store whose target is a linear map of the source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, T5Config, T5ForConditionalGeneration

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.training import (
    GradTransformerTrainer,
    GradTransformerTrainingArguments,
    PairDataset,
    Provenance,
    train_translator,
)
from tests.model.blocks import make_model
from tests.training.stores import write_linear_store


def make_arguments(folder: Path, **options: object) -> GradTransformerTrainingArguments:
    defaults: dict[str, object] = {
        "output_dir": str(folder),
        "objective": "parameter",
        "input_noise": 0.0,
        "use_cpu": True,
        "disable_tqdm": True,
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "validation_share": 0.25,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    architecture = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.1}
    if "from_t5" not in options:
        defaults |= architecture
    return GradTransformerTrainingArguments(**{**defaults, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("store_dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_a_small_translator_learns_a_linear_map(store_dtype: str, tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=60, store_dtype=store_dtype)
    arguments = make_arguments(
        tmp_path / "out",
        max_steps=250,
        per_device_train_batch_size=32,
        learning_rate=3e-3,
        dropout_rate=0.0,
        eval_strategy="no",
        save_strategy="no",
    )

    trained = train_translator(
        store, arguments, provenance=Provenance(source_base_model="me/small", start_distance_limit=0.5)
    )

    # shadow sets it has never seen, and its own blocks fed back: a constant scores 1
    assert trained.metrics["eval_generated_relative_error"] < 0.15
    assert trained.num_steps == 250
    assert (trained.model.config.source_base_model, trained.model.config.start_distance_limit) == ("me/small", 0.5)


def test_statistics_are_those_of_the_training_pairs_only(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=8)

    trained = train_translator(store, make_arguments(tmp_path / "out", max_steps=1))

    tokens = torch.stack([store.snapshot("target", *pair) for pair in trained.split.train])
    torch.testing.assert_close(trained.model.target_mean, tokens.mean(0), rtol=1e-5, atol=1e-5)


def test_the_best_checkpoint_is_the_one_returned(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=8)
    # the first step has a learning rate of 0, the others one that wrecks the model
    arguments = make_arguments(
        tmp_path / "out", learning_rate=1e5, warmup_steps=2000, max_steps=4, eval_steps=1, save_steps=1
    )

    trained = train_translator(store, arguments)

    validations = json.loads((tmp_path / "out" / "block_errors.json").read_text())["validations"]
    state = json.loads((tmp_path / "out" / "checkpoint-4" / "trainer_state.json").read_text())
    errors = [e["eval_generated_relative_error"] for e in state["log_history"] if "eval_loss" in e]
    assert [(line["step"], line["kept"]) for line in validations] == [
        (1, False),
        (2, False),
        (3, False),
        (4, False),
        (1, True),
    ]
    assert errors.index(min(errors)) == 0
    assert errors[-1] > 10 * errors[0]
    assert trained.metrics["eval_generated_relative_error"] == pytest.approx(min(errors), rel=1e-5)


def test_errors_are_relative_to_a_constant_answer(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=4)
    model = make_model(seed=1)
    with torch.no_grad():  # a translator that always answers with the mean
        for linear in model.W_out.values():
            linear.weight.zero_()
            linear.bias.zero_()
    pairs = PairDataset(store, store.pairs)
    trainer = GradTransformerTrainer(
        model, args=make_arguments(tmp_path / "out"), train_dataset=pairs, eval_dataset=pairs
    )

    metrics = trainer.evaluate()

    assert metrics["eval_relative_error"] == pytest.approx(1.0)
    assert metrics["eval_generated_relative_error"] == pytest.approx(1.0)
    (line,) = json.loads((tmp_path / "out" / "block_errors.json").read_text())["validations"]
    assert line["teacher_forced"] == pytest.approx([1.0] * 4)
    assert line["generated"] == pytest.approx([1.0] * 4)


def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=8, num_snapshots=3)
    options = {"load_best_model_at_end": False, "input_noise": 0.3, "mixing": 0.5, "save_total_limit": None}

    whole = train_translator(store, make_arguments(tmp_path / "out", **options)).model
    resumed = train_translator(
        store,
        make_arguments(tmp_path / "out", **options, resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2")),
    ).model

    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    validations = json.loads((tmp_path / "out" / "block_errors.json").read_text())["validations"]
    assert [(line["step"], line["kept"]) for line in validations] == [(2, False), (4, False), (6, False), (6, True)]


def test_the_same_seed_gives_the_same_translator(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=6)

    models = [train_translator(store, make_arguments(tmp_path / name)).model for name in ("first", "second")]

    first, second = (model.state_dict().values() for model in models)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_saved_translator_is_a_config_and_its_weights(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=4)
    trained = train_translator(store, make_arguments(tmp_path / "out"))
    source = store.snapshot("source", 0, -1)[None]

    trained.model.save_pretrained(tmp_path / "translator")
    loaded = AutoModel.from_pretrained(tmp_path / "translator")

    assert sorted(p.name for p in (tmp_path / "translator").iterdir()) == ["config.json", "model.safetensors"]
    assert "use_cache" not in (tmp_path / "translator" / "config.json").read_text()
    torch.testing.assert_close(loaded.generate_updates(source), trained.model.generate_updates(source))
    assert not list(tmp_path.rglob("training_args.bin"))


def test_training_can_start_from_a_pretrained_t5(tmp_path: Path) -> None:
    T5ForConditionalGeneration(
        T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, tie_word_embeddings=False)
    ).save_pretrained(tmp_path / "t5")
    store = write_linear_store(tmp_path / "store", num_shadow_sets=4)

    trained = train_translator(
        store,
        make_arguments(tmp_path / "out", from_t5=str(tmp_path / "t5")),
        provenance=Provenance(target_base_model="org/large"),
    )

    assert trained.model.config.hidden_size == 16
    assert trained.model.config.target_base_model == "org/large"


def test_shadow_sets_without_a_target_run_are_left_out_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=6, target_sets=[0, 2, 5])

    trained = train_translator(store, make_arguments(tmp_path / "out", max_steps=1))

    assert {shadow_set for shadow_set, _ in trained.split.train + trained.split.validation} == {0, 2, 5}
    (line,) = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert line == (
        "training on the 3 of 6 shadow sets that have a target run; curate with num_target_runs: null for all"
    )


def test_a_store_of_full_pairs_needs_no_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=4)

    train_translator(store, make_arguments(tmp_path / "out", max_steps=1))

    assert "target run" not in caplog.text


def test_validation_without_a_second_shadow_set_is_refused(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=1)

    with pytest.raises(ConfigurationError, match="at least two shadow sets"):
        train_translator(store, make_arguments(tmp_path / "out"))


def test_a_single_shadow_set_trains_without_validation(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=1)

    trained = train_translator(store, make_arguments(tmp_path / "out", eval_strategy="no", save_strategy="no"))

    assert trained.metrics == {}
    assert not trained.model.training


def test_a_training_that_diverges_is_refused_with_what_to_do(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=4)

    with pytest.raises(ConfigurationError, match=r"diverged: .* Lower learning_rate \(it was 1e\+30\)"):
        train_translator(store, make_arguments(tmp_path / "out", learning_rate=1e30))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_share": 1.0}, "validation_share"),
        ({"input_noise": -0.1}, "input_noise"),
        ({"mixing": 1.5}, "mixing"),
        ({"from_t5": "some/t5", "d_model": 64}, "d_model together with from_t5"),
    ],
)
def test_bad_arguments_are_refused_by_name(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_arguments(tmp_path, **options)


def test_a_trainer_pushes_no_pickles(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=4)

    with pytest.raises(ConfigurationError, match="got push_to_hub=True"):
        train_translator(store, make_arguments(tmp_path / "out", push_to_hub=True))


def test_nothing_is_reported_anywhere_by_default(tmp_path: Path) -> None:
    assert make_arguments(tmp_path).report_to == []
