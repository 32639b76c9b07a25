"""Read a translator's configuration and weights from a folder that somebody else wrote.

What the configuration asks for is compared with the headers of the weights' files before anything is built, and every
tensor's shape before any is read, so that a few lines of JSON cannot ask for more than the files bear out.

Axes: N_S / N_T blocks, D_S / D_T size of the largest block. Source: ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from gradtx_hf.errors import ConfigurationError, GradTxError, LayoutError, MissingFileError
from gradtx_hf.model.configuration import GradTransformerConfig, complete_t5
from gradtx_hf.updates.reading import DAMAGE, ForeignFolder, TensorInfo


CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_PATTERN = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
DTYPES = ("F32", "BF16", "F16", "F64")
"""Number formats of weights that are read, in safetensors' names."""
MAX_SCORES = 2**28
"""Entries of an attention's scores for one update: heads times the square of the number of blocks."""


def read_config(files: ForeignFolder) -> GradTransformerConfig:
    """Read a translator's ``config.json``.

    Raises:
        MissingFileError: If it is not there.
        LayoutError: If it is not JSON, of another kind of model, or its layouts cannot be read.
        ConfigurationError: If a value cannot be used.
    """
    values = files.read_json(CONFIG_FILE)
    found = values.get("model_type") if isinstance(values, dict) else None
    if found != GradTransformerConfig.model_type:
        raise LayoutError(
            f"{CONFIG_FILE} of {files.owner} has model_type {found!r}, expected "
            f"{GradTransformerConfig.model_type!r}. Give a translator's folder or repository."
        )
    try:
        return GradTransformerConfig.from_dict(values)
    except GradTxError as error:
        raise type(error)(f"{CONFIG_FILE} of {files.owner}: {error}") from error
    except DAMAGE as error:
        raise ConfigurationError(f"{CONFIG_FILE} of {files.owner} has a value that cannot be used: {error}.") from error


def read_weights(
    files: ForeignFolder, config: GradTransformerConfig, *, build: Callable[[GradTransformerConfig], nn.Module]
) -> dict[str, Tensor]:
    """Read the weights of a configuration's model, all of them and no others; raises as ``check_weights`` does."""
    found, expected = check_weights(files, config, build=build)
    return read_tensors(files, found, expected)


def check_weights(
    files: ForeignFolder, config: GradTransformerConfig, *, build: Callable[[GradTransformerConfig], nn.Module]
) -> tuple[dict[str, dict[str, TensorInfo]], dict[str, tuple[int, ...]]]:
    """Check that a folder holds the weights of a configuration's model, all of them and no others; none is read.

    Args:
        files: The folder.
        config: The configuration.
        build: What makes the model; called without memory for its weights.

    Returns:
        What ``read_headers`` found, and every weight's shape by its name.

    Raises:
        MissingFileError: If there are no safetensors weights.
        LayoutError: If they are damaged, or not those of the configuration.
    """
    found = read_headers(files)
    infos = {name: info for shard in found.values() for name, info in shard.items()}
    _check_size(files, config, infos)
    try:
        with torch.device("meta"):
            expected = {name: tuple(tensor.shape) for name, tensor in build(config).state_dict().items()}
    except DAMAGE as error:
        raise ConfigurationError(
            f"{CONFIG_FILE} of {files.owner} is of no model that can be built: {error}."
        ) from error
    require_shapes(files, infos, expected)
    for name in infos:
        if name not in expected:
            raise _misfit(files, "unexpected", sorted(set(infos) - set(expected)))
    return found, expected


def read_headers(files: ForeignFolder) -> dict[str, dict[str, TensorInfo]]:
    """Return the files that hold a model's weights, with what each says of its tensors.

    Raises:
        MissingFileError: If there are none.
        GradTxError: Of the folder's kind, if one is damaged, or a tensor is in two of them.
    """
    found: dict[str, dict[str, TensorInfo]] = {}
    for name in _weight_files(files):
        with files.open_tensors(name) as (_, infos):
            found[name] = infos
    if len({name for infos in found.values() for name in infos}) < sum(map(len, found.values())):
        raise files.error(f"{files.owner} has a weight in two files. Save it again.")
    return found


