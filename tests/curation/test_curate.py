from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from peft import PeftModel
from transformers import AutoModelForCausalLM

from gradtx_hf.client import fine_tune_client
from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.errors import (
    ConfigurationError,
    DataError,
    LayoutError,
    MissingFileError,
    OutputExistsError,
    StoreError,
)
from gradtx_hf.finetuning import (
    DataSource,
    FineTuningRecipe,
    adapter_state,
    fine_tune,
    load_examples,
    load_language_model,
    tokenize_examples,
)
from gradtx_hf.lora import load_adapter
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.training import TranslatorArguments, train
from gradtx_hf.updates import TOKEN_KINDS, encode_update
from gradtx_hf.updates.store import SIDES, Side, UpdateStore
from tests.cli.story import TRAINING
from tests.curation.world import RULES, save_model, write_lines
from tests.hubs import add_repository, folder_files, set_files


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> CurationArguments:
    folder = tmp_path_factory.mktemp("curation")
    source = save_model(folder / "source", hidden_size=8, num_layers=2, seed=0)
    target = save_model(folder / "target", hidden_size=16, num_layers=3, seed=1)
    corpora = [
        {"path": str(write_lines(folder / f"{rule.name}.jsonl", rule, 24)), "label": rule.name} for rule in RULES
    ]
    return CurationArguments(
        source_model=str(source),
        target_model=str(target),
        output_dir="",
        corpora=corpora,
        num_shadow_sets=3,
        num_target_runs=None,
        samples_per_set=16,
        num_snapshots=3,
        source_recipe={"num_steps": 5, "batch_size": 4, "learning_rate": 1e-2, "max_length": 32},
        target_recipe={"num_steps": 4, "batch_size": 8, "learning_rate": 1e-2, "max_length": 32},
        dropout=0.0,
        pack=2,
        target_pack=2,
        seed=3,
    )


