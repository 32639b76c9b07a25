"""What an organisation runs: fine-tuning from a translator's initial adapter."""

from gradtx_hf.client.arguments import ClientArguments
from gradtx_hf.client.finetune import fine_tune_client


__all__ = ["ClientArguments", "fine_tune_client"]
