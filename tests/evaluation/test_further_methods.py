"""Further methods beside the translator: all of them on tiny clients, and those that cannot be run, with the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gradtx_hf.baselines import vocabulary
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.evaluation import METHODS, further_methods
from gradtx_hf.evaluation.arguments import EvaluationArguments
from gradtx_hf.evaluation.method_adapters import MethodTrainer
from gradtx_hf.evaluation.method_settings import FURTHER_METHODS, PROXIES, SOURCE_BEST, STARTS, TRAINED
from gradtx_hf.evaluation.run import evaluate
from gradtx_hf.finetuning import FineTuningRecipe, load_samples
from gradtx_hf.lora import load_adapter
from tests.cli.story import RECIPE, listing, story
from tests.curation.world import RULES
from tests.evaluation.evaluations import make_arguments, report_of


SETTINGS = {
    "best_recipe": {**RECIPE, "num_steps": 3},
    "weak_recipe": {**RECIPE, "num_steps": 2},
    "refinement_recipe": {**RECIPE, "num_steps": 2},
    "num_public_prompts": 6,
}
RUN = [name for name in FURTHER_METHODS if name != "low_rank_map"]


def two_clients(folder: Path, **changes: object) -> EvaluationArguments:
    made = make_arguments(folder, **{"methods": list(FURTHER_METHODS), "method_settings": SETTINGS, **changes})
    return replace(made, clients=made.clients[1:])


def one_client(folder: Path, **changes: object) -> EvaluationArguments:
    made = two_clients(folder, **changes)
    return replace(made, clients=made.clients[:1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods") / "evaluation"
    evaluate(two_clients(folder))
    return folder


def test_every_method_is_scored_and_has_an_adapter_of_its_own(folder: Path) -> None:
    report = report_of(folder)
    init = load_adapter(folder / "translator" / "target_init").tensors
    for client, home in zip(report["clients"], sorted((folder / "clients").iterdir()), strict=True):
        assert set(client["scores"]) == {*METHODS, *RUN}
        assert all(client["nats_per_token"][name] > 0 for name in RUN)
        states = [load_adapter(home / name).tensors for name in ("cross_lora", *TRAINED)]
        for i, state in enumerate(states):
            others = [init, *states[i + 1 :]]
            assert not any(all(torch.equal(state[name], other[name]) for name in state) for other in others)
        assert {path.name for path in home.iterdir()} == {
            *("source", "ceiling", "translated", "weak_model", SOURCE_BEST, "cross_lora", *TRAINED)
        }
    assert "| Proxy tuning (logits of three models) |" in (folder / "report.md").read_text()
    assert report["seconds"]["further_methods"] > 0


def test_what_the_store_does_not_allow_is_named_with_the_reason_and_the_others_go_on(folder: Path) -> None:
    reasons = report_of(folder)["not_run"]
    assert reasons == {"low_rank_map": "it needs target runs of 5 shadow sets, the store has 3."}
    assert "- Not run: Low-rank linear map on update tokens: it needs target runs" in (folder / "report.md").read_text()


def test_weak_labels_are_of_the_half_that_the_weak_model_did_not_learn(folder: Path) -> None:
    client = two_clients(folder).client_data()[0]
    whole, first, second = (
        list(load_samples(client.train, seed=client.seed, half=half)["prompt"]) for half in (None, "first", "second")
    )
    assert first + second == whole
    home = folder / "clients" / f"000-{client.task}"
    inits = {side: str(folder / "translator" / f"{side}_init") for side in ("source", "target")}
    trainer = MethodTrainer(
        inits,  # type: ignore[arg-type]
        two_clients(folder).further_settings,
        default=FineTuningRecipe.from_dict(RECIPE),
        max_new_tokens=8,
        batch_size=64,
        seed=client.seed,
    )
    made = trainer.weak("w2s", trainer.labelled(home / "weak_model", second))
    written = load_adapter(home / "w2s").tensors
    assert all(torch.equal(made[name], written[name]) for name in written)


@pytest.mark.slow
def test_adapters_that_are_there_are_not_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: time for name, time in listing(folder).items() if name.startswith("clients")}
    monkeypatch.setattr(further_methods, "train_methods", None)
    evaluate(two_clients(folder))
    assert {name: time for name, time in listing(folder).items() if name.startswith("clients")} == before


@pytest.mark.slow
def test_methods_that_no_translator_changes_are_taken_over(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, ...]] = []
    perform = further_methods.train_methods

    def note(job: further_methods.MethodJob) -> dict[str, str]:
        made.append(job.methods)
        return perform(job)

    monkeypatch.setattr(further_methods, "train_methods", note)
    methods = ["w2s", "distilled", "refined_translation"]
    evaluate(one_client(tmp_path / "again", methods=methods, adapters_from=str(folder)))
    assert made == [("refined_translation",)]
    again, earlier = report_of(tmp_path / "again"), report_of(folder)
    one, other = again["clients"][0]["scores"], earlier["clients"][0]["scores"]
    assert {name: one[name] for name in methods} == {name: other[name] for name in methods}


@pytest.mark.slow
def test_other_vocabularies_and_other_adapters_leave_methods_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "have_same_vocabulary", lambda first, second: False)
    methods = ["proxy_tuning", "distilled", "source_best", "w2s_public"]
    evaluate(one_client(tmp_path / "evaluation", methods=methods, method_settings={**SETTINGS, "best_recipe": None}))
    report = report_of(tmp_path / "evaluation")
    assert "are not the same, which it needs" in report["not_run"]["proxy_tuning"]
    assert set(report["not_run"]) == {"proxy_tuning", "distilled", "source_best"}
    assert "it is the same as source_client" in report["not_run"]["source_best"]
    assert set(report["clients"][0]["scores"]) == {*METHODS, "w2s_public"} - {"shuffled_input"}


@pytest.mark.slow
def test_texts_without_prompts_have_no_weak_labels(tmp_path: Path) -> None:
    arguments = one_client(tmp_path / "evaluation", methods=["w2s", "cross_lora"], kind="text")
    evaluate(replace(arguments, metric="bits_per_character"))
    report = report_of(tmp_path / "evaluation")
    assert f"client '{RULES[1].name}' has none" in report["not_run"]["w2s"]
    assert "cross_lora" in report["clients"][0]["scores"]


@pytest.mark.slow
def test_a_method_that_fails_on_a_client_is_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: MethodTrainer, method: str, labelled: Any) -> None:  # noqa: ANN401 - as the method
        raise ConfigurationError("the loss is not finite.")

    monkeypatch.setattr(MethodTrainer, "weak", fail)
    evaluate(one_client(tmp_path / "evaluation", methods=["w2s", "distilled"]))
    report = report_of(tmp_path / "evaluation")
    assert report["not_run"] == {"w2s": "it failed on 1 of 1 clients: the loss is not finite."}
    assert all("distilled" in client["scores"] and "w2s" not in client["scores"] for client in report["clients"])


@pytest.mark.slow
def test_several_members_label_their_own_rows(tmp_path: Path) -> None:
    path = str(story().data(RULES[0]))
    parts = ("train[:8]", "train[8:10]", "train[12:20]", "train[20:]")
    train_1, test_1, train_2, test_2 = ({"path": path, "split": split} for split in parts)
    members = [{"train": train_1, "test": test_1}, {"train": train_2, "test": test_2}]
    client = {"task": "two", "seen": True, "members": members}
    methods = ["source_best", "proxy_tuning", "w2s", "distilled"]
    evaluate(make_arguments(tmp_path / "e", clients=[client], methods=methods, method_settings=SETTINGS))
    home = tmp_path / "e" / "clients" / "000-two"
    first, second, mean = (load_adapter(home / f"source_best{end}").tensors for end in ("_0", "_1", ""))
    assert all(torch.allclose(mean[name], (first[name] + second[name]) / 2, atol=1e-6) for name in mean)
    assert {"weak_model_0", "weak_model_1", "w2s", "distilled"} < {path.name for path in home.iterdir()}
    scored = report_of(tmp_path / "e")["clients"]
    assert len(scored) == 2
    assert all(set(methods) < set(one["scores"]) for one in scored)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["magic"]}, "got method 'magic', expected any of source_best"),
        ({"method_settings": {"temprature": 1}}, "unknown method setting 'temprature', expected any of best_recipe"),
        ({"method_settings": {"weak_recipe": {"num_steps": 1}}}, "lacks 'batch_size'"),
        ({"method_settings": {"num_public_prompts": 0}}, "got num_public_prompts=0"),
        ({"method_settings": {"temperature": 0}}, "got temperature=0"),
        ({"max_prompt_tokens": 0}, "got max_prompt_tokens=0"),
        ({"rivals": {"w2s": "folder"}}, "got 'w2s' as the name of a rival"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_arguments(tmp_path, **changes)


def test_names_are_of_one_kind_each() -> None:
    assert set(FURTHER_METHODS) == {SOURCE_BEST, "low_rank_map", "cross_lora", *PROXIES, *TRAINED}
    assert set(STARTS) < set(TRAINED)
