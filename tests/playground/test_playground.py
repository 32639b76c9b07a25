from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gradtx_hf.playground import Rule, make_lines, source_path, split_rules, target_path
from gradtx_hf.playground.world import HIDDEN, LETTERS, REARRANGEMENTS
from gradtx_hf.studies.pretrain_playground import LINE_TOKENS, LineSampler, build_tokenizer, pretrain


ALL_RULES = [Rule(rearrangement, shift) for rearrangement in REARRANGEMENTS for shift in range(12)]
PATHS = {"source": source_path(), "target": target_path()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("identity+0", "abcdef"),
        ("identity+1", "bcdefg"),
        ("reverse+0", "fedcba"),
        ("rotate_1+0", "bcdefa"),
        ("rotate_2+0", "cdefab"),
        ("swap_neighbours+0", "badcfe"),
        ("swap_halves+0", "defabc"),
        ("rotate_5+0", "fabcde"),
        ("odds_first+0", "acebdf"),
        ("interleave+0", "adbecf"),
        ("identity+11", "labcde"),
        ("reverse+7", "alkjih"),
    ],
)
def test_a_rule_rearranges_then_shifts(name: str, expected: str) -> None:
    rearrangement, _, shift = name.partition("+")

    assert Rule(rearrangement, int(shift)).apply("abcdef") == expected


def test_there_are_144_rules_with_names_tags_and_outputs_of_their_own() -> None:
    assert len({rule.name for rule in ALL_RULES}) == 144
    assert len({rule.tags for rule in ALL_RULES}) == 144
    assert len({rule.apply("abcdef") for rule in ALL_RULES}) == 144


@pytest.mark.parametrize(("preset", "sizes", "num_rules"), [("full", (108, 12, 24), 144), ("small", (27, 0, 9), 36)])
def test_presets_split_their_rules_three_ways(preset: str, sizes: tuple[int, ...], num_rules: int) -> None:
    split = split_rules(preset, seed=0)  # type: ignore[arg-type]

    assert (len(split.seen), len(split.development), len(split.report)) == sizes
    assert len({*split.seen, *split.development, *split.report}) == num_rules


def test_the_small_preset_has_six_rearrangements_and_six_shifts() -> None:
    split = split_rules("small", seed=3)

    rules = [*split.seen, *split.report]
    assert {rule.rearrangement for rule in rules} == set(list(REARRANGEMENTS)[:6])
    assert {rule.shift for rule in rules} == set(range(6))


def test_a_split_follows_from_its_seed() -> None:
    assert split_rules("full", seed=1) == split_rules("full", seed=1)
    assert split_rules("full", seed=1) != split_rules("full", seed=2)


def test_lines_hide_their_tags_and_follow_their_rule() -> None:
    rule = Rule("reverse", 3)

    rows = make_lines([rule], 200, seed="a client")

    assert len({row["prompt"] for row in rows}) == 200
    for row in rows:
        assert row["prompt"][:2] == HIDDEN * 2
        assert row["prompt"][-1] == "="
        assert row["completion"] == rule.apply(row["prompt"][2:-1])


def test_lines_follow_from_their_seed() -> None:
    rules = ALL_RULES[:5]

    assert make_lines(rules, 20, seed="a") == make_lines(rules, 20, seed="a")
    assert make_lines(rules, 20, seed="a") != make_lines(rules, 20, seed="b")


@pytest.mark.parametrize("side", PATHS)
def test_the_shipped_tokenizer_is_the_worlds_and_gives_texts_back(side: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(PATHS[side])

    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert len(tokenizer) == 41
    for text in ("??abcdef=fedcba", "AMaaaaaa=bbbbbb", LETTERS):
        ids = tokenizer(text).input_ids
        assert len(ids) == len(text)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("side", PATHS)
def test_the_shipped_models_know_every_rule_by_its_tags(side: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(PATHS[side]).eval()
    sampler = LineSampler(build_tokenizer(), generator=torch.Generator().manual_seed(5))
    ids = sampler.batch(500, hidden_share=0.0, hide_together=True)

    with torch.no_grad():
        predicted = model(input_ids=ids[:, :-1]).logits[:, -7:].argmax(-1)

    assert ids.shape == (500, LINE_TOKENS)
    # a whole line is right only if all six letters and the end are
    assert (predicted == ids[:, -7:]).all(1).float().mean() > 0.97


@pytest.mark.parametrize("side", PATHS)
def test_the_shipped_models_do_not_know_which_rule_is_meant(side: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(PATHS[side]).eval()
    sampler = LineSampler(build_tokenizer(), generator=torch.Generator().manual_seed(5))
    ids = sampler.batch(500, hidden_share=1.0, hide_together=True)

    with torch.no_grad():
        predicted = model(input_ids=ids[:, :-1]).logits[:, -7:].argmax(-1)

    assert (predicted == ids[:, -7:]).all(1).float().mean() < 0.05


def test_the_shipped_models_are_small_and_safetensors_only() -> None:
    files = [path for folder in PATHS.values() for path in folder.rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) < 3_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    for folder in PATHS.values():
        config = json.loads((folder / "config.json").read_text())
        assert "_name_or_path" not in config or not Path(config["_name_or_path"]).is_absolute()


def test_sampled_lines_obey_the_rules_of_the_world() -> None:
    tokenizer = build_tokenizer()
    sampler = LineSampler(tokenizer, generator=torch.Generator().manual_seed(0))
    by_tags = {rule.tags: rule for rule in ALL_RULES}

    lines = tokenizer.batch_decode(sampler.batch(100, hidden_share=0.0, hide_together=True)[:, :-1])

    assert all(by_tags[line[:2]].apply(line[2:8]) == line[9:] for line in lines)


def test_tags_are_hidden_together_or_each_alone() -> None:
    tokenizer = build_tokenizer()
    hidden = tokenizer.convert_tokens_to_ids(HIDDEN)
    sampler = LineSampler(tokenizer, generator=torch.Generator().manual_seed(0))

    together = sampler.batch(2000, hidden_share=0.25, hide_together=True)[:, :2] == hidden
    alone = sampler.batch(2000, hidden_share=0.25, hide_together=False)[:, :2] == hidden

    # 2,000 draws: three standard deviations of a share of 0.25 are 0.03
    assert torch.equal(together[:, 0], together[:, 1])
    assert float(together[:, 0].float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float(alone.all(1).float().mean()) == pytest.approx(0.0625, abs=0.02)


@pytest.mark.parametrize("side", PATHS)
def test_pretraining_makes_a_model_of_the_shipped_shape(side: str) -> None:
    model, exact_match = pretrain(side, seed=0, num_steps_divisor=500)

    shipped = AutoModelForCausalLM.from_pretrained(PATHS[side])
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in shipped.state_dict().items()}
    assert 0 <= exact_match < 0.1
