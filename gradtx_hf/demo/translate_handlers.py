"""What the translate tab's events do: plain functions of the controls' values.

A text that was never typed comes as None.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from gradtx_hf.demo import drawing, own_adapters
from gradtx_hf.demo.client_run import KEPT
from gradtx_hf.demo.limits import one_line_errors, within_time
from gradtx_hf.demo.own_adapters import Compatibility, Submission, read_names
from gradtx_hf.demo.translate_drawing import draw_compatibility, draw_translation
from gradtx_hf.demo.uploads import zip_adapter, zip_translated
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.lora import load_adapter
from gradtx_hf.playground import TRANSLATOR_NAME, translator_path
from gradtx_hf.translation import TARGET_INIT, AggregationSettings, TranslatedAdapter
from gradtx_hf.translation.aggregation import parse_weights


EXAMPLES = {
    "One client's adapter": (KEPT / "odds_first_7",),
    "Two clients of one rule, aggregated": (KEPT / "odds_first_7", KEPT / "odds_first_7_epsilon_2"),
    "An adapter that does not fit": (translator_path() / TARGET_INIT,),
}
"""How examples are offered, to the adapters' folders."""


def check(
    repositories: str | None,
    archives: Sequence[str] | None,
    files: Sequence[str] | None,
    translator: str | None,
    typed_token: str | None,
    login: gr.OAuthToken | None = None,
) -> tuple[str, dict[str, Any]]:
    """Show whether adapters fit a translator, before anything is translated."""
    with one_line_errors():
        submission = _submission(repositories, archives, files, translator, _token(typed_token, login))
        found = within_time(lambda: own_adapters.check(submission))
        return draw_compatibility(found), _numbers_of_check(found)


def translate(  # noqa: PLR0913 - one argument for each control
    repositories: str | None,
    archives: Sequence[str] | None,
    files: Sequence[str] | None,
    translator: str | None,
    typed_token: str | None,
    aggregation: str,
    weights: str | None,
    login: gr.OAuthToken | None = None,
) -> Iterator[tuple[TranslatedAdapter, str, str, dict[str, Any]]]:
    """Translate adapters, and pack what comes out."""
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="gradtx-demo-") as scratch:
        submission = _submission(repositories, archives, files, translator, _token(typed_token, login))
        settings = AggregationSettings(rule=aggregation)  # type: ignore[arg-type]  # checked there
        given = parse_weights(weights) if weights and weights.strip() else None
        translated = within_time(lambda: own_adapters.translate(submission, settings=settings, weights=given))
        archive = zip_translated(Path(scratch) / "translated_adapter.zip", translated)
        yield translated, draw_translation(translated), str(archive), translated.report


def take_example(index: int) -> Iterator[list[str]]:
    """Hand in the adapters of an example, packed as a visitor would upload them."""
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="gradtx-demo-") as scratch:
        if index not in range(len(EXAMPLES)):
            raise ConfigurationError(f"got example {index}, expected one of 0 to {len(EXAMPLES) - 1}.")
        folders = list(EXAMPLES.values())[index]
        adapters = [load_adapter(folder, name=folder.name) for folder in folders]
        yield [
            str(zip_adapter(Path(scratch) / f"{folder.name}.zip", adapter.config, adapter.tensors))
            for folder, adapter in zip(folders, adapters, strict=True)
        ]


def push(
    translated: TranslatedAdapter | None,
    repository: str | None,
    public: bool,  # noqa: FBT001 - a checkbox's value
    typed_token: str | None,
    login: gr.OAuthToken | None = None,
    profile: gr.OAuthProfile | None = None,
) -> str:
    """Publish the translated adapter in the visitor's own repository: of a login, a name alone is enough."""
    with one_line_errors():
        if translated is None:
            raise ConfigurationError("there is no translated adapter in this visit yet. Translate one first.")
        token = _token(typed_token, login)
        if token is None:
            raise ConfigurationError(
                "got no token, expected one that may write to your repository. Log in, or give one."
            )
        name = (repository or "").strip()
        if profile is not None and name and "/" not in name:
            name = f"{profile.username}/{name}"
        published = translated.push_to_hub(name, private=not public, token=token)
        return drawing.note(f"Published: {published.url} at commit {published.commit[:12]}", kind="good")


def _submission(
    repositories: str | None,
    archives: Sequence[str] | None,
    files: Sequence[str] | None,
    translator: str | None,
    token: str | None,
) -> Submission:
    return Submission(
        read_names(repositories or ""),
        tuple(map(Path, archives or ())),
        tuple(map(Path, files or ())),
        (translator or "").strip() or TRANSLATOR_NAME,
        token,
    )


def _token(typed: str | None, login: gr.OAuthToken | None) -> str | None:
    """Return the visitor's own token: of the login on a Space, or else what was typed."""
    if login is not None:
        return login.token
    return (typed or "").strip() or None


def _numbers_of_check(found: Compatibility) -> dict[str, Any]:
    return {
        "translator": found.translator.name,
        "adapters": [
            {
                "name": candidate.name,
                "fits": candidate.source is not None,
                "refusal": candidate.refusal,
                "input_distance": candidate.distance,
                "warning": candidate.warning,
            }
            for candidate in found.candidates
        ],
    }
