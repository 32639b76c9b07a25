"""Push the Space to the Hub: the app's files, this package as it is here, and the reports, as one commit.

    python -m gradtx_hf.demo.push_space OWNER/translate-adapter --folder spaces/translate-adapter

The package travels with the Space, so that it shows what is installed here and needs no release of it: in the Space's
requirements.txt, its own name gives way to what it depends on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.metadata import distribution, requires
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from packaging.requirements import Requirement

import gradtx_hf
from gradtx_hf.demo.results import results_folder
from gradtx_hf.errors import ConfigurationError, HubError, MissingFileError
from gradtx_hf.hub.destination import is_full_repo_id
from gradtx_hf.hub.retry import TRANSFER_ERRORS, explain, with_retries
from gradtx_hf.hub.wording import endpoint_name


DISTRIBUTION = "gradtx-hf"
PACKAGE = Path(gradtx_hf.__file__).parent
REQUIREMENTS = "requirements.txt"
SPACE_FILES = ("app.py", "README.md", REQUIREMENTS)
BEGINNING = {".gitattributes", "README.md"}
"""What a Space that was just made may hold."""


def space_files(folder: Path) -> dict[str, Path | bytes]:
    """Return all that the Space holds: path in it to a file or its content.

    Args:
        folder: The folder with ``SPACE_FILES``.

    Raises:
        MissingFileError: If one is not there.
    """
    files: dict[str, Path | bytes] = {}
    for name in SPACE_FILES:
        if not (folder / name).is_file():
            raise MissingFileError(f"'{folder}' has no {name}. Give the Space's folder, spaces/translate-adapter.")
        files[name] = folder / name
    lines = (folder / REQUIREMENTS).read_text(encoding="utf-8").splitlines()
    files[REQUIREMENTS] = "".join(f"{line}\n" for line in _without_package(lines)).encode()
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            files[path.relative_to(PACKAGE.parent).as_posix()] = path
    for path in sorted(results_folder().rglob("*.json")):
        files[f"{PACKAGE.name}/demo/results/{path.relative_to(results_folder()).as_posix()}"] = path
    installed = distribution(DISTRIBUTION)
    # without it, reports could not say which version made them
    files[f"{PACKAGE.name}-{installed.version}.dist-info/METADATA"] = (installed.read_text("METADATA") or "").encode()
    return files


def push_space(repo_id: str, folder: Path, *, private: bool, token: str | None = None) -> str:
    """Make the Space if it is not there, write all its files, and remove those of ours that are no longer needed.

    Args:
        repo_id: ``owner/name``.
        folder: The folder with ``SPACE_FILES``.
        private: Whether a new Space is private.
        token: Hub token; by default the one that is logged in.

    Returns:
        The Space's address.

    Raises:
        ConfigurationError: If the id is none.
        MissingFileError: If the folder is not the Space's.
        HubError: If the Space is another app's, or cannot be written.
    """
    if not is_full_repo_id(repo_id):
        raise ConfigurationError(f"got Space '{repo_id}', expected an id such as 'owner/translate-adapter'.")
    files = space_files(folder)
    api = HfApi(endpoint=constants.ENDPOINT, token=token)
    what = f"Space '{repo_id}'"
    with_retries(
        lambda: api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True),
        what=what,
    )
    info = with_retries(lambda: api.space_info(repo_id), what=what)
    there = {file.rfilename for file in info.siblings or []}
    if not there <= BEGINNING and f"{PACKAGE.name}/__init__.py" not in there:
        raise HubError(f"{what} holds another app, which is not written over. Name a new Space.")
    additions = [CommitOperationAdd(path, content) for path, content in files.items()]
    deletions = [CommitOperationDelete(path) for path in sorted(there - BEGINNING - files.keys())]
    try:
        api.create_commit(
            repo_id,
            [*additions, *deletions],
            commit_message=f"gradtx_hf {gradtx_hf.__version__}",
            repo_type="space",
            parent_commit=info.sha,
        )
    except TRANSFER_ERRORS as error:
        raise explain(error, what=what) from error
    return f"{endpoint_name()}/spaces/{repo_id}"


def _without_package(lines: list[str]) -> list[str]:
    """Return the lines of a requirements.txt with what this package depends on in the place of its name."""
    kept = [line for line in lines if not line.startswith(DISTRIBUTION)]
    own = [Requirement(line) for line in lines if line.startswith(DISTRIBUTION)]
    needed = {str(dependency) for requirement in own for dependency in _dependencies(requirement.extras)}
    return [*kept, *sorted(needed)]


def _dependencies(extras: set[str]) -> Iterator[Requirement]:
    """Yield what this package depends on with some extras, which may name others of its extras."""
    for line in requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        requirement.marker = None
        if requirement.name == DISTRIBUTION:
            yield from _dependencies(requirement.extras)
        else:
            yield requirement


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("repository", metavar="OWNER/NAME")
    parser.add_argument("--folder", type=Path, default=Path("spaces/translate-adapter"))
    parser.add_argument("--private", action="store_true", help="a new Space is private")
    arguments = parser.parse_args()
    print(push_space(arguments.repository, arguments.folder, private=arguments.private))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
