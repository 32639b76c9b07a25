from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtx_hf.errors import HubError
from gradtx_hf.hub.readme import BEGIN, END, Card, kind_of, update_readme


CARD = Card(
    {"library_name": "gradtx_hf", "tags": ["gradtx_hf", "lora"], "base_model": ["org/small", "org/large"]},
    "# Title\n\nGenerated text.",
)
PERSON = """---
# a comment of mine
license: mit   # as I chose
tags:
  - finance
library_name: other

# about languages
language: [en, de]
datasets:
- org/stale
---

My own words.

"""


def update(text: str | None, card: Card = CARD) -> str:
    return update_readme(text, card=card, kind="translator", name="org/name")


def metadata_of(text: str) -> dict[str, object]:
    return yaml.safe_load(text.split("---")[1])


def test_a_new_readme_holds_metadata_and_the_generated_part() -> None:
    text = update(None)

    assert metadata_of(text) == {**CARD.metadata, "gradtx_hf": {"kind": "translator"}}
    assert text.index(BEGIN) < text.index("Generated text.") < text.index(END)
    assert kind_of(text) == "translator"


def test_the_same_card_changes_nothing() -> None:
    for text in (None, PERSON, "Only words, without metadata.", "---\nlicense: mit\n---\n", "---\n---"):
        once = update(text)

        assert update(once) == once


def test_a_persons_text_and_metadata_stay_byte_for_byte() -> None:
    updated = update(PERSON)

    assert "# a comment of mine\nlicense: mit   # as I chose\n" in updated
    assert "\n# about languages\nlanguage: [en, de]\n" in updated
    assert "---\n\nMy own words.\n\n" in updated
    values = metadata_of(updated)
    assert values["tags"] == ["gradtx_hf", "lora", "finance"]
    assert values["library_name"] == "gradtx_hf"
    assert "datasets" not in values  # ours, and there is none any more
    assert values["license"] == "mit"


def test_words_before_and_after_the_generated_part_stay_when_it_changes() -> None:
    edited = update(None).replace(BEGIN, f"Before.\r\n{BEGIN}") + "\nAfter, without a line's end"

    changed = update(edited, Card(CARD.metadata, "Other text."))

    assert changed == edited.replace("# Title\n\nGenerated text.", "Other text.")


def test_a_license_that_is_given_is_put_and_without_one_it_stays_as_it_is() -> None:
    card = Card({**CARD.metadata, "license": "apache-2.0"}, CARD.body)

    assert metadata_of(update(None, card))["license"] == "apache-2.0"
    assert metadata_of(update(PERSON, card))["license"] == "apache-2.0"
    assert metadata_of(update(update(None, card)))["license"] == "apache-2.0"
    assert "license" not in metadata_of(update(None))


@pytest.mark.parametrize("mark", [BEGIN, END])
def test_a_mark_in_the_generated_text_ends_nothing(mark: str) -> None:
    card = Card(CARD.metadata, f"before {mark} after")

    text = update(update(None, card), card)

    assert (text.count(BEGIN), text.count(END)) == (1, 1)


@settings(max_examples=60, deadline=None)
@given(
    before=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    after=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    keys=st.dictionaries(
        st.from_regex(r"[a-z]{3,8}", fullmatch=True), st.integers() | st.text(max_size=12), max_size=3
    ),
)
def test_whatever_a_person_writes_around_it_stays(before: str, after: str, keys: dict[str, object]) -> None:
    front = "".join(
        f"{key}: {value!r}\n" if isinstance(value, int) else yaml.safe_dump({key: value}) for key, value in keys.items()
    )
    text = update(f"---\n{front}---\n{before}\n") + after

    changed = update(text, Card({**CARD.metadata, "base_model": "org/other"}, "Other text."))

    assert changed.startswith(f"---\n{front}")
    assert f"\n---\n{before}\n" in changed
    assert changed.endswith(f"{END}\n{after}")
    assert changed.count("Other text.") == 1
    assert "Generated text." not in changed


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        (f"{BEGIN}\nno end", "begin mark"),
        (f"{END}\n{BEGIN}", "begin mark"),
        (f"{BEGIN}{END}{BEGIN}{END}", "begin mark"),
        ("---\nkey: [1\n---\n", "not YAML"),
        ("---\n- a list\n---\n", "lines 'key: value'"),
        ("---\n{license: mit}\n---\n", "lines 'key: value'"),
        ("---\nlicense: mit\nlicense: gpl\n---\n", "twice"),
        ("---\ntags: *nothing\n---\n", "not YAML"),
        ("---\nday: 2024-99-99\n---\n", "not YAML"),
    ],
)
def test_what_cannot_be_updated_is_refused_in_one_line(text: str, saying: str) -> None:
    with pytest.raises(HubError, match=saying) as refused:
        update(text)

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text", [None, "", "words", "---\nlicense: mit\n---\n", "---\ngradtx_hf: 3\n---\n", "---\n[\n---\n"]
)
def test_a_readme_that_does_not_say_so_is_not_ours(text: str | None) -> None:
    assert kind_of(text) is None
