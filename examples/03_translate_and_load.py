"""Translate a client's adapter and use the result with stock PEFT.

python examples/03_translate_and_load.py TRANSLATOR client_adapter translated_adapter --prompt '??abcdef='
"""

import argparse

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from gradtx_hf import PeftTranslator


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("translator", help="folder, or owner/name[@revision] on the Hub")
    parser.add_argument("client_adapter", help="folder, or owner/name[@revision] on the Hub")
    parser.add_argument("output_dir")
    parser.add_argument("--prompt", default="??abcdef=")
    arguments = parser.parse_args()

    # No language model is loaded here: a translation takes seconds, and about the translator's own memory.
    translator = PeftTranslator.from_pretrained(arguments.translator)
    translated = translator.translate(arguments.client_adapter)
    translated.save_pretrained(arguments.output_dir)
    print(translated.report)

    # From here on it is an ordinary LoRA adapter.
    base = translated.peft_config.base_model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), arguments.output_dir)
    inputs = tokenizer(arguments.prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    print(tokenizer.decode(output[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()
