"""The functional objective: what it reads, its losses against PEFT's, and training by it, on a tiny curated store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.nn import functional as F

from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.finetuning import load_language_model, reset_adapter
from gradtx_hf.finetuning.encoding import IGNORED
from gradtx_hf.lora import load_adapter
from gradtx_hf.training import TranslatorArguments, train
from gradtx_hf.training.functional import FunctionalObjective
from gradtx_hf.training.functional_data import FunctionalDataset, ShadowTexts, TokenRows
from gradtx_hf.training.target import FunctionalTarget, load_functional_target
from gradtx_hf.updates import UpdateVector
from gradtx_hf.updates.store import UpdateStore
from tests.cli.story import TRAINING, story


def open_store() -> UpdateStore:
    return UpdateStore.open(story().store)


@pytest.fixture(scope="module")
def target() -> FunctionalTarget:
    store = open_store()
    return load_functional_target(store, load_adapter(store.folder / "target_init"), layout=store.target_layout)


def rows_of(lengths: list[int]) -> TokenRows:
    rows = [list(range(10 * i, 10 * i + length)) for i, length in enumerate(lengths)]
    labels = [[IGNORED, *row[1:]] for row in rows]
    return TokenRows(Dataset.from_dict({"input_ids": rows, "labels": labels}), padding=99)


def arguments(output_dir: Path, **changes: object) -> TranslatorArguments:
    values = TRAINING | {"objective": "functional", "linear_rank": 2, "disable_tqdm": True} | changes
    return TranslatorArguments(store=str(story().store), output_dir=str(output_dir), **values)  # type: ignore[arg-type]


def texts_of(target: FunctionalTarget, sets: list[int], num_examples: int) -> dict[str, Tensor]:
    return target.texts.rows.gather(torch.stack([target.texts.of_set[k][:num_examples] for k in sets]))


def updates_of(store: UpdateStore) -> Tensor:
    return torch.stack([store.snapshot("target", k, -1) for k in range(store.num_shadow_sets)])


def test_rows_of_uneven_length_are_padded_and_masked() -> None:
    batch = rows_of([3, 1, 2]).gather(torch.tensor([[2, 0]]))
    assert batch["input_ids"].tolist() == [[[20, 21, 99], [0, 1, 2]]]
    assert batch["labels"].tolist() == [[[IGNORED, 21, IGNORED], [IGNORED, 1, 2]]]
    assert batch["attention_mask"].tolist() == [[[1, 1, 0], [1, 1, 1]]]


def test_rows_of_even_length_need_no_mask() -> None:
    assert "attention_mask" not in rows_of([2, 2, 5]).gather(torch.tensor([[0], [1]]))


def test_an_update_comes_with_rows_of_its_own_shadow_set(target: FunctionalTarget) -> None:
    store = open_store()
    dataset = FunctionalDataset(store, store.source_snapshots, target.texts, num_examples=5)
    for index, (shadow_set, snapshot) in enumerate(store.source_snapshots):
        item = dataset[index]
        assert torch.equal(item["source_blocks"], store.snapshot("source", shadow_set, snapshot))
        assert set(item["rows"].tolist()) <= set(target.texts.of_set[shadow_set].tolist())
    torch.manual_seed(0)
    assert not torch.equal(dataset[0]["rows"], dataset[0]["rows"])


def test_fixed_examples_are_always_the_same_and_go_round_in_a_small_set(target: FunctionalTarget) -> None:
    store = open_store()
    texts = ShadowTexts(target.texts.rows, tuple(rows[:3] for rows in target.texts.of_set))
    dataset = FunctionalDataset(store, store.source_snapshots, texts, num_examples=5, is_fixed=True)
    own = texts.of_set[0].tolist()
    assert dataset[0]["rows"].tolist() == [*own, *own[:2]]


def test_a_target_update_that_is_not_there_is_nan(target: FunctionalTarget) -> None:
    store = open_store()
    dataset = FunctionalDataset(store, store.source_snapshots, target.texts, num_examples=2, with_targets=True)
    assert torch.equal(dataset[0]["target_blocks"], store.snapshot("target", *store.source_snapshots[0]))
    store.__dict__["pairs"] = []  # as in a store without target runs
    unpaired = FunctionalDataset(store, store.source_snapshots, target.texts, num_examples=2, with_targets=True)
    assert bool(unpaired[0]["target_blocks"].isnan().all())


def test_a_shadow_set_without_rows_is_refused(target: FunctionalTarget) -> None:
    store = open_store()
    texts = ShadowTexts(target.texts.rows, tuple(rows[:0] for rows in target.texts.of_set))
    with pytest.raises(DataError, match="shadow set 0 has no rows"):
        FunctionalDataset(store, store.source_snapshots, texts, num_examples=2)


def test_losses_are_those_of_the_adapters_loaded_into_peft(target: FunctionalTarget) -> None:
    store = open_store()
    init = load_adapter(store.folder / "target_init")
    texts = texts_of(target, [0, 1, 2], 4)
    losses = target.objective.losses(updates_of(store), texts)
    model, _ = load_language_model(init.base_model)
    adapted = PeftModel.from_pretrained(model, store.folder / "target_init")
    for k, update in enumerate(updates_of(store)):
        reset_adapter(adapted, UpdateVector(update, store.target_layout).added_to(init.tensors))
        logits = adapted(input_ids=texts["input_ids"][k]).logits[:, :-1]
        expected = F.cross_entropy(logits.flatten(0, 1), texts["labels"][k][:, 1:].flatten())
        assert float(losses[k]) == pytest.approx(float(expected), abs=1e-5)
    assert float(losses[0]) < float(target.objective.losses(torch.zeros_like(updates_of(store)), texts)[0])


@pytest.mark.parametrize("num_parts", [2, 3, 4])
def test_loss_in_parts_has_the_value_and_gradient_of_the_whole(target: FunctionalTarget, num_parts: int) -> None:
    texts = texts_of(target, [0, 1, 2], 4)
    found = []
    for parts in (1, num_parts):
        updates = updates_of(open_store()).requires_grad_()
        loss = target.objective.loss_in_parts(2.0 * updates, texts, num_parts=parts)
        loss.backward()
        found.append((loss.detach(), updates.grad))
    torch.testing.assert_close(found[1][0], found[0][0])
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-6, rtol=1e-4)


def test_recomputed_activations_give_the_same_gradient(target: FunctionalTarget) -> None:
    store = open_store()
    init = load_adapter(store.folder / "target_init")
    saving = load_functional_target(store, init, layout=store.target_layout, with_checkpointing=True)
    texts = texts_of(target, [0, 1, 2], 4)
    gradients = []
    for objective in (target.objective, saving.objective):
        updates = updates_of(store).requires_grad_()
        objective.losses(updates, texts).sum().backward()
        gradients.append(updates.grad)
    assert any(getattr(module, "gradient_checkpointing", False) for module in saving.objective.language_model.modules())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("decoding", [pytest.param("autoregressive", marks=pytest.mark.slow), "parallel"])
def test_training_lowers_the_loss_on_held_out_sets_and_leaves_the_target_alone(decoding: str, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in Path(story().curation["target_model"]).iterdir()}
    train(arguments(tmp_path / "t", max_steps=80, eval_steps=80, save_steps=80, learning_rate=1e-2, decoding=decoding))
    part = json.loads((tmp_path / "t" / "training.json").read_text())["parts"]["whole"]
    assert part["metrics"]["eval_loss"] < part["metrics"]["eval_untouched_loss"] - 0.05
    assert part["num_target_runs"] == 2
    assert {path: path.read_bytes() for path in before} == before


def test_the_untouched_target_is_judged_once_and_told_at_every_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_updates = len(open_store().source_snapshots)
    judged: list[Tensor] = []
    losses = FunctionalObjective.losses

    def recorded(self: FunctionalObjective, updates: Tensor, texts: dict[str, Tensor]) -> Tensor:
        found = losses(self, updates, texts)
        if not bool(updates.any()):
            judged.append(found)
        return found

    monkeypatch.setattr(FunctionalObjective, "losses", recorded)
    train(arguments(tmp_path / "t", max_steps=4, eval_steps=2, save_steps=2))
    part = json.loads((tmp_path / "t" / "training.json").read_text())["parts"]["whole"]
    assert sum(map(len, judged)) == num_updates - part["num_training_updates"]
    told = [line["eval_untouched_loss"] for line in part["history"] if "eval_untouched_loss" in line]
    assert told == [pytest.approx(float(torch.cat(judged).mean()))] * 3  # twice on the way, and at the end


def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(arguments(tmp_path / name))
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(arguments(tmp_path / "whole", parameter_weight=0.01))
    work = tmp_path / "stopped-checkpoints"
    with monkeypatch.context() as patch:
        patch.setattr("gradtx_hf.translation.translator.new_folder", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(arguments(tmp_path / "stopped", parameter_weight=0.01))
    last = max(work.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    again = train(arguments(tmp_path / "stopped", parameter_weight=0.01))
    for name, values in whole.parts[""].state_dict().items():
        assert torch.equal(again.parts[""].state_dict()[name], values), name


def _interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def test_without_target_runs_the_scale_is_learned(tmp_path: Path) -> None:
    model = train(arguments(tmp_path / "t", num_target_runs=0, learning_rate=1e-2)).parts[""]
    assert model.config.learned_scale
    assert not bool(model.target_mean.any())
    source_std = float(model.source_std[model.source_mask].max())
    assert 0 < float(model.target_std[model.target_mask].max()) <= source_std
    scales = [p for name, p in model.named_parameters() if "log_scale" in name]
    assert len(scales) == 1
    assert bool(scales[0].any())


def test_a_weight_on_the_papers_loss_without_target_runs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UpdateStore, "pairs", [])
    with pytest.raises(ConfigurationError, match="no shadow set to train on has a target run"):
        train(arguments(tmp_path / "t", parameter_weight=0.1))


def test_a_target_run_that_only_validates_leaves_the_scale_to_be_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated = json.loads((story().translator / "training.json").read_text())["parts"]["whole"][
        "validation_shadow_sets"
    ]
    monkeypatch.setattr(UpdateStore, "pairs", [(validated[0], -1)])
    assert train(arguments(tmp_path / "t")).parts[""].config.learned_scale


def test_a_translator_may_be_the_linear_map_alone(tmp_path: Path) -> None:
    model = train(arguments(tmp_path / "t", has_transformer=False)).parts[""]
    assert not any("decoder" in name for name, _ in model.named_parameters())


def test_without_standardisation_the_statistics_stay_the_identity(tmp_path: Path) -> None:
    model = train(arguments(tmp_path / "t", standardise=False, input_noise=0.0)).parts[""]
    assert bool((model.source_std == 1).all())
    assert not bool(model.target_mean.any())


def test_public_data_that_have_changed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradtx_hf.finetuning.public_data.sha256_of_rows", lambda rows: "another")
    with pytest.raises(DataError, match="has changed"):
        train(arguments(tmp_path / "t"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": "both"}, "got objective='both', expected functional or parameter"),
        ({"decoding": "greedy"}, "got decoding='greedy', expected autoregressive or parallel"),
        ({"examples_per_adapter": 0}, "got examples_per_adapter=0, expected at least 1"),
        ({"target_batches": 5}, "got target_batches=5, expected 1 to examples_per_adapter=4"),
        ({"linear_rank": -1}, "got linear_rank=-1, expected at least 0"),
        ({"parameter_weight": -0.1}, "got parameter_weight=-0.1, expected at least 0"),
        ({"objective": "parameter", "num_target_runs": 0}, "learns from target runs alone"),
        ({"mixing": 0.5}, "no pairs to mix"),
        ({"objective": "parameter", "parameter_weight": 0.1}, "uses no target"),
        ({"objective": "parameter", "target_checkpointing": True}, "uses no target"),
        ({"partition": "projection"}, "judges all of an adapter at once"),
        ({"has_transformer": False, "from_t5": "x"}, "from_t5"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    plain = dict.fromkeys(("d_model", "d_kv", "d_ff", "num_layers", "num_heads"))
    with pytest.raises(ConfigurationError, match=words):
        arguments(tmp_path / "t", **(changes | (plain if "from_t5" in changes else {})))