@pytest.fixture(scope="module")
def complete(arguments: CurationArguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("complete") / "store"
    curate(replace(arguments, output_dir=str(folder)))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_store_holds_the_last_steps_of_every_run(arguments: CurationArguments, complete: Path) -> None:
    store = UpdateStore.open(complete)

    assert len(store.pairs) == 9
    for side, num_steps in (("source", 5), ("target", 4)):
        for k in range(3):
            updates = store.read(side, k)  # type: ignore[arg-type]
            assert len(updates) == 3
            assert float(updates[-1].norm()) > 0
            assert not torch.equal(updates[-1], updates[-2])
            assert store.info(side, k)["num_steps"] == num_steps  # type: ignore[arg-type]
    assert not torch.equal(store.read("source", 0), store.read("source", 2))
    store.verify()


def test_initial_adapters_are_peft_adapters_of_the_given_models(arguments: CurationArguments, complete: Path) -> None:
    store = UpdateStore.open(complete)

    for side in SIDES:
        adapter = load_adapter(complete / f"{side}_init")
        assert adapter.layout == store.layout(side)
        assert adapter.base_model == getattr(arguments, f"{side}_model")
        assert all(float(tensor.abs().max()) == 0 for name, tensor in adapter.tensors.items() if "lora_B" in name)
        model = AutoModelForCausalLM.from_pretrained(adapter.base_model)
        PeftModel.from_pretrained(model, complete / f"{side}_init", is_trainable=True)


@pytest.mark.parametrize("side", SIDES)
def test_updates_are_an_independent_run_minus_the_initial_adapter(
    arguments: CurationArguments, complete: Path, side: Side
) -> None:
    store = UpdateStore.open(complete)
    ((label, numbers),) = store.plan["shadow_sets"][1].items()
    (path,) = [corpus["path"] for corpus in arguments.corpora if corpus["label"] == label]
    recipe = FineTuningRecipe.from_dict(getattr(arguments, f"{side}_recipe"))
    base, tokenizer = load_language_model(getattr(arguments, f"{side}_model"))
    model = PeftModel.from_pretrained(base, complete / f"{side}_init", is_trainable=True)
    rows = load_examples(DataSource(path=path)).select(numbers)

    fine_tune(
        model,
        tokenize_examples(rows, tokenizer, max_length=recipe.max_length),
        tokenizer=tokenizer,
        recipe=recipe,
        seed=store.info(side, 1)["seed"],
    )

    layout = store.layout(side)
    start = encode_update(load_adapter(complete / f"{side}_init").tensors, layout)
    alone = encode_update(adapter_state(model), layout) - start
    assert torch.allclose(store.snapshot(side, 1, -1), alone, atol=1e-5)  # a pack rounds otherwise


def test_plan_names_the_rows_of_every_set(arguments: CurationArguments, complete: Path) -> None:
    plan = UpdateStore.open(complete).plan

    assert [list(rows) for rows in plan["shadow_sets"]] == [["reverse+3"], ["identity+1"], ["reverse+3"]]
    assert all(len(set(rows)) == 16 for shadow_set in plan["shadow_sets"] for rows in shadow_set.values())
    assert {"path", "label", "num_rows", "sha256", "revision"} <= set(plan["corpora"][0])


def test_continued_curation_ends_with_the_same_bytes(
    arguments: CurationArguments, complete: Path, tmp_path: Path
) -> None:
    curate(replace(arguments, output_dir=str(tmp_path / "store")))
    (tmp_path / "store" / "manifest.json").unlink()
    (tmp_path / "store" / "shards" / "source-00001.safetensors").unlink()
    damaged = tmp_path / "store" / "shards" / "target-00002.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-5])

    curate(replace(arguments, output_dir=str(tmp_path / "store")))

    assert contents(tmp_path / "store") == contents(complete)


def test_few_target_runs_leave_everything_else_as_it_is(
    arguments: CurationArguments, complete: Path, tmp_path: Path
) -> None:
    store = curate(replace(arguments, num_target_runs=2, output_dir=str(tmp_path / "store")))
    (tmp_path / "store" / "manifest.json").unlink()
    (store.folder / "shards" / "target-00001.safetensors").unlink()

    store = curate(replace(arguments, num_target_runs=2, output_dir=str(store.folder)))

    full = UpdateStore.open(complete)
    assert full.plan["target_shadow_sets"] == [0, 1, 2]
    chosen = store.plan["target_shadow_sets"]  # one of sets 0 and 2, which have the same corpus
    assert chosen in ([0, 1], [1, 2])
    full_targets = {"target_shadow_sets": [0, 1, 2], "units": full.plan["units"]}
    assert store.plan | full_targets == full.plan
    runs = {(side, k) for side in SIDES for k in store.shadow_sets(side)}
    assert runs == {*(("source", k) for k in range(3)), *(("target", k) for k in chosen)}
    assert len(list((store.folder / "shards").iterdir())) == 5
    assert all(torch.equal(store.read("source", k), full.read("source", k)) for k in range(3))
    assert all(torch.allclose(store.read("target", k), full.read("target", k), atol=1e-5) for k in chosen)
    assert {k for k, _ in store.pairs} == set(chosen)
    assert store.source_snapshots == full.source_snapshots
    with pytest.raises(StoreError, match=r"target_shadow_sets is \[0, 1, 2\], the store has"):
        curate(replace(arguments, output_dir=str(store.folder)))


def test_a_store_in_bfloat16_holds_the_same_updates_rounded(
    arguments: CurationArguments, complete: Path, tmp_path: Path
) -> None:
    in_bfloat16 = replace(arguments, store_dtype="bfloat16", output_dir=str(tmp_path / "store"))
    store = curate(in_bfloat16)

    full = UpdateStore.open(complete)
    assert "store_dtype" not in full.plan
    assert store.plan == full.plan | {"store_dtype": "bfloat16"}
    for side in SIDES:
        for k in range(3):
            assert torch.equal(store.read(side, k), full.read(side, k).bfloat16().float())
            sizes = [path.shard_path(side, k).stat().st_size for path in (store, full)]
            assert sizes[1] - sizes[0] == 2 * full.read(side, k).numel()
    before = contents(store.folder)
    assert contents(curate(in_bfloat16).folder) == before
    with pytest.raises(StoreError, match=r'store_dtype is null, the store has "bfloat16"'):
        curate(replace(in_bfloat16, store_dtype="float32"))
    with pytest.raises(ConfigurationError, match="got store_dtype='half', expected one of float32, bfloat16"):
        replace(arguments, store_dtype="half")  # type: ignore[arg-type]


def test_no_target_run_gives_source_updates_and_both_initial_adapters(
    arguments: CurationArguments, complete: Path, tmp_path: Path
) -> None:
    curate(replace(arguments, num_target_runs=0, output_dir=str(tmp_path / "store")))

    store = UpdateStore.open(tmp_path / "store")
    store.verify()
    assert (store.pairs, len(store.source_snapshots)) == ([], 9)
    for side in SIDES:
        mine, other = (load_adapter(folder / f"{side}_init").tensors for folder in (store.folder, complete))
        assert all(torch.equal(mine[name], other[name]) for name in other)
    with pytest.raises(DataError, match=r"without pairs \(no target runs\).*num_target_runs: null"):
        train(
            TranslatorArguments(
                **TRAINING | {"objective": "parameter"}, store=str(store.folder), output_dir=str(tmp_path / "t")
            )
        )


@pytest.mark.slow
def test_two_workers_write_the_same_bytes_as_one(arguments: CurationArguments, complete: Path, tmp_path: Path) -> None:
    curate(replace(arguments, output_dir=str(tmp_path / "store"), num_workers=2))

    assert contents(tmp_path / "store") == contents(complete)


@pytest.mark.long
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_three_times_and_continued_ends_with_the_same_bytes(
    arguments: CurationArguments, tmp_path: Path
) -> None:
    longer = {"num_steps": 60, "batch_size": 8, "learning_rate": 1e-3, "max_length": 32}  # a kill finds it at work
    slow = replace(arguments, num_shadow_sets=10, source_recipe=longer, target_recipe=longer)
    script = tmp_path / "curate.py"
    script.write_text(
        "import json, sys\n"
        "from gradtx_hf.curation import CurationArguments, curate\n"
        "if __name__ == '__main__':\n"
        "    curate(CurationArguments(**json.loads(sys.argv[1])))\n"
    )
    store = tmp_path / "store"
    command = [sys.executable, str(script), json.dumps(asdict(replace(slow, output_dir=str(store), num_workers=2)))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    generator = random.Random(0)

    for _ in range(3):
        num_shards = len(list(store.glob("shards/*.safetensors"))) + generator.randint(1, 2)
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
            while len(list(store.glob("shards/*.safetensors"))) < num_shards and process.poll() is None:
                time.sleep(0.005)
            was_alive = process.poll() is None
            process.kill()
        assert was_alive
        assert not (store / "manifest.json").exists()
    subprocess.run(command, check=True, capture_output=True, env=environment)

    curate(replace(slow, output_dir=str(tmp_path / "undisturbed")))
    assert contents(store) == contents(tmp_path / "undisturbed")


def test_token_kinds_give_each_layer_a_token_per_kind(arguments: CurationArguments, tmp_path: Path) -> None:
    modules = ["q_proj", "v_proj", "down_proj"]
    kinds = {"attention": TOKEN_KINDS["attention"], "mlp": TOKEN_KINDS["mlp"]}
    with_kinds = replace(
        arguments,
        source_target_modules=modules,
        target_target_modules=modules,
        token_kinds=kinds,
        output_dir=str(tmp_path / "store"),
    )

    store = curate(with_kinds)
    translator = train(
        TranslatorArguments(**TRAINING, store=str(store.folder), output_dir=str(tmp_path / "t"), disable_tqdm=True)
    )
    fine_tune_client(
        tmp_path / "t",
        DataSource(path=arguments.corpora[0]["path"]),
        recipe=FineTuningRecipe.from_dict(arguments.source_recipe),
        output_dir=tmp_path / "mine",
    )
    translator.translate([tmp_path / "mine"]).save_pretrained(tmp_path / "translated")

    assert store.plan["token_kinds"] == kinds
    assert [block.kind for block in store.source_layout.blocks] == ["attention", "mlp"] * 2
    assert [block.kind for block in store.target_layout.blocks] == ["attention", "mlp"] * 3
    target = load_adapter(store.folder / "target_init")
    translated = load_adapter(tmp_path / "translated")
    assert translated.layout.shapes == target.layout.shapes
    assert all(float((translated.tensors[name] - target.tensors[name]).abs().max()) > 0 for name in target.tensors)
    with pytest.raises(StoreError, match="token_kinds is null, the store has"):
        curate(replace(with_kinds, token_kinds=None))


def test_module_of_no_kind_is_named_and_nothing_is_left(arguments: CurationArguments, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"q_proj' is of none of the token kinds mlp"):
        curate(replace(arguments, token_kinds={"mlp": "mlp"}, output_dir=str(tmp_path / "store")))
    assert not (tmp_path / "store").exists()


def test_models_and_data_of_the_hub_stay_at_their_first_commit(
    arguments: CurationArguments, complete: Path, tmp_path: Path, hub: HubServer
) -> None:
    commits = {}
    for side in SIDES:
        folder = Path(getattr(arguments, f"{side}_model"))
        commits[side] = add_repository(hub, f"org/{side}", folder_files(folder))
    lines = Path(arguments.corpora[0]["path"]).read_bytes()
    commits["data"] = add_repository(hub, "org/lines", {"train.jsonl": lines}, kind="datasets")
    moving = replace(
        arguments,
        source_model="org/source",
        target_model="org/target",
        corpora=[{"path": "org/lines", "label": "reverse+3"}, arguments.corpora[1]],
        output_dir=str(tmp_path / "store"),
    )

    curate(moving)
    (tmp_path / "store" / "manifest.json").unlink()
    (tmp_path / "store" / "shards" / "source-00001.safetensors").unlink()
    for side in SIDES:
        set_files(hub, f"org/{side}", {"README.md": b"nothing else is left"})
    set_files(hub, "org/lines", {"README.md": b"nothing else is left"}, kind="datasets")
    store = curate(moving)

    assert {side: store.plan[side]["revision"] for side in SIDES} == {side: commits[side] for side in SIDES}
    assert [corpus["revision"] for corpus in store.plan["corpora"]] == [commits["data"], None]
    for side in SIDES:
        assert load_adapter(store.folder / f"{side}_init").config.revision == commits[side]
        for k in range(3):
            assert torch.equal(store.read(side, k), UpdateStore.open(complete).read(side, k))
    with pytest.raises(StoreError, match=r"source.revision is \"[0-9a-f]{40}\", the store has"):
        curate(replace(moving, source_revision="main"))


def test_other_settings_do_not_go_into_the_same_folder(arguments: CurationArguments, complete: Path) -> None:
    before = contents(complete)

    with pytest.raises(StoreError, match=r"source.recipe.learning_rate is 0.02, the store has 0.01"):
        curate(
            replace(
                arguments, output_dir=str(complete), source_recipe=arguments.source_recipe | {"learning_rate": 0.02}
            )
        )

    assert contents(complete) == before


def test_two_curations_do_not_write_one_folder(arguments: CurationArguments, complete: Path) -> None:
    with (
        FileLock(complete / ".lock"),
        pytest.raises(StoreError, match="another process is curating"),
    ):
        curate(replace(arguments, output_dir=str(complete)))


def test_foreign_folder_is_refused_and_untouched(arguments: CurationArguments, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep")

    with pytest.raises(OutputExistsError, match="is no update store"):
        curate(replace(arguments, output_dir=str(tmp_path)))

    assert contents(tmp_path) == {"notes.txt": b"keep"}


def test_missing_model_is_named(arguments: CurationArguments, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no_model"):
        curate(replace(arguments, target_model=str(tmp_path / "no_model"), output_dir=str(tmp_path / "store")))


def test_missing_module_is_named_with_what_there_is(arguments: CurationArguments, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no module 'c_attn'.*q_proj"):
        curate(replace(arguments, source_target_modules=["c_attn"], output_dir=str(tmp_path / "store")))


def test_run_that_diverges_is_named(arguments: CurationArguments, tmp_path: Path) -> None:
    recipe = arguments.source_recipe | {"learning_rate": 1e30, "max_grad_norm": 0.0}

    with pytest.raises(ConfigurationError, match="source run of shadow set 0: the loss is no longer finite"):
        curate(replace(arguments, source_recipe=recipe, output_dir=str(tmp_path / "store")))


def test_missing_column_and_empty_data_are_named(arguments: CurationArguments, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    corpus = arguments.corpora[0]

    with pytest.raises(DataError, match=r"has no column 'body'. It has: prompt, completion"):
        curate(replace(arguments, corpora=[corpus | {"text_column": "body"}], output_dir=str(tmp_path / "store")))
    with pytest.raises(DataError, match=r"empty\.jsonl' is empty"):
        curate(
            replace(arguments, corpora=[{"path": str(tmp_path / "empty.jsonl")}], output_dir=str(tmp_path / "store"))
        )
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_shadow_sets": 0}, "num_shadow_sets=0"),
        ({"num_target_runs": -1}, "num_target_runs=-1, expected 0 or more, or null"),
        ({"mixture": "mixed"}, "mixture='mixed'"),
        ({"mixture": "weights", "mixture_weights": [1.0]}, "1 mixture_weights, expected 2"),
        ({"mixture_weights": [1.0, 1.0]}, "go with mixture='weights'"),
        ({"source_recipe": {"num_steps": 5}}, "source_recipe: the fine-tuning recipe lacks 'batch_size'"),
        ({"target_recipe": {"steps": 5}}, "target_recipe: got unknown recipe key 'steps'"),
        ({"corpora": []}, "corpora is empty"),
        ({"corpora": [{"path": "a.jsonl"}, {"path": "a.jsonl"}]}, "Label them"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"token_kinds": {}}, "token_kinds names no kind"),
        ({"token_kinds": {"mlp": "("}}, r"got token_kinds with mlp='\('"),
        ({"token_kinds": {"keys": "attn"}}, "got token kind 'keys', expected a plain name"),
        ({"token_kinds": {"my kind": "attn"}}, "got token kind 'my kind', expected a plain name"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(
    arguments: CurationArguments, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        replace(arguments, **changes)  # type: ignore[arg-type]
