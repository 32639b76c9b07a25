"""Scores, the gap they close, and one report format; plots need the extra [eval], the rest does not."""

from gradtx_hf.evaluation.client_scores import ClientScores
from gradtx_hf.evaluation.markdown import render_markdown
from gradtx_hf.evaluation.methods import METHODS, Method
from gradtx_hf.evaluation.metrics import exact_match
from gradtx_hf.evaluation.pgr import Recovered, gain_recovered, performance_gap_recovered
from gradtx_hf.evaluation.pooling import pool_reports
from gradtx_hf.evaluation.report import Report, library_versions
from gradtx_hf.evaluation.saving import save_report
from gradtx_hf.evaluation.summary import Estimate, GroupSummary, MethodSummary, summarise


__all__ = [
    "METHODS",
    "ClientScores",
    "Estimate",
    "GroupSummary",
    "Method",
    "MethodSummary",
    "Recovered",
    "Report",
    "exact_match",
    "gain_recovered",
    "library_versions",
    "performance_gap_recovered",
    "pool_reports",
    "render_markdown",
    "save_report",
    "summarise",
]
