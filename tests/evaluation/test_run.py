from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.errors import (
    ConfigurationError,
    DataError,
    GradTxError,
    LayoutError,
    MissingFileError,
    OutputExistsError,
    StoreError,
)
from gradtx_hf.evaluation import ClientScores, client_scoring, fine_tuning, run
from gradtx_hf.evaluation.arguments import EvaluationArguments
from gradtx_hf.evaluation.client_scoring import ScoringJob, perform_scoring
from gradtx_hf.evaluation.controls import partners, target_states
from gradtx_hf.evaluation.examples import decode_examples
from gradtx_hf.evaluation.fine_tuning import FineTuningJob, perform_fine_tuning
from gradtx_hf.evaluation.run import evaluate
from gradtx_hf.evaluation.scoring import ScoringSettings
from gradtx_hf.finetuning import FineTuningRecipe, bits_per_character, load_language_model
from gradtx_hf.lora import load_adapter
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates.store import UpdateStore
from tests.cli.story import RECIPE, listing, story
from tests.curation.world import RULES
from tests.evaluation.evaluations import make_arguments, report_of


METHODS = {
    "source_client",
    "target_untouched",
    "public_finetune",
    "shadow_mean",
    "nearest_shadow",
    "shuffled_input",
    "ridge",
    "translated",
    "ceiling",
}
EXACT_TASKS = ("reverse+3", "identity+1", "rotate_1+2")


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an evaluation by exact match."""
    folder = tmp_path_factory.mktemp("exact") / "evaluation"
    evaluate(make_arguments(folder), command="gradtx evaluate …")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an evaluation by bits per character."""
    folder = tmp_path_factory.mktemp("texts") / "evaluation"
    evaluate(make_arguments(folder, kind="text", metric="bits_per_character"))
    return folder


def bits(init: Path, adapter: Path, rule_file: str) -> float:
    """Measure bits per character of a rule's held-out texts with one adapter, by PEFT alone."""
    base = load_adapter(init).base_model
    model, tokenizer = load_language_model(base)
    rows = Path(rule_file).read_text().splitlines()[16:]
    return bits_per_character(PeftModel.from_pretrained(model, adapter), tokenizer, rows, max_length=32, batch_size=8)


@pytest.mark.parametrize("name", ["exact", "texts"])
def test_every_client_has_every_control(name: str, request: pytest.FixtureRequest) -> None:
    report = report_of(request.getfixturevalue(name))

    assert [client["task"] for client in report["clients"]] == list(EXACT_TASKS)
    assert [client["seen"] for client in report["clients"]] == [True, True, False]
    for client in report["clients"]:
        assert set(client["scores"]) == METHODS
        assert all(isinstance(score, float) for score in client["scores"].values())
        assert set(client.get("nats_per_token", {})) == (METHODS if name == "exact" else set())
    assert set(report["summary"]) == {"all", "seen", "unseen"}
    assert set(report["seconds"]) == {"fine_tuning", "translation_and_controls", "scoring"}


def test_each_metric_says_which_way_is_better(exact: Path, texts: Path) -> None:
    assert report_of(exact)["metric"] == {"name": "exact_match", "higher_is_better": True}
    assert report_of(texts)["metric"] == {"name": "bits_per_character", "higher_is_better": False}
    assert all(score > 1 for client in report_of(texts)["clients"] for score in client["scores"].values())


def test_scores_of_completions_are_kept_one_by_one(exact: Path, texts: Path) -> None:
    clients = report_of(exact)["clients"]

    for client in clients:
        assert set(client["example_scores"]) == set(client["scores"])
        for method, scores in client["example_scores"].items():
            assert decode_examples(scores).mean() == pytest.approx(client["scores"][method])
    assert len({client["test_set"] for client in clients}) == len({client["task"] for client in clients})
    assert all("example_scores" not in client and "test_set" not in client for client in report_of(texts)["clients"])


