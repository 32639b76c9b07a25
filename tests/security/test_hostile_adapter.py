"""A stranger's adapter: read from inside its folder alone, in bounded time and memory, and quoted safely."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gradtx_hf.cli import inspect
from gradtx_hf.errors import AdapterError, ConfigurationError, GradTxError, LayoutError, MissingFileError
from gradtx_hf.hub import pin_revision, resolve_folder
from gradtx_hf.lora import load_adapter
from gradtx_hf.lora.patterns import first_fitting, fits
from tests.lora.refusals import change_config, change_tensors
from tests.security.guard import watched
from tests.security.mutations import Exploit
from tests.tiny import save_tiny_adapter


TOKEN = "hf_" + "q" * 34
KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a good adapter of rank 2 on q_proj and v_proj of a model of width 16."""
    return save_tiny_adapter(tmp_path / "adapter")


def refusal(folder: Path, error: type[GradTxError] = AdapterError) -> str:
    """Return what an adapter is refused with, after a look at what else happened: nothing."""
    with watched(folder) as seen, pytest.raises(error) as caught:
        load_adapter(folder)
    assert seen.misdeeds == []
    return str(caught.value)


def test_names_of_classes_and_places_in_the_configuration_decide_nothing(folder: Path) -> None:
    auto_mapping = {"base_model_class": "system", "parent_library": "os"}
    change_config(folder, auto_mapping=auto_mapping, base_model_name_or_path="/etc/passwd", revision="../..")

    with watched(folder) as seen:
        adapter = load_adapter(folder)

    assert seen.misdeeds == []
    assert adapter.config.auto_mapping is None
    assert adapter.base_model == "/etc/passwd"  # a name, to compare with a translator's


@pytest.mark.parametrize("field", ["trust_remote_code", "auto_map", "custom_pipeline", "subfolder", "token"])
def test_a_field_that_peft_does_not_know_is_refused(field: str, folder: Path) -> None:
    change_config(folder, **{field: "evil/repository"})

    assert f"sets '{field}' to 'evil/repository'" in refusal(folder)


@pytest.mark.parametrize("place", ["https://me:secret@example.com/model", f"https://{TOKEN}@hub/model", TOKEN])
@pytest.mark.parametrize("field", ["base_model_name_or_path", "revision"])
def test_a_password_in_the_configuration_is_refused_and_not_repeated(place: str, field: str, folder: Path) -> None:
    change_config(folder, **{field: place})

    message = refusal(folder)

    assert f"has {field}=" in message
    assert "expected a text without a password or token" in message
    assert "secret" not in message
    assert TOKEN not in message


def test_whatever_a_message_quotes_is_one_safe_line() -> None:
    hostile = f"got 'a\x1b[2J\nb\ud800' of https://me:secret@example.com/{TOKEN}, \u202e."

    for error in (AdapterError(hostile), MissingFileError(hostile)):
        assert str(error) == "got 'a\\x1b[2J b\\ud800' of https://…@example.com/…, \\u202e."
    assert len(str(LayoutError("x" * 10**6 + "Do this."))) < 2100
    assert str(LayoutError("x" * 10**6 + "Do this.")).endswith("xDo this.")


@pytest.mark.parametrize(
    "key", [f"{KEY[:-16]}\x1b[2J.lora_A.weight", "base_model.model." + "a" * 2000 + ".lora_A.weight"]
)
def test_a_key_that_no_module_has_is_refused(key: str, folder: Path) -> None:
    change_tensors(folder, {key: torch.zeros(2, 16)})

    assert "which is no factor of a plain LoRA" in refusal(folder)


