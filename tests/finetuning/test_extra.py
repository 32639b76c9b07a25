from __future__ import annotations

import subprocess
import sys


def test_missing_extra_is_named_with_the_command_that_installs_it() -> None:
    code = (
        "import importlib.util as util\n"
        "find_spec = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'trl' else find_spec(name, *rest)\n"
        "import gradtx_hf.finetuning\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    expected = 'MissingExtraError: gradtx_hf.finetuning needs trl. Install it with: pip install "gradtx-hf[train]"'
    assert done.stderr.strip().splitlines()[-1].endswith(expected)
