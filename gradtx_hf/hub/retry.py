"""Requests to the Hub that are tried again where that is safe, and what is said when they fail for good.

Tried again: HTTP 408, 429 (after the time that the Hub asks for) and 5xx, connections that break or time out, answers
that are not JSON, and large files that arrive damaged. Everything else is final at once.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: the HTTP client's own, not re-exported
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)

from gradtx_hf.errors import GradTxError, HubError, safe_text
from gradtx_hf.hub.wording import endpoint_name


T = TypeVar("T")
logger = logging.getLogger(__name__)

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between one try and the next."""
LONGEST_WAIT = 60.0
"""Seconds that the Hub may ask to wait for; a longer time is left to the user."""
TRANSIENT_STATUSES = frozenset([408, 429, 500, 502, 503, 504])
CONFLICT = 412


class DamagedTransferError(Exception):
    """What was received is not what the Hub says it holds; worth another try."""


TRANSIENT_ERRORS = (
    HTTPError,
    ConnectionError,
    TimeoutError,
    json.JSONDecodeError,
    UnicodeDecodeError,
    DamagedTransferError,
)
"""What passes, where there was no answer, or none that can be read."""
TRANSFER_ERRORS = (HTTPError, OSError, ValueError, RuntimeError, DamagedTransferError)
"""What a request to the Hub can raise; the client wraps failed uploads as RuntimeError and refusals as ValueError."""


def with_retries(request: Callable[[], T], *, what: str) -> T:
    """Make a request that may be repeated without harm, again where it fails for a reason that passes.

    Args:
        request: The request.
        what: What it is about, as messages name it, such as ``repository 'org/name'``.

    Raises:
        HubError: If it fails for good.
    """
    for wait in (*WAITS, None):
        try:
            return request()
        except GradTxError:  # ours are OSError and ValueError too
            raise
        except TRANSFER_ERRORS as error:
            seconds = seconds_to_wait(error, wait)
            if seconds is None:
                raise explain(error, what=what) from error
            pause(seconds, error)
    raise AssertionError("the last wait is None, which ends the loop")


def seconds_to_wait(error: Exception, wait: float | None) -> float | None:
    """Return how long to wait before trying again, in seconds; None where that is of no use.

    Args:
        error: What the last try raised.
        wait: The usual wait; None after the last try.
    """
    cause = root_cause(error)
    if wait is None or not (is_transient(cause) or _is_damaged_upload(error)):
        return None
    asked = _retry_after(cause)
    if asked is not None and asked > LONGEST_WAIT:
        return None
    return wait if asked is None else max(wait, asked)


def pause(seconds: float, error: Exception) -> None:
    """Say why, and wait."""
    logger.warning("%s; trying again in %g s", _short(root_cause(error)), seconds)
    time.sleep(seconds)


def root_cause(error: Exception) -> Exception:
    """Return what lies behind the client's own wrapping of a failed upload or download."""
    while isinstance(error.__cause__, Exception) and isinstance(error, RuntimeError | OSError | ValueError):
        if isinstance(error, HfHubHTTPError):
            break
        error = error.__cause__
    return error


def is_transient(error: Exception) -> bool:
    """Return whether the same request may succeed later."""
    status = status_of(error)
    if status is not None:
        return status in TRANSIENT_STATUSES
    return isinstance(error, TRANSIENT_ERRORS)


def status_of(error: Exception) -> int | None:
    """Return the HTTP status of the Hub's answer, if there was one."""
    return int(error.response.status_code) if isinstance(error, HfHubHTTPError) else None


def explain(error: Exception, *, what: str) -> HubError:
    """Say in one line why a request failed, and what to do."""
    cause = root_cause(error)
    status = status_of(cause)
    asked = _retry_after(cause)
    if isinstance(cause, GatedRepoError):
        text = f"{what} is gated. Ask for access on its page, then give a token of that account"
    elif isinstance(cause, LocalTokenNotFoundError):
        text = "no token is stored on this machine. Run 'hf auth login', or give one"
    elif isinstance(cause, RepositoryNotFoundError) or status in (401, 403):
        text = (
            f"{endpoint_name()} refuses to write {what} (HTTP {status}). Check the id, and give a token that may write "
            "there (or run 'hf auth login')"
        )
    elif status == CONFLICT:
        text = f"{what} has changed meanwhile. Nothing was written: look at the other change, then push again"
    elif asked is not None and asked > LONGEST_WAIT:
        text = f"{endpoint_name()} asks to wait {asked:g} s before {what} is written. Push again then"
    elif status in TRANSIENT_STATUSES:
        text = f"{endpoint_name()} keeps failing with HTTP {status} for {what}. Nothing was written: try again later"
    elif status is not None:
        text = f"{endpoint_name()} refuses to write {what} (HTTP {status}: {_short(cause)}). Nothing was written"
    elif is_transient(cause):
        text = f"no lasting connection to {endpoint_name()} for {what} ({_short(cause)}). Check the network, push again"
    else:
        text = f"{what} cannot be written: {_short(cause)}"
    return HubError(f"{text.rstrip('.')}.")


def _is_damaged_upload(error: Exception) -> bool:
    """Return whether a large file arrived with another checksum: then alone the client wraps a refusal so."""
    return isinstance(error, RuntimeError) and status_of(root_cause(error)) == 400


def _retry_after(error: Exception) -> float | None:
    """Return the seconds that an answer asks to wait for; a date is not understood."""
    if not isinstance(error, HfHubHTTPError):
        return None
    text = error.response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        return None


def _short(error: Exception) -> str:
    """Return an error's type or status, with the first line of what the Hub says, without tokens."""
    status = status_of(error)
    if status is not None and status in TRANSIENT_STATUSES:
        return f"HTTP {status}"
    message = error.server_message if isinstance(error, HfHubHTTPError) else str(error)
    first = safe_text((message or "").strip().split("\n", 1)[0])[:200]
    return first or type(error).__name__
