"""Mutants of every kind of folder that comes from somebody else, each used as a user would use it."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel

from gradtx_hf.cli import inspect
from gradtx_hf.errors import GradTxError, StoreError
from gradtx_hf.finetuning.state_tree import write_tree
from gradtx_hf.hub.stores.description import INIT_FOLDERS
from gradtx_hf.hub.stores.files import FILES_FILE, encode_file_list, find_damaged_downloads
from gradtx_hf.hub.stores.parquet import plan_run_files, write_run_file
from gradtx_hf.hub.stores.public_plan import write_public_store
from gradtx_hf.hub.stores.pull import unpack_store
from gradtx_hf.lora import load_adapter
from gradtx_hf.training.hub_checkpoint import unpack_state
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates.store import SIDES
from tests.security.folders import Folders, files_of, make_folders
from tests.security.guard import watched
from tests.security.mutations import Files, Mutator, write_files
from tests.tiny import save_tiny_adapter
from tests.training.stores import write_linear_store


Step = Callable[[Path], object]
KINDS = ("adapter", "translator", "parts", "auto", "store", "checkpoint")
IDENTITY = {"arguments": {"seed": 0}, "store_sha256": "0" * 64, "num_processes": 1}
OURS = "gradtx_hf"
STOCK_ERRORS = (OSError, ValueError, TypeError, RecursionError)
"""What transformers' own reading of a config.json raises before it knows whose it is."""


class Fuzzer:
    """Makes mutants of one folder.

    Args:
        kind: What messages call it.
        good: The folder.
        scratch: An empty folder to work in.
        steps: What a user does with it; each is given the mutant's folder.
        may_link: Whether mutants hold links and pipes, which nothing that was fetched from the Hub does.
    """

    def __init__(self, kind: str, good: Path, scratch: Path, steps: Sequence[Step], *, may_link: bool = True) -> None:
        self.kind, self.scratch, self.steps, self.may_link = kind, scratch, steps, may_link
        outside = scratch / "outside"
        shutil.copytree(good, outside)
        self.mutator = Mutator(files_of(outside), outside)

    def outcome(self, seed: int) -> str:
        """Return ``read`` or the kind of refusal; anything else fails and names the seed."""
        work = self.scratch / "work"
        mutant = work / "mutant"
        mutant.mkdir(parents=True)
        files = self.mutator.mutate(seed)
        write_files(mutant, files if self.may_link else _fetchable(files))
        with watched(work) as seen:
            outcomes = [self._run(seed, step, mutant) for step in self.steps]
        shutil.rmtree(work)
        assert seen.misdeeds == [], f"{self.kind}, seed {seed}: {seen.misdeeds}"
        return outcomes[-1]

    def _run(self, seed: int, step: Step, folder: Path) -> str:
        case = f"{self.kind}, seed {seed}"
        try:
            step(folder)
        except GradTxError as error:
            message = str(error)
            assert message, f"{case}: an empty message"
            assert message.isprintable(), f"{case}: {message!r}"
            assert "password" not in message.replace("a password or token", ""), f"{case}: {message}"
            return type(error).__name__
        except BaseException as error:  # a panic in Rust is no Exception
            places = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
            is_stock = self.kind == "auto" and isinstance(error, STOCK_ERRORS)
            if is_stock and not any(f"/{OURS}/" in place for place in places):
                return f"stock {type(error).__name__}"
            raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
        return "read"


