"""K adapters in one pass are exact twins of K PEFT models, one by one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn import functional as F

from gradtx_hf.errors import LayoutError
from gradtx_hf.lora.adapter_dropout import AdapterDropout
from gradtx_hf.lora.stacked import IGNORED, AdapterStack, losses_by_adapter
from tests.lora.architectures import ARCHITECTURES, Architecture


K, R, T = 3, 2, 7
ALPHA, RANK = 6, 2
# GPT-2, OPT and BLOOM compute all of a pass in float64; Llama's norms and softmax go through float32
EXACT = {"gpt2": 1e-12, "opt": 1e-12}


def peft_twin(architecture: Architecture, targets: tuple[str, ...]) -> PeftModel:
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=list(targets),
        fan_in_fan_out=architecture.has_conv1d,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(architecture.make(), config).double().eval()


def parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """Return the factors by our names."""
    found = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            path = name.removeprefix("base_model.model.").replace(".default", "").removesuffix(".weight")
            found[path] = parameter
    return found


def random_factors(model: PeftModel) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: (0.3 * torch.randn(K, *p.shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for name, p in parameters(model).items()
    }


def batch() -> dict[str, Tensor]:
    """Return rows of uneven length, with prompts that carry no loss."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 48, (K * R, T), generator=generator)
    lengths = torch.tensor([7, 5, 6, 7, 4, 7])
    is_token = torch.arange(T) < lengths[:, None]
    labels = torch.where(is_token & (torch.arange(T) >= 2), ids, IGNORED)
    return {"input_ids": ids, "labels": labels, "attention_mask": is_token.long()}


def twin_loss(model: PeftModel, rows: dict[str, Tensor]) -> Tensor:
    logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), rows["labels"][:, 1:].flatten(), ignore_index=IGNORED)


def set_factors(model: PeftModel, factors: dict[str, Tensor], k: int) -> None:
    for name, parameter in parameters(model).items():
        parameter.data = factors[name][k].detach().clone()
        parameter.grad = None


def scales(factors: dict[str, Tensor]) -> dict[str, float]:
    return {name.rpartition(".")[0]: ALPHA / RANK for name in factors}


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_losses_and_gradients_are_those_of_separate_adapters(name: str) -> None:
    architecture = ARCHITECTURES[name]
    twin = peft_twin(architecture, architecture.projections)
    factors = random_factors(twin)
    model = architecture.make().double()
    rows = batch()

    losses = AdapterStack(model, scales=scales(factors)).losses(factors, **rows)
    losses.sum().backward()

    tolerance = EXACT.get(name, 1e-5)
    for k in range(K):
        set_factors(twin, factors, k)
        expected = twin_loss(twin, {key: values[k * R : (k + 1) * R] for key, values in rows.items()})
        expected.backward()
        assert float(losses[k].detach()) == pytest.approx(float(expected.detach()), abs=tolerance)
        for path, parameter in parameters(twin).items():
            torch.testing.assert_close(factors[path].grad[k], parameter.grad, atol=tolerance, rtol=tolerance)


