"""The Hugging Face Hub: repositories to folders, revisions to commits."""

from gradtx_hf.hub.resolve import ResolvedFolder, pin_revision, resolve_folder


__all__ = ["ResolvedFolder", "pin_revision", "resolve_folder"]
