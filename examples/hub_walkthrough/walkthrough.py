"""The Hub walkthrough: a provider and a client who share nothing but a Hub, here one on this machine, over HTTP.

    python examples/hub_walkthrough/walkthrough.py

Every command that it prints is a process of its own. Each role has its own folder, cache and token, and no process of
the client's can import gradtx_hf. At the end the Hub is stopped and every file removed. It takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


HERE = Path(__file__).resolve().parent
NEEDED = ("gradtx_hf", "fastapi", "uvicorn", "datasets", "trl")
USERS = {"hf_provider": "provider", "hf_client": "client"}
REQUIRED_SCORE = 0.9
"""Exact match of the translated adapter below which the walkthrough fails."""


class WalkthroughError(Exception):
    """Something did not work; one line."""


@dataclass(frozen=True)
class Role:
    """Someone with a folder, in which their commands run and their Hub cache is.

    Attributes:
        name: Who.
        folder: The folder.
        environment: What their commands find set.
    """

    name: str
    folder: Path
    environment: dict[str, str]

    @classmethod
    def make(cls, name: str, folder: Path, **environment: str) -> Role:
        """Make the folder and the environment: this process's, without its own settings of the Hub."""
        folder.mkdir()
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and key != "PYTHONPATH"}
        own = {"HF_HOME": str(folder / "huggingface"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return cls(name, folder, kept | own | {"OMP_NUM_THREADS": "1"} | environment)

    def run_installed(self, name: str, *arguments: str) -> str:
        """Run a command that is installed beside this Python, and return what it prints."""
        program = Path(sysconfig.get_path("scripts")) / name
        return self._run_to_end([str(program), *arguments], shown=[name, *arguments])

    def run_script(self, name: str, *arguments: str) -> str:
        """Run a script of this folder with no packages but those of PYTHONPATH (``-S``); return what it prints."""
        return self._run_to_end(
            [sys.executable, "-S", str(HERE / name), *arguments], shown=["python", name, *arguments]
        )

    def try_code(self, code: str) -> str:
        """Run Python code in the same way, and return the last line of what it prints or fails with."""
        done = self._run([sys.executable, "-S", "-c", code], shown=["python", "-c", code])
        print(outcome := last_line(done.stdout + done.stderr), flush=True)
        return outcome

    def _run_to_end(self, command: list[str], *, shown: list[str]) -> str:
        done = self._run(command, shown=shown)
        if done.returncode:
            raise WalkthroughError(f"'{shlex.join(shown)}' failed: {last_line(done.stderr)}")
        print(output := done.stdout.strip(), flush=True)
        return output

    def _run(self, command: list[str], *, shown: list[str]) -> subprocess.CompletedProcess[str]:
        print(f"\n{self.name}$ {shlex.join(shown)}", flush=True)
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the walkthrough and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="port of the Hub; any free one if 0")
    arguments = parser.parse_args(argv)
    try:
        require_packages()
        with tempfile.TemporaryDirectory(prefix="hub-walkthrough-") as name:
            folder = Path(name)
            with local_hub(folder, port=arguments.port) as url:
                walk(folder, url)
    except WalkthroughError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted. The Hub is stopped, its files are removed.", file=sys.stderr)
        return 1
    return 0


def walk(folder: Path, url: str) -> None:
    """Go through all steps.

    Raises:
        WalkthroughError: If one does not work, or what comes out does not.
    """
    start_time = time.perf_counter()
    provider = Role.make("provider", folder / "provider", HF_ENDPOINT=url, HF_TOKEN="hf_provider")
    packages = link_packages(folder / "packages")
    client = Role.make("client", folder / "client", HF_ENDPOINT=url, HF_TOKEN="hf_client", PYTHONPATH=str(packages))

    publish(provider)
    if "No module named 'gradtx_hf'" not in client.try_code("import gradtx_hf"):
        raise WalkthroughError("the client's processes can import gradtx_hf, so this would show nothing.")
    client.run_script("client_lines.py")
    client.run_script("client_train.py", "provider/translator", "private.jsonl", "org/client-adapter")
    require_private(url, "org/client-adapter")
    provider.run_installed(
        *("gradtx", "translate", "org/client-adapter", "--translator", "provider/translator"),
        *("--output-dir", "translated", "--push-to-hub", "org/translated"),
    )
    scores = json.loads(client.run_script("client_use.py", "org/translated", "held_out.jsonl"))
    summarize(scores, seconds=time.perf_counter() - start_time)


def publish(provider: Role) -> None:
    """Publish the embedded models, and the embedded translator, which from then on names each at its commit."""
    spec = find_spec("gradtx_hf")
    assert spec is not None
    assert spec.origin is not None
    assets = Path(spec.origin).parent / "playground" / "assets"
    models = {}
    for side in ("source", "target"):
        repo = f"provider/{side}-model"
        commit = provider.run_installed("hf", "upload", "--quiet", repo, str(assets / side)).rpartition("/")[2]
        models[side] = f"{repo}@{commit}"
    provider.run_installed(
        *("gradtx", "push", str(assets / "translator"), "provider/translator", "--public"),
        *("--source-model", models["source"], "--target-model", models["target"]),
    )


def link_packages(folder: Path) -> Path:
    """Make what a machine without gradtx_hf has: links to every other installed package."""
    folder.mkdir()
    for installed in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(installed).iterdir():
            if not path.name.startswith("gradtx_hf") and path.suffix != ".pth":
                (folder / path.name).symlink_to(path)
    return folder


def require_private(url: str, repo: str) -> None:
    """Ask for a repository without a token.

    Raises:
        WalkthroughError: If it is shown.
    """
    address = f"{url}/api/models/{repo}"
    print(f"\nstranger$ curl {address}", flush=True)
    try:
        with urllib.request.urlopen(address):
            raise WalkthroughError(f"a stranger can see {repo}.")
    except urllib.error.HTTPError as error:
        print(f"HTTP {error.code}", flush=True)


def summarize(scores: dict[str, float], *, seconds: float) -> None:
    """Print what came out.

    Raises:
        WalkthroughError: If the translated adapter does not do what the client's lines say.
    """
    print(
        "\nExact match of the large model on the client's held-out lines:\n"
        f"  untouched                    {scores['untouched']:.2f}\n"
        f"  with the translated adapter  {scores['translated']:.2f}\n"
        f"It took {seconds:.0f} s. The large model was fine-tuned by nobody, the lines never left the client's folder."
    )
    if scores["translated"] < REQUIRED_SCORE:
        raise WalkthroughError(f"the translated adapter scores {scores['translated']:.2f}, less than {REQUIRED_SCORE}.")


@contextmanager
def local_hub(folder: Path, *, port: int) -> Iterator[str]:
    """Run a Hub in a process of its own and yield its address.

    Raises:
        WalkthroughError: If it does not start, as on a port that is in use.
    """
    hub = Role.make("hub", folder / "hub")
    arguments = ["-m", "gradtx_hf.playground.hub_server", "--port", str(port), "--org", "org=provider,client"]
    arguments += [part for token, user in USERS.items() for part in ("--token", f"{token}={user}")]
    print(f"hub$ python {shlex.join(arguments)}", flush=True)
    log = hub.folder / "log.txt"
    with log.open("w") as stream:
        command = [sys.executable, *arguments]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True, env=hub.environment)
    try:
        assert server.stdout is not None
        first = server.stdout.readline().strip()  # export HF_ENDPOINT=http://127.0.0.1:8000
        if not first:
            server.wait()
            raise WalkthroughError(f"the Hub did not start: {last_line(log.read_text())}")
        print(first, flush=True)
        yield first.partition("=")[2]
    finally:
        server.terminate()
        server.communicate()


def last_line(text: str) -> str:
    """Return what a process said last."""
    lines = text.strip().splitlines() or ["it said nothing"]
    return lines[-1].removeprefix("error: ")


def require_packages() -> None:
    """Check that all is installed.

    Raises:
        WalkthroughError: If something is not.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise WalkthroughError(
            f'there is no package {", ".join(missing)}. Install it with: pip install "gradtx-hf[server,train]"'
        )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the Hub then too
    sys.exit(main())
