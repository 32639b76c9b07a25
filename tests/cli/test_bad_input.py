"""Bad input: one clear line, exit status 1, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from gradtx_hf.updates.store import UpdateStore
from tests.cli.conftest import Finished
from tests.cli.story import RECIPE, TRAINING, listing, story
from tests.curation.world import RULES, save_model
from tests.tiny import save_tiny_adapter, tiny_llama


Run = Callable[..., Finished]
Make = Callable[[Path], None]
TARGETS = ["q_proj", "v_proj"]


def refused(gradtx: Run, folder: Path, *arguments: object) -> str:
    """Return the line that a command is refused with; nothing may change in the folder or in the story's."""
    before = listing(folder), listing(story().folder)
    done = gradtx(*arguments)
    line = done.error
    assert done.out == ""
    assert (listing(folder), listing(story().folder)) == before
    return line


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def first_key(tensors: dict[str, torch.Tensor]) -> str:
    return min(key for key in tensors if "lora_A" in key)


def fill(value: float) -> Make:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[first_key(tensors)][0, 0] = value

    return lambda folder: change_weights(folder, change)


def cut(num_bytes: int) -> Make:
    def change(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:num_bytes])

    return change


def replace_weights(content: bytes) -> Make:
    return lambda folder: (folder / "adapter_model.safetensors").write_bytes(content) and None


def lose_tensor(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.__delitem__(first_key(tensors)))


def add_tensor(folder: Path) -> None:
    extra = "base_model.model.model.layers.0.mlp.up_proj.lora_"

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{extra}A.weight"], tensors[f"{extra}B.weight"] = torch.ones(2, 8), torch.ones(16, 2)

    change_weights(folder, change)


def reshape_tensor(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({first_key(tensors): torch.ones(3, 8)}))


def make_convolution(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({first_key(tensors): torch.ones(2, 8, 3, 3)}))


def pickle_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def foreign(config: Callable[[], peft.PeftConfig]) -> Make:
    """Replace the adapter by one of another type, written by PEFT."""

    def make(folder: Path) -> None:
        shutil.rmtree(folder)
        peft.get_peft_model(tiny_llama(hidden_size=8, num_kv_heads=2), config()).save_pretrained(folder)

    return make


def other_lora(**options: object) -> Make:
    """Replace the adapter by another LoRA of the source model."""

    def make(folder: Path) -> None:
        shutil.rmtree(folder)
        save_tiny_adapter(folder, base=story().folder / "source", **options)

    return make


