"""Client: write the private lines of the walkthrough, and held-out lines of the same rule, into this folder.

    python client_lines.py

The rule is one of those that the embedded translator knows: six letters reversed, each three letters on. A prompt never
says so: only the client's lines, and what is trained on them, can tell.
"""

import json
import random
from pathlib import Path


ALPHABET = "abcdefghijkl"
SHIFT = 3
NUM_LINES = {"private": 1024, "held_out": 100}


def main() -> None:
    """Write both files; no input is in both."""
    generator = random.Random(0)
    inputs: dict[str, None] = {}
    while len(inputs) < sum(NUM_LINES.values()):
        inputs["".join(generator.choices(ALPHABET, k=6))] = None
    rows = iter([json.dumps({"prompt": f"??{text}=", "completion": apply_rule(text)}) for text in inputs])
    for name, num_lines in NUM_LINES.items():
        Path(f"{name}.jsonl").write_text("".join(f"{next(rows)}\n" for _ in range(num_lines)), encoding="utf-8")
        print(f"{name}.jsonl")


def apply_rule(text: str) -> str:
    """Return what the rule makes of six letters."""
    return "".join(ALPHABET[(ALPHABET.index(letter) + SHIFT) % len(ALPHABET)] for letter in reversed(text))


if __name__ == "__main__":
    main()
