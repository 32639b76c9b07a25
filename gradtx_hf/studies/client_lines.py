"""A study's clients, and their private lines: of one rule each, several of one rule, or mixtures of rules.

Source: ours; several clients and Dirichlet mixtures as in the paper's studies of many clients.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradtx_hf.output import write_text
from gradtx_hf.playground import Rule, make_lines, split_rules
from gradtx_hf.studies.cells import Clients
from gradtx_hf.studies.world import Place, lines_file, public_rules


def client_values(clients: Clients, place: Place) -> list[dict[str, Any]]:
    """Write the clients' lines and return the clients, as values of ``ClientData.from_dict``.

    Those of seen rules come first; the clients of one translation follow each other.
    """
    split = split_rules("full", seed=place.seed)
    unseen = list(split.development if clients.unseen == "development" else split.report)
    chosen = {
        True: public_rules(place.seed, clients.num_seen),
        False: random.Random(place.seed).sample(unseen, clients.num_unseen),
    }
    values = []
    for seen, rules in chosen.items():
        for number, rule in enumerate(rules):
            if clients.num_mixed_rules > 1:
                mixed = [rules[(number + i) % len(rules)] for i in range(clients.num_mixed_rules)]
                values.append(_of_a_mixture(clients, place, mixed, seen=seen))
            elif clients.has_own_tasks:
                values.append(_of_one_rule(clients, place, rule, member=0, seen=seen))
            else:
                members = range(clients.num_members)
                values += [_of_one_rule(clients, place, rule, member=member, seen=seen) for member in members]
    return values


def _of_one_rule(clients: Clients, place: Place, rule: Rule, *, member: int, seen: bool) -> dict[str, Any]:
    """Return one client of a rule; no two of a rule share a line."""
    own = clients.num_private_lines + clients.num_test_lines
    num_lines = own if clients.has_own_tasks else own * clients.num_members
    path = lines_file(place, f"private-{num_lines}", rule, num_lines)
    return _client(clients, path, task=rule.name, seen=seen, seed=1 + place.seed + 10 * member, first=own * member)


def _of_a_mixture(clients: Clients, place: Place, rules: Sequence[Rule], *, seen: bool) -> dict[str, Any]:
    """Return one client whose lines, private and held out, are of several rules, by shares of its own."""
    num_lines = clients.num_private_lines + clients.num_test_lines
    name = "-".join(rule.name for rule in rules)
    alpha = clients.dirichlet_alpha
    shares = dirichlet_shares(len(rules), alpha=alpha, seed=f"shares {place.seed} {name}")
    path = place.home / "data" / f"mixture-{num_lines}-{alpha:g}-{name}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            row
            for rule, count in zip(rules, _counts(shares, num_lines), strict=True)
            for row in make_lines([rule], count, seed=f"mixture {place.seed} {name} {rule.name}")
        ]
        random.Random(f"order {place.seed} {name}").shuffle(rows)
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    task = ", ".join(f"{share:.0%} {rule.name}" for rule, share in zip(rules, shares, strict=True))
    return _client(clients, path, task=task, seen=seen, seed=1 + place.seed, first=0)


def _client(clients: Clients, path: Path, *, task: str, seen: bool, seed: int, first: int) -> dict[str, Any]:
    middle = first + clients.num_private_lines
    return {
        "task": task,
        "seen": seen,
        "seed": seed,
        "train": {"path": str(path), "split": f"train[{first}:{middle}]"},
        "test": {"path": str(path), "split": f"train[{middle}:{middle + clients.num_test_lines}]"},
    }


def dirichlet_shares(num_rules: int, *, alpha: float, seed: str) -> list[float]:
    """Draw shares that sum to 1 from a symmetric Dirichlet distribution.

    Args:
        num_rules: Number of shares.
        alpha: Concentration, positive.
        seed: Seed of the drawing.
    """
    generator = random.Random(seed)
    drawn = [max(generator.gammavariate(alpha, 1.0), 1e-300) for _ in range(num_rules)]
    return [value / sum(drawn) for value in drawn]


def _counts(shares: Sequence[float], total: int) -> list[int]:
    """Return whole numbers near the shares that sum to a total."""
    bounds = [round(bound * total) for bound in itertools.accumulate(shares, initial=0.0)]
    return [after - before for before, after in itertools.pairwise([*bounds[:-1], total])]
