"""Client: fine-tune the source model from a translator's source_init with stock PEFT and TRL, without gradtx_hf.

    python examples/02_client_with_plain_peft.py TRANSLATOR/source_init lines.jsonl client_adapter

The rows of the data have ``prompt`` and ``completion``. Nothing but the adapter folder leaves the machine.
"""

import argparse

import torch
from datasets import load_dataset
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source_init")
    parser.add_argument("data")
    parser.add_argument("output_dir")
    parser.add_argument("--num-steps", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    base = PeftConfig.from_pretrained(arguments.source_init).base_model_name_or_path
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), arguments.source_init, is_trainable=True
    )
    trainer = SFTTrainer(
        model=model,
        processing_class=AutoTokenizer.from_pretrained(base),
        train_dataset=load_dataset("json", data_files=arguments.data, split="train"),
        args=SFTConfig(
            output_dir=f"{arguments.output_dir}-work",
            max_steps=arguments.num_steps,
            warmup_steps=arguments.num_steps // 3,
            per_device_train_batch_size=8,
            learning_rate=8e-3,
            max_length=32,
            activation_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
        ),
    )
    trainer.train()
    model.save_pretrained(arguments.output_dir)
    print(f"adapter in {arguments.output_dir}; see what is in it: gradtx inspect {arguments.output_dir}")


if __name__ == "__main__":
    main()
