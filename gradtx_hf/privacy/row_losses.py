"""The loss of every row under an adapter and under the untouched model: what membership is read from."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from tqdm import tqdm

from gradtx_hf.finetuning.generate import row_nats


@dataclass(frozen=True, eq=False)
class RowLosses:
    """Mean losses of rows, in nats per token that has loss, each float64 ``[N]``.

    Attributes:
        adapted: Under the model with its adapter.
        untouched: Under the model without it.
    """

    adapted: Tensor
    untouched: Tensor

    @property
    def differences(self) -> Tensor:
        """How much lower the adapter made each loss: higher for what seems a member."""
        return self.untouched - self.adapted

    @property
    def ratios(self) -> Tensor:
        """The untouched model's loss over the adapted one's: higher for what seems a member."""
        return self.untouched / self.adapted.clamp(min=torch.finfo(torch.float32).tiny)


def measure_losses(
    model: PeftModel, rows: Dataset, *, batch_size: int, show_progress: bool = False, description: str = "losses"
) -> RowLosses:
    """Measure rows with the adapter and without.

    Args:
        model: A model with its adapter; put into evaluation mode.
        rows: Columns ``input_ids`` and ``labels``, from ``tokenize_examples``.
        batch_size: Rows at once.
        show_progress: Show a bar of the rows on stderr.
        description: What stands before the bar.
    """
    adapted, untouched = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, dtype=torch.float64)]
    with tqdm(total=len(rows), desc=description, unit="row", file=sys.stderr, disable=not show_progress) as bar:
        for start in range(0, len(rows), batch_size):
            batch = rows.select(range(start, min(start + batch_size, len(rows))))
            nats, num_tokens = row_nats(model, batch, batch_size=batch_size)
            with model.disable_adapter():
                without, _ = row_nats(model, batch, batch_size=batch_size)
            adapted.append(nats / num_tokens)
            untouched.append(without / num_tokens)
            bar.update(len(batch))
    return RowLosses(torch.cat(adapted), torch.cat(untouched))
