"""``gradtx shift``: is a translator's public data close enough to mine? Measured here; nothing is sent anywhere."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning import DataSource, load_examples, load_language_model
from gradtx_hf.hub import resolve_folder
from gradtx_hf.lora import load_adapter
from gradtx_hf.output import require_new_folder
from gradtx_hf.privacy.shift import LIMITS, ShiftSettings, measure_shift
from gradtx_hf.privacy.shift_report import ShiftReport, describe_public, recorded_data
from gradtx_hf.translation import SOURCE_INIT, TRAINING_FILE, is_translator_folder
from gradtx_hf.translation.records import load_record


DATA_HELP = (
    "a .jsonl, .json, .csv, .parquet or .txt file, a folder, a data set of the Hub, or fields of DataSource as YAML: "
    "'{path: F, text_column: body}'"
)


def run(argv: Sequence[str]) -> int:
    """Run the command.

    Raises:
        ConfigurationError: If neither a model nor a translator that names one is given.
    """
    arguments = _build_parser().parse_args(list(argv))
    require_new_folder(arguments.output_dir)
    settings = ShiftSettings(
        max_length=arguments.max_length,
        max_rows=arguments.max_rows,
        num_permutations=arguments.permutations,
        seed=arguments.seed,
    )
    name, revision, training = _translator(arguments.translator, arguments.revision)
    model_name = arguments.model or name
    if not model_name:
        raise ConfigurationError("no source model is named. Give --model, or --translator of one that names it.")
    public = [load_examples(_source(text)) for text in arguments.public]
    private = load_examples(_source(arguments.private))
    model, tokenizer = load_language_model(
        model_name, revision=None if arguments.model else revision, max_length=settings.max_length
    )
    shift = measure_shift(
        public, private, model=model, tokenizer=tokenizer, settings=settings, show_progress=sys.stderr.isatty()
    )
    recorded = recorded_data(training)
    report = ShiftReport(
        shift,
        settings,
        model=model_name,
        translator=arguments.translator,
        public=describe_public(public, training),
        num_recorded=None if recorded is None else len(recorded),
    )
    report.save(arguments.output_dir)
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print("\n".join(line for line in (shift.verdict, report.provenance) if line))
        print(f"note: {LIMITS}", file=sys.stderr)
    print(f"wrote {arguments.output_dir}/shift.md and shift.json; nothing was sent", file=sys.stderr)
    init = arguments.translator or "TRANSLATOR"
    print(f"next: gradtx client --init {init} --config CLIENT.yaml", file=sys.stderr)
    return 0


def _build_parser() -> argparse.ArgumentParser:
    defaults = ShiftSettings()
    parser = argparse.ArgumentParser(prog="gradtx shift", description=(__doc__ or "").strip())
    parser.add_argument("--public", nargs="+", required=True, metavar="DATA", help=f"public data: {DATA_HELP}")
    parser.add_argument("--private", required=True, metavar="DATA", help="private data, in the same forms")
    parser.add_argument("--model", help="source model: folder or id on the Hub; by default the translator's")
    parser.add_argument("--translator", help="folder, or Hub repository, of the translator that is asked about")
    parser.add_argument("--revision", help="branch, tag or commit of the translator's repository")
    parser.add_argument("--output-dir", required=True, help="new folder for shift.md and shift.json")
    parser.add_argument(
        "--max-length", type=int, default=defaults.max_length, help="most tokens per row, as in your recipe (512)"
    )
    parser.add_argument("--max-rows", type=int, default=defaults.max_rows, help="most rows of either side (2000)")
    parser.add_argument(
        "--permutations", type=int, default=defaults.num_permutations, help="relabelled samples of the test (199)"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="seed of the drawing of rows (0)")
    parser.add_argument("--json", action="store_true", help="print shift.json instead of the verdict")
    return parser


def _translator(name: str | None, revision: str | None) -> tuple[str | None, str | None, Mapping[str, Any] | None]:
    """Return a translator's source model, its revision, and the record of its training; None without a translator.

    Raises:
        ConfigurationError: If there is no translator at that place.
    """
    if name is None:
        return None, None, None
    resolved = resolve_folder(name, revision=revision)
    if not is_translator_folder(resolved.path):
        raise ConfigurationError(f"'{resolved.name}' is no translator. Give the folder or repository of one.")
    init = load_adapter(resolved.path / SOURCE_INIT, name=f"{resolved.name}/{SOURCE_INIT}")
    return init.base_model, init.config.revision, load_record(resolved.path, TRAINING_FILE, name=resolved.name)


def _source(text: str) -> DataSource:
    """Return where data are: a path or a name as it is, or fields as YAML in braces.

    Raises:
        ConfigurationError: If the fields cannot be read.
    """
    if not text.startswith("{"):
        return DataSource(text)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"got data '{text}', which is not YAML. Write '{{path: F, text_column: C}}'."
        ) from error
    return DataSource.from_dict(values)
