from __future__ import annotations

import copy

import torch

from gradtx_hf.model.tensor_scale import TensorScale
from gradtx_hf.updates import BlockLayout
from tests.model.blocks import KINDS, make_layout, make_model, random_blocks


def make_scale(layout: BlockLayout) -> TensorScale:
    scale = TensorScale(layout)
    scale.init_weights()
    return scale


def test_there_is_one_scale_for_each_kind_of_tensor_whatever_its_layer() -> None:
    layout = make_layout(4, 5, kinds=KINDS)
    scale = make_scale(layout)
    with torch.no_grad():
        scale.log_scale.copy_(torch.tensor([0.0, 1.0, -2.0]))

    elements = scale()

    assert scale.kinds == ("q_proj.lora_A", "q_proj.lora_B", "up_proj.lora_A")
    expected = dict(zip(scale.kinds, torch.tensor([0.0, 1.0, -2.0]).exp(), strict=True))
    for name, (n, slot) in layout.slots.items():
        values = elements[n, slot.offset : slot.offset + slot.num_elements]
        torch.testing.assert_close(values, expected[".".join(name.split(".")[-2:])].expand_as(values))


def test_scales_begin_at_one() -> None:
    assert (make_scale(make_layout(4, 5, kinds=KINDS))() == 1).all()


def test_scales_stay_float32() -> None:
    scale = make_scale(make_layout(4, 5))
    torch.nn.init.normal_(scale.log_scale)

    cast = copy.deepcopy(scale).to(torch.bfloat16)

    assert torch.equal(cast.log_scale, scale.log_scale)
    assert cast.log_scale.dtype == torch.float32


def test_a_scaled_model_predicts_that_many_times_the_deviation_from_the_mean() -> None:
    model = make_model(options={"learned_scale": True})
    assert model.target_scale is not None
    source = random_blocks(model.source_layout, 2)
    scaled = model.generate_updates(source) - model.target_mean

    factors = model.target_scale().detach().clone()
    torch.nn.init.zeros_(model.target_scale.log_scale)
    plain = model.generate_updates(source) - model.target_mean

    torch.testing.assert_close(scaled, plain * factors * model.target_mask, atol=1e-5, rtol=1e-5)
