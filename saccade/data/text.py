"""Words in: checked text and its tokens."""

import difflib
import json
import os
import re
import unicodedata
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path

# Tokens are made one text at a time; threads inside would only make forked loaders complain.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import Tokenizer as BPE
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from saccade.errors import SaccadeError, SaccadeWarning
from saccade.files import write_text

PAD, BOS, EOS = 0, 1, 2
SPECIALS = ("<pad>", "<bos>", "<eos>")
MAX_CHARS = 2000

NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()
_IN_WORDS: dict[str, str] = {str(number): word for number, word in enumerate(NUMBER_WORDS)}
_OTHER_FORM = _IN_WORDS | {word: digits for digits, word in _IN_WORDS.items()}

_WORD = re.compile(r"\w+(?:'\w+)*")
# Where a larger share of the words is unknown, the text is in another language (there most are) or of other
# things. Otherwise a word counts as misspelt if a known one begins alike and is as near as this.
MOST_MISSPELT, _NEAR = 0.25, 0.8
_PUNCTUATION = frozenset(" .,;:!?'\"()-/")


class Tokenizer:
    """Byte-level BPE over lower-case NFKC text: no text is out of vocabulary.

    <pad>, <bos> and <eos> are 0, 1 and 2; written out in a text they are ordinary characters.
    """

    def __init__(self, bpe: BPE):
        for index, name in enumerate(SPECIALS):
            given = bpe.token_to_id(name)
            if given != index:
                raise SaccadeError(
                    f"the tokenizer has {name} at {given}, not at {index}; make it with Tokenizer.train"
                )
        bpe.encode_special_tokens = True
        self._bpe = bpe

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn merges from texts; the same texts give the same tokenizer.

        Raises: SaccadeError: vocab_size is below 259 (256 bytes and three specials).
        """
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        least = len(alphabet) + len(SPECIALS)
        if vocab_size < least:
            raise SaccadeError(f"vocab_size is {vocab_size}, it needs {least} (bytes, specials); raise it")
        bpe = BPE(models.BPE())
        bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=alphabet,
            show_progress=False,
        )
        bpe.train_from_iterator(texts, trainer)
        return cls(bpe)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Read what `save` wrote."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SaccadeError(f"the tokenizer {path} cannot be read: {error}; restore the file") from None
        return cls._from_json(text, str(path))

    @classmethod
    def _from_json(cls, text: str, name: str) -> "Tokenizer":
        try:
            bpe = BPE.from_str(text)
        except Exception as error:  # the Rust side raises bare Exception
            raise SaccadeError(f"{name} is not a tokenizer: {error}; restore the file") from None
        return cls(bpe)

    def save(self, path: str | os.PathLike) -> None:
        """Write one JSON file. Raises: SaccadeError: disk full, no permission."""
        write_text(path, self.to_json())

    def to_json(self) -> str:
        return self._bpe.to_str(pretty=True)

    def __reduce__(self):
        return Tokenizer._from_json, (self._bpe.to_str(), "the pickled tokenizer")

    @property
    def vocab_size(self) -> int:
        return self._bpe.get_vocab_size()

    def extended(self, words: Iterable[str]) -> "Tokenizer":
        """A tokenizer to which each of these words is one token, at the start of a text and after a space.

        Every token keeps its id, and what was one token before stays one. New merges come after all others,
        so only texts with such words (or with parts of them) are cut in fewer pieces than before.
        """
        grown = self
        for word in words:
            for form in (word, f" {word}"):
                pieces = grown._bpe.encode(form, add_special_tokens=False).tokens
                if len(pieces) < 2:
                    continue
                record = json.loads(grown._bpe.to_str())
                vocabulary, merges = record["model"]["vocab"], record["model"]["merges"]
                joined = pieces[0]
                for piece in pieces[1:]:
                    merges.append([joined, piece])
                    joined += piece
                    vocabulary.setdefault(joined, len(vocabulary))
                grown = Tokenizer._from_json(json.dumps(record), "the extended tokenizer")
        return grown

    def encode(self, text: str) -> list[int]:
        """Text -> ids, no specials added."""
        return self._bpe.encode(text, add_special_tokens=False).ids

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of `encode(text)` stands in the text: (start, end) in characters."""
        return self._bpe.encode(text, add_special_tokens=False).offsets

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text, specials left out. `decode(encode(t))` is t, lower-cased and in NFKC."""
        return self._bpe.decode([int(i) for i in ids], skip_special_tokens=True)


def words(text: str) -> list[str]:
    """The words of a text as a lexicon lists them: lower case, NFKC, no punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def lexicon_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Every word of the texts, sorted."""
    return tuple(sorted({word for text in texts for word in words(text)}))


def check_text(text: str, max_chars: int = MAX_CHARS, lexicon: Collection[str] | None = None) -> str:
    """Clean what a person typed, or say what is wrong with it.

    Runs of white space become one space. With a lexicon every word must be in it; a number may be written in
    digits or as a word and comes back in the form that the lexicon has. Where at most a quarter of the words
    are unknown, and each is nearly a known one ("squere"), the known ones come back in their place.

    Raises: SaccadeError: empty, too long, control characters, or other words that the lexicon lacks.
    Warns: SaccadeWarning: the words that were taken for misspelt, and what for.
    """
    if not isinstance(text, str):
        raise SaccadeError(f"the text is a {type(text).__name__}; give a string")
    if len(text) > max_chars:
        raise SaccadeError(f"the text has {len(text):,} characters, the limit is {max_chars:,}; shorten it")
    text = " ".join(re.split(r"[ \t\r\n]+", text)).strip()
    for position, character in enumerate(text):
        # Cc: control; Cf: invisible, as the marks that reverse text; Cs: half of a surrogate pair.
        if unicodedata.category(character) in ("Cc", "Cf", "Cs"):
            code = f"U+{ord(character):04X}"
            raise SaccadeError(f"the text has a control character, {code}, at {position + 1}; remove it")
    if not text:
        raise SaccadeError("the text is empty; write a question or a statement")
    if lexicon is None:
        return text
    return _in_lexicon(unicodedata.normalize("NFKC", text), frozenset(lexicon))


def _in_lexicon(text: str, lexicon: frozenset[str]) -> str:
    found = _WORD.findall(text)
    unknown = [word.lower() for word in found if _form(word, lexicon) is None]
    meant: dict[str, str | None] = {}
    if len(unknown) <= MOST_MISSPELT * len(found):
        meant = {word: _nearest(word, lexicon) for word in unknown}
    if unknown and not (meant and all(meant.values())):
        raise SaccadeError("; ".join(_unknown_word(word, lexicon) for word in dict.fromkeys(unknown[:3])))
    symbols = sorted(set(_WORD.sub("", text)) - _PUNCTUATION)
    if symbols:
        raise SaccadeError(f"the model does not know the symbol {symbols[0]!r}; leave it out")
    if not found:
        raise SaccadeError(f"the text {text[:40]!r} has no words; write a question or a statement")
    if meant:
        read = ", ".join(f"{word!r} is read as {known!r}" for word, known in meant.items())
        warnings.warn(f"the model does not know every word: {read}", SaccadeWarning, stacklevel=3)
    return _WORD.sub(lambda match: meant.get(match[0].lower()) or str(_form(match[0], lexicon)), text)


def _form(word: str, lexicon: frozenset[str]) -> str | None:
    """The word, or the other form of a number, that the lexicon has."""
    if word.lower() in lexicon:
        return word
    other = _OTHER_FORM.get(word.lower())
    return other if other in lexicon else None


def _nearest(word: str, lexicon: frozenset[str]) -> str | None:
    """The known word that a misspelt one most likely is; None for numbers and where there is none."""
    if word in _OTHER_FORM or not word.isalpha():
        return None
    alike = sorted(known for known in lexicon if known[0] == word[0])
    return next(iter(difflib.get_close_matches(word, alike, n=1, cutoff=_NEAR)), None)


def _unknown_word(word: str, lexicon: frozenset[str]) -> str:
    near = difflib.get_close_matches(word, sorted(lexicon), n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "say it in other words"
    return f"the model does not know the word {word[:40]!r}: {hint}"
