"""The study on real text: its models, its data, its report; ``test_dry_runs`` goes its whole way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from gradtx_hf.cli.main import main
from gradtx_hf.curation import CurationArguments
from gradtx_hf.errors import ConfigurationError, DataError, MissingFileError
from gradtx_hf.evaluation import ClientScores, Report
from gradtx_hf.evaluation.arguments import EvaluationArguments
from gradtx_hf.evaluation.pooling import join_reports
from gradtx_hf.finetuning.language_model import load_language_model
from gradtx_hf.studies.pretrain_text import TextPretraining, pretrain_pair, read_texts
from gradtx_hf.studies.real_text import (
    RealTextReport,
    real_text_study,
    render_real_text,
    run_real_text_study,
    with_data,
)
from gradtx_hf.training.run import TranslatorArguments


SHAPE = {"hidden_size": 16, "num_layers": 1, "num_steps": 30, "batch_size": 4}


def pretraining(folder: Path, **changes: object) -> TextPretraining:
    rows = [{"prompt": f"What is {i} and {i}?", "completion": f"It is {2 * i}."} for i in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    values = {"source": SHAPE, "target": {**SHAPE, "hidden_size": 32}, "vocab_size": 300, "piece_length": 16, **changes}
    return TextPretraining.from_dict(values, corpora=[{"label": "rows", "path": str(folder / "rows.jsonl")}])


def test_both_models_learn_the_texts_and_share_a_tokenizer(tmp_path: Path) -> None:
    made = pretraining(tmp_path)
    pretrain_pair(made, tmp_path / "models")

    tokenizers = [AutoTokenizer.from_pretrained(tmp_path / "models" / side) for side in ("source", "target")]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()
    for text in ("What is 12 and 12?", "é, 字 and\n a line"):
        assert tokenizers[0].decode(tokenizers[0](text)["input_ids"]) == text
    for side in ("source", "target"):
        noted = json.loads((tmp_path / "models" / side / "pretraining.json").read_text())
        model, tokenizer = load_language_model(str(tmp_path / "models" / side))
        assert noted["num_parameters"] == model.num_parameters()
        ids = torch.tensor([tokenizer("What is 7 and 7?")["input_ids"]])
        with torch.no_grad():
            loss = float(model(input_ids=ids, labels=ids).loss)
        assert loss < torch.log(torch.tensor(len(tokenizer))) - 0.5
        assert noted["last_nats"] < torch.log(torch.tensor(len(tokenizer))) - 0.5


def test_the_same_seed_gives_the_same_models_and_what_is_there_is_kept(tmp_path: Path) -> None:
    for name in ("one", "two"):
        pretrain_pair(pretraining(tmp_path), tmp_path / name)
    one, two = ((tmp_path / name / "target" / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    before = (tmp_path / "one" / "source" / "model.safetensors").stat().st_mtime_ns
    pretrain_pair(pretraining(tmp_path, seed=1), tmp_path / "one")
    assert (tmp_path / "one" / "source" / "model.safetensors").stat().st_mtime_ns == before


def test_prompts_and_completions_are_texts_of_their_own_each_once(tmp_path: Path) -> None:
    texts = read_texts(pretraining(tmp_path))
    assert len(texts) == len(set(texts)) == 80
    assert not any("?" in text and "It is" in text for text in texts)
    assert texts != read_texts(pretraining(tmp_path, seed=1))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": {**SHAPE, "hidden_size": 20}}, ConfigurationError, "expected a multiple of 16"),
        ({"source": {**SHAPE, "num_steps": 0}}, ConfigurationError, "got num_steps=0, expected a positive number"),
        ({"target": {"hidden_size": 16}}, ConfigurationError, "the pretraining's values do not fit"),
        ({"depth": 3}, ConfigurationError, "the pretraining's values do not fit"),
        ({"piece_length": 10**6}, DataError, "expected at least piece_length=1000000"),
    ],
)
def test_what_cannot_be_pretrained_is_refused(
    changes: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        pretrain_pair(pretraining(tmp_path, **changes), tmp_path / "models")
    assert not (tmp_path / "models" / "source").exists()


def test_the_commands_take_every_cell_and_no_public_row_is_private(tmp_path: Path) -> None:
    for cell in (with_data(cell, str(tmp_path)) for cell in real_text_study().cells):
        folders: dict[str, Any] = {"store": "s", "output_dir": "o"}
        curation = CurationArguments(**cell.curate, source_model="s", target_model="t", output_dir="o")
        TranslatorArguments(**cell.train, **folders)
        arguments = EvaluationArguments(**{**cell.evaluate, "adapters_from": None}, **folders, translator="t")
        public = {(corpus["path"], corpus["split"]) for corpus in curation.corpora}
        assert all(path.startswith(str(tmp_path)) and split == "train[:50%]" for path, split in public)
        for client in arguments.client_data():
            (train,), (test,) = client.train, client.test
            assert (train.source.path, train.source.split) != (test.source.path, test.source.split)
            is_public_file = any(train.source.path == path for path, _ in public)
            assert is_public_file == client.seen
            assert not is_public_file or train.source.split.startswith("train[50%:")


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [(None, ConfigurationError, "--data DIR"), ("/nowhere", MissingFileError, "'/nowhere', is not there")],
)
def test_without_data_nothing_is_written(
    data: str | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run_real_text_study(tmp_path / "out", data=data)
    assert not (tmp_path / "out").exists()


def test_the_command_plans_it_and_other_studies_read_no_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "real_text", "--plan"]) == 0
    assert "pretrained by the study" in capsys.readouterr().out
    assert main(["study", "functional", "--data", str(tmp_path), "--output-dir", str(tmp_path / "out")]) == 1
    assert "error: got --data for study 'functional', which reads none." in capsys.readouterr().err


def test_the_report_tells_what_a_generalist_recovers_and_every_tasks_mean() -> None:
    scores = {"target_untouched": 5.0, "public_finetune": 3.2, "shuffled_input": 3.4, "translated": 3.1, "ceiling": 3.0}
    clients = [
        ClientScores(task, task != "samsum", {name: score + shift for name, score in scores.items()}, seed=seed)
        for task, shift in (("gsm8k", 0.0), ("samsum", 1.0))
        for seed in (1, 2)
    ]
    found = Report.from_clients(
        clients, metric="bits_per_answer_token", higher_is_better=False, seconds={}, config={}, not_run={"w2s": "why."}
    )
    study = real_text_study()
    text = render_real_text(RealTextReport(study, {"answers": found}, is_dry_run=False, command="gradtx study"))
    assert "Without the client's own adapter: public fine-tune 90%, shuffled input 80%; with it 95%." in text
    assert "| method | gsm8k | samsum (unseen) |" in text
    assert "| Translated adapter | 3.100 | 4.100 |" in text
    assert "- Not run: W2S on private inputs: why." in text
    twice = join_reports([found, found])
    assert twice.summary["all"].num_clients == 8
    assert twice.summary["all"].num_tasks == 2  # seeds are no further tasks
    assert twice.not_run == found.not_run
    both = RealTextReport(study, {"answers": found, "scores": replace(found, metric="task_score")}, True, "")
    assert both.to_json()["scores"]["metric"]["name"] == "task_score"
    assert Report.from_json(both.to_json()).metric == "bits_per_answer_token"
