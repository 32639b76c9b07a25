"""What an organisation runs: fine-tuning from a translator's initial adapter, with or without differential privacy."""

from gradtx_hf.client.arguments import ClientArguments
from gradtx_hf.client.finetune import ClientResult, fine_tune_client
from gradtx_hf.finetuning.accounting import epsilon, noise_multiplier


__all__ = ["ClientArguments", "ClientResult", "epsilon", "fine_tune_client", "noise_multiplier"]
