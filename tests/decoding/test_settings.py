"""Bad settings are refused in one line that names value, limit and fix."""

import pytest

from saccade.decoding.settings import GenerationConfig
from saccade.errors import SaccadeError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1, it must be a number at least 0; 0 is greedy"),
        ({"temperature": float("nan")}, "temperature is nan, .*at least 0"),
        ({"temperature": float("inf")}, "temperature is inf, "),
        ({"temperature": "1"}, "temperature is '1', it must be a number"),
        ({"temperature": True}, "temperature is True, it must be a number"),
        ({"top_k": 2.5}, "top_k is 2.5, it must be a whole number at least 0; 0 keeps all"),
        ({"top_p": 0.0}, "top_p is 0.0, it must be a number above 0 and at most 1; 1 keeps all"),
        ({"top_p": 1.5}, "top_p is 1.5, "),
        ({"min_p": 1.01}, "min_p is 1.01, .*at least 0 and at most 1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0, .*above 0"),
        ({"num_beams": 0}, "num_beams is 0, .*at least 1"),
        ({"length_penalty": float("nan")}, "length_penalty is nan, it must be a number"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0, .*at least 1"),
        ({"seed": -1}, "seed is -1, .*at least 0 and at most 2147483647"),
        ({"eos_token_id": (2, -3)}, "eos_token_id is -3, .*at least 0"),
        ({"eos_token_id": ()}, "eos_token_id is \\(\\), it must name a token"),
        ({"prompt_lookup_num_tokens": -1}, "prompt_lookup_num_tokens is -1, "),
        ({"top_p": 0.9}, "top_p is 0.9, but temperature 0 is greedy.*set a temperature"),
        ({"num_beams": 2, "temperature": 0.5}, "num_beams is 2 and temperature 0.5.*set temperature=0"),
        ({"prompt_lookup_num_tokens": 4, "num_beams": 2}, "prompt_lookup_num_tokens is 4, .*num_beams=1"),
        ({"prompt_lookup_num_tokens": 4, "temperature": 1.0}, ".* set temperature=0, num_beams=1"),
    ],
    ids=str,
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(SaccadeError, match=f"^{message}") as error:
        GenerationConfig(**options)
    assert "\n" not in str(error.value)
