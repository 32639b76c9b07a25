"""The errors that a user of gradtx_hf meets: one clear line each, and each also the stdlib error it replaces."""

from __future__ import annotations


class GradTxError(Exception):
    """Any refusal or failure of gradtx_hf that a user can act on."""


class AdapterError(GradTxError, ValueError):
    """An adapter cannot be read, or is of a kind that cannot be translated."""


class LayoutError(GradTxError, ValueError):
    """Tensors, layouts or tokens do not fit each other."""


class DataError(GradTxError, ValueError):
    """A data set is empty, or lacks what its description names."""


class ConfigurationError(GradTxError, ValueError):
    """An argument or a configuration value cannot be used."""


class StoreError(GradTxError, ValueError):
    """An update store is incomplete, damaged or belongs to another plan."""


class MissingFileError(GradTxError, FileNotFoundError):
    """A file, folder or repository that was named is not there."""


class OutputExistsError(GradTxError, FileExistsError):
    """An output folder exists and is not ours to write into."""


class MissingExtraError(GradTxError, ImportError):
    """A part of the package needs an optional dependency that is not installed."""
