"""One text in many conventions: every client writes the same kind of sentences in its own way.

    python examples/conventions/make_data.py TEXT OTHER_TEXT OUTPUT_DIR

A convention is a way to write the letters (``shift11``: the letter eleven places on; ``reversed``: words backwards)
and a dress (``upper``, ``dots``, ...). OUTPUT_DIR gets a folder per convention: ``public.jsonl`` for the provider, who
has only the seen ones, other sentences in ``private.jsonl`` for clients, and ``held_out.jsonl``; the last two also of
OTHER_TEXT, in ``other_private.jsonl`` and ``other_held_out.jsonl``. The same texts always give the same files.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase


Writer = Callable[[str], str]


def shifted(places: int) -> Writer:
    """Write the letter so many places on, going round."""
    return substituted(ascii_lowercase[places:] + ascii_lowercase[:places])


def substituted(alphabet: str) -> Writer:
    """Write the letter of this alphabet in the place of a, b, c, ..."""
    table = str.maketrans(ascii_lowercase, alphabet)
    return lambda text: text.translate(table)


LETTERS: dict[str, Writer] = {
    "plain": str,
    "consonants": lambda text: re.sub("[aeiou]", "", text),
    "reversed": lambda text: re.sub("[a-z]+", lambda word: word[0][::-1], text),
    "mirror": substituted(ascii_lowercase[::-1]),
    "shift3": shifted(3),
    "shift11": shifted(11),
    "shift19": shifted(19),
    "keyboard": substituted("qwertyuiopasdfghjklzxcvbnm"),
}
DRESSES: dict[str, Writer] = {
    "lower": str,
    "upper": str.upper,
    "dots": lambda text: text.replace(" ", "."),
    "slashes": lambda text: text.upper().replace(" ", "/"),
}
NEW_LETTERS: dict[str, Writer] = {"shift7": shifted(7), "key": substituted("gradientsbcfhjklmopquvwxyz")}
"""Ways to write the letters that no seen convention has."""
LENGTHS = range(24, 57)
"""Characters of a sentence."""
SHARES = {"public": 0.6, "private": 0.3, "held_out": 0.1}
OTHER_SHARES = {"private": 0.85, "held_out": 0.15}


def conventions() -> tuple[dict[str, Writer], dict[str, Writer]]:
    """Return seen and unseen conventions by name.

    Of every way to write the letters one dress in turn is unseen: its parts are known, their combination is not.
    """
    seen: dict[str, Writer] = {}
    unseen: dict[str, Writer] = {}
    for i, (letters, write) in enumerate(LETTERS.items()):
        for j, (dress, put_on) in enumerate(DRESSES.items()):
            (unseen if i % len(DRESSES) == j else seen)[f"{letters}-{dress}"] = _both(write, put_on)
    for letters, write in NEW_LETTERS.items():
        unseen[f"{letters}-lower"] = write
    return seen, unseen


def sentences(text: str) -> list[str]:
    """Return a text's different sentences, or what stands between semicolons and colons, in small letters."""
    found = re.split(r"(?<=[.!?;:])\s+", " ".join(text.lower().split()))
    return sorted({sentence for sentence in found if len(sentence) in LENGTHS})


def shared_out(rows: Sequence[str], shares: Mapping[str, float]) -> dict[str, list[str]]:
    """Return the rows of each part: no row is in two of them."""
    shuffled = random.Random("conventions").sample(rows, len(rows))
    parts, begin = {}, 0
    for name, share in shares.items():
        end = begin + round(share * len(rows))
        parts[name] = shuffled[begin:end]
        begin = end
    return parts


def write_rows(path: Path, rows: Sequence[str], write: Writer) -> None:
    """Write rows in a convention, as JSON lines with a text each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": write(row)}) + "\n" for row in rows), encoding="utf-8")


def _both(first: Writer, second: Writer) -> Writer:
    return lambda text: second(first(text))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("text", type=Path, help="a text file in English")
    parser.add_argument("other_text", type=Path, help="another one, of which the provider sees nothing")
    parser.add_argument("output_dir", type=Path, help="folder for the files")
    arguments = parser.parse_args()
    parts = shared_out(sentences(arguments.text.read_text(encoding="utf-8")), SHARES)
    other = shared_out(sentences(arguments.other_text.read_text(encoding="utf-8")), OTHER_SHARES)
    seen, unseen = conventions()
    for name, write in (seen | unseen).items():
        folder = arguments.output_dir / name
        if name in seen:
            write_rows(folder / "public.jsonl", parts["public"], write)
        for part in ("private", "held_out"):
            write_rows(folder / f"{part}.jsonl", parts[part], write)
            write_rows(folder / f"other_{part}.jsonl", other[part], write)
    counts = ", ".join(f"{len(rows)} {part}" for part, rows in parts.items())
    print(f"{len(seen)} seen and {len(unseen)} unseen conventions of {counts} sentences in {arguments.output_dir}")


if __name__ == "__main__":
    main()