def test_bits_per_answer_token_are_the_nats_of_the_references(exact: Path) -> None:
    home = exact / "clients" / "001-identity+1"
    client = make_arguments(exact).client_data()[1]
    settings = ScoringSettings("bits_per_answer_token", max_new_tokens=8, max_length=32, batch_size=64)
    states = {"ceiling": dict(load_adapter(home / "ceiling").tensors)}
    found = perform_scoring(ScoringJob(str(story().translator / "target_init"), states, client.test, settings))
    nats = report_of(exact)["clients"][1]["nats_per_token"]["ceiling"]
    assert found["ceiling"].score == pytest.approx(nats / math.log(2))
    assert found["ceiling"].example_scores == ""


def test_the_folder_holds_the_report_and_every_adapter(exact: Path) -> None:
    assert sorted(path.name for path in exact.iterdir()) == [
        "clients",
        "evaluation.json",
        "public_finetune",
        "report.json",
        "report.md",
        "report.png",
        "seconds.json",
        "translator",
    ]
    assert sorted(path.name for path in (exact / "clients").iterdir()) == [
        "000-reverse+3",
        "001-identity+1",
        "002-rotate_1+2",
    ]
    for client in (exact / "clients").iterdir():
        assert sorted(path.name for path in client.iterdir()) == ["ceiling", "source", "translated"]


def test_methods_are_scored_with_their_own_adapters(texts: Path) -> None:
    home = texts / "clients" / "001-identity+1"
    inits = {side: story().translator / f"{side}_init" for side in ("source", "target")}

    measured = {
        "ceiling": bits(inits["target"], home / "ceiling", story().text(RULES[1])),
        "translated": bits(inits["target"], home / "translated", story().text(RULES[1])),
        "public_finetune": bits(inits["target"], texts / "public_finetune", story().text(RULES[1])),
        "target_untouched": bits(inits["target"], inits["target"], story().text(RULES[1])),
        "source_client": bits(inits["source"], home / "source", story().text(RULES[1])),
    }

    scores = report_of(texts)["clients"][1]["scores"]
    assert {name: scores[name] for name in measured} == pytest.approx(measured, rel=1e-5)
    assert len({round(score, 3) for score in measured.values()}) == len(measured)


@pytest.mark.slow
def test_an_evaluation_that_is_there_is_not_trained_again(tmp_path: Path) -> None:
    arguments = make_arguments(tmp_path / "evaluation", clients=make_arguments(tmp_path).clients[:2])
    evaluate(arguments)
    before, report = listing(tmp_path / "evaluation"), report_of(tmp_path / "evaluation")
    lost = tmp_path / "evaluation" / "clients" / "000-reverse+3" / "ceiling"
    for path in lost.iterdir():
        path.unlink()
    lost.rmdir()

    evaluate(arguments)

    after = listing(tmp_path / "evaluation")
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"clients/000-reverse+3", "report.json", "report.md", "report.png", "seconds.json"} | {
        name for name in after if name.startswith("clients/000-reverse+3/ceiling")
    }
    assert [client["scores"] for client in report_of(tmp_path / "evaluation")["clients"]] == [
        pytest.approx(client["scores"]) for client in report["clients"]
    ]


