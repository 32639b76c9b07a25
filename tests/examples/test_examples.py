"""Every example takes its whole path through the code, at toy size, with the models and data of this machine."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration

from gradtx_hf.cli.main import main
from gradtx_hf.playground import make_lines, source_path, split_rules
from gradtx_hf.studies.pretrain_playground import build_tokenizer


EXAMPLES = Path(__file__).parents[2] / "examples"
TOY_RECIPE = "{num_steps: 4, batch_size: 2, learning_rate: 1e-3, max_length: 64}"
TOY_TRAINING = {"max_steps": 2, "warmup_steps": 0, "eval_steps": 2, "save_steps": 2}


def gradtx(command: str, *arguments: object, config: Path | None = None, **flags: object) -> None:
    """Run a command in this process and require that it is done."""
    given = [*map(str, arguments), *(["--config", str(config)] if config else [])]
    for name, value in flags.items():
        given += [f"--{name}", str(value)]
    assert main([command, *given]) == 0


def run_script(name: str, *arguments: object) -> None:
    before = sys.argv
    sys.argv = [name, *map(str, arguments)]
    try:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    finally:
        sys.argv = before


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tiny_qwen(folder: Path, *, hidden_size: int, num_layers: int) -> Path:
    """Save a random Qwen2, its shape different from the other side's in width, depth and kv width."""
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_flan_t5(folder: Path) -> Path:
    T5ForConditionalGeneration(
        T5Config(
            vocab_size=32,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    ).save_pretrained(folder)
    return folder


def test_the_scripts_run_one_after_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = split_rules("small", seed=0).seen[0]
    data = write_rows(tmp_path / "private.jsonl", make_lines([rule], 32, seed=1))
    provider, adapter, translated = (tmp_path / name for name in ("provider", "adapter", "translated"))
    sizes = ("--num-shadow-sets", 4, "--num-steps", 4, "--max-steps", 4)

    run_script("01_provider.py", "--output-dir", provider, *sizes)
    run_script("02_client_with_plain_peft.py", provider / "translator/source_init", data, adapter, "--num-steps", 3)
    run_script("03_translate_and_load.py", provider / "translator", adapter, translated)

    assert (translated / "adapter_model.safetensors").is_file()
    assert "??abcdef=" in capsys.readouterr().out


def test_the_clients_script_does_not_need_this_package() -> None:
    text = (EXAMPLES / "02_client_with_plain_peft.py").read_text()

    assert not [line for line in text.splitlines() if line.startswith(("import gradtx_hf", "from gradtx_hf"))]


@pytest.mark.slow
def test_the_papers_recipe_runs_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_qwen(tmp_path / "source", hidden_size=16, num_layers=2)
    target = tiny_qwen(tmp_path / "target", hidden_size=32, num_layers=3)
    lines = make_lines(list(split_rules("small", seed=0).seen), 40, seed=0)
    rows = [{"question": line["prompt"], "answer": f"It is {line['completion']}.\n#### 7"} for line in lines]
    data = write_rows(tmp_path / "gsm8k.jsonl", rows)
    columns = f"path: {data}, task: gsm8k"
    private, held_out = f"split: 'train[50%:90%]', {columns}", f"split: 'train[90%:]', {columns}"
    run = tmp_path / "run"
    monkeypatch.setenv("OUT", str(run))
    recipes = EXAMPLES / "qwen_gsm8k"
    toy = {"source_recipe": TOY_RECIPE, "target_recipe": TOY_RECIPE}

    gradtx(
        "curate",
        config=recipes / "curate.yaml",
        source_model=source,
        target_model=target,
        num_shadow_sets=4,
        samples_per_set=8,
        num_snapshots=2,
        corpora=f"[{{label: gsm8k, split: 'train[:50%]', {columns}}}]",
        **toy,
    )
    gradtx(
        "train",
        config=recipes / "train.yaml",
        from_t5=tiny_flan_t5(tmp_path / "t5"),
        num_train_epochs=1,
        bf16=False,
        use_cpu=True,
    )
    gradtx(
        "client",
        config=recipes / "client.yaml",
        recipe=TOY_RECIPE,
        data=f"{{{private}}}",
    )
    gradtx("translate", run / "client_adapter", translator=run / "translator", **{"output-dir": run / "translated"})
    gradtx(
        "evaluate",
        config=recipes / "evaluate.yaml",
        max_new_tokens=4,
        clients=f"[{{task: gsm8k, train: {{{private}}}, test: {{{held_out}}}}}]",
        **toy,
    )

    assert (run / "evaluation" / "report.json").is_file()
    assert AutoModelForCausalLM.from_pretrained(run / "translated").config.hidden_size == 32


@pytest.mark.slow
def test_the_real_text_recipe_runs_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = make_lines(list(split_rules("small", seed=0).seen), 400, seed=0)
    texts = [line["prompt"] + line["completion"] for line in lines]
    data, models = tmp_path / "data", tmp_path / "models"
    for name in ("tinyshakespeare/input.txt", "grimm/GrimmsFairyTales.txt"):
        (data / name).parent.mkdir(parents=True)
        (data / name).write_text("\n".join(texts))
    write_rows(data / "gsm8k/train.jsonl", [{"question": text} for text in texts])
    write_rows(data / "dialogsum/dialogsum.train.jsonl", [{"dialogue": text} for text in texts])
    write_rows(data / "commonsenseqa/train_rand_split.jsonl", [{"question": {"stem": text}} for text in texts])
    models.mkdir()
    for name in ("stories260K-hf", "babyllama361-hf"):
        (models / name).symlink_to(source_path())
    for name, value in (("MODELS", models), ("DATA", data), ("OUT", tmp_path / "run")):
        monkeypatch.setenv(name, str(value))
    recipes = EXAMPLES / "real_text"

    gradtx(
        "curate",
        config=recipes / "curate.yaml",
        num_shadow_sets=6,
        samples_per_set=5,
        num_snapshots=2,
        num_workers=1,
        source_recipe=TOY_RECIPE,
        target_recipe=TOY_RECIPE,
    )
    gradtx("train", config=recipes / "train.yaml", **TOY_TRAINING)
    gradtx("train", config=recipes / "train_parameter.yaml", **TOY_TRAINING)
    gradtx(
        "evaluate",
        config=recipes / "evaluate.yaml",
        num_workers=1,
        max_length=64,
        public_recipe=TOY_RECIPE,
        clients=json.dumps(_two_small_clients(recipes / "evaluate.yaml", data)),
    )

    scores = json.loads((tmp_path / "run/evaluation/report.json").read_text())["clients"][0]["scores"]
    assert {"translated", "parameter_objective", "ridge", "source_client"} <= scores.keys()


def test_the_conventions_are_what_their_names_say() -> None:
    script = runpy.run_path(str(EXAMPLES / "conventions/make_data.py"))
    seen, unseen = script["conventions"]()
    text = "the key, a zebra."

    written = {name: write(text) for name, write in (seen | unseen).items()}

    assert (len(seen), len(unseen)) == (24, 10)
    assert len(set(written.values())) == 34
    assert written["plain-lower"] == text
    assert written["consonants-upper"] == "TH KY,  ZBR."
    assert written["reversed-dots"] == "eht.yek,.a.arbez."
    assert written["mirror-slashes"] == "GSV/PVB,/Z/AVYIZ."
    assert written["shift3-lower"] == "wkh nhb, d cheud."
    assert written["keyboard-dots"] == "zit.atn,.q.mtwkq."


def test_public_private_and_held_out_sentences_do_not_overlap() -> None:
    script = runpy.run_path(str(EXAMPLES / "conventions/make_data.py"))
    rows = script["sentences"](" ".join(f"This is sentence number {i}, and it is new." for i in range(50)))

    parts = script["shared_out"](rows, script["SHARES"])

    assert [len(part) for part in parts.values()] == [30, 15, 5]
    assert sorted(row for part in parts.values() for row in part) == rows


@pytest.mark.slow
def test_the_conventions_recipe_runs_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes, models, run = EXAMPLES / "conventions", tmp_path / "models", tmp_path / "run"
    models.mkdir()
    for name in ("stories260K-hf", "babyllama361-hf"):
        (models / name).symlink_to(source_path())
    text = tmp_path / "text.txt"
    text.write_text(
        "\n".join(f"{line['completion']} is what the {i}th of them said." for i, line in enumerate(_lines()))
    )
    for name, value in (("MODELS", models), ("OUT", run)):
        monkeypatch.setenv(name, str(value))

    run_script("conventions/make_data.py", text, text, run / "conventions")
    gradtx(
        "curate",
        config=recipes / "curate.yaml",
        num_shadow_sets=24,
        num_target_runs=2,
        samples_per_set=4,
        num_snapshots=1,
        source_recipe=TOY_RECIPE,
        target_recipe=TOY_RECIPE,
    )
    gradtx("train", config=recipes / "train.yaml", **TOY_TRAINING)
    gradtx(
        "evaluate",
        config=recipes / "evaluate.yaml",
        max_length=64,
        public_recipe=TOY_RECIPE,
        clients=json.dumps(_some_small_clients(recipes / "evaluate.yaml", run)),
    )

    report = json.loads((run / "evaluation/report.json").read_text())
    assert [client["seen"] for client in report["clients"]] == [True, False]


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_every_recipe_says_its_own_command(path: Path) -> None:
    command = path.stem.partition("_")[0]

    assert f"gradtx {command} --config examples/{path.relative_to(EXAMPLES)}" in path.read_text()


def _two_small_clients(path: Path, data: Path) -> list[dict[str, object]]:
    """Return the recipe's first client and one of a mixture, with two samples of each source."""
    clients = yaml.safe_load(path.read_text().replace("${DATA}", str(data)))["clients"]
    chosen = [clients[0], next(client for client in clients if isinstance(client["train"], list))]
    for client in chosen:
        for part in (client["train"], client["test"]):
            for sample in part if isinstance(part, list) else [part]:
                sample["num_samples"] = 2
    return chosen


def _lines() -> list[dict[str, str]]:
    return make_lines(list(split_rules("small", seed=0).seen), 60, seed=0)


def _some_small_clients(path: Path, run: Path) -> list[dict[str, object]]:
    """Return the recipe's first client, of a seen convention, and its last, of another text, with two samples each."""
    clients = yaml.safe_load(path.read_text().replace("${OUT}", str(run)))["clients"]
    chosen = [clients[0], clients[-1]]
    for client in chosen:
        client["train"]["num_samples"] = client["test"]["num_samples"] = 2
    return chosen
