"""Client: load a translated adapter from the Hub with stock PEFT, and score it beside the untouched large model.

    python client_use.py org/translated held_out.jsonl

Prints the share of lines that each completes exactly, as JSON.
"""

import argparse
import json
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging


def main() -> None:
    """Load, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", help="the translated adapter's repository")
    parser.add_argument("data", help="file of held-out lines")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    rows = [json.loads(line) for line in Path(arguments.data).read_text(encoding="utf-8").splitlines()]

    config = PeftConfig.from_pretrained(arguments.adapter)
    base, commit = config.base_model_name_or_path, config.revision
    tokenizer = AutoTokenizer.from_pretrained(base, revision=commit)
    target = AutoModelForCausalLM.from_pretrained(base, revision=commit)
    untouched = exact_match(target, tokenizer, rows)
    translated = exact_match(PeftModel.from_pretrained(target, arguments.adapter), tokenizer, rows)
    print(json.dumps({"untouched": untouched, "translated": translated}))


def exact_match(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, str]]
) -> float:
    """Return the share of rows that a model completes exactly; all prompts are of one length, so none is padded."""
    inputs = tokenizer([row["prompt"] for row in rows], return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    completions = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    hits = [said.strip() == row["completion"] for said, row in zip(completions, rows, strict=True)]
    return sum(hits) / len(hits)


if __name__ == "__main__":
    main()