@pytest.mark.slow
def test_two_workers_give_the_same_report_and_adapters_as_one(tmp_path: Path) -> None:
    arguments = make_arguments(tmp_path / "alone", kind="text", metric="bits_per_character")
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)  # this process's, which is not to matter
    try:
        evaluate(arguments)
        evaluate(replace(arguments, output_dir=str(tmp_path / "together"), num_workers=2))
    finally:
        torch.set_num_threads(num_threads)

    alone, together = (report_of(tmp_path / name)["clients"] for name in ("alone", "together"))
    assert alone == together
    files = sorted(path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*.safetensors"))
    assert len(files) == 13  # three of the translator, the public fine-tune, three of each client
    assert all((tmp_path / "alone" / f).read_bytes() == (tmp_path / "together" / f).read_bytes() for f in files)


@pytest.mark.parametrize("job", ["fine-tuning", "scoring"])
def test_jobs_use_one_thread_in_whichever_process(
    job: str, exact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def noted(*_args: object, **_options: object) -> MagicMock:
        threads.append(torch.get_num_threads())
        return MagicMock()

    samples = make_arguments(tmp_path).client_data()[0].train
    for module, name in ((fine_tuning, "fine_tune_client"), (client_scoring, "_scorer")):
        monkeypatch.setattr(module, name, noted)
    torch.set_num_threads(2)

    try:
        if job == "scoring":
            perform_scoring(ScoringJob("", {}, samples, ScoringSettings("exact_match", 8, 32, 8)))
        else:
            perform_fine_tuning(FineTuningJob("", samples, "", FineTuningRecipe.from_dict(RECIPE), 0, ""))
        threads.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(1)

    assert threads == [1, 2]


def test_another_evaluation_does_not_go_into_the_same_folder(exact: Path) -> None:
    before = listing(exact)

    with pytest.raises(OutputExistsError, match="holds another evaluation: max_new_tokens has changed"):
        evaluate(make_arguments(exact, max_new_tokens=7))

    assert listing(exact) == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> EvaluationArguments:
    """Return the arguments of a short evaluation that is done, of inputs of its own, which a test may change."""
    home = tmp_path_factory.mktemp("finished") / "home"
    translator = shutil.copytree(story().translator, home / "translator")
    store = shutil.copytree(story().store, home / "store")
    data = shutil.copy(story().data(RULES[0]), home / "client.jsonl")
    client = {"task": "t", "train": {"path": str(data)}, "test": {"path": str(data), "num_samples": 4}}
    arguments = make_arguments(
        home / "evaluation", translator=str(translator), store=str(store), clients=[client], source_recipe=RECIPE
    )
    evaluate(arguments)
    shutil.copytree(home, home.with_name("kept"))
    return arguments


@pytest.fixture
def home(finished: EvaluationArguments) -> Path:
    """Return the folder of that evaluation and its inputs, all as it was when it was done."""
    folder = Path(finished.output_dir).parent
    shutil.rmtree(folder)
    return shutil.copytree(folder.with_name("kept"), folder)


@pytest.fixture
def begun(finished: EvaluationArguments, home: Path) -> EvaluationArguments:
    """Return its arguments."""
    assert Path(finished.output_dir) == home / "evaluation"
    return finished


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("translator/model.safetensors", "translator file 'model.safetensors'"),
        ("translator/source_init/adapter_config.json", "translator file 'source_init/adapter_config.json'"),
        ("store/plan.json", "store file 'plan.json'"),
        ("store/manifest.json", "store file 'manifest.json'"),
        ("client.jsonl", "data file '.*client.jsonl'"),
    ],
)
def test_changed_inputs_do_not_go_into_the_same_folder(
    file: str, name: str, begun: EvaluationArguments, home: Path
) -> None:
    path = home / file
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        key = next(key for key, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel() > 1)
        save_file(tensors | {key: tensors[key] + 1}, path, metadata={"format": "pt"})
    else:
        path.write_text(path.read_text().rstrip("\n") + "\n\n")
    before = listing(home / "evaluation")

    with pytest.raises(OutputExistsError, match=f"holds another evaluation: {name} has changed") as caught:
        evaluate(begun)

    assert "\n" not in str(caught.value)
    assert listing(home / "evaluation") == before


