"""Whether an adapter, or a translator's own initial adapter, fits the translator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from gradtx_hf.errors import AdapterError, LayoutError
from gradtx_hf.hub import suggest_translators
from gradtx_hf.lora import Adapter
from gradtx_hf.playground import local_name
from gradtx_hf.translation.loading import SOURCE_INIT
from gradtx_hf.updates import Alignment, BlockLayout, align_adapter
from gradtx_hf.updates.layout import describe_difference


def check_parts(layouts: Sequence[BlockLayout], init: Adapter, *, side: str, name: str) -> None:
    """Check that the parts of a translator cover an initial adapter, and generate no tensor twice.

    Args:
        layouts: The parts' layouts of this side.
        init: The initial adapter.
        side: ``source`` or ``target``.
        name: What messages call the translator.

    Raises:
        LayoutError: If they do not.
    """
    covered: dict[str, tuple[int, ...]] = {}
    for layout in layouts:
        if side == "target" and covered.keys() & layout.shapes.keys():
            raise LayoutError(f"two parts of translator '{name}' generate the same target tensors.")
        covered |= layout.shapes
    _require_cover(covered, init, got=f"{side}_init of translator '{name}' does not fit")


def check_input_distance(layout: BlockLayout, init: Adapter, *, name: str) -> None:
    """Check that an input distance measures updates of ``source_init``.

    Args:
        layout: The input distance's layout.
        init: The initial adapter.
        name: What messages call the translator.

    Raises:
        LayoutError: If it is of other tensors.
    """
    _require_cover(layout.shapes, init, got=f"the input distance of translator '{name}' is of other updates")


def check_modules(adapter: Adapter, init: Adapter, *, translator: str) -> None:
    """Check modules, not ranks: those are brought together by the alignment.

    Raises:
        LayoutError: If the adapter adapts other modules.
    """
    if set(adapter.scales) != set(init.scales):
        raise LayoutError(
            f"{_misfit(adapter, init, translator=translator)}: {describe_difference(adapter.layout, init.layout)}"
        )


def align_to_start(adapter: Adapter, init: Adapter, *, translator: str) -> Alignment:
    """Align an adapter to the start.

    Raises:
        LayoutError: If its modules are of other widths.
    """
    try:
        return align_adapter(adapter.tensors, init.tensors, scales=adapter.scales, start_scales=init.scales)
    except LayoutError as error:
        raise LayoutError(f"{_misfit(adapter, init, translator=translator)}: {error}") from error


def check_base(adapter: Adapter, init: Adapter, *, translator: str) -> None:
    """Check that an adapter was trained on the model that the translator is for.

    Raises:
        AdapterError: If it names another one.
    """
    if local_name(adapter.base_model) != local_name(init.base_model):
        raise AdapterError(
            f"adapter '{adapter.name}' was trained on base model '{adapter.base_model}', translator '{translator}' is "
            f"for '{init.base_model}'. If these are the same weights under two names, pass --allow-other-base "
            "(allow_other_base=True)."
        )


def check_finite(tensors: Mapping[str, Tensor], *, name: str) -> None:
    """Check that an adapter holds numbers alone; those of a folder were checked when they were read.

    Raises:
        AdapterError: If a tensor holds NaN or infinite values.
    """
    for tensor_name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise AdapterError(
                f"tensor {tensor_name!r} of adapter '{name}' holds NaN or infinite values. Train it again."
            )


@contextmanager
def naming_those_that_fit(
    adapter: Adapter, init: Adapter, *, token: str | None, local_files_only: bool
) -> Iterator[None]:
    """Let a refusal of an adapter of another base model name translators on the Hub that are for it, if there are any.

    Args:
        adapter: The adapter.
        init: The initial adapter.
        token: Hub token; by default the one that is logged in.
        local_files_only: Whether to leave the Hub alone.

    Raises:
        AdapterError, LayoutError: The refusal.
    """
    try:
        yield
    except (AdapterError, LayoutError) as error:
        is_other_base = local_name(adapter.base_model) != local_name(init.base_model)
        fitting = suggest_translators(adapter.base_model, token=token) if is_other_base and not local_files_only else []
        if not fitting:
            raise
        names = ", ".join(f"'{name}'" for name in fitting)
        raise type(error)(f"{error} On the Hub are translators for '{adapter.base_model}': {names}.") from error


def check_start(adapter: Adapter, alignment: Alignment, *, limit: float | None, translator: str) -> None:
    """Check that an adapter began where the translator's clients begin.

    Args:
        adapter: The adapter.
        alignment: It, aligned to the start.
        limit: Largest distance that is accepted, in [0, 1]; None: any.
        translator: What messages call the translator.

    Raises:
        AdapterError: If it lies farther from the start.
    """
    if limit is not None and alignment.start_distance > limit:
        raise AdapterError(
            f"adapter '{adapter.name}' did not start from this translator's source_init (distance "
            f"{alignment.start_distance:.2f}, at most {limit:.2f}): its translation would be unreliable. Train it "
            f"from '{translator}/{SOURCE_INIT}', or pass --allow-other-start (allow_other_start=True)."
        )


def _require_cover(covered: Mapping[str, tuple[int, ...]], init: Adapter, *, got: str) -> None:
    if dict(covered) != {tensor: tuple(value.shape) for tensor, value in init.tensors.items()}:
        expected = BlockLayout.from_shapes(covered, token_kinds={"any": ""})
        found = BlockLayout.from_shapes(init.layout.shapes, token_kinds={"any": ""})
        raise LayoutError(f"{got}: {describe_difference(found, expected)}")


def _misfit(adapter: Adapter, init: Adapter, *, translator: str) -> str:
    """Begin a refusal; where the base models differ, they are the likely reason."""
    if local_name(adapter.base_model) == local_name(init.base_model):
        return f"adapter '{adapter.name}' does not fit translator '{translator}'"
    return (
        f"adapter '{adapter.name}' of base model '{adapter.base_model}' does not fit translator '{translator}' for "
        f"'{init.base_model}'"
    )
