"""What an adapter reveals: audits, bounds, and the shift between public and private data.

Audits of training runs, with canaries, need the extra [dp]: see ``privacy.audited``, ``.canaries``, ``.self_test``.
"""

from gradtx_hf.privacy.arguments import AuditArguments
from gradtx_hf.privacy.audit import audit_adapters
from gradtx_hf.privacy.membership import Membership, measure_membership
from gradtx_hf.privacy.one_run import EpsilonBound, bound_from_scores, epsilon_lower_bound
from gradtx_hf.privacy.report import AdapterAudit, AuditReport


__all__ = [
    "AdapterAudit",
    "AuditArguments",
    "AuditReport",
    "EpsilonBound",
    "Membership",
    "audit_adapters",
    "bound_from_scores",
    "epsilon_lower_bound",
    "measure_membership",
]
