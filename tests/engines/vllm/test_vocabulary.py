from __future__ import annotations

import json
import shutil

import pytest

from local_worker.demo import gguf_path
from local_worker.engines.process.grammar import MOST_KNOWN, GrammarError
from local_worker.engines.vllm.vocabulary import Vocabulary
from local_worker.types import Grammar, GrammarKind

FOLDER = gguf_path().parent
SIZE = 960


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(FOLDER, SIZE)


@pytest.fixture
def folder(tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(FOLDER / name, tmp_path)
    return tmp_path


def text_of(vocabulary, ids):
    return b"".join(vocabulary.piece(i, special=True) for i in ids).decode()


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_control_tokens_are_recognised_only_where_asked(vocabulary):
    assert len(vocabulary.tokenize("<|im_end|>", parse_special=True)) == 1
    assert len(vocabulary.tokenize("<think>", parse_special=True)) == 1
    assert len(vocabulary.tokenize("<|im_end|>", parse_special=False)) > 1
    assert len(vocabulary.tokenize("<think>", parse_special=False)) > 1


@pytest.mark.parametrize("text", ["Add up", "  two  spaces\n\n", "grün 😀", "a<|im_end|>b"])
@pytest.mark.parametrize("special", [True, False])
def test_text_survives(vocabulary, text, special):
    assert text_of(vocabulary, vocabulary.tokenize(text, parse_special=special)) == text


def test_pieces_are_bytes_and_may_be_part_of_a_character(vocabulary):
    pieces = [vocabulary.piece(i) for i in vocabulary.tokenize("😀", parse_special=False)]
    assert len(pieces) > 1
    assert b"".join(pieces) == "😀".encode()


def test_control_tokens_have_no_text_and_marks_that_models_write_do(vocabulary):
    (end,) = vocabulary.tokenize("<|im_end|>", parse_special=True)
    (call,) = vocabulary.tokenize("<tool_call>", parse_special=True)
    assert vocabulary.piece(end) == b""
    assert vocabulary.piece(end, special=True) == b"<|im_end|>"
    assert vocabulary.piece(call) == b"<tool_call>"


def test_rows_beyond_the_tokenizer_have_no_text():
    assert Vocabulary(FOLDER, SIZE + 40).piece(SIZE + 3) == b""


def test_facts_about_the_model(vocabulary):
    ends = {vocabulary.piece(i, special=True) for i in vocabulary.end_ids}
    assert ends == {b"<|im_end|>", b"<|endoftext|>"}
    assert vocabulary.eos_token == "<|im_end|>"
    assert vocabulary.bos_token == ""
    assert "<|im_start|>" in vocabulary.chat_template
    assert {"<|im_end|>", "<think>", "</tool_call>"} <= set(vocabulary.control_tokens)
    assert vocabulary.longest_token() >= len("<|endoftext|>")


def test_a_template_in_a_file_of_its_own_wins(folder):
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert Vocabulary(folder, SIZE).chat_template == "{{ messages }}"


def test_of_several_templates_the_default_one_counts(folder):
    templates = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    change(folder / "tokenizer_config.json", chat_template=templates)
    assert Vocabulary(folder, SIZE).chat_template == "d"


def test_an_end_token_spelled_as_an_object(folder):
    change(folder / "tokenizer_config.json", eos_token={"content": "<|im_end|>", "lstrip": False})
    assert Vocabulary(folder, SIZE).eos_token == "<|im_end|>"


def test_without_any_end_token_nothing_could_end(folder):
    change(folder / "tokenizer_config.json", eos_token=None)
    change(folder / "config.json", eos_token_id=None)
    with pytest.raises(ValueError, match="end-of-sequence"):
        Vocabulary(folder, SIZE)


def test_added_tokens_that_are_text_stay_text(folder):
    source = json.loads((folder / "tokenizer.json").read_text())
    run = dict(source["added_tokens"][-1], content="    ", id=960)
    (folder / "tokenizer.json").write_text(
        json.dumps(source | {"added_tokens": [*source["added_tokens"], run]})
    )
    vocabulary = Vocabulary(folder, 961)
    assert vocabulary.tokenize("    ", parse_special=False) == [960]
    assert "    " not in vocabulary.control_tokens


def test_a_control_token_that_the_vocabulary_lists_is_no_text_either(folder):
    """As in Gemma's tokenizer; here whole words are looked up, so that it would be found."""
    source = json.loads((folder / "tokenizer.json").read_text())
    model = source["model"]
    model["vocab"]["<think>"] = 954
    (folder / "tokenizer.json").write_text(json.dumps(source))
    vocabulary = Vocabulary(folder, SIZE)
    assert vocabulary.tokenize("<think>", parse_special=True) == [954]
    assert 954 not in vocabulary.tokenize("<think>", parse_special=False)
    source["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    model["ignore_merges"] = True
    (folder / "tokenizer.json").write_text(json.dumps(source))
    with pytest.raises(ValueError, match="act as one"):
        Vocabulary(folder, SIZE)


def test_a_grammar_found_good_is_known_and_one_that_is_refused_never(vocabulary):
    good = Grammar(GrammarKind.REGEX, "[ab]+", "guided_regex")
    bad = Grammar(GrammarKind.REGEX, "[ab", "guided_regex")
    assert not vocabulary.knows(good)
    vocabulary.check(good)
    assert vocabulary.knows(good)
    with pytest.raises(GrammarError):
        vocabulary.check(bad)
    assert not vocabulary.knows(bad)
    for number in range(MOST_KNOWN):
        vocabulary.check(Grammar(GrammarKind.REGEX, f"a{{{number}}}", "guided_regex"))
    assert not vocabulary.knows(good)
