"""How each published data set is asked and judged: which rule, which prompt."""

from collections.abc import Mapping
from dataclasses import dataclass

from saccade.errors import SaccadeError
from saccade.evaluation.rules import rule_of
from saccade.metrics.choice import MMSTAR_PROMPT

_SHORT = "{text}\nAnswer the question using a single word or phrase."
_CAPTION = "Provide a one-sentence caption for the provided image."
_JUDGE = "Is this statement true or false of the image? {text}\nAnswer with true or false."


@dataclass(frozen=True)
class Harness:
    """rule: of saccade.evaluation.rules.  prompt: for models that follow instructions; `{text}` is the row's
    text. The others are given the text alone.  max_tokens: of a written answer."""

    rule: str
    prompt: str = "{text}"
    max_tokens: int = 16


HARNESSES: Mapping[str, Harness] = {
    "vqa_v2": Harness("vqa", _SHORT),
    "gqa": Harness("exact", _SHORT),
    "pope": Harness("yes_no", _SHORT),
    "mmstar": Harness("letter", "{text}\n" + MMSTAR_PROMPT),
    "coco_captions": Harness("caption", _CAPTION, 64),
    "flickr30k": Harness("caption", _CAPTION, 64),
    "refcoco": Harness("grounding"),
    "refcoco+": Harness("grounding"),
    "refcocog": Harness("grounding"),
    "nlvr": Harness("statement", _JUDGE),
    "visdial": Harness("dialogue"),
    "visual_genome": Harness("dense_captions"),
}

# One's own data (jsonl) names its rule; a prompt belongs to each.
_BY_RULE = {"vqa": _SHORT, "exact": _SHORT, "yes_no": _SHORT, "statement": _JUDGE, "caption": _CAPTION}
_BY_RULE["letter"] = "{text}\n" + MMSTAR_PROMPT


def harness_of(data: str, rule: str | None) -> Harness:
    """The harness of a data set; another rule replaces its own.

    Raises: SaccadeError: jsonl without a rule, an unknown rule, one that needs a head (retrieval).
    """
    if rule is None and data not in HARNESSES:
        raise SaccadeError(f"{data} has no rule of its own; give rule, as exact or vqa")
    if rule is None:
        return HARNESSES[data]
    if rule_of(rule).verb == "match":
        raise SaccadeError("rule retrieval ranks all pairs of a head; use saccade.evaluation.heads")
    given = HARNESSES.get(data)
    if given and given.rule == rule:
        return given
    return Harness(rule, _BY_RULE.get(rule, "{text}"), 64 if rule == "caption" else 16)