def test_the_number_of_workers_does_not_make_it_another_evaluation(
    begun: EvaluationArguments, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [ClientScores("t", None, {"translated": 1.0})]
    monkeypatch.setattr(run, "score_clients", lambda *_args, **_options: scores)

    report = evaluate(replace(begun, num_workers=2))

    assert report.clients == tuple(scores)


def test_inputs_that_are_gone_are_named_when_an_evaluation_goes_on(begun: EvaluationArguments, home: Path) -> None:
    (home / "client.jsonl").unlink()

    with pytest.raises(MissingFileError, match=r"client\.jsonl' is not there"):
        evaluate(begun)


def test_what_is_scored_as_translated_is_what_was_written(
    begun: EvaluationArguments, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = home / "evaluation" / "clients" / "000-t"
    tensors = load_file(client / "translated" / "adapter_model.safetensors")
    changed = {name: tensor + 1 for name, tensor in tensors.items()}
    save_file(changed, client / "translated" / "adapter_model.safetensors", metadata={"format": "pt"})
    scored: list[dict[str, torch.Tensor]] = []

    def keep(*_args: object, states: list[Any], **_options: object) -> list[ClientScores]:
        scored.append(states[0]["translated"])
        return [ClientScores("t", None, {"translated": 1.0})]

    monkeypatch.setattr(run, "score_clients", keep)
    evaluate(begun)

    expected = load_adapter(client / "translated").tensors
    assert all(torch.equal(scored[0][name], expected[name]) for name in expected)


def test_the_public_fine_tune_does_not_follow_the_ceilings_recipe(
    exact: Path, begun: EvaluationArguments, home: Path
) -> None:
    arguments = replace(begun, output_dir=str(home / "other"), target_recipe=RECIPE | {"num_steps": 1})

    evaluate(arguments)

    def weights(folder: Path) -> bytes:
        return (folder / "adapter_model.safetensors").read_bytes()

    assert weights(home / "other" / "public_finetune") == weights(exact / "public_finetune")
    ceilings = [home / name / "clients" / "000-t" / "ceiling" for name in ("other", "evaluation")]
    assert weights(ceilings[0]) != weights(ceilings[1])


def test_seconds_are_added_up_over_interruptions(
    begun: EvaluationArguments, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "evaluation" / "seconds.json"
    assert json.loads(file.read_text()) == report_of(home / "evaluation")["seconds"]
    file.write_text('{"fine_tuning": 1000.0, "scoring": 10.0}')

    def interrupted(*_args: object, **_options: object) -> None:
        time.sleep(0.05)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "score_clients", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(begun)
    broken_off = json.loads(file.read_text())
    report = evaluate(begun)

    assert 1000 <= broken_off["fine_tuning"] <= report.seconds["fine_tuning"] < 1010
    assert 10.05 <= broken_off["scoring"] < report.seconds["scoring"] < 20
    assert set(report.seconds) == {"fine_tuning", "translation_and_controls", "scoring"}
    assert json.loads(file.read_text()) == report.seconds


def test_shuffled_input_is_another_tasks_translation() -> None:
    translator = PeftTranslator.from_pretrained(story().translator)
    inits = {"source": translator.source_init, "target": translator.target_init}
    sources = [{name: t + 0.01 * k for name, t in inits["source"].tensors.items()} for k in range(3)]
    translated = [translator.translate_states([state]) for state in sources]
    store = UpdateStore.open(story().store)

    states = target_states(inits, store, sources, translated=translated, shuffled=[2, None, 0])  # type: ignore[arg-type]

    for i, partner in ((0, 2), (2, 0)):
        shuffled = states[i]["shuffled_input"]
        assert all(torch.equal(shuffled[name], translated[partner][name]) for name in shuffled)
    assert "shuffled_input" not in states[1]


@pytest.mark.parametrize(
    ("tasks", "seen", "expected"),
    [
        ("aabc", "1111", [2, 3, 3, 0]),
        ("abab", "1111", [1, 0, 3, 2]),  # the same seed of the next task
        ("aabb", "1111", [2, 3, 0, 1]),
        ("aaabccc", "1111111", [3, 4, 5, 4, 0, 1, 2]),  # too few seeds of b: on to c
        ("abcd", "1010", [2, 3, 0, 1]),  # seen with seen, unseen with unseen
        ("aabb", "1100", [2, 3, 0, 1]),  # no other task in the group
        ("aab", "110", [2, 2, 0]),
        ("aa", "11", [None, None]),
    ],
)
def test_partners_have_another_task_of_the_group_and_differ_between_seeds(
    tasks: str, seen: str, expected: list[int | None]
) -> None:
    assert partners(list(tasks), [flag == "1" for flag in seen]) == expected


def without_columns(folder: Path) -> list[dict[str, object]]:
    (folder / "other.jsonl").write_text('{"body": "x"}\n')
    return [{"task": "t", "train": {"path": story().data(RULES[0])}, "test": {"path": str(folder / "other.jsonl")}}]


def client_with(folder: Path, **changes: object) -> list[dict[str, object]]:
    return [
        {"task": "t", "train": {"path": story().data(RULES[0])}, "test": {"path": story().data(RULES[0])}} | changes
    ]


REFUSED: dict[str, tuple[type[GradTxError], Any]] = {
    "has none of the columns": (DataError, lambda f: {"clients": without_columns(f)}),
    "have no prompt, which exact_match needs": (
        DataError,
        lambda f: {"clients": client_with(f, test={"path": story().text(RULES[0])})},
    ),
    "none.jsonl' is not there": (
        MissingFileError,
        lambda f: {"clients": client_with(f, train={"path": str(f / "none.jsonl")})},
    ),
    "expected at least 99": (
        DataError,
        lambda f: {"clients": client_with(f, train={"path": story().data(RULES[0]), "num_samples": 99})},
    ),
    "a client lacks 'train'": (ConfigurationError, lambda f: {"clients": [{"task": "t", "test": {"path": "x"}}]}),
    "got unknown client key 'tset'": (ConfigurationError, lambda f: {"clients": client_with(f, tset=1)}),
    "got client 'reverse', expected the keys": (ConfigurationError, lambda f: {"clients": ["reverse"]}),
    "got data source 'lines.jsonl', expected keys": (
        ConfigurationError,
        lambda f: {"clients": client_with(f, train="lines.jsonl")},
    ),
    "got seed='one', seen=None for client 't'": (ConfigurationError, lambda f: {"clients": client_with(f, seed="one")}),
    "got no clients": (ConfigurationError, lambda f: {"clients": []}),
    "got metric 'rouge'": (ConfigurationError, lambda f: {"metric": "rouge"}),
    "got batch_size=0": (ConfigurationError, lambda f: {"batch_size": 0}),
    "got pack=0": (ConfigurationError, lambda f: {"pack": 0}),
    "recipe lacks 'batch_size'": (ConfigurationError, lambda f: {"source_recipe": {"num_steps": 4}}),
    "is no translator": (MissingFileError, lambda f: {"translator": str(story().store)}),
    "is no update store": (StoreError, lambda f: {"store": str(story().translator)}),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_written(words: str, tmp_path: Path) -> None:
    error, changes = REFUSED[words]

    with pytest.raises(error) as caught:
        evaluate(make_arguments(tmp_path / "evaluation", **changes(tmp_path)))

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evaluation").exists()


def curated(folder: Path, **changes: object) -> Path:
    values = story().curation | {"num_shadow_sets": 1, "source_recipe": RECIPE | {"num_steps": 2}} | changes
    curate(CurationArguments(**values, output_dir=str(folder)))
    return folder


def test_a_store_of_other_modules_is_refused(tmp_path: Path) -> None:
    store = curated(tmp_path / "store", source_target_modules=["q_proj"])

    with pytest.raises(LayoutError, match="on the source side: it adapts q_proj, expected q_proj, v_proj"):
        evaluate(make_arguments(tmp_path / "evaluation", store=str(store)))

    assert not (tmp_path / "evaluation").exists()


@pytest.mark.parametrize(
    ("num_target_runs", "absent", "line"),
    [
        pytest.param(
            0,
            {"shadow_mean", "nearest_shadow", "ridge"},
            "Mean shadow, nearest shadow and ridge are left out: the store has no target run.",
            marks=pytest.mark.slow,
        ),
        (1, {"ridge"}, "Mean shadow and nearest shadow rest on the 1 target run of the store, too few for ridge."),
        pytest.param(
            2,
            set(),
            "Mean shadow, nearest shadow and ridge rest on the 2 target runs of the store.",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_controls_rest_on_the_target_runs_that_there_are(
    num_target_runs: int, absent: set[str], line: str, tmp_path: Path
) -> None:
    store = curated(tmp_path / "store", num_shadow_sets=3, num_target_runs=num_target_runs)
    arguments = make_arguments(tmp_path / "evaluation", store=str(store))

    evaluate(replace(arguments, clients=arguments.clients[:1]))

    report = report_of(tmp_path / "evaluation")
    assert set(report["clients"][0]["scores"]) == METHODS - absent - {"shuffled_input"}
    assert report["config"]["num_target_runs"] == num_target_runs
    assert line in (tmp_path / "evaluation" / "report.md").read_text()


def test_a_store_of_another_start_is_refused(tmp_path: Path) -> None:
    store = curated(tmp_path / "store", seed=5)

    with pytest.raises(StoreError, match="has another source_init than translator"):
        evaluate(make_arguments(tmp_path / "evaluation", store=str(store)))

    assert not (tmp_path / "evaluation").exists()
