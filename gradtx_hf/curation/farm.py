"""Packs on a Ray cluster: as many at once as its nodes have room for, wherever they are. Needs [farm].

The driver, which runs ``gradtx curate``, owns plan and store; workers (``farm_worker``) hand back whole shards, and the
driver alone writes them. A pack whose worker or node is lost is given to another worker, and what a lost one may still
do is not taken: no run is twice in the store, and its bytes are those of a curation on one machine. Source: ours.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeAlias

from tqdm import tqdm

from gradtx_hf.curation.farm_worker import FarmWorker, load_cargo, load_model_files
from gradtx_hf.curation.worker import Pack, SideRuns
from gradtx_hf.errors import ConfigurationError, MissingExtraError, StoreError
from gradtx_hf.output import write_bytes
from gradtx_hf.updates.store import Side, UpdateStore


if find_spec("ray") is None:
    raise MissingExtraError('gradtx curate --farm ray needs ray. Install it with: pip install "gradtx-hf[farm]"')

import ray
from ray.exceptions import RayError, RayTaskError


logger = logging.getLogger(__name__)

Ref: TypeAlias = "ray.ObjectRef[Any]"
Worker: TypeAlias = Any  # a handle of a FarmWorker in another process; Ray types it as the class itself

MAX_LOSSES = 5
"""How often a pack, or a worker that begins, may be lost in a row before the curation gives up."""
POLL_SECONDS = 2.0
"""How long to wait for a worker before looking again how many nodes there are."""
CONNECT_SECONDS = 10.0
"""How long a cluster may take to answer."""
PATIENCE_SECONDS = 300.0
"""How long to wait for a node to join when none is left."""


def perform_on_ray(packs: Sequence[Pack], store: UpdateStore, *, address: str | None = None) -> None:
    """Do packs on a Ray cluster and write their shards to the store.

    Every worker takes one CPU and one thread, and one GPU where the cluster has any. Nodes may leave and join.

    Args:
        packs: Packs of the store's plan.
        store: The store, on this machine.
        address: The cluster, as ``ray.init`` takes it, which must have a node on this machine; None: the one that runs
            here, or else this machine alone.

    Raises:
        ConfigurationError: If there is no such cluster, a machine has other libraries, or a run diverged.
        StoreError: If a pack is lost again and again, or no node is left.
    """
    if not packs:
        return
    with _cluster(address), tqdm(total=len(packs), desc="curating packs", unit="run", file=sys.stderr) as bar:
        for _ in _Farm(packs, store).run():
            bar.update()


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Join or start Ray, unless this process has joined already; workers end when it leaves."""
    if ray.is_initialized():
        yield
        return
    _require_answer(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports home unless told otherwise
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"cannot join a Ray cluster at '{address or 'auto'}': {reason}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str | None) -> None:
    """Check that something listens at host:port: Ray itself would try for minutes, without a word."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigurationError(f"no Ray cluster answers at '{address}': {error}. See ray status there.") from error


@dataclass(frozen=True, eq=False)
class _Job:
    """What a worker is about; done when the last of its results is there.

    Attributes:
        worker: The worker.
        results: Its results.
        pack: The pack that it does; None while it begins.
    """

    worker: Worker
    results: list[Ref]
    pack: Pack | None


class _Farm:
    """The packs that are left to do, and the workers on them."""

    def __init__(self, packs: Sequence[Pack], store: UpdateStore) -> None:
        self._store = store
        self._waiting = deque(packs)
        self._jobs: dict[Ref, _Job] = {}
        self._idle: list[Worker] = []
        self._sides: dict[Side, SideRuns] = {pack.shared.side: pack.shared for pack in packs}
        self._cargos = [ray.put(load_cargo(shared)) for shared in self._sides.values()]
        self._models: dict[Side, list[tuple[str, Ref]]] = {}
        self._losses: Counter[tuple[Side, int] | None] = Counter()
        self._uses_gpu = any(node["Resources"].get("GPU", 0) >= 1 for node in _nodes())
        self._actor: Any = ray.remote(num_cpus=1, num_gpus=int(self._uses_gpu), max_restarts=0)(FarmWorker)
        self._alone_since: float | None = None

    def run(self) -> Iterator[None]:
        """Do all packs; yield after each.

        Raises:
            Exception: What a pack raised; the others that run are given up.
        """
        try:
            while self._waiting or any(job.pack is not None for job in self._jobs.values()):
                self._hire()
                while self._waiting and self._idle:
                    self._assign(self._idle.pop(), self._waiting.popleft())
                if not self._jobs:
                    time.sleep(POLL_SECONDS)
                    continue
                done, _ = ray.wait(list(self._jobs), timeout=POLL_SECONDS)
                for ref in done:
                    if self._finish(self._jobs.pop(ref)):
                        yield
        finally:
            closing = [worker.close.remote() for worker in self._idle]
            if closing:
                ray.wait(closing, num_returns=len(closing), timeout=POLL_SECONDS)
            for worker in [*self._idle, *(job.worker for job in self._jobs.values())]:
                ray.kill(worker)

    def _hire(self) -> None:
        """Begin as many workers as there is room and work for, with those that there are."""
        capacity = sum(self._room(node["Resources"]) for node in _nodes())
        self._require_room(capacity)
        num_workers = len(self._idle) + len(self._jobs)
        num_packs = len(self._waiting) + sum(job.pack is not None for job in self._jobs.values())
        for _ in range(num_workers, min(capacity, num_packs)):
            worker = self._actor.remote()
            self._begin(_Job(worker, [worker.receive.remote(*self._cargos)], None))

    def _room(self, resources: dict[str, float]) -> int:
        names = ("CPU", "GPU") if self._uses_gpu else ("CPU",)
        return int(min(resources.get(name, 0) for name in names))

    def _require_room(self, capacity: int) -> None:
        """Wait for a while where no node is left that could take a worker."""
        if capacity > 0:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = time.monotonic()
            logger.warning("no node of the Ray cluster has room; waiting %d s for one to join", PATIENCE_SECONDS)
        elif time.monotonic() - self._alone_since > PATIENCE_SECONDS:
            raise StoreError(
                f"no node of the Ray cluster had room for {PATIENCE_SECONDS:.0f} s: '{self._store.folder}' is not "
                "complete. The same gradtx curate command continues."
            )

    def _begin(self, job: _Job) -> None:
        self._jobs[job.results[-1]] = job

    def _assign(self, worker: Worker, pack: Pack) -> None:
        results = worker.perform.options(num_returns=len(pack.runs) + 1).remote(pack)
        self._begin(_Job(worker, results, pack))

    def _finish(self, job: _Job) -> bool:
        """Take what a job gave, or put its pack back; return whether a pack is done."""
        key = None if job.pack is None else (job.pack.shared.side, job.pack.number)
        try:
            if job.pack is None:
                self._welcome(job)
                return False
            self._write(job.pack, job.results)
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except RayError as error:
            self._lose(job, key, error)
            return False
        self._losses.pop(key, None)
        self._idle.append(job.worker)
        return True

    def _welcome(self, job: _Job) -> None:
        """Give a worker that has begun the models that it lacks."""
        lacking = ray.get(job.results)[0]
        if len(job.results) > 1 or not lacking:
            self._losses.pop(None, None)
            self._idle.append(job.worker)
            return
        sent = [
            job.worker.receive_model_file.remote(side, name, content)
            for side in lacking
            for name, content in self._model(side)
        ]
        self._begin(_Job(job.worker, [*job.results, *sent], None))

    def _model(self, side: Side) -> list[tuple[str, Ref]]:
        if side not in self._models:
            logger.info("sending the %s model '%s' to other machines", side, self._sides[side].settings.model)
            self._models[side] = [(name, ray.put(content)) for name, content in load_model_files(self._sides[side])]
        return self._models[side]

    def _write(self, pack: Pack, results: Sequence[Ref]) -> None:
        side = pack.shared.side
        for run, ref in zip(pack.runs, results, strict=False):
            write_bytes(self._store.shard_path(side, run.shadow_set), ray.get(ref))
        logger.info("%s pack %d took %.1f s", side, pack.number, ray.get(results[-1]))

    def _lose(self, job: _Job, key: tuple[Side, int] | None, error: RayError) -> None:
        """Give up a worker, and put its pack first in the line."""
        ray.kill(job.worker)  # it may run on, out of reach
        if job.pack is not None:
            self._waiting.appendleft(job.pack)
        self._losses[key] += 1
        what = "a worker that began" if key is None else f"the worker on {key[0]} pack {key[1]}"
        if self._losses[key] >= MAX_LOSSES:
            raise StoreError(
                f"{what} was lost {MAX_LOSSES} times, perhaps for want of memory: lower pack or target_pack. The same "
                "gradtx curate command continues."
            ) from error
        logger.warning("%s was lost (%s); it is done again elsewhere", what, type(error).__name__)


def _nodes() -> list[dict[str, dict[str, float]]]:
    """Return the nodes that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]
