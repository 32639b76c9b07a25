"""The Hugging Face Hub: repositories to folders, revisions to commits, folders to repositories."""

from gradtx_hf.hub.destination import Destination, RepoKind
from gradtx_hf.hub.find import find_translators, suggest_translators
from gradtx_hf.hub.found import FoundTranslator
from gradtx_hf.hub.publish import Published, publish, require_publishable
from gradtx_hf.hub.readme import Card
from gradtx_hf.hub.resolve import ResolvedFolder, fetch_repository, pin_revision, resolve_folder


__all__ = [
    "Card",
    "Destination",
    "FoundTranslator",
    "Published",
    "RepoKind",
    "ResolvedFolder",
    "fetch_repository",
    "find_translators",
    "pin_revision",
    "publish",
    "require_publishable",
    "resolve_folder",
    "suggest_translators",
]