def read_tensors(
    files: ForeignFolder, found: Mapping[str, Mapping[str, TensorInfo]], wanted: Iterable[str]
) -> dict[str, Tensor]:
    """Read tensors by name from the files whose headers were read.

    They lie on the files' own pages until they are copied; a file's pages leave memory with its last tensor.
    """
    names = set(wanted)
    tensors: dict[str, Tensor] = {}
    for file, infos in found.items():
        if names.isdisjoint(infos):
            continue
        with files.open_tensors(file) as (opened, _):
            tensors |= {name: opened.get_tensor(name) for name in infos if name in names}
    return tensors


def require_shapes(
    files: ForeignFolder, infos: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Check that weights are there, of the right shapes, and in a format that can be read.

    Raises:
        GradTxError: Of the folder's kind, if not.
    """
    missing = sorted(set(expected) - set(infos))
    if missing:
        raise _misfit(files, "missing", missing)
    mismatched = sorted(name for name, shape in expected.items() if infos[name].shape != shape)
    if mismatched:
        raise _misfit(files, "mismatched", mismatched)
    for name in expected:
        if infos[name].dtype not in DTYPES:
            raise files.error(
                f"weight '{name}' of {files.owner} is {infos[name].dtype}, expected one of {', '.join(DTYPES)}. "
                "Save it again."
            )


def require_finite(name: str, values: Tensor, *, owner: str) -> None:
    """Check that a weight holds numbers.

    Raises:
        LayoutError: If not.
    """
    if values.is_floating_point() and not bool(values.isfinite().all()):
        raise LayoutError(f"weight '{name}' of {owner} holds NaN or infinite values. Train it again.")


def _weight_files(files: ForeignFolder) -> list[str]:
    if files.has(WEIGHTS_FILE):
        return [WEIGHTS_FILE]
    if not files.has(INDEX_FILE):
        raise MissingFileError(
            f"{files.owner} has no {WEIGHTS_FILE}. Copy or download it again; pickled weights are not read."
        )
    index = files.read_json(INDEX_FILE)
    places = index.get("weight_map") if isinstance(index, dict) else None
    names = set(places.values()) if isinstance(places, dict) and all(map(_is_shard, places.values())) else set()
    if not names:
        raise files.error(
            f"{INDEX_FILE} of {files.owner} names no files such as model-00001-of-00002.safetensors. Save it again."
        )
    return sorted(names)


def _is_shard(name: object) -> bool:
    return isinstance(name, str) and SHARD_PATTERN.fullmatch(name) is not None


def _check_size(files: ForeignFolder, config: GradTransformerConfig, infos: Mapping[str, TensorInfo]) -> None:
    """Check what bounds the time and memory of building and running the model, before it is built."""
    source, target = config.source_layout, config.target_layout
    statistics = {
        f"{side}_{kind}": (layout.num_blocks, layout.block_dim)
        for side, layout in (("source", source), ("target", target))
        for kind in ("mean", "std")
    }
    require_shapes(files, infos, statistics)
    if not config.has_transformer:
        return
    t5 = complete_t5(config.t5 or {})
    num_layers = int(t5["num_layers"]) + int(t5["num_decoder_layers"])
    if num_layers + len(source.kinds) + len(target.kinds) > len(infos):
        raise LayoutError(
            f"{CONFIG_FILE} of {files.owner} asks for {num_layers} layers and {len(source.kinds) + len(target.kinds)} "
            f"token kinds, its weights are {len(infos)} tensors. They do not belong together: save it again."
        )
    num_blocks = max(source.num_blocks, target.num_blocks)
    if int(t5["num_heads"]) * num_blocks**2 > MAX_SCORES:
        raise LayoutError(
            f"{CONFIG_FILE} of {files.owner} asks for {t5['num_heads']} attention heads over {num_blocks} blocks, more "
            "than are run here. Use fewer heads or fewer token kinds."
        )


def _misfit(files: ForeignFolder, problem: str, names: list[str]) -> GradTxError:
    return files.error(
        f"{files.owner} has {problem} weight '{names[0]}' ({len(names)} {problem} in all). Its {CONFIG_FILE} and its "
        "weights do not belong together: save it again."
    )
