"""The studies by name."""

from __future__ import annotations

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.studies.ablations import ABLATIONS
from gradtx_hf.studies.cells import Study
from gradtx_hf.studies.functional import FUNCTIONAL


STUDIES: dict[str, Study] = {study.name: study for study in (FUNCTIONAL, *ABLATIONS)}


def find_study(name: str) -> Study:
    """Return a study by its name.

    Raises:
        ConfigurationError: If there is none.
    """
    if name not in STUDIES:
        raise ConfigurationError(f"got study '{name}', expected one of {', '.join(STUDIES)}.")
    return STUDIES[name]
