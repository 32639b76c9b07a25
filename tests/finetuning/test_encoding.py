from __future__ import annotations

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from gradtx_hf.errors import DataError
from gradtx_hf.finetuning import encode_prompts, tokenize_examples
from gradtx_hf.studies.pretrain_playground import build_tokenizer


CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<bot>' }} {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<bot> {% endif %}"
)


def word_tokenizer(*, adds_bos: bool = False, adds_eos: bool = False) -> PreTrainedTokenizerFast:
    words = ["<s>", "<end>", "<user>", "<bot>", "hi", "there", "hi there", "bye"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = ["<s>"] * adds_bos + ["$A"] + ["<end>"] * adds_eos
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("<end>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<end>")


def tokenize(
    tokenizer: PreTrainedTokenizerFast, row: dict[str, object], *, max_length: int = 64
) -> dict[str, list[int]]:
    return tokenize_examples(Dataset.from_list([row]), tokenizer, max_length=max_length)[0]


def test_loss_is_on_the_completion_and_one_end_token() -> None:
    tokenizer = build_tokenizer()

    row = tokenize(tokenizer, {"prompt": "??ab=", "completion": "ba"})

    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == ["?", "?", "a", "b", "=", "b", "a", "<eos>"]
    assert row["labels"] == [-100] * 5 + row["input_ids"][5:]


@pytest.mark.parametrize("adds_eos", [False, True])
def test_special_tokens_stand_once_whatever_the_tokenizer_adds(*, adds_eos: bool) -> None:
    tokenizer = word_tokenizer(adds_bos=True, adds_eos=adds_eos)

    assert tokenize(tokenizer, {"prompt": "hi ", "completion": "bye"})["input_ids"] == [0, 4, 7, 1]
    assert tokenize(tokenizer, {"text": "hi bye"})["input_ids"] == [0, 4, 7, 1]
    assert encode_prompts(tokenizer, ["hi"]) == [[0, 4]]


def test_token_across_the_border_is_cut_as_generation_meets_it() -> None:
    tokenizer = word_tokenizer()

    row = tokenize(tokenizer, {"prompt": "b", "completion": "ye"})  # "bye" would be one token

    assert row["labels"][0] == -100
    assert row["input_ids"][0] == encode_prompts(tokenizer, ["b"])[0][0]


def test_long_example_loses_the_beginning_of_its_prompt() -> None:
    tokenizer = build_tokenizer()

    row = tokenize(tokenizer, {"prompt": "??abcdef=", "completion": "fed"}, max_length=6)

    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == ["f", "=", "f", "e", "d", "<eos>"]


def test_chat_learns_every_turn_of_the_assistant() -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    turns = [("user", "hi"), ("assistant", "there"), ("user", "hi"), ("assistant", "bye")]

    row = tokenize(tokenizer, {"messages": [{"role": role, "content": content} for role, content in turns]})

    assert row["input_ids"] == [2, 4, 1, 3, 5, 1, 2, 4, 1, 3, 7, 1]
    assert row["labels"] == [-100] * 4 + [5, 1] + [-100] * 4 + [7, 1]


def test_chat_without_template_and_row_without_completion_are_refused() -> None:
    with pytest.raises(DataError, match="has no chat template"):
        tokenize(word_tokenizer(), {"messages": [{"role": "user", "content": "hi"}]})
    with pytest.raises(DataError, match="row 0 has no token to learn from"):
        tokenize(word_tokenizer(), {"text": ""})


def test_other_columns_are_refused() -> None:
    with pytest.raises(DataError, match="got columns body"):
        tokenize(word_tokenizer(), {"body": "hi"})


def test_rows_stay_in_order_over_many_batches() -> None:
    texts = ["hi", "there", "bye"] * 700

    tokens = tokenize_examples(Dataset.from_dict({"text": texts}), word_tokenizer(), max_length=8)

    assert [ids[0] for ids in tokens["input_ids"]] == [4, 5, 7] * 700
