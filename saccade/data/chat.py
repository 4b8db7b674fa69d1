"""Conversations as tokens: a tokenizer of the hub, a sandboxed chat template, and where the answers stand."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from saccade.data.text import BPE
from saccade.errors import SaccadeError
from saccade.files import write_text

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ROLES = ("system", "user", "assistant")
_MARK = "\ue000{}\ue001"  # private-use characters: where a message's text goes
_MARKED = re.compile("\ue000(\\d+)\ue001")


class Encoded(NamedTuple):
    """Ids and, of each, the span of characters it stands for."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class ChatTokenizer:
    """A tokenizer.json of the hub, its special tokens included.

    Args:
        bpe: of the library `tokenizers`.  eos: the token that ends an answer.  name: for errors.
    Raises: SaccadeError: eos is not in the vocabulary.
    """

    def __init__(self, bpe: BPE, eos: str, name: str = "the tokenizer"):
        bpe.no_padding()
        bpe.no_truncation()
        # Here it could only take spaces out of offsets, and so out of what is learnt; `save` puts it back.
        self._post_processor, bpe.post_processor = bpe.post_processor, None
        self._bpe = bpe
        self._specials = _specials_of(bpe)
        self.name = name
        self.eos = eos
        self.eos_id = self.id_of(eos)

    @classmethod
    def load(cls, folder: str | Path, eos_id: int | None = None) -> "ChatTokenizer":
        """Read tokenizer.json, and what ends an answer from tokenizer_config.json (else `eos_id`).

        Raises: SaccadeError: missing or unreadable, or nothing says what ends an answer.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        try:
            bpe = BPE.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the Rust side raises bare Exception
            raise SaccadeError(f"{path} is not a tokenizer: {error}; get the file again") from None
        eos = _said_eos(folder / "tokenizer_config.json")
        if eos is None and eos_id is not None:
            known = type(eos_id) is int and 0 <= eos_id < bpe.get_vocab_size()
            eos = bpe.id_to_token(eos_id) if known else None
        if eos is None:
            raise SaccadeError(
                f"{folder} does not say what ends an answer: no eos_token in tokenizer_config.json, and "
                f"eos_id {eos_id} names none; get that file"
            )
        return cls(bpe, eos, str(path))

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json. Raises: SaccadeError: disk full, no permission."""
        whole = BPE.from_str(self._bpe.to_str())
        whole.post_processor = self._post_processor
        write_text(Path(folder) / "tokenizer.json", whole.to_str(pretty=True))
        config = {"eos_token": self.eos, "pad_token": self.eos, "tokenizer_class": "PreTrainedTokenizerFast"}
        write_text(Path(folder) / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")

    def add(self, tokens: Iterable[str]) -> None:
        """Append special tokens, in order; those that exist keep their id."""
        self._bpe.add_special_tokens(list(tokens))
        self._specials = _specials_of(self._bpe)

    @property
    def vocab_size(self) -> int:
        return self._bpe.get_vocab_size()

    def id_of(self, token: str) -> int:
        """The id of a token. Raises: SaccadeError: there is no such token."""
        index = self._bpe.token_to_id(token)
        if index is None:
            raise SaccadeError(
                f"{self.name} has no token {token!r}; get the tokenizer that belongs to the model"
            )
        return index

    def encode(self, text: str) -> Encoded:
        """Special tokens written out in the text count as such."""
        encoding = self._bpe.encode(text, add_special_tokens=False)
        return Encoded(encoding.ids, encoding.offsets)

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text, specials left out."""
        return self._bpe.decode([int(i) for i in ids], skip_special_tokens=True)

    def plain(self, text: str) -> str:
        """The text without special tokens written out: nobody ends a turn or adds an image by typing."""
        text = text.replace("\ue000", "").replace("\ue001", "")  # of _MARK; first, they may split a special
        while self._specials.search(text):  # what is left may form another
            text = self._specials.sub("", text)
        return text


class SavedProcessor:
    """A processor made of a ChatTokenizer and a config, and how every such one is saved and loaded.

    FILE: name of the config's file.  CONFIG: its dataclass.
    """

    FILE: ClassVar[str]
    CONFIG: ClassVar[Any]

    def __init__(self, tokenizer: ChatTokenizer, config: Any):
        self.tokenizer, self.config = tokenizer, config

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files and the config's. Raises: SaccadeError: disk full, no permission."""
        self.tokenizer.save(folder)
        text = json.dumps(asdict(self.config), indent=1, ensure_ascii=False) + "\n"
        write_text(Path(folder) / self.FILE, text)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote. Raises: SaccadeError: it is missing, damaged or of another processor."""
        path = Path(folder) / cls.FILE
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SaccadeError(f"{path} cannot be read: {error}; restore the file") from None
        if not isinstance(record, dict) or set(record) != {field.name for field in fields(cls.CONFIG)}:
            raise SaccadeError(f"{path} is not of a {cls.__name__}; use the file saved with the weights")
        values = {key: _tuples(value) for key, value in record.items()}
        return cls(ChatTokenizer.load(folder), cls.CONFIG(**values))


def _tuples(value):
    """JSON has lists where a frozen config has tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _specials_of(bpe: BPE) -> re.Pattern:
    """Matches every special token, the longest first."""
    tokens = {t.content for t in bpe.get_added_tokens_decoder().values() if t.special and t.content}
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


def _said_eos(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError) as error:
        raise SaccadeError(f"{path} cannot be read: {error}; get the file again") from None
    said = said.get("content") if isinstance(said, dict) else said
    return said if isinstance(said, str) else None


class Template:
    """A chat template of the hub: Jinja in a sandbox, which reaches no file and no Python object.

    Args: source: the template. It gets `messages` and `add_generation_prompt`.
    Raises: SaccadeError: it does not compile.
    """

    def __init__(self, source: str):
        self.source = source
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        helpers: dict = environment.globals  # Jinja types it by its own few functions
        helpers["raise_exception"] = _refuse
        try:
            self._compiled = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise SaccadeError(f"the chat template does not compile: {error}; get it again") from None

    def __reduce__(self):  # what it compiled to does not pickle
        return Template, (self.source,)

    def pieces(self, messages: Sequence[dict], add_generation_prompt: bool) -> list[str | int]:
        """The rendered conversation in order: texts of the template, and indices of the messages between.

        Raises: SaccadeError: the template refuses the conversation, fails, or changes a message's text.
        """
        marked = [{**m, "content": _MARK.format(i)} for i, m in enumerate(messages)]
        parts = _MARKED.split(self._render(marked, add_generation_prompt))
        pieces = [int(part) if at % 2 else part for at, part in enumerate(parts)]
        whole = "".join(p if isinstance(p, str) else messages[p]["content"] for p in pieces)
        if whole != self._render(messages, add_generation_prompt):
            raise SaccadeError(
                "the chat template changes the text of messages; use one that leaves it as it is"
            )
        return [piece for piece in pieces if piece != ""]

    def _render(self, messages, add_generation_prompt: bool) -> str:
        try:
            return self._compiled.render(messages=messages, add_generation_prompt=add_generation_prompt)
        except Exception as error:  # a stranger's program: anything may come out of it
            raise SaccadeError(f"the chat template fails: {error}; check the conversation") from None


def _refuse(message):
    raise jinja2.TemplateError(str(message))


def check_messages(messages: str | Sequence[dict]) -> list[dict]:
    """A conversation as a list of {"role", "content"}; a text alone is what the user says.

    Raises: SaccadeError: empty, another role, a content that is no text, or nobody asks.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not messages:
        raise SaccadeError("the conversation is empty; give at least one message of the user")
    checked = []
    for at, message in enumerate(messages, 1):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise SaccadeError(f"message {at} has role {role!r}; roles are {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str):
            raise SaccadeError(f"message {at} has no text; give its `content` as a string")
        checked.append({"role": role, "content": message["content"]})
    if not any(m["role"] == "user" and m["content"].strip() for m in checked):
        raise SaccadeError("the user says nothing in this conversation; give a question")
    return checked