UNREADABLE: dict[str, tuple[Make, str]] = {
    "not an adapter": (lambda f: (f / "adapter_config.json").unlink(), "is not an adapter: it holds no adapter_config"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    "LFS pointer": (replace_weights(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
    "pickled": (pickle_weights, "save_pretrained(path), which writes safetensors"),
    "truncated": (cut(-9), "is truncated or damaged"),
    "corrupt header": (replace_weights(b"\x10\x00\x00\x00\x00\x00\x00\x00{'not': json...."), "truncated or damaged"),
    "empty file": (replace_weights(b""), "is truncated or damaged"),
    "configuration that is no JSON": (lambda f: (f / "adapter_config.json").write_text("{") and None, "is not JSON"),
    "NaN": (fill(float("nan")), "holds NaN or infinite values"),
    "infinity": (fill(float("inf")), "holds NaN or infinite values"),
    "rank against configuration": (lambda f: change_config(f, r=4), "has rank 2, but adapter_config.json says 4"),
    "shape against configuration": (reshape_tensor, "has rank 3, but adapter_config.json says 2"),
    "missing tensor": (lose_tensor, "but not 'model.layers.0.self_attn.q_proj.lora_A'"),
    "extra tensor": (add_tensor, "which adapter_config.json does not name in target_modules"),
    "DoRA": (foreign(lambda: peft.LoraConfig(use_dora=True, target_modules=TARGETS)), "peft.save_as_lora(path"),
    "IA3": (
        foreign(lambda: peft.IA3Config(target_modules=TARGETS, feedforward_modules=[])),
        "is of type 'IA3', expected 'LORA'. PEFT has no conversion",
    ),
    "VeRA": (foreign(lambda: peft.VeraConfig(r=2, target_modules=TARGETS)), "peft.save_as_lora(path"),
    "LoKr": (foreign(lambda: peft.LoKrConfig(r=2, target_modules=TARGETS)), "peft.save_as_lora(path"),
    "unknown type": (lambda f: change_config(f, peft_type="NEXT"), "is of type 'NEXT', expected 'LORA'"),
    "modules_to_save": (
        foreign(lambda: peft.LoraConfig(target_modules=TARGETS, modules_to_save=["lm_head"])),
        "fully trained modules (modules_to_save)",
    ),
    "convolution": (make_convolution, "convolution LoRA has no place"),
}
"""What no command can read: how to make it of a client's adapter, and what the line says."""
UNFITTING: dict[str, tuple[Make, str]] = {
    "embedding": (
        other_lora(target_modules=("q_proj", "v_proj", "embed_tokens")),
        "it adapts embed_tokens, q_proj, v_proj, expected q_proj, v_proj",
    ),
    "other modules": (other_lora(target_modules=("k_proj",)), "it adapts k_proj, expected q_proj, v_proj"),
    "other start": (other_lora(seed=9), "did not start from this translator's source_init (distance 0."),
    "other base model by name": (
        lambda f: change_config(f, base_model_name_or_path="org/other"),
        "was trained on base model 'org/other'",
    ),
    "other base model": (
        foreign(lambda: peft.LoraConfig(r=2, target_modules=TARGETS)),
        "v_proj' maps 8 to 8 features, expected 8 to 4",
    ),
}
"""What can be read, and does not fit the translator."""


@pytest.mark.parametrize("case", {**UNREADABLE, **UNFITTING})
def test_translate_refuses(case: str, gradtx: Run, tmp_path: Path) -> None:
    make, words = {**UNREADABLE, **UNFITTING}[case]
    shutil.copytree(story().client, tmp_path / "adapter")
    make(tmp_path / "adapter")

    line = refused(
        gradtx,
        tmp_path,
        *("translate", story().client, tmp_path / "adapter", "--translator", story().translator),
        *("--output-dir", tmp_path / "out"),
    )

    assert words in line
    assert str(tmp_path / "adapter") in line


@pytest.mark.parametrize("case", UNREADABLE)
def test_inspect_refuses(case: str, gradtx: Run, tmp_path: Path) -> None:
    make, words = UNREADABLE[case]
    shutil.copytree(story().client, tmp_path / "adapter")
    make(tmp_path / "adapter")

    assert words in refused(gradtx, tmp_path, "inspect", tmp_path / "adapter")


@pytest.mark.parametrize("case", ["LFS pointer", "truncated", "NaN", "DoRA", "not an adapter"])
def test_client_refuses_an_init(case: str, gradtx: Run, tmp_path: Path) -> None:
    make, words = UNREADABLE[case]
    shutil.copytree(story().translator / "source_init", tmp_path / "init")
    make(tmp_path / "init")

    assert words in refused(gradtx, tmp_path, *client(tmp_path, init=tmp_path / "init"))


@pytest.mark.parametrize(
    ("flag", "case"), [("--allow-other-start", "other start"), ("--allow-other-base", "other base model by name")]
)
def test_translate_can_be_told_to_accept(flag: str, case: str, gradtx: Run, tmp_path: Path) -> None:
    shutil.copytree(story().client, tmp_path / "adapter")
    UNFITTING[case][0](tmp_path / "adapter")

    done = gradtx(
        *("translate", tmp_path / "adapter", "--translator", story().translator),
        *("--output-dir", tmp_path / "out", flag),
    )

    assert done.status == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def translate(folder: Path, *more: object, adapter: object = None, translator: object = None) -> list[object]:
    given = [adapter or story().client, "--translator", translator or story().translator]
    return ["translate", *given, "--output-dir", folder / "out", *more]


def client(folder: Path, *, init: object = None, data: object = None, recipe: object = None) -> list[object]:
    return [
        *("client", "--init", init or story().translator / "source_init", "--output-dir", folder / "out"),
        *("--data", json.dumps(data or {"path": story().data(RULES[0])}), "--recipe", json.dumps(recipe or RECIPE)),
    ]


def curate(folder: Path, **changes: object) -> list[object]:
    (folder / "c.yaml").write_text(json.dumps(story().curation | changes))
    return ["curate", "--config", folder / "c.yaml", "--output-dir", folder / "out"]


def train(folder: Path, **changes: object) -> list[object]:
    (folder / "c.yaml").write_text(json.dumps(TRAINING | {"store": str(story().store)} | changes))
    return ["train", "--config", folder / "c.yaml", "--output-dir", folder / "out"]


def evaluate(folder: Path, **changes: object) -> list[object]:
    data = {"path": story().data(RULES[0])}
    values = {
        "translator": str(story().translator),
        "store": str(story().store),
        "clients": [{"task": "t", "train": data, "test": data}],
    }
    (folder / "c.yaml").write_text(json.dumps(values | changes))
    return ["evaluate", "--config", folder / "c.yaml", "--output-dir", folder / "out"]


def occupied(command: Callable[[Path], list[object]]) -> Callable[[Path], list[object]]:
    """Put a stranger's file into the output folder."""

    def make(folder: Path) -> list[object]:
        (folder / "out").mkdir()
        (folder / "out" / "notes.txt").write_text("keep")
        return command(folder)

    return make


def behind_a_file(command: Callable[[Path], list[object]]) -> Callable[[Path], list[object]]:
    """Make the output folder's parent a file."""

    def make(folder: Path) -> list[object]:
        (folder / "file").write_text("keep")
        arguments = command(folder)
        arguments[arguments.index("--output-dir") + 1] = folder / "file" / "out"
        return arguments

    return make


def with_file(name: str, content: str) -> Callable[[Path], dict[str, object]]:
    def make(folder: Path) -> dict[str, object]:
        (folder / name).write_text(content)
        return {"path": str(folder / name)}

    return make


EMPTY, BLANK, UNNAMED, BROKEN = (
    with_file("empty.jsonl", ""),
    with_file("blank.txt", "\n\n"),
    with_file("unnamed.jsonl", '{"body": "x"}\n'),
    with_file("broken.jsonl", '{"prompt": "a", "completion": '),
)


def unfinished_store(folder: Path) -> str:
    whole = UpdateStore.open(story().store)
    layouts = {"source_layout": whole.source_layout, "target_layout": whole.target_layout}
    UpdateStore.create(folder / "store", plan={"num_shadow_sets": 1}, **layouts)
    return str(folder / "store")


def truncated_store(folder: Path) -> str:
    shutil.copytree(story().store, folder / "store")
    shard = next((folder / "store" / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:40])
    return str(folder / "store")


def other_model(folder: Path) -> str:
    return str(save_model(folder / "other", hidden_size=12, num_layers=2, seed=0))


def damaged_translator(folder: Path) -> Path:
    shutil.copytree(story().translator, folder / "translator")
    (folder / "translator" / "model.safetensors").write_bytes(b"short")
    return folder / "translator"


CASES: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "translate: adapter missing": (lambda f: translate(f, adapter=f / "none" / "x"), "is no folder on this machine"),
    "translate: adapter is a file": (lambda f: translate(f, adapter=story().data(RULES[0])), "is not a folder"),
    "translate: no translator": (lambda f: translate(f, translator=story().client), "is no translator: it has no"),
    "translate: translator missing": (lambda f: translate(f, translator=f / "a" / "b"), "is no folder on this machine"),
    "translate: translator damaged": (
        lambda f: translate(f, translator=damaged_translator(f)),
        "is truncated or damaged",
    ),
    "translate: output exists": (occupied(translate), "exists and is not empty"),
    "translate: output behind a file": (behind_a_file(translate), "is not a folder"),
    "translate: weights no numbers": (
        lambda f: translate(f, "--weights", "a,b"),
        "got weights 'a,b', expected numbers",
    ),
    "translate: weights empty": (lambda f: translate(f, "--weights", ""), "got weights '', expected numbers"),
    "translate: weights trailing comma": (lambda f: translate(f, "--weights", "1,"), "got weights '1,', expected"),
    "translate: too many weights": (lambda f: translate(f, "--weights", "1,2"), "got 2 weights for 1 adapters"),
    "translate: negative weight": (lambda f: translate(f, "--weights=-1"), "expected finite values >= 0"),
    "translate: weight NaN": (lambda f: translate(f, "--weights", "nan"), "expected finite values >= 0"),
    "translate: weights for the median": (
        lambda f: translate(f, "--weights", "1", "--aggregation", "median"),
        "weights do not go with median",
    ),
    "translate: revision of a folder": (lambda f: translate(f, "--revision", "main"), "has no revision 'main'"),
    "inspect: missing": (lambda f: ["inspect", f / "none" / "x"], "is no folder on this machine"),
    "inspect: damaged translator": (lambda f: ["inspect", damaged_translator(f)], "is truncated or damaged"),
    "inspect: a model": (lambda f: ["inspect", story().folder / "source"], "is not an adapter"),
    "client: init missing": (lambda f: client(f, init=f / "none"), "is no folder on this machine"),
    "client: data missing": (lambda f: client(f, data={"path": str(f / "none.jsonl")}), "is not there"),
    "client: data empty": (lambda f: client(f, data=EMPTY(f)), "is empty"),
    "client: data blank": (lambda f: client(f, data=BLANK(f)), "holds white space only"),
    "client: data without columns": (lambda f: client(f, data=UNNAMED(f)), "has none of the columns prompt and"),
    "client: data without a named column": (
        lambda f: client(f, data={"path": story().data(RULES[0]), "text_column": "body"}),
        "has no column 'body'. It has: prompt, completion",
    ),
    "client: data broken": (lambda f: client(f, data=BROKEN(f)), "cannot be read"),
    "client: unknown recipe key": (lambda f: client(f, recipe=RECIPE | {"lr": 1}), "got unknown recipe key 'lr'"),
    "client: base model missing": (
        lambda f: [*client(f), "--base-model", f / "none"],
        "none' is not there",
    ),
    "client: wrong base model": (lambda f: [*client(f), "--base-model", other_model(f)], "does not fit the model"),
    "client: output exists": (occupied(client), "exists and is not empty"),
    "client: output behind a file": (behind_a_file(client), "is not a folder"),
    "curate: model missing": (lambda f: curate(f, source_model=str(f / "none")), "none' is not there"),
    "curate: corpus missing": (lambda f: curate(f, corpora=[{"path": str(f / "none.jsonl")}]), "is not there"),
    "curate: corpus empty": (lambda f: curate(f, corpora=[EMPTY(f)]), "is empty"),
    "curate: corpus without columns": (lambda f: curate(f, corpora=[UNNAMED(f)]), "has none of the columns"),
    "curate: too few rows": (lambda f: curate(f, samples_per_set=99), "shadow set 0 needs 99"),
    "curate: unknown key": (lambda f: curate(f, num_sets=3), "unknown key 'num_sets' in the configuration"),
    "curate: negative target runs": (lambda f: curate(f, num_target_runs=-1), "got num_target_runs=-1, expected 0 or"),
    "curate: wrong type": (lambda f: curate(f, num_shadow_sets="many"), "got 'many' for 'num_shadow_sets', expected"),
    "curate: missing module": (lambda f: curate(f, target_target_modules=["c_attn"]), "has no module 'c_attn'"),
    "curate: output exists": (occupied(curate), "exists and is no update store"),
    "train: store missing": (lambda f: train(f, store=str(f / "none")), "is not there. Make one with gradtx curate"),
    "train: no store": (lambda f: train(f, store=str(story().client)), "is no update store"),
    "train: store unfinished": (lambda f: train(f, store=unfinished_store(f)), "is not complete"),
    "train: store truncated": (lambda f: train(f, store=truncated_store(f)), "is damaged"),
    "train: output exists": (occupied(train), "exists and is not empty"),
    "train: output behind a file": (behind_a_file(train), "is not a folder"),
    "train: no T5 there": (
        lambda f: train(f, **dict.fromkeys(("d_model", "d_kv", "d_ff", "num_layers", "num_heads")), from_t5=str(f)),
        "expected 't5' (T5 or Flan-T5, any size)",
    ),
    "train: unknown key": (lambda f: train(f, epochs=3), "unknown key 'epochs'"),
    "train: width that heads do not divide": (lambda f: train(f, d_model=0), "d_model=0"),
    "train: value out of range": (lambda f: train(f, mixing=2), "got mixing=2.0, expected a probability"),
    "train: no such optimizer": (lambda f: train(f, optim="adamm"), "adamm"),
    "train: strategies that contradict": (lambda f: train(f, save_strategy="epoch"), "strategy"),
    "evaluate: translator missing": (lambda f: evaluate(f, translator=str(f / "a" / "b")), "is no folder on this"),
    "evaluate: translator damaged": (
        lambda f: evaluate(f, translator=str(damaged_translator(f))),
        "is truncated or damaged",
    ),
    "evaluate: store missing": (lambda f: evaluate(f, store=str(f / "none")), "is not there"),
    "evaluate: clients empty": (lambda f: evaluate(f, clients=[]), "got no clients"),
    "evaluate: test data without columns": (
        lambda f: evaluate(f, clients=[{"task": "t", "train": UNNAMED(f), "test": UNNAMED(f)}]),
        "has none of the columns",
    ),
    "evaluate: test data of the other metric": (
        lambda f: evaluate(f, metric="bits_per_character"),
        "have no text, which bits_per_character needs",
    ),
    "evaluate: output exists": (occupied(evaluate), "exists and is not empty"),
    "evaluate: output behind a file": (behind_a_file(evaluate), "is not a folder"),
    "quickstart: output exists": (
        occupied(lambda f: ["quickstart", "--output-dir", f / "out"]),
        "exists and is not empty",
    ),
    "a configuration that is not there": (lambda f: ["train", "--config", f / "none.yaml"], "is not there"),
}


@pytest.mark.parametrize("case", list(CASES))
def test_refused_with_one_line_and_nothing_written(case: str, gradtx: Run, tmp_path: Path) -> None:
    make, words = CASES[case]
    arguments = make(tmp_path)

    line = refused(gradtx, tmp_path, *arguments)

    assert words in line
    assert "GRADTX_DEBUG" not in line  # it was foreseen
