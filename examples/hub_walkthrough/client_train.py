"""Client: fine-tune from a translator's source_init on the Hub and publish the adapter, with stock PEFT and TRL.

    python client_train.py provider/translator private.jsonl org/client-adapter

The rows of the data have ``prompt`` and ``completion``; they stay here. The adapter's repository is private.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from datasets import load_dataset
from huggingface_hub import HfApi
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Train, save as PEFT does, publish as one commit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("translator", help="the translator's repository")
    parser.add_argument("data", help="file of private lines")
    parser.add_argument("repo", help="private repository for the adapter")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()

    # source_init names its base model and that model's commit.
    start = PeftConfig.from_pretrained(arguments.translator, subfolder="source_init")
    base, commit = start.base_model_name_or_path, start.revision
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, revision=commit),
        arguments.translator,
        subfolder="source_init",
        is_trainable=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            processing_class=AutoTokenizer.from_pretrained(base, revision=commit),
            train_dataset=load_dataset("json", data_files=arguments.data, split="train"),
            args=SFTConfig(  # the recipe of the translator's shadow sets
                output_dir=f"{folder}/work",
                max_steps=60,
                warmup_steps=30,
                per_device_train_batch_size=16,
                learning_rate=2.5e-3,
                weight_decay=0.01,
                max_length=32,
                activation_checkpointing=False,
                bf16=False,
                use_cpu=True,
                save_strategy="no",
                report_to="none",
                logging_steps=20,
                disable_tqdm=True,
            ),
        )
        trainer.train()
        adapter = Path(folder) / "adapter"
        model.save_pretrained(adapter)

        # Not model.push_to_hub, which leaves PEFT's own card out.
        api = HfApi()
        api.create_repo(arguments.repo, private=True, exist_ok=True)
        print(api.upload_folder(repo_id=arguments.repo, folder_path=adapter).commit_url)


if __name__ == "__main__":
    main()
