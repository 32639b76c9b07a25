"""The recipes of ``examples/farm`` make the store that one machine makes; their command lines are the tools' own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.updates.store import UpdateStore
from tests.cli.story import story


FARM = Path(__file__).parents[2] / "examples" / "farm"
HF = Path(sys.executable).with_name("hf")

HF_STANDIN = f"""#!/bin/bash
# hf for this test: a bucket is a folder, and a job runs here, after the real hf has read its command line
set -euo pipefail
place() {{ case $1 in hf://buckets/*) echo "$BUCKETS/${{1#hf://buckets/}}";; *) echo "$1";; esac; }}
case "$1 $2" in
  "buckets create") mkdir -p "$BUCKETS/$3";;
  "buckets cp") mkdir -p "$(dirname "$(place "$4")")"; cp "$3" "$(place "$4")";;
  "jobs run")
    HF_TOKEN=none {HF} jobs run --dry-run "${{@:3}}" --quiet >> "$BUCKETS/checked"
    while [ "$1" != bash ]; do shift; done
    "$@" > "$BUCKETS/log" 2>&1 < /dev/null || {{ cat "$BUCKETS/log" >&2; exit 1; }}
    echo job;;
  "jobs wait") ;;
  sync*) from=$(place "$2"); to=$(place "$3"); [ -d "$from" ] || exit 1
    mkdir -p "$to"; to=$(realpath "$to"); cd "$from"; find . -type f ! -name ".*" | tar -c -T - | tar -x -C "$to";;
  *) exit 2;;
esac
"""


def write_config(folder: Path) -> Path:
    config = folder / "curate.yaml"
    config.write_text(yaml.safe_dump(story().curation | {"pack": 1, "output_dir": str(folder / "store")}))
    return config


def expected(folder: Path) -> dict[str, bytes]:
    curate(CurationArguments(**story().curation, pack=1, output_dir=str(folder)))
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    UpdateStore.open(folder).verify()
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name[0] != "."
    }


def test_every_recipe_names_flags_that_there_are() -> None:
    scripts = (FARM / "hf_jobs.sh").read_text() + (FARM / "slurm_submitit.py").read_text()
    scripts += (FARM / "README.md").read_text()

    flags = {"plan_only", "share", "farm", "ray_address", "output_dir"}

    assert flags <= set(CurationArguments.__dataclass_fields__)
    assert {flag for flag in flags if f"--{flag.replace('_', '-')}" in scripts} == flags


@pytest.mark.long
def test_slurm_recipe_makes_the_store_of_one_machine(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs submitit")
    command = [sys.executable, str(FARM / "slurm_submitit.py"), str(write_config(tmp_path)), "--num-shares", "2"]

    done = subprocess.run([*command, "--cluster", "local", "--logs", str(tmp_path / "logs")], check=True, text=True)

    assert done.returncode == 0
    assert contents(tmp_path / "store") == expected(tmp_path / "one")


@pytest.mark.long
def test_recipe_of_hub_jobs_makes_the_store_of_one_machine(tmp_path: Path) -> None:
    tools, buckets = tmp_path / "tools", tmp_path / "buckets"
    tools.mkdir()
    buckets.mkdir()
    gradtx = f'#!/bin/bash\nif [ "$1 $2" = "store push" ]; then cp -r "$3" {tmp_path}/pushed; exit; fi\n'
    gradtx += f'exec {sys.executable} -m gradtx_hf.cli.main "$@"\n'
    for name, text in {
        "hf": HF_STANDIN,
        "gradtx": gradtx,
        "pip": "#!/bin/bash\n",
        "sleep": "#!/bin/bash\nexec /bin/sleep 1\n",
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "BUCKETS": str(buckets),
        "TMPDIR": str(tmp_path),
    }
    command = [str(FARM / "hf_jobs.sh"), str(write_config(tmp_path)), "me/bucket", "me/store", "2", "t4-small"]

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "pushed") == expected(tmp_path / "one")
    shares = [{path.name for path in (buckets / f"me/bucket/share-{i}-of-2").iterdir()} for i in range(2)]
    assert [len(names) for names in shares] == [2, 4]  # two source runs; one, and a pack of three target runs
    assert len(shares[0] | shares[1]) == 6
