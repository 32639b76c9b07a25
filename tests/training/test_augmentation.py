from __future__ import annotations

import torch

from gradtx_hf.training.augmentation import add_input_noise, mix_pairs


def test_input_noise_has_the_spread_asked_for_in_units_of_each_tensor() -> None:
    std = torch.tensor([[0.1, 10.0]])
    blocks = torch.zeros(20_000, 1, 2)

    noisy = add_input_noise(blocks, std=std, noise=0.5, generator=torch.Generator().manual_seed(0))

    # the standard error of a standard deviation from 20,000 draws is 0.5 %
    torch.testing.assert_close(noisy.std(dim=0), 0.5 * std, rtol=0.03, atol=0)


def test_mixing_weighs_both_sides_alike() -> None:
    source = torch.eye(6)[:, None, :]

    mixed_source, mixed_target = mix_pairs(
        source, 3.0 * source, probability=1.0, generator=torch.Generator().manual_seed(0)
    )

    torch.testing.assert_close(mixed_target, 3.0 * mixed_source)
    torch.testing.assert_close(mixed_source.sum(dim=2), torch.ones(6, 1))
    assert (mixed_source >= 0).all()
    assert ((mixed_source > 0).sum(dim=2) == 2).any()


def test_no_mixing_leaves_every_pair_as_it_is() -> None:
    source, target = torch.randn(5, 2, 3), torch.randn(5, 2, 4)

    mixed_source, mixed_target = mix_pairs(source, target, probability=0.0)

    assert torch.equal(mixed_source, source)
    assert torch.equal(mixed_target, target)
