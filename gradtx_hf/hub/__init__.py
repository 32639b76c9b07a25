"""The Hugging Face Hub: repositories to folders."""

from gradtx_hf.hub.resolve import ResolvedFolder, resolve_folder


__all__ = ["ResolvedFolder", "resolve_folder"]
