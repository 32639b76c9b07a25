"""Audits of adapters that are there: one that learned random completions by heart, and one that learned nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gradtx_hf.errors import ConfigurationError, DataError, GradTxError
from gradtx_hf.finetuning import FineTuningRecipe, add_adapter, fine_tune, load_language_model, tokenize_examples
from gradtx_hf.hub import Destination
from gradtx_hf.hub.cards import ModelReference
from gradtx_hf.lora import load_adapter, save_adapter
from gradtx_hf.playground import SOURCE_NAME, Rule, make_lines, source_path
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.playground.world import LETTERS
from gradtx_hf.privacy import AuditArguments, audit_adapters
from gradtx_hf.privacy.audit import audit_losses
from gradtx_hf.privacy.audit_card import write_audit
from gradtx_hf.privacy.canaries import make_text_canaries
from gradtx_hf.privacy.markdown import verdict
from gradtx_hf.privacy.report import attack_scores
from gradtx_hf.privacy.row_losses import RowLosses, measure_losses
from gradtx_hf.translation.adapter_card import AdapterFacts, adapter_card
from gradtx_hf.translation.adapter_publishing import publish_adapter_folder
from gradtx_hf.translation.audit_record import audit_text, load_audit
from gradtx_hf.translation.records import load_privacy
from tests.hubs import ALICE
from tests.translation.hub_files import card_of, repo_files


NUM_ROWS = 24
RECIPE = FineTuningRecipe(num_steps=50, batch_size=24, learning_rate=2e-2, max_length=32, warmup_steps=5)


class World:
    """Rows with random completions, and two adapters of the embedded source: trained on the members, and untrained."""

    def __init__(self, folder: Path) -> None:
        prompts = [line["prompt"] for line in make_lines([Rule("reverse", 3)], 2 * NUM_ROWS, seed=0)]
        canaries = make_text_canaries(prompts, alphabet=LETTERS, num_characters=6)
        self.members, self.others = folder / "secret_members.jsonl", folder / "secret_others.jsonl"
        self.rows = canaries.select(range(NUM_ROWS))
        self.rows.to_json(self.members)
        canaries.select(range(NUM_ROWS, 2 * NUM_ROWS)).to_json(self.others)
        self.untrained, self.learned = folder / "untrained", folder / "learned"
        language_model, self.tokenizer = load_language_model(str(source_path()), max_length=32)
        modules = ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        self.model = add_adapter(language_model, rank=16, alpha=32, target_modules=modules, seed=0)
        self.model.active_peft_config.base_model_name_or_path = SOURCE_NAME
        self.model.save_pretrained(str(self.untrained))
        self.tokens = tokenize_examples(self.rows, self.tokenizer, max_length=32)
        fine_tune(self.model, self.tokens, tokenizer=self.tokenizer, recipe=RECIPE, seed=0)
        self.model.save_pretrained(str(self.learned))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("audit"))


def arguments(world: World, folder: Path, **options: object) -> AuditArguments:
    values: dict[str, object] = {
        "adapters": [str(world.learned)],
        "members": str(world.members),
        "non_members": {"path": str(world.others)},
        "output_dir": str(folder / "out"),
        "max_length": 32,
    }
    return AuditArguments(**values | options)  # type: ignore[arg-type]


def test_an_adapter_that_learned_by_heart_is_caught_and_an_untrained_one_is_not(tmp_path: Path, world: World) -> None:
    both = [str(world.learned), str(world.untrained)]

    report = audit_adapters(arguments(world, tmp_path, adapters=both, split_by_coins=True))

    learned, untrained = report.adapters
    assert (learned.name, learned.base_model) == (str(world.learned), SOURCE_NAME)
    assert learned.attacks["difference"].auc > 0.95
    assert learned.bound is not None
    assert learned.bound.epsilon > 0.5
    assert learned.bound.num_tries == 2
    assert learned.losses.members < learned.losses.non_members - 1
    assert not learned.differs_before
    assert "**whoever has it can tell rows that it was trained on from others better than by chance**" in verdict(
        learned
    )
    assert untrained.attacks["difference"].auc == 0.5
    assert untrained.bound is not None
    assert untrained.bound.epsilon == 0
    assert "does not tell" in verdict(untrained)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.json", "report.md", "report.png"}
    assert (tmp_path / "out" / "report.png").read_bytes()[:4] == b"\x89PNG"
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert saved == json.loads(json.dumps(report.to_json()))
    assert saved["adapters"][0]["attacks"]["difference"]["caught"] is True
    assert "24 non-members are too few" in (tmp_path / "out" / "report.md").read_text()
    texts = [path.read_bytes().decode("latin-1") for path in (tmp_path / "out").iterdir()]
    secrets = ["secret_members", "secret_others", *world.rows["prompt"], *world.rows["completion"]]
    assert not any(secret in text for secret in secrets for text in texts)  # no row, no path of data


def test_losses_are_those_of_the_model_with_and_without_its_adapter(world: World) -> None:
    rows = world.tokens.select(range(5))

    losses = measure_losses(world.model, rows, batch_size=2)

    for i, row in enumerate(rows):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        with torch.no_grad():
            adapted = float(world.model(input_ids=ids, labels=labels).loss)
            with world.model.disable_adapter():
                untouched = float(world.model(input_ids=ids, labels=labels).loss)
        assert float(losses.adapted[i]) == pytest.approx(adapted, abs=1e-5)
        assert float(losses.untouched[i]) == pytest.approx(untouched, abs=1e-5)
    scores = attack_scores(losses)
    assert torch.equal(scores["difference"], losses.untouched - losses.adapted)
    assert torch.allclose(scores["ratio"] * losses.adapted, losses.untouched)


def test_the_result_goes_beside_the_adapter_and_into_its_card(tmp_path: Path, world: World) -> None:
    folder = tmp_path / "adapter"
    world.model.save_pretrained(str(folder))
    before = (folder / "README.md").read_text()

    measured = measure_losses(world.model, world.tokens, batch_size=24)
    write_audit(folder, audit_losses("a", "b", members=measured, non_members=measured).record(), name="x")
    audit_adapters(arguments(world, tmp_path, adapters=[str(folder)], write_card=True, split_by_coins=True))

    audit = load_audit(folder, name="x")
    assert audit is not None
    assert audit["auc"] > 0.95
    assert (audit["num_members"], audit["num_non_members"]) == (NUM_ROWS, NUM_ROWS)
    assert audit["epsilon_bound"]["epsilon"] > 0.5
    assert load_privacy(folder, name="x") is None  # nothing is stated; it was measured
    card = (folder / "README.md").read_text()
    assert card.startswith(before.rstrip())
    assert card.count("## Privacy audit") == 1
    assert f"AUC {audit['auc']:.3f}" in card
    facts = AdapterFacts("me/mine", None, load_adapter(folder), None, None, audit=audit)
    body = adapter_card(facts).body
    assert "No differential privacy is stated for its training." in body
    assert "Its maker audited it, which is a measurement and no guarantee: membership inference by the loss" in body
    assert ModelReference.of(facts.adapter).name == SOURCE_NAME


def test_a_push_takes_the_audit_along(
    tmp_path: Path, world: World, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    adapter, measured = load_adapter(world.learned), measure_losses(world.model, world.tokens, batch_size=24)
    save_adapter(tmp_path, config=adapter.config, tensors=adapter.tensors)
    (tmp_path / "privacy.json").write_text('{"epsilon": 1, "delta": 0}')
    record = audit_losses("a", "b", members=measured, non_members=measured).record()
    write_audit(tmp_path, record, name="x")

    publish_adapter_folder(tmp_path, Destination("org/audited"))

    published = json.loads(repo_files("org/audited")["privacy.json"])
    assert published == {"epsilon": 1, "delta": 0, "accountant": None, "audit": record}
    _, body = card_of("org/audited")
    assert "ε = 1 at δ = 0" in body
    assert f"AUC 0.500 \\[{record['auc_low']:.3f}, {record['auc_high']:.3f}\\]" in body


def test_what_is_stated_stays_and_is_refuted_by_a_larger_bound_for_the_translated_adapter_too(
    tmp_path: Path, world: World
) -> None:
    folder, translated = tmp_path / "adapter", tmp_path / "translated"
    world.model.save_pretrained(str(folder))
    world.model.save_pretrained(str(translated))
    statement = {"epsilon": 0.1, "delta": 1e-6, "accountant": "prv"}
    (folder / "privacy.json").write_text(json.dumps(statement))
    source = {"name": "a", "commit": None, "privacy": statement | {"epsilon": 9.0}}
    translation = {"translator": {"name": "t", "commit": None}, "adapters": [source], "warnings": [], "versions": {}}
    models = {"source_base_model": "s", "target_base_model": "t", "aggregation": "mean"}
    (translated / "translation.json").write_text(json.dumps(translation | models))

    report = audit_adapters(
        arguments(world, tmp_path, adapters=[str(folder), str(translated)], write_card=True, split_by_coins=True)
    )

    first, second = report.adapters
    assert first.bound is not None
    assert first.bound.delta == 1e-6
    assert first.is_refuted
    assert "Its maker states ε = 0.100 at δ = 1e-06: **that is refuted.**" in verdict(first)
    assert load_privacy(folder, name="x") == statement
    assert load_audit(folder, name="x") == first.record()
    assert second.privacy == source["privacy"]
    assert not second.is_refuted
    assert "Its maker states ε = 9.000 at δ = 1e-06, which the audit does not refute." in verdict(second)


def test_members_that_differ_before_the_training_are_reported(world: World) -> None:
    measured = measure_losses(world.model, world.tokens, batch_size=24)
    harder = RowLosses(measured.adapted + 5, measured.untouched + 5)
    audit = audit_losses("a", "b", members=measured, non_members=harder)

    assert audit.differs_before
    assert "members and non-members were drawn unlike" in verdict(audit)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": "nowhere.jsonl"}, "data 'nowhere.jsonl' is not there"),
        ({"adapters": ["nowhere/at/all"]}, "nowhere/at/all"),
        ({"members": ""}, "a data source lacks 'path'"),
        ({"adapters": []}, "got no adapter to audit"),
        ({"adapters": ["a", "a"]}, "got an adapter twice"),
        ({"base_models": ["a", "b"]}, "got 2 base_models for 1 adapters"),
        ({"batch_size": 0}, "got batch_size=0"),
        ({"members": {"path": "a", "sigma": 1}}, "unknown data key 'sigma'"),
    ],
)
def test_what_cannot_be_audited_is_refused(
    tmp_path: Path, world: World, options: dict[str, object], message: str
) -> None:
    with pytest.raises(GradTxError, match=message):
        audit_adapters(arguments(world, tmp_path, **options))

    assert not (tmp_path / "out").exists()


def test_a_row_on_both_sides_is_refused(tmp_path: Path, world: World) -> None:
    with pytest.raises(DataError, match="got 24 rows that are among the members and among the non-members"):
        audit_adapters(arguments(world, tmp_path, non_members=str(world.members)))


def test_a_model_that_the_adapter_does_not_fit_is_refused(tmp_path: Path, world: World) -> None:
    with pytest.raises(ConfigurationError, match="does not fit the model 'gradtx-hf/playground-target'"):
        audit_adapters(arguments(world, tmp_path, base_models=["gradtx-hf/playground-target"]))


@pytest.mark.parametrize("change", [{"auc": 2}, {"attack": 3}, {"epsilon_bound": {}}, {"true_positive_rates": None}])
def test_an_audit_that_makes_no_sense_is_refused(tmp_path: Path, world: World, change: dict[str, object]) -> None:
    measured = measure_losses(world.model, world.tokens, batch_size=24)
    record = audit_losses("a", "b", members=measured, non_members=measured).record()
    write_audit(tmp_path, record, name="x")
    assert load_audit(tmp_path, name="x") == record
    assert "AUC 0.500" in audit_text(record)
    write_audit(tmp_path, record | change, name="x")

    with pytest.raises(GradTxError, match=r"the audit in privacy.json of 'x' is not what gradtx audit writes"):
        load_audit(tmp_path, name="x")
