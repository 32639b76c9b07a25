"""Provider: curate shadow adapters on public data and train a translator, in Python, on the embedded pair.

    python examples/01_provider.py --output-dir provider

Four edit rules instead of the quickstart's 27, so that it ends within two minutes; the translator is a toy.
"""

import argparse
import json
from pathlib import Path

import torch

from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.playground import make_lines, source_path, split_rules, target_path
from gradtx_hf.training import TranslatorArguments, train


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--num-shadow-sets", type=int, default=16)
    parser.add_argument("--num-steps", type=int, default=60, help="steps of each fine-tuning")
    parser.add_argument("--max-steps", type=int, default=400, help="steps of the translator's training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    # Public data: one file per rule, rows of prompt and completion. Any data set that `datasets` reads will do.
    data = arguments.output_dir / "data"
    data.mkdir(parents=True)
    corpora = []
    for rule in split_rules("small", seed=0).seen[:4]:
        path = data / f"{rule.name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in make_lines([rule], 512, seed=rule.name)))
        corpora.append({"label": rule.name, "path": str(path)})

    recipe = {"num_steps": arguments.num_steps, "warmup_steps": arguments.num_steps // 2, "max_length": 32}
    store = curate(
        CurationArguments(
            source_model=str(source_path()),
            target_model=str(target_path()),
            output_dir=str(arguments.output_dir / "store"),
            corpora=corpora,
            num_shadow_sets=arguments.num_shadow_sets,
            samples_per_set=128,
            num_snapshots=4,
            alpha=16,
            dropout=0.0,
            source_recipe=recipe | {"batch_size": 8, "learning_rate": 8e-3},
            target_recipe=recipe | {"batch_size": 16, "learning_rate": 5e-3},
        )
    )
    translator = train(
        TranslatorArguments(
            store=str(store.folder),
            output_dir=str(arguments.output_dir / "translator"),
            max_steps=arguments.max_steps,
            eval_strategy="steps",
            eval_steps=arguments.max_steps,
            save_strategy="steps",
            save_steps=arguments.max_steps,
            use_cpu=True,
        )
    )
    print(
        f"translator in {arguments.output_dir / 'translator'}: {translator.source_init.layout.num_blocks} blocks in, "
        f"{translator.target_init.layout.num_blocks} blocks out"
    )


if __name__ == "__main__":
    main()