def test_training_together_ends_where_training_alone_does() -> None:
    architecture = ARCHITECTURES["gpt2"]
    twin = peft_twin(architecture, architecture.projections)
    factors = random_factors(twin)
    stack = AdapterStack(architecture.make().double(), scales=scales(factors))
    start = {name: values.detach().clone() for name, values in factors.items()}
    rows = batch()
    optimizer = torch.optim.AdamW(factors.values(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        stack.losses(factors, **rows).sum().backward()
        optimizer.step()

    for k in range(K):
        set_factors(twin, start, k)
        own = {key: values[k * R : (k + 1) * R] for key, values in rows.items()}
        alone = torch.optim.AdamW(parameters(twin).values(), lr=1e-2)
        for _ in range(30):
            alone.zero_grad()
            twin_loss(twin, own).backward()
            alone.step()
        for path, parameter in parameters(twin).items():
            torch.testing.assert_close(factors[path][k].detach(), parameter.detach(), atol=1e-10, rtol=1e-10)


def test_an_embedding_is_adapted_as_by_peft() -> None:
    architecture = ARCHITECTURES["gpt2"]
    twin = peft_twin(architecture, ("wte",))
    factors = random_factors(twin)
    rows = batch()
    losses = AdapterStack(architecture.make().double(), scales=scales(factors)).losses(factors, **rows)
    for k in range(K):
        set_factors(twin, factors, k)
        expected = twin_loss(twin, {key: values[k * R : (k + 1) * R] for key, values in rows.items()})
        assert float(losses[k].detach()) == pytest.approx(float(expected.detach()), abs=1e-12)


def test_the_model_is_as_before_afterwards_also_after_a_failure() -> None:
    architecture = ARCHITECTURES["llama"]
    model = architecture.make()
    factors = {
        name: values.detach().float() for name, values in random_factors(peft_twin(architecture, ("q_proj",))).items()
    }
    ids = batch()["input_ids"]
    before = model(input_ids=ids).logits
    stack = AdapterStack(model, scales=scales(factors))
    with stack.placed(factors):
        assert not torch.equal(model(input_ids=ids).logits, before)
    assert torch.equal(model(input_ids=ids).logits, before)
    with pytest.raises(RuntimeError):
        stack.losses({name: values[:, :, :1] for name, values in factors.items()}, **batch())
    assert torch.equal(model(input_ids=ids).logits, before)


def dropout_of(seeds: Sequence[int]) -> AdapterDropout:
    return AdapterDropout(0.5, seeds=seeds, device=torch.device("cpu"))


def test_dropout_is_drawn_in_training_only_and_differs_between_adapters() -> None:
    architecture = ARCHITECTURES["llama"]
    model = architecture.make()
    factors = {
        name: values.detach().float()[:1].expand(K, -1, -1)
        for name, values in random_factors(peft_twin(architecture, ("q_proj",))).items()
    }
    rows = {key: values[:1].expand(K * R, -1) for key, values in batch().items()}
    stack = AdapterStack(model, scales=scales(factors), dropout=dropout_of(range(K)))
    quiet = stack.losses(factors, **rows)
    assert quiet.unique().numel() == 1
    model.train()
    assert stack.losses(factors, **rows).unique().numel() == K


@pytest.mark.parametrize(
    ("name", "targets"),
    [("gpt2", ("c_attn", "mlp.c_proj", "wte")), ("opt", ("q_proj", "fc2", "lm_head")), ("llama", ("up_proj",))],
)
def test_dropout_of_an_adapter_is_the_same_alone(name: str, targets: tuple[str, ...]) -> None:
    architecture = ARCHITECTURES[name]
    factors = random_factors(peft_twin(architecture, targets))
    model = architecture.make().double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for rate in ("dropout", "attention_dropout"):
            if isinstance(vars(module).get(rate), float):
                setattr(module, rate, 0.0)
    rows = batch()
    extents = [(2, 7), (1, 6), (2, 7)]  # of the second adapter, the second row fills up the batch
    rows["labels"][3] = IGNORED
    seeds = [5, 6, 7]

    dropout = dropout_of(seeds)
    dropout.extents = extents
    together = AdapterStack(model, scales=scales(factors), dropout=dropout).losses(factors, **rows)

    for k, (num_rows, _) in enumerate(extents):
        own = {key: values[k * R : k * R + num_rows] for key, values in rows.items()}
        num_tokens = int(own["attention_mask"].sum(dim=1).max())
        own = {key: values[:, :num_tokens] for key, values in own.items()}
        stack = AdapterStack(model, scales=scales(factors), dropout=dropout_of(seeds[k : k + 1]))
        alone = stack.losses({path: values[k : k + 1] for path, values in factors.items()}, **own)
        assert float(alone[0].detach()) == pytest.approx(float(together[k].detach()), abs=EXACT.get(name, 1e-5))


def test_recomputed_activations_come_without_the_models_own_dropout() -> None:
    architecture = ARCHITECTURES["gpt2"]
    model = architecture.make()
    factors = {n: v.detach().float() for n, v in random_factors(peft_twin(architecture, ("c_attn",))).items()}
    stack = AdapterStack(model, scales=scales(factors))
    quiet = stack.losses(factors, **batch())
    assert model.config.resid_pdrop > 0
    stack.recompute_activations()
    assert model.training
    torch.testing.assert_close(stack.losses(factors, **batch()), quiet)


def test_an_adapter_without_labels_has_no_loss_and_leaves_the_others_alone() -> None:
    logits = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    following = torch.tensor([[1, 2, IGNORED], [3, IGNORED, IGNORED], [IGNORED] * 3, [IGNORED] * 3])
    losses = losses_by_adapter(logits, following, num_adapters=2)
    by_hand = -torch.stack(
        [logits[0, 0].log_softmax(0)[1], logits[0, 1].log_softmax(0)[2], logits[1, 0].log_softmax(0)[3]]
    )
    torch.testing.assert_close(losses, torch.stack([by_hand.mean(), torch.zeros(())]))


def test_bfloat16_base_takes_float32_factors() -> None:
    architecture = ARCHITECTURES["llama"]
    factors = {n: v.detach().float() for n, v in random_factors(peft_twin(architecture, ("q_proj",))).items()}
    precise = AdapterStack(architecture.make(), scales=scales(factors)).losses(factors, **batch())
    coarse = AdapterStack(architecture.make().bfloat16(), scales=scales(factors)).losses(factors, **batch())
    torch.testing.assert_close(coarse, precise, atol=0.05, rtol=0.05)


def test_a_module_that_the_model_lacks_is_named() -> None:
    with pytest.raises(LayoutError, match=r"no module 'layers\.9\.q_proj' \(1 missing in all\)"):
        AdapterStack(ARCHITECTURES["llama"].make(), scales={"layers.9.q_proj": 1.0})


def test_missing_factors_and_uneven_numbers_are_refused() -> None:
    architecture = ARCHITECTURES["llama"]
    factors = {n: v.detach().float() for n, v in random_factors(peft_twin(architecture, ("q_proj",))).items()}
    stack = AdapterStack(architecture.make(), scales=scales(factors))
    first = next(iter(factors))
    with pytest.raises(LayoutError, match="no factors for module"):
        stack.losses({name: values for name, values in factors.items() if name != first}, **batch())
    with pytest.raises(LayoutError, match="one number of adapters"):
        stack.losses(factors | {first: factors[first][:1]}, **batch())
