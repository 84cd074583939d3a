"""Text to token ids: a Qwen2 `tokenizer.json`, read or trained.

Text never turns into structure: special tokens come from `special()` alone, and a user
text that spells "<|im_end|>" is encoded as those characters.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from gve_jax.types import UserError

# In the order of Qwen2.5, where they have the ids 151643 to 151656.
SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_BYTES = 256  # the smallest byte-level alphabet

# Qwen2's: digits one by one, a leading space or sign with the word after it.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """A byte-level BPE with special tokens. Safe to share between threads."""

    def __init__(self, backend: tokenizers.Tokenizer, config: dict, source: str):
        """Use `Tokenizer.load` or `train_tokenizer`.

        Args:
          backend: takes text to ids.
          config: the content of `tokenizer_config.json`, kept for `save`.
          source: where it came from, for error messages.
        """
        # Off in the file format and lost in pickles, so set here.
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._config = config
        self._source = source

    def __reduce__(self):
        return _from_json, (self._backend.to_str(), self._config, self._source)

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as plain text: special tokens in it are spelled out."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def special(self, token: str) -> int:
        """The id of a special token. Raises UserError if there is none."""
        found = self._backend.token_to_id(token)
        if found is None:
            raise UserError(
                f"{self._source}: the tokenizer has no token {token!r}; "
                "use the tokenizer.json of a Qwen-VL checkpoint"
            )
        return found

    @property
    def digest(self) -> str:
        """16 hex digits: tokenizers that encode alike have the same."""
        return hashlib.blake2b(
            self._backend.to_str().encode(), digest_size=8
        ).hexdigest()

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which transformers reads."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(folder / "tokenizer.json"))
        with open(folder / "tokenizer_config.json", "w", encoding="utf-8") as f:
            json.dump(self._config, f, indent=1, ensure_ascii=False)
            f.write("\n")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Tokenizer":
        """Reads a folder with tokenizer.json, or that file itself.

        Raises:
          UserError: it is missing or not a tokenizer.
        """
        folder = pathlib.Path(folder)
        path = folder / "tokenizer.json" if folder.is_dir() else folder
        if not path.is_file():
            raise UserError(
                f"{path}: no tokenizer here; name a folder with tokenizer.json"
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as e:  # the library raises nothing narrower
            raise UserError(f"{path}: not a tokenizer.json ({e})") from None
        config_path = path.with_name("tokenizer_config.json")
        config = _CONFIG
        if config_path.is_file():
            try:
                config = json.loads(config_path.read_text(encoding="utf-8"))
            except ValueError as e:
                raise UserError(f"{config_path}: not JSON ({e})") from None
        return cls(backend, config, str(path))


_CONFIG = {
    "tokenizer_class": "Qwen2Tokenizer",
    "add_prefix_space": False,
    "bos_token": None,
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "unk_token": None,
    "clean_up_tokenization_spaces": False,
    "additional_special_tokens": list(SPECIALS[1:]),
}


def load_tokenizer(folder: str | os.PathLike) -> Tokenizer:
    """See `Tokenizer.load`."""
    return Tokenizer.load(folder)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, path: str | os.PathLike | None = None
) -> Tokenizer:
    """Trains a byte-level BPE on `texts`: equal texts give equal tokenizers.

    Args:
      texts: any text can be encoded afterwards, theirs in few tokens.
      vocab_size: the most ids, special tokens included, which come last. Few texts give
        fewer.
      path: folder to save it in; None: not saved.

    Raises:
      UserError: `vocab_size` has no room for the bytes and the special tokens.
    """
    least = _BYTES + len(SPECIALS)
    if vocab_size < least:
        raise UserError(
            f"preprocess.vocab_size is {vocab_size}: at least {least} are needed, for "
            f"{_BYTES} bytes and {len(SPECIALS)} special tokens"
        )
    backend = byte_level_bpe()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    add_specials(backend)
    tokenizer = Tokenizer(backend, _CONFIG, "the trained tokenizer")
    if path is not None:
        tokenizer.save(path)
    return tokenizer


def byte_level_bpe(
    vocab: dict[str, int] | None = None, merges: list[tuple[str, str]] | None = None
) -> tokenizers.Tokenizer:
    """Qwen2's pipeline around a BPE, without special tokens."""
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def add_specials(backend: tokenizers.Tokenizer) -> None:
    """Appends Qwen2.5-VL's special tokens after the vocabulary."""
    backend.add_special_tokens(
        [tokenizers.AddedToken(s, special=True, normalized=False) for s in SPECIALS]
    )


def _from_json(text: str, config: dict, source: str) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text), config, source)
