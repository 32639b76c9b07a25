"""Search the Hub for translators, by the tags and the metadata of the cards that ``push_to_hub`` writes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

from huggingface_hub import constants
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported without __all__
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from gradtx_hf.errors import ConfigurationError, GradTxError, HubError, safe_text
from gradtx_hf.hub.cards import is_public_name
from gradtx_hf.hub.destination import check_token
from gradtx_hf.hub.found import MODEL_INDEX, FoundTranslator
from gradtx_hf.hub.retry import TRANSFER_ERRORS, pause, root_cause, seconds_to_wait, status_of
from gradtx_hf.hub.wording import endpoint_name


logger = logging.getLogger(__name__)

TRANSLATOR_TAG = "gradtx-translator"
"""The tag of every translator's card."""
FIELDS = ("cardData", MODEL_INDEX, "gated", "lastModified", "private", "sha")
PAGE_SIZE = 100
MAX_PAGES = 10
"""A search looks at the newest ``PAGE_SIZE * MAX_PAGES`` repositories that have the tags."""
WAITS = (0.5, 1.0)
"""Seconds between one try of a search and the next."""
TIMEOUT = 10.0
"""Seconds that the Hub may take to accept a search, and to go on with its answer."""


def find_translators(
    source: str, target: str | None = None, *, token: str | None = None, limit: int = 20
) -> list[FoundTranslator]:
    """Return the translators on the Hub that read adapters of a base model, the best measured first.

    First those measured on unseen tasks, then on all, on seen and on other tasks, last those that are not measured;
    among equals the largest gain recovered, then the newest. The numbers are what the cards state.

    Args:
        source: Base model of the adapters to translate: its id on the Hub.
        target: Base model of the adapters to get; None: any.
        token: Access token, which finds private translators too; the one that ``hf auth login`` stored if None.
        limit: Number of translators, at least 1.

    Raises:
        ConfigurationError: If a model's name is no id on the Hub, or another argument cannot be used.
        HubError: If the Hub cannot be asked.
    """
    if limit < 1:
        raise ConfigurationError(f"got limit {limit}, expected at least 1.")
    for side, name in (("source", source), ("target", target)):
        if name is not None and not is_public_name(name):
            raise ConfigurationError(
                f"got {side} model '{safe_text(name)}', expected an id on the Hub such as 'owner/name', without a "
                "revision. A folder of this machine has no translators there."
            )
    check_token(token)
    return _search(source, target, token=token, waits=WAITS)[:limit]


def suggest_translators(source: str, *, token: str | None = None, limit: int = 3, seconds: float = 3.0) -> list[str]:
    """Return the ids of translators for a base model; none where that is not known in time.

    Args:
        source: Base model of the adapters to translate; a local path is none that the Hub is asked for.
        token: Access token; the one that ``hf auth login`` stored if None.
        limit: Number of translators.
        seconds: How long all of it may take.
    """
    if constants.is_offline_mode() or not is_public_name(source):
        return []
    found: list[FoundTranslator] = []

    def search() -> None:
        try:
            found.extend(_search(source, None, token=token, waits=(), timeout=seconds))
        except Exception as error:  # noqa: BLE001 - whatever it is, only a suggestion is missing
            logger.debug("no translators are suggested: %s", safe_text(str(error)))

    # a thread, as looking up a host name has no time limit; a daemon, as nobody waits for it longer
    thread = threading.Thread(target=search, daemon=True)
    thread.start()
    thread.join(seconds)
    return [translator.repo_id for translator in found[:limit]]


def _search(
    source: str, target: str | None, *, token: str | None, waits: Sequence[float], timeout: float = TIMEOUT
) -> list[FoundTranslator]:
    """Return all translators that fit, sorted."""
    tags = [TRANSLATOR_TAG, *(f"base_model:{name}" for name in (source, target) if name is not None)]
    asked = {"filter": tags, "expand": FIELDS, "sort": "lastModified", "limit": PAGE_SIZE}
    query: str | None = urlencode(asked, doseq=True)
    found: dict[str, FoundTranslator] = {}
    for _ in range(MAX_PAGES):
        if query is None:
            break
        page, query = _fetch_page(query, token=token, waits=waits, timeout=timeout)
        translators = (FoundTranslator.read(item) for item in page)
        found |= {t.repo_id: t for t in translators if t and t.source == source and target in (None, t.target)}
    if query is not None:
        logger.warning("more than %d translators have the tags; the newest were looked at", PAGE_SIZE * MAX_PAGES)
    return sorted(found.values(), key=lambda translator: (translator.rank, translator.repo_id))


def _fetch_page(
    query: str, *, token: str | None, waits: Sequence[float], timeout: float
) -> tuple[list[Any], str | None]:
    """Return a page of the Hub's list of models, and the query for the next one; tried again where that is of use."""
    for wait in (*waits, None):
        try:
            return _request(query, token=token, timeout=timeout)
        except GradTxError:  # ours are OSError and ValueError too
            raise
        except (RecursionError, *TRANSFER_ERRORS) as error:
            seconds = None if constants.is_offline_mode() else seconds_to_wait(error, wait)
            if seconds is None:
                raise _explain(error) from error
            pause(seconds, error)
    raise AssertionError("the last wait is None, which ends the loop")


def _request(query: str, *, token: str | None, timeout: float) -> tuple[list[Any], str | None]:
    """Ask for one page.

    Of the next page's address only the query is used: the token goes nowhere but to the Hub that was asked.
    """
    headers = build_hf_headers(token=token)
    response = get_session().get(f"{constants.ENDPOINT}/api/models?{query}", headers=headers, timeout=timeout)
    hf_raise_for_status(response)
    page = response.json()
    if not isinstance(page, list):
        raise HubError(f"got no list from {endpoint_name()}, expected that of its models. Check HF_ENDPOINT.")
    following = response.links.get("next", {}).get("url")
    return page, urlsplit(following).query if following else None


def _explain(error: Exception) -> HubError:
    """Say in one line why the Hub could not be searched, and what to do."""
    status = status_of(root_cause(error))
    if constants.is_offline_mode():
        text = "translators cannot be searched while the network is switched off (HF_HUB_OFFLINE). Allow it once"
    elif status in (401, 403):
        text = (
            f"{endpoint_name()} refuses the search for translators (HTTP {status}). Give a valid token, or none "
            "('hf auth logout')"
        )
    elif status is not None:
        text = f"{endpoint_name()} fails with HTTP {status} when translators are searched. Try again later"
    elif isinstance(error, ValueError | RecursionError):
        text = (
            f"{endpoint_name()} answers the search for translators with something that is not JSON. Check HF_ENDPOINT"
        )
    else:
        text = f"no connection to {endpoint_name()} ({type(error).__name__}). Check the network, then search again"
    return HubError(f"{text}.")
