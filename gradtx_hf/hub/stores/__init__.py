"""Update stores as data set repositories on the Hub, which ``datasets`` reads too. Needs [train]."""

from importlib.util import find_spec

from gradtx_hf.errors import MissingExtraError


if find_spec("pyarrow") is None:
    raise MissingExtraError('gradtx_hf.hub.stores needs datasets. Install it with: pip install "gradtx-hf[train]"')

from gradtx_hf.hub.stores.description import describe_store
from gradtx_hf.hub.stores.pull import pull_store
from gradtx_hf.hub.stores.push import push_store


__all__ = ["describe_store", "pull_store", "push_store"]
