"""Samples of several data sources as one set of examples: a client whose data are a mixture."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from datasets import Dataset, concatenate_datasets

from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.finetuning.data import DataSource, load_examples


Half = Literal["first", "second"]


@dataclass(frozen=True)
class Sample:
    """Some examples of one data source.

    Attributes:
        source: The data.
        num_samples: How many examples to draw without replacement; None: all, in their order.
    """

    source: DataSource
    num_samples: int | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sample:
        """Build a sample from configuration values: those of a data source, and ``num_samples``.

        Raises:
            ConfigurationError: If a key is unknown, or the number is not positive.
        """
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"got data source {values!r}, expected keys and values, such as path.")
        num_samples = values.get("num_samples")
        if num_samples is not None and (not isinstance(num_samples, int) or num_samples < 1):
            raise ConfigurationError(f"got num_samples={num_samples!r}, expected a whole number of at least 1.")
        source = DataSource.from_dict({key: value for key, value in values.items() if key != "num_samples"})
        return cls(source, num_samples)


def load_samples(samples: Sequence[Sample], *, seed: int, half: Half | None = None) -> Dataset:
    """Load samples, one after the other.

    Args:
        samples: What to draw from where.
        seed: Seed of the drawing.
        half: Which half of each sample's rows; None: all.

    Returns:
        Examples with the columns of ``load_examples``.

    Raises:
        DataError: If there is no sample, a source has too few examples, or the sources have different columns; or a
            half has no row.
        MissingFileError: If a source is not there.
    """
    if not samples:
        raise DataError("got no data source, expected at least one.")
    parts = [_draw(sample, random.Random(f"sample {i}, seed {seed}")) for i, sample in enumerate(samples)]
    for sample, part in zip(samples, parts, strict=True):
        if part.column_names != parts[0].column_names:
            raise DataError(
                f"data '{sample.source.path}' gives {', '.join(part.column_names)}, but '{samples[0].source.path}' "
                f"gives {', '.join(parts[0].column_names)}. Name columns of one kind."
            )
    if half is not None:
        parts = [_half(part, half, sample) for sample, part in zip(samples, parts, strict=True)]
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0]


def _half(examples: Dataset, half: Half, sample: Sample) -> Dataset:
    middle = len(examples) // 2
    if middle == 0:
        raise DataError(f"data '{sample.source.path}' gives one row, of which there is no half. Give at least two.")
    return examples.select(range(middle) if half == "first" else range(middle, len(examples)))


def _draw(sample: Sample, generator: random.Random) -> Dataset:
    examples = load_examples(sample.source)
    if sample.num_samples is None:
        return examples
    if sample.num_samples > len(examples):
        raise DataError(
            f"data '{sample.source.path}' has {len(examples)} examples in split '{sample.source.split}', expected at "
            f"least {sample.num_samples}. Lower num_samples, or give more data."
        )
    return examples.select(generator.sample(range(len(examples)), sample.num_samples))
