"""Study ``families``: pairs of two architectures or two tokenizers, and a target that is adapted in its MLP as well.

The pairs beside the embedded one are pretrained by the study, with the recipes of the embedded models. A Qwen2 target
has biases in its attention, and half as many key and value heads as query heads. GPT-2 has learned positions, plain
layer norms, an MLP without a gate, and query, key and value in one module, ``c_attn``, which one adapter of rank 2
adapts. A model of pairs reads and writes two letters at a time: 144 tokens of letters in place of 12, and 10 tokens a
line in place of 16. Source: ours; the paper has one family.
"""

from __future__ import annotations

from typing import Any

from gradtx_hf.studies.ablations import FUNCTIONAL
from gradtx_hf.studies.cells import MODULES, Cell, Clients, Study, World
from gradtx_hf.updates import TOKEN_KINDS


GPT2_MODULES = ("c_attn",)
WITH_MLP: dict[str, Any] = {"target_modules": (*MODULES, "gate_proj", "up_proj", "down_proj")}

FAMILIES = Study(
    name="families",
    title="Beyond one family of models",
    question="Does a translator work between two architectures, two tokenizers, and into a target's MLP as well?",
    training=FUNCTIONAL,
    world=World(runs_per_rule=3),
    clients=Clients(num_seen=4, num_unseen=8, num_ceiling_steps=120, num_public_steps=240),
    cells=(
        Cell("llama_to_llama", "Llama → Llama, the embedded pair"),
        Cell("llama_to_qwen2", "Llama → Qwen2", world={"target": "target_qwen2"}),
        Cell("gpt2_to_llama", "GPT-2 → Llama", world={"source": "source_gpt2", "source_modules": GPT2_MODULES}),
        Cell("letters_to_pairs", "One letter a token → two letters a token", world={"target": "target_pairs"}),
        Cell("pairs_to_letters", "Two letters a token → one letter a token", world={"source": "source_pairs"}),
        Cell("mlp_in_one_token", "Target's attention and MLP, one token a layer", world=WITH_MLP),
        Cell(
            "mlp_in_its_own_token",
            "Target's attention and MLP, a token a layer for each",
            world={**WITH_MLP, "token_kinds": {kind: TOKEN_KINDS[kind] for kind in ("attention", "mlp")}},
        ),
    ),
    note=(
        "Three shadow sets a rule in place of four, and ceilings of 120 steps: compare these cells with each other "
        "only. Each model's pretraining.json says what it can do; every pair has its own clients and ceilings."
    ),
)
