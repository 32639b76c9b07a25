from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi

from gradtx_hf.errors import HubError
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.playground.hub_server.faults import FAULT_KINDS
from gradtx_hf.translation import PeftTranslator
from tests.translation.hub_pair import HubPair


REPO = "org/translator-under-faults"


@pytest.mark.long  # 200 pushes and as many loads, 20 s
def test_under_faults_every_push_succeeds_or_says_why_and_every_commit_loads(
    hub: HubServer, hub_pair: HubPair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    refusals, commits = [], []

    for number in range(200):
        changed = {name: tensor + number for name, tensor in hub_pair.translator.target_init.tensors.items()}
        target_init = replace(hub_pair.translator.target_init, tensors=changed)
        hub.faults.add(*FAULT_KINDS[1:], probability=0.2, seed=number)
        try:
            commits.append(replace(hub_pair.translator, target_init=target_init).push_to_hub(REPO).commit)
        except HubError as error:
            refusals.append(str(error))
        hub.faults.clear()

    assert not any("\n" in refusal or "hf_" in refusal for refusal in refusals)
    made = [commit.commit_id for commit in HfApi().list_repo_commits(REPO)][:-1]
    assert set(commits) <= set(made)
    for commit in made:
        loaded = PeftTranslator.from_pretrained(REPO, revision=commit, cache_dir=tmp_path)
        source = hub_pair.translator.source_init.tensors
        assert all(torch.equal(loaded.source_init.tensors[name], source[name]) for name in source)
    assert len(commits) >= 150  # requests that arrive damaged are refused, not repeated
