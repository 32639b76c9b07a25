from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning.state_tree import read_tree, write_tree
from gradtx_hf.training import GradTransformerTrainingArguments, train_translator
from gradtx_hf.training.checkpoint import WORK_FILE, last_checkpoint, pack_checkpoints, unpack_checkpoints
from tests.training.stores import write_linear_store


def make_arguments(folder: Path, **changes: object) -> GradTransformerTrainingArguments:
    values: dict[str, object] = {
        "objective": "parameter",
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "validation_share": 0.3,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": None,
        "input_noise": 0.3,
        "mixing": 0.5,
        "use_cpu": True,
        "disable_tqdm": True,
        "dropout_rate": 0.1,
        **{"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
    }
    return GradTransformerTrainingArguments(output_dir=str(folder), **values | changes)  # type: ignore[arg-type]


def same(a: object, b: object) -> bool:
    """Return whether two states are equal, types and bits included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)  # type: ignore[attr-defined]
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)  # type: ignore[attr-defined]
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)  # type: ignore[call-overload, index]
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))  # type: ignore[arg-type]
    return repr(a) == repr(b)


@pytest.mark.parametrize(
    "tree",
    [
        {"python": random.Random(3).getstate(), "numpy": np.random.RandomState(3).get_state()},
        {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 3)}},
            "param_groups": [{"betas": (0.9, 1)}],
        },
        {"empty": {}, "none": None, "truth": True, "bits": 0.1 + 0.2, "infinite": float("inf"), "not": float("nan")},
        torch.get_rng_state(),
        [torch.zeros(0), torch.tensor([1], dtype=torch.bfloat16), np.arange(3, dtype=np.uint32)],
    ],
)
def test_a_state_comes_back_with_types_and_bits(tree: object, tmp_path: Path) -> None:
    write_tree(tmp_path, "state", tree)

    assert same(read_tree(tmp_path, "state"), tree)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}


def test_a_state_of_anything_else_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="holds a PosixPath"):
        write_tree(tmp_path, "state", {"path": tmp_path})


@pytest.mark.parametrize(
    "text",
    ["{", '{"tensor": "7"}', '{"pickle": "x"}', '{"tuple": 3}', "[" * 5000, '{"a": 1, "b": 2}', '{"dict": [[[], 1]]}'],
)
def test_a_damaged_state_is_one_clear_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "optimizer.json").write_text(text)

    with pytest.raises(ConfigurationError, match=r"training state 'optimizer' .* is damaged"):
        read_tree(tmp_path, "optimizer")


def test_training_goes_on_from_the_portable_form_as_if_never_interrupted(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=8, num_snapshots=3)
    whole = train_translator(store, make_arguments(tmp_path / "here"))
    for step in (6,):  # the machine is lost after step 4
        for path in (tmp_path / "here" / f"checkpoint-{step}").iterdir():
            path.unlink()
    (tmp_path / "here" / WORK_FILE).write_text("{}")
    (tmp_path / "portable").mkdir()

    pack_checkpoints(tmp_path / "here", tmp_path / "portable", parts=[""])
    unpack_checkpoints(tmp_path / "portable", tmp_path / "there", parts=[""])
    last = last_checkpoint(tmp_path / "there")
    resumed = train_translator(store, make_arguments(tmp_path / "there", resume_from_checkpoint=str(last)))

    assert last == tmp_path / "there" / "checkpoint-4"
    assert all(map(torch.equal, whole.model.state_dict().values(), resumed.model.state_dict().values()))
    assert resumed.block_errors == whole.block_errors
    files = [path for path in (tmp_path / "portable").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert not any(str(tmp_path) in path.read_text() for path in files if path.suffix == ".json")


def test_the_best_checkpoint_travels_beside_the_newest(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=6)
    train_translator(store, make_arguments(tmp_path / "here", learning_rate=10.0, save_total_limit=None))
    (tmp_path / "here" / WORK_FILE).write_text("{}")
    (tmp_path / "portable").mkdir()
    state_path = tmp_path / "here" / "checkpoint-6" / "trainer_state.json"
    state = json.loads(state_path.read_text())
    state_path.write_text(json.dumps(state | {"best_model_checkpoint": str(tmp_path / "here" / "checkpoint-2")}))

    pack_checkpoints(tmp_path / "here", tmp_path / "portable", parts=[""])
    unpack_checkpoints(tmp_path / "portable", tmp_path / "there", parts=[""])

    restored = json.loads((tmp_path / "there" / "checkpoint-6" / "trainer_state.json").read_text())
    assert restored["best_model_checkpoint"] == str(tmp_path / "there" / "checkpoint-2")
    assert sorted(path.name for path in (tmp_path / "there" / "checkpoint-2").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize("best", ["../../elsewhere", "/etc", "checkpoint-9", 3])
def test_a_best_checkpoint_elsewhere_is_not_followed(best: object, tmp_path: Path) -> None:
    portable = tmp_path / "portable" / "checkpoint-2"
    portable.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("config.json", "model.safetensors"):
        (portable / name).write_bytes(b"{}")
    (portable / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": best}))

    unpack_checkpoints(tmp_path / "portable", tmp_path / "there", parts=[""])

    assert [path.name for path in (tmp_path / "there").iterdir()] == ["checkpoint-2"]
    state = json.loads((tmp_path / "there" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] is None


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no checkpoint of this training"):
        unpack_checkpoints(tmp_path, tmp_path / "there", parts=[""])


def test_a_checkpoint_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "portable" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "portable" / "checkpoint-2" / "trainer_state.json").write_text("{}")

    with pytest.raises(ConfigurationError, match=r"'checkpoint-2' lacks config\.json"):
        unpack_checkpoints(tmp_path / "portable", tmp_path / "there", parts=[""])
