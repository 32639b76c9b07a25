"""Train a translator in several processes of this machine, from Python: what ``torchrun`` does from a shell."""

from __future__ import annotations

import gc
import os
import signal
import uuid
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from gradtx_hf.errors import GradTxError
from gradtx_hf.finetuning.allocator import keep_freed_memory
from gradtx_hf.finetuning.worker_processes import start_method
from gradtx_hf.training.run import TranslatorArguments, train


def train_in_processes(values: Mapping[str, Any], *, num_processes: int) -> None:
    """Train a translator in processes side by side, data-parallel; each has one thread on a CPU.

    Args:
        values: Fields of ``TranslatorArguments``; ``per_device_train_batch_size`` is each process's share of a batch.
        num_processes: How many processes. The trained weights depend on it, as each draws its own noise.

    Raises:
        KeyboardInterrupt: At Ctrl-C, once the processes have ended.
        GradTxError: If a process failed; its own message is on stderr. The same call goes on from the last checkpoint.
    """
    arguments = TranslatorArguments(**values)  # refused here, in one line, rather than in every process
    if num_processes == 1:
        train(arguments)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # what a launcher sets as well, with a warning
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method=start_method(),
    )
    try:
        elastic_launch(config, _train)(dict(values))
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise
    except ChildFailedError as error:
        raise GradTxError(
            f"the training of '{values['output_dir']}' failed in one of its {num_processes} processes: see the lines "
            "above. The same command goes on from the last checkpoint."
        ) from error


def _train(values: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # by which the launcher ends it, and without a word
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
        keep_freed_memory()  # this process does nothing but train
    gc.freeze()  # what was imported stays
    train(TranslatorArguments(**values))
