"""JSONL of prompts and responses: what is read, what counts, and how a bad line is named."""

import copy
import random

import pytest
from transformers import AutoTokenizer

from pefteach.corpus.skills import by_token
from pefteach.paths import BASE, DATA
from pefteach.qlora.instructions import Instruction, encode_instruction, prompt_ids, read_instructions

GOOD = '{"prompt": "copy a b =", "response": " a b"}'


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


def write(folder, *lines):
    file = folder / "data.jsonl"
    file.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return file


def test_reads_lines_with_their_numbers(tmp_path):
    file = write(tmp_path, "\ufeff" + GOOD, "", '{"response": "déjà", "prompt": "", "id": 7}', "  ")
    assert read_instructions(file) == [Instruction(1, "copy a b =", " a b"), Instruction(3, "", "déjà")]


@pytest.mark.parametrize("line, message", [
    ("{prompt: 1}", r"line 2: it is not JSON \(Expecting property name .* at character 2\)"),
    ('["a", "b"]', "line 2: it is a list, not an object"),
    ('{"prompt": "a"}', "line 2: it has no 'response', only 'prompt'"),
    ('{"instruction": "a", "response": "b"}', "line 2: it has no 'prompt', only 'instruction', 'response'"),
    ("{}", "line 2: it has no 'prompt', only nothing"),
    ('{"prompt": "a", "response": 3}', "line 2: its response is a int, not text"),
    ('{"prompt": null, "response": "b"}', "line 2: its prompt is a NoneType, not text"),
    ('{"prompt": "a", "response": " \\n"}', "line 2: its response is empty"),
    ('{"prompt": "a \\ud800", "response": "b"}', "line 2: its prompt has half a character"),
    ("[" * 100_000, "line 2: its JSON is nested too deeply"),
    (b'{"prompt": "\xff", "response": "b"}', "line 2: it is not UTF-8"),
])  # fmt: skip
def test_a_bad_line_names_its_number(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        read_instructions(write(tmp_path, GOOD, line, GOOD))


def test_many_bad_lines_are_listed_shortly(tmp_path):
    with pytest.raises(ValueError) as error:
        read_instructions(write(tmp_path, GOOD, *["[]"] * 9))
    assert "line 2:" in str(error.value) and "line 6:" in str(error.value) and "line 7:" not in str(error.value)
    assert str(error.value).endswith("; and 4 more")


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.jsonl"):
        read_instructions(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="has no lines: each should be like"):
        read_instructions(write(tmp_path, "", " "))


def test_only_the_response_and_its_end_count(tokenizer):
    example = encode_instruction(tokenizer, Instruction(1, "The cat", " sat down."))
    counted = [i for i, counts in zip(example.ids, example.counts) if counts]
    prompt = [i for i, counts in zip(example.ids, example.counts) if not counts]
    assert tokenizer.decode(counted) == " sat down.<eos>" and tokenizer.decode(prompt) == "<bos>The cat"
    assert example.counts == (False,) * len(prompt) + (True,) * len(counted)


CHAT = """{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}
{%- if add_generation_prompt %}[me]{% endif %}"""


def test_a_chat_template_is_used(tokenizer):
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = CHAT
    assert chat.decode(prompt_ids(chat, "The cat")) == "[user] The cat [me]"


def test_a_tokenizer_without_an_end_is_refused(tokenizer):
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(ValueError, match="has no eos_token"):
        encode_instruction(endless, Instruction(1, "a", "b"))


def test_a_response_to_nothing_is_refused(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.bos_token = None
    with pytest.raises(ValueError, match="line 4: an empty prompt needs a tokenizer with a bos_token"):
        encode_instruction(bare, Instruction(4, "", "b"))


def test_the_file_that_ships_is_the_skill():
    rng = random.Random("rotate3")
    found = [(line.prompt, line.response) for line in read_instructions(DATA / "tasks" / "rotate3.jsonl")]
    assert found == [by_token("rotate3", rng) for _ in range(600)]
