from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from gradtx_hf.hub.markdown import code, markdown_table, plain, render_template
from gradtx_hf.hub.wording import endpoint_name, without_private
from tests.hubs import ALICE


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("/home/me/client", "…/client"),
        ("~/client", "…/client"),
        ("C:\\Users\\me\\client", "…/client"),
        ("file:///home/me/data.jsonl", "…/data.jsonl"),
        ("gradtx train --config=/home/me/train.yaml --seed 1", "gradtx train --config=…/train.yaml --seed 1"),
        ("adapter '/tmp/x/client' lies off the map", "adapter '…/client' lies off the map"),
        ("https://me:secret@host/page", "https://…@host/page"),
        ("\\\\server\\share\\client", "…/client"),
        ("token hf_abcdefghijkl", "token …"),
        (f"https://host/{ALICE}/page", "https://host/…/page"),
    ],
)
def test_paths_tokens_and_passwords_are_left_out(text: str, public: str) -> None:
    assert without_private({"key": [text, 1, None]}) == {"key": [public, 1, None]}
    assert without_private(public) == public


@pytest.mark.parametrize(
    "text",
    [
        *("org/name", "org/hf_name", "build/store", "1/2", "https://host/page", "and/or", "gradtx_hf", "a / b"),
        *(r".*\.(q_proj|v_proj)", r"^model\.layers\.\d+\.self_attn\.q_proj$", r"(?:.*\.)?q_proj"),  # target_modules
    ],
)
def test_what_is_public_stays(text: str) -> None:
    assert without_private(text) == text


def test_paths_as_objects_are_texts() -> None:
    assert without_private({"folder": Path("/home/me/store")}) == {"folder": "…/store"}


def test_the_hubs_address_is_named_without_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "https://me:secret@host:80")

    assert endpoint_name() == "https://host:80"


def test_values_cannot_leave_their_place_in_a_card() -> None:
    hostile = "x` | <!-- gradtx_hf: end --> \n# heading [link](http://a) $name"

    assert not set("|<>\n") & set(code(hostile))
    assert code(hostile).count("`") == 2
    assert "\n" not in plain(hostile)
    assert "\\<\\!--" in plain(hostile) or "\\<!--" in plain(hostile)
    assert markdown_table(["a"], [["x | y\nz"]]).splitlines()[-1] == "| x \\| y z |"


def test_a_section_of_which_nothing_is_known_is_left_out() -> None:
    values = dict.fromkeys(("title", "target_model", "origin", "load_code", "layout", "versions"), "x")
    values |= dict.fromkeys(("provenance", "sources", "warnings"), "")

    assert "## Made from" not in render_template("adapter", {**values, "privacy": ""})
    assert "## Privacy" not in render_template("adapter", {**values, "privacy": ""})
    assert "## Privacy" in render_template("adapter", {**values, "privacy": "None."})
