"""What a caller chooses about writing, under the names that transformers uses."""

import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from saccade.data.text import EOS, PAD
from saccade.errors import SaccadeError

# name: (kind, lower limit, may equal it, upper limit, what to do)
_RANGES = {
    "temperature": (Real, 0, True, math.inf, "0 is greedy"),
    "top_k": (Integral, 0, True, math.inf, "0 keeps all"),
    "top_p": (Real, 0, False, 1, "1 keeps all"),
    "min_p": (Real, 0, True, 1, "0 keeps all"),
    "repetition_penalty": (Real, 0, False, math.inf, "1 changes nothing"),
    "num_beams": (Integral, 1, True, math.inf, "1 is no beam search"),
    "length_penalty": (Real, -math.inf, False, math.inf, "1 is the mean log-probability"),
    "max_new_tokens": (Integral, 1, True, math.inf, "ask for a token or more"),
    "seed": (Integral, 0, True, 2**31 - 1, "0 will do"),
    "prompt_lookup_num_tokens": (Integral, 0, True, math.inf, "0 is plain decoding"),
    "pad_token_id": (Integral, 0, True, math.inf, "take the tokenizer's"),
}


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How to write. The defaults are greedy.

    Args:
        temperature: divides the logits before sampling; 0 = greedy.
        top_k: keep the k likeliest tokens; 0 = all.
        top_p: then keep the fewest likeliest tokens whose probabilities reach this; 1 = all.
        min_p: then keep tokens of at least this share of the likeliest one's probability; 0 = all.
        repetition_penalty: logits of tokens in the prompt or written already are divided by it where
            positive, multiplied where negative (CTRL, section 4.1, arXiv:1909.05858); 1 = none.
        num_beams: width of the beam search; 1 = none.
        length_penalty: of beams: score = log-probability / tokens ** length_penalty.
        max_new_tokens: most tokens to write.
        seed: of the sampling; every row starts from it, wherever it stands in the batch.
        prompt_lookup_num_tokens: tokens to copy, as a guess, from where the last words stood before (greedy
            only, and the same result); 0 = none.
        eos_token_id: ends a row; several in a tuple.  pad_token_id: fills it after that.
    Raises: SaccadeError: a value out of its range, or two that exclude each other.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    max_new_tokens: int = 64
    seed: int = 0
    prompt_lookup_num_tokens: int = 0
    eos_token_id: int | tuple[int, ...] = EOS
    pad_token_id: int = PAD

    def __post_init__(self):
        for name, (kind, low, equal, high, fix) in _RANGES.items():
            _check(name, getattr(self, name), kind, low, equal, high, fix)
        if not self.ends:
            raise SaccadeError("eos_token_id is (), it must name a token or more; take the tokenizer's")
        for end in self.ends:
            _check("eos_token_id", end, Integral, 0, True, math.inf, "take the tokenizer's")
        filters = [name for name in ("top_k", "top_p", "min_p") if getattr(self, name) != _KEEPS_ALL[name]]
        if filters and not self.temperature:
            raise SaccadeError(
                f"{filters[0]} is {getattr(self, filters[0])}, but temperature 0 is greedy and samples "
                "nothing; set a temperature"
            )
        if self.num_beams > 1 and self.temperature:
            raise SaccadeError(
                f"num_beams is {self.num_beams} and temperature {self.temperature}, but beam search samples "
                "nothing; set temperature=0 or num_beams=1"
            )
        if self.prompt_lookup_num_tokens and not self.looks_up_alone:
            raise SaccadeError(
                f"prompt_lookup_num_tokens is {self.prompt_lookup_num_tokens}, but prompt lookup is greedy: "
                "set temperature=0, num_beams=1 and repetition_penalty=1"
            )

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a row."""
        return (
            tuple(self.eos_token_id) if isinstance(self.eos_token_id, (tuple, list)) else (self.eos_token_id,)
        )

    @property
    def looks_up_alone(self) -> bool:
        return not self.temperature and self.num_beams == 1 and self.repetition_penalty == 1

    @property
    def room(self) -> int:
        """Tokens that a decoder may be asked to read after the prompt: the last one written never is."""
        copied = self.prompt_lookup_num_tokens
        return self.max_new_tokens + copied if copied else self.max_new_tokens - 1

    @property
    def numbers(self) -> dict[str, np.number]:
        """What may change without another compilation: scalars."""
        names = ("temperature", "top_p", "min_p", "repetition_penalty", "length_penalty")
        return {**{name: np.float32(getattr(self, name)) for name in names}, "seed": np.int32(self.seed)}

    @property
    def program(self) -> tuple:
        """What the compiled program depends on."""
        return (
            self.temperature > 0,
            self.top_k,
            self.top_p < 1,
            self.min_p > 0,
            self.repetition_penalty != 1,
            self.num_beams,
            self.max_new_tokens,
            self.prompt_lookup_num_tokens,
            self.ends,
            self.pad_token_id,
        )


_KEEPS_ALL = {"top_k": 0, "top_p": 1, "min_p": 0}


def _check(name, value, kind, low, equal, high, fix):
    number = isinstance(value, kind) and not isinstance(value, bool)
    if number and (low < value or (equal and value == low)) and value <= high and value != math.inf:
        return
    what = "a number" if kind is Real else "a whole number"
    limits = [f"{'at least' if equal else 'above'} {low}"] if low > -math.inf else []
    limits += [f"at most {high}"] if high < math.inf else []
    raise SaccadeError(
        f"{name} is {value!r}, it must be {' '.join([what, ' and '.join(limits)]).strip()}; {fix}"
    )
