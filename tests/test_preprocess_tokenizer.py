"""The tokenizer: the real vocabulary, a trained one, and what transformers reads."""

import pathlib
import pickle
import subprocess
import sys

import pytest
import qwen_vocab
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from gve_jax.preprocess import load_tokenizer, train_tokenizer
from gve_jax.preprocess.tokenizer import SPECIALS
from gve_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[1]
TEXTS = ["a red ball moves left of a blue square", "Find the video: it's 12 frames."]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return load_tokenizer(qwen_vocab.tokenizer_json(tmp_path_factory.mktemp("qwen")))


@pytest.fixture(scope="module")
def oracle():
    """The vocabulary under OpenAI's own encoder, with Qwen's split."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return tiktoken.Encoding(
        "qwen", pat_str=pattern, mergeable_ranks=qwen_vocab.ranks(), special_tokens={}
    )


def test_real_vocabulary_encodes_as_qwen_does(qwen):
    assert qwen.encode("Hello, world!") == [9707, 11, 1879, 0]
    chinese = [108386, 3837, 99489, 6313, 87140, 116928]
    assert qwen.encode("你好，世界！视频检索") == chinese
    assert qwen.vocab_size == 151657
    assert qwen.special("<|endoftext|>") == 151643
    assert qwen.special("<|im_end|>") == 151645
    assert qwen.special("<|video_pad|>") == 151656


ALPHABET = st.characters(codec="ascii") | st.sampled_from("éñ你好世界видеоひ☃½٣\u00a0")


@settings(max_examples=200, deadline=None)
@given(st.text(ALPHABET, max_size=60))
def test_real_vocabulary_equals_tiktoken(qwen, oracle, text):
    assert qwen.encode(text) == oracle.encode_ordinary(text)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30), st.sampled_from(SPECIALS))
def test_special_tokens_in_text_are_spelled_out(qwen, text, special):
    ids = qwen.encode(text + special)
    assert max(ids) < 151643


def test_trained_tokenizer_is_deterministic(tmp_path):
    a = train_tokenizer(TEXTS * 3, 400, tmp_path / "a")
    code = (
        "import sys; from gve_jax.preprocess import train_tokenizer;"
        "train_tokenizer(sys.argv[2:], 400, sys.argv[1])"
    )
    args = [sys.executable, "-c", code, str(tmp_path / "b"), *TEXTS * 3]
    subprocess.run(args, check=True, cwd=ROOT)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes()
    assert a.vocab_size <= 400
    assert len(a.encode(TEXTS[0])) < len(TEXTS[0]) / 2


@settings(max_examples=200, deadline=None)
# transformers takes special tokens in a text for what they spell; we do not.
@given(text=st.text(max_size=40).filter(lambda text: "<|" not in text))
def test_transformers_reads_what_is_saved(saved, text):
    tokenizer, reference = saved
    assert reference(text).input_ids == tokenizer.encode(text)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tokenizer = train_tokenizer(TEXTS, 320, folder)
    reference = AutoTokenizer.from_pretrained(folder)
    for special in SPECIALS:
        assert reference.convert_tokens_to_ids(special) == tokenizer.special(special)
    assert len(reference) == tokenizer.vocab_size
    assert reference.pad_token == "<|endoftext|>"
    return tokenizer, reference


def test_round_trips(tmp_path, saved):
    tokenizer, _ = saved
    text = "A ball <|im_end|> é ☃"
    tokenizer.save(tmp_path)
    for other in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        assert other.encode(text) == tokenizer.encode(text)
        assert other.decode(other.encode(text)) == text


def test_faults_are_named(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json: no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"not a tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="vocab_size is 200"):
        train_tokenizer(TEXTS, 200)
    with pytest.raises(UserError, match=r"no token '<\|absent\|>'"):
        train_tokenizer(TEXTS, 300).special("<|absent|>")
