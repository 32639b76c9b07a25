"""Tiny models with the playground's tokenizer, and files of its lines."""

from __future__ import annotations

import json
from pathlib import Path

from gradtx_hf.playground.world import Rule, make_lines
from gradtx_hf.studies.pretrain_playground import build_tokenizer
from tests.tiny import tiny_llama


RULES = (Rule("reverse", 3), Rule("identity", 1))


def save_model(folder: Path, *, hidden_size: int, num_layers: int, seed: int) -> Path:
    """Save a tiny random Llama and the character tokenizer."""
    tokenizer = build_tokenizer()
    model = tiny_llama(hidden_size=hidden_size, num_layers=num_layers, vocab_size=len(tokenizer), seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_lines(path: Path, rule: Rule, num_lines: int) -> Path:
    """Write lines of one rule as JSON lines; the file's name is the seed."""
    rows = make_lines([rule], num_lines, seed=path.name)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
