from __future__ import annotations

import pytest

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.hub import Destination


@pytest.mark.parametrize(
    ("options", "saying"),
    [
        ({"repo_id": "no-owner"}, "owner/name"),
        ({"repo_id": "/tmp/x"}, "owner/name"),
        ({"repo_id": "a/b/c"}, "owner/name"),
        ({"revision": "a" * 40}, "a branch"),
        ({"revision": ""}, "a branch"),
        ({"token": "two words"}, "no token has"),
    ],
)
def test_a_destination_that_cannot_be_one_is_refused(options: dict[str, str], saying: str) -> None:
    with pytest.raises(ConfigurationError, match=saying):
        Destination(**{"repo_id": "alice/x", **options})  # type: ignore[arg-type]
