"""Several clients' adapters as one adapter of the source model, without a translator.

What comes out is an ordinary source adapter: it can be handed on, translated later, or used with the small model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from torch import Tensor

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.lora import save_adapter
from gradtx_hf.output import new_folder, write_json
from gradtx_hf.translation.aggregation import Aggregation, AggregationSettings
from gradtx_hf.translation.contributions import combine_updates
from gradtx_hf.translation.reading import (
    AnyAdapter,
    ClientStart,
    ReadingOptions,
    as_adapters,
    read_sources,
)
from gradtx_hf.translation.records import AGGREGATION_FILE
from gradtx_hf.translation.report import describe_skipped, describe_sources, describe_versions
from gradtx_hf.updates import UpdateVector


@dataclass(frozen=True, eq=False)
class AggregatedAdapter:
    """A source adapter made of several.

    Attributes:
        peft_config: PEFT's configuration, that of the initial adapter.
        tensors: Factors by name ``<module path>.<factor>``, float32.
        report: What was aggregated and how, as JSON values.
    """

    peft_config: LoraConfig
    tensors: dict[str, Tensor]
    report: dict[str, Any]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that PEFT loads and ``gradtx translate`` reads, with the report beside the two PEFT files.

        Raises:
            OutputExistsError: If the folder exists and is not empty.
        """
        with new_folder(folder) as temporary:
            save_adapter(temporary, config=self.peft_config, tensors=self.tensors)
            write_json(temporary / AGGREGATION_FILE, self.report)


def aggregate_adapters(
    adapters: AnyAdapter | Sequence[AnyAdapter],
    start: ClientStart,
    *,
    aggregation: Aggregation | AggregationSettings = "mean",
    weights: Sequence[float] | None = None,
    skip_invalid: bool = False,
    options: ReadingOptions | None = None,
) -> AggregatedAdapter:
    """Aggregate clients' adapters, of whatever ranks, to one at the rank of their start.

    Args:
        adapters: Folders, ``owner/name[@revision]``, or adapters.
        start: Where the clients began.
        aggregation: How several updates become one: a rule such as ``mean`` or ``median``, or all settings.
        weights: One weight per adapter, such as its number of samples; the median and the trimmed mean have none.
        skip_invalid: Leave out adapters that are refused, in place of refusing all; the report names them.
        options: How adapters are found, and what is accepted; None: the defaults.

    Raises:
        AdapterError: If an adapter is refused, or all were left out.
        LayoutError: If an adapter does not fit the start.
        ConfigurationError: If there is no adapter, or aggregation and weights do not fit.
        MissingFileError: If an adapter is not there.
    """
    settings = AggregationSettings.of(aggregation)
    if settings.merge == "after":
        raise ConfigurationError("merge='after' needs a translation to come after. Use gradtx translate.")
    read = read_sources(
        as_adapters(adapters),
        weights=weights,
        settings=settings,
        skip_invalid=skip_invalid,
        start=start,
        options=options or ReadingOptions(),
    )
    init = start.init
    combined = combine_updates(
        [UpdateVector.between(source.alignment.state, init.tensors, init.layout) for source in read.sources],
        names=read.names,
        settings=settings,
        weights=read.weights,
    )
    tensors = combined.update.added_to(init.tensors)
    report = {
        "init": init.name,
        "source_base_model": init.base_model,
        "aggregation": settings.rule,
        "aggregation_settings": settings.to_dict(),
        "adapters": describe_sources(read, combined, init),
        "skipped": describe_skipped(read),
        "update_norm": combined.update.norm,
        "warnings": [*read.warnings, *combined.warnings],
        "versions": describe_versions(),
    }
    return AggregatedAdapter(copy.deepcopy(init.config), {name: tensors[name] for name in init.tensors}, report)
