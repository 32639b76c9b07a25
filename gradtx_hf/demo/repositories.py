"""What visitors name on the Hub: repositories, never folders of this machine, and none too large to fetch here.

Nobody's login is used but the visitor's own: not the one of whoever runs the app.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants

from gradtx_hf.errors import ConfigurationError, safe_text
from gradtx_hf.hub import pin_revision
from gradtx_hf.hub.destination import check_token, is_full_repo_id
from gradtx_hf.hub.resolve import FETCHED_PATTERNS
from gradtx_hf.hub.retry import with_retries
from gradtx_hf.playground import local_name


def forget_own_login() -> None:
    """Let this process speak to the Hub as nobody, unless a token is given."""
    constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = True


def pinned_repository(name: str, *, token: str | None, max_bytes: int) -> str:
    """Return a repository's id at the commit that it has now, once it is known to be small enough.

    Args:
        name: ``owner/name``, ``owner/name@revision``, or the name of what is embedded, which is returned as it is.
        token: The visitor's token; None: as nobody.
        max_bytes: Most that the files may have that would be fetched.

    Raises:
        ConfigurationError: If it is no repository's id, or the repository is too large.
        MissingFileError: If there is no such repository that the visitor may read.
        HubError: If the Hub cannot tell how large it is.
    """
    if local_name(name) != name:
        return name
    repo, _, revision = name.partition("@")
    if not is_full_repo_id(repo) or Path(name).exists() or Path(repo).exists():
        raise ConfigurationError(
            f"got '{safe_text(name[:200])}', expected a repository on the Hub such as 'owner/name'. Upload a folder."
        )
    check_token(token)
    pin_revision(repo, revision=None, repo_type="model", token=token)  # to see that the visitor may read it
    commit = pin_revision(repo, revision=revision or None, repo_type="model", token=token)
    info = with_retries(
        lambda: HfApi(endpoint=constants.ENDPOINT).model_info(repo, revision=commit, files_metadata=True, token=token),
        what=f"repository '{repo}'",
    )
    patterns = FETCHED_PATTERNS["model"]
    sizes = [
        file.size or 0
        for file in info.siblings or []
        if any(fnmatch.fnmatch(file.rfilename, pattern) for pattern in patterns)
    ]
    if sum(sizes) > max_bytes:
        raise ConfigurationError(
            f"repository '{repo}' has {sum(sizes) >> 20:,} MB to fetch, expected at most {max_bytes >> 20:,}. "
            "Translate it on a machine of your own: pip install gradtx-hf."
        )
    return f"{repo}@{info.sha}"