def test_a_file_name_does_not_reach_the_terminal_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a\x1b[2J.json").write_text("{}")
    (folder / os.fsdecode(b"\xff.json")).write_text("{}")

    inspect.run([str(folder)])

    assert "a\\x1b[2J.json" in (printed := capsys.readouterr().out)
    assert "\x1b" not in printed


@pytest.mark.parametrize("file", ["adapter_model.bin", "pytorch_model.bin", "adapter_model.pt"])
@pytest.mark.parametrize("is_beside", [True, False])
def test_no_pickle_is_opened(file: str, is_beside: bool, folder: Path) -> None:
    torch.save(Exploit(), folder / file)

    with watched(folder) as seen:
        if is_beside:
            load_adapter(folder)
        else:
            (folder / "adapter_model.safetensors").unlink()
            with pytest.raises(AdapterError, match="pickled weights"):
                load_adapter(folder)

    assert seen.misdeeds == []


class Unread:
    """An open file that none of the tensors may be read of."""

    def __init__(self, path: Path, *, framework: str) -> None:
        assert framework == "pt"

    def __enter__(self) -> Unread:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def get_tensor(self, name: str) -> torch.Tensor:
        raise AssertionError(f"{name} was read")


def test_the_weights_of_a_whole_model_are_refused_before_they_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradtx_hf.updates.reading.safe_open", Unread)
    with pytest.raises(AssertionError, match="was read"):
        load_adapter(folder)
    change_tensors(folder, {"model.embed_tokens.weight": torch.zeros(64, 16)})

    assert "which is no factor of a plain LoRA" in refusal(folder)


def test_a_rank_above_both_widths_is_refused(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    grown = {key: torch.ones(40, 16) if "lora_A" in key else torch.ones(len(t), 40) for key, t in tensors.items()}
    save_file(grown, folder / "adapter_model.safetensors")
    change_config(folder, r=40)

    assert "has rank 40, more than its module has inputs and outputs" in refusal(folder)


def test_values_that_overflow_float32_are_refused(folder: Path) -> None:
    change_tensors(folder, {KEY: torch.full((2, 16), 1e300, dtype=torch.float64)})

    assert "holds NaN or infinite values" in refusal(folder)


@pytest.mark.parametrize("alpha", [1e-300, 1e300, -1e-10, float("nan"), 10**400])
def test_an_absurd_scale_is_refused(alpha: float, folder: Path) -> None:
    change_config(folder, lora_alpha=alpha)

    assert "lora_alpha=" in refusal(folder)


SLOW = [r"(\w|\w\w|\.)+!?#?", "(.*.*.*.*.*.*.*.*)*x", "(?:[a-z.0-9_]+)+!"]


@pytest.mark.parametrize("field", ["target_modules", "rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("pattern", SLOW)
def test_a_pattern_never_takes_long(field: str, pattern: str, folder: Path) -> None:
    change_config(folder, **{field: pattern if field == "target_modules" else {pattern: 2}})
    start = time.process_time()

    with contextlib.suppress(AdapterError):
        load_adapter(folder)

    assert time.process_time() - start < 2


def test_a_pattern_that_takes_too_long_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"takes too long to match 'aaaa.*Name the modules"):
        fits("(a|aa)+", "a" * 60 + "!")


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [(["q_proj"], "q_proj"), (["proj"], None), (["x", "q_.*"], "q_.*"), ([".*self_attn.*", "q_proj"], ".*self_attn.*")],
)
def test_patterns_fit_as_pefts_do(patterns: list[str], expected: str | None) -> None:
    from peft.utils.other import get_pattern_key

    module = "model.layers.0.self_attn.q_proj"

    assert first_fitting(patterns, module) == expected
    assert get_pattern_key(patterns, module) == (expected or module)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"peft_type": "LORA", "peft_type": "IA3"}', "names a key twice"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested more than 32 levels"),
        (b" " * (9 << 20) + b"{}", "more than 8388608 bytes"),
    ],
)
def test_json_that_nobody_writes_is_refused(content: bytes, words: str, folder: Path) -> None:
    (folder / "adapter_config.json").write_bytes(content)

    assert words in refusal(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_link_that_leads_out_of_the_folder_is_not_followed(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)

    assert f"{name} of '{folder}' is a link that leads out of its folder, which is not followed" in refusal(folder)


def test_links_inside_a_folder_and_to_it_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "weights")
    (folder / "adapter_model.safetensors").symlink_to("weights")
    (tmp_path / "link").symlink_to(folder)

    assert load_adapter(tmp_path / "link").config.r == 2


@pytest.mark.parametrize("is_shared", [False, True])
def test_the_hubs_cache_links_to_its_blobs(is_shared: bool, folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--me--adapter"
    snapshot = repository / "snapshots" / ("0" * 40) / "source_init"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        blob, store = repository / "blobs" / name, tmp_path / "hub" / "blobs" / "ab" / name
        for path in (blob, store, snapshot / name):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, store if is_shared else blob)
        if is_shared:
            blob.symlink_to(f"../../blobs/ab/{name}")
        (snapshot / name).symlink_to(f"../../../blobs/{name}")

    assert load_adapter(snapshot).config.r == 2


def test_a_folder_that_looks_like_the_hubs_cache_leads_no_further(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--me--adapter" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "blobs").symlink_to(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (snapshot / name).symlink_to(f"../../blobs/{name}")

    assert "is a link that leads out of its folder" in refusal(snapshot)


def test_a_subfolder_that_leads_out_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "source_init").symlink_to(folder)

    with pytest.raises(ConfigurationError, match="is a link that leads out of its folder"):
        resolve_folder(tmp_path / "repository", subfolder="source_init")


def test_a_revision_reads_no_file_beside_the_caches_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    references = tmp_path / "models--me--model" / "refs"
    references.mkdir(parents=True)
    (tmp_path / "secret").write_text("f" * 40)
    (references / "main").write_text("not a commit")

    for revision in ("../../secret", "main"):
        assert pin_revision("me/model", revision=revision, repo_type="model") == revision


def test_a_configuration_may_not_be_a_pipe(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()
    os.mkfifo(folder / "adapter_config.json")

    assert "holds no adapter_config.json" in refusal(folder)


def test_the_watch_sees_what_must_not_happen(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")

    with watched(folder) as seen:
        (tmp_path / "outside").read_text()
        os.system("true")  # the real thing, to see that it would be seen
        torch.load(_pickled(folder), weights_only=False)

    assert [line.split()[0] for line in seen.misdeeds][:2] == ["open", "os.system"]
    assert any(line.startswith("pickle.find_class") for line in seen.misdeeds)
    assert json.dumps(seen.misdeeds)


def _pickled(folder: Path) -> Path:
    torch.save(Exploit(), folder / "pickle.pt")
    return folder / "pickle.pt"
