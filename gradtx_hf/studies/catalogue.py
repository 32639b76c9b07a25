"""The studies by name."""

from __future__ import annotations

from gradtx_hf.studies.ablations import ABLATIONS
from gradtx_hf.studies.cells import Study
from gradtx_hf.studies.dp_curve import DP_CURVE
from gradtx_hf.studies.families import FAMILIES
from gradtx_hf.studies.functional import FUNCTIONAL
from gradtx_hf.studies.many_clients import MANY_CLIENTS


STUDIES: dict[str, Study] = {study.name: study for study in (FUNCTIONAL, *ABLATIONS, FAMILIES, DP_CURVE, MANY_CLIENTS)}