def make_fuzzers(scratch: Path) -> dict[str, Fuzzer]:
    """Return a fuzzer of every kind, by kind.

    Args:
        scratch: An empty folder.
    """
    folders = make_folders(scratch / "good")
    store, checkpoint = _make_store(scratch / "good"), _make_checkpoint(scratch / "good", folders)
    translator, client = PeftTranslator.from_pretrained(folders.translator), load_adapter(folders.adapter)

    def translate(folder: Path) -> None:
        translator.translate(folder, allow_other_base=True)

    def load_and_translate(folder: Path) -> None:
        PeftTranslator.from_pretrained(folder).translate(client, allow_other_base=True, allow_other_start=True)

    made = {}
    for kind, good, steps, may_link in (
        ("adapter", folders.adapter, (_inspect, _inspect_as_json, translate), True),
        ("translator", folders.translator, (_inspect, load_and_translate), True),
        ("parts", folders.parts, (_inspect, load_and_translate), True),
        ("auto", folders.translator, (_load_config, _load_model), False),  # stock code follows a link by itself
        ("store", store, (_pull,), False),
        ("checkpoint", checkpoint, (_resume,), False),
    ):
        (scratch / kind).mkdir()
        made[kind] = Fuzzer(kind, good, scratch / kind, steps, may_link=may_link)
    return made


def _fetchable(files: Files) -> Files:
    return {name: held for name, held in files.items() if isinstance(held, bytes)}


def _inspect(folder: Path, *options: str) -> None:
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")):
        inspect.run([str(folder), *options])


def _inspect_as_json(folder: Path) -> None:
    _inspect(folder, "--json")


def _load_config(folder: Path) -> None:
    if not _is_of_another_library(folder):
        AutoConfig.from_pretrained(folder)


def _load_model(folder: Path) -> None:
    if not _is_of_another_library(folder):
        AutoModel.from_pretrained(folder)


def _is_of_another_library(folder: Path) -> bool:
    """Return whether a mutant names another model type, so that none of our code would be asked."""
    try:
        values = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("model_type") not in (None, "grad_transformer")


def _make_store(folder: Path) -> Path:
    """Write what ``push_store`` would push."""
    store = write_linear_store(folder / "own", num_shadow_sets=3, num_snapshots=3, target_sets=[0, 2])
    for init in INIT_FOLDERS.values():
        save_tiny_adapter(store.folder / init)
    public = write_public_store(store, folder / "store", base_models={})
    for run_file in plan_run_files(public):
        (public.folder / run_file.path).parent.mkdir(exist_ok=True)
        write_run_file(public, run_file, public.folder / run_file.path)
    (public.folder / "shards").unlink()  # the link
    return public.folder


def _pull(folder: Path) -> None:
    """Do with a fetched repository what ``pull_store`` does; a stranger's list of files fits what is there."""
    digests = {name: path for name in files_of(folder) if (path := folder / name).name.isprintable()}
    (folder / FILES_FILE).write_bytes(encode_file_list(digests))
    if find_damaged_downloads(folder):
        raise StoreError("damaged on its way")
    store = unpack_store(folder, folder.parent / "pulled")
    for side in SIDES:
        for shadow_set in store.shadow_sets(side):
            store.read(side, shadow_set)
            store.info(side, shadow_set)
    assert store.pairs is not None
    store.verify()


def _make_checkpoint(folder: Path, folders: Folders) -> Path:
    """Write what ``pack_checkpoints`` would write."""
    checkpoint = folder / "state" / "checkpoint-6"
    checkpoint.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folders.translator / name, checkpoint)
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    write_tree(checkpoint, "optimizer", optimizer.state_dict())
    write_tree(checkpoint, "rng_state", {"cpu": torch.get_rng_state()})
    state = {"global_step": 6, "best_model_checkpoint": "checkpoint-6", "log_history": [{"loss": 1.0, "step": 6}]}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    (checkpoint.parent / "arguments.json").write_text(json.dumps(IDENTITY))
    return checkpoint.parent


def _resume(folder: Path) -> None:
    """Do with a fetched branch what ``restore_checkpoints`` does; what it writes Trainer loads without unpickling."""
    work_dir = folder.parent / "restored"
    unpack_state(folder, work_dir, name="org/name@checkpoint", parts=[""], identity=IDENTITY)
    for path in work_dir.rglob("*.pt*"):
        torch.load(path, weights_only=True)
