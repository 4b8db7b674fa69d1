"""The English Snowball stemmer ("Porter2") in the version of 2010, which METEOR 1.5 uses.

Written from the algorithm's published description, https://snowballstem.org/algorithms/english/stemmer.html;
later versions of it changed the stems of some words (organ/organic, evening, university, -ologist).
"""

import re
from functools import lru_cache

_WHOLE = {
    "skis": "ski",
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "idly": "idl",
    "gently": "gentl",
    "ugly": "ugli",
    "early": "earli",
    "only": "onli",
    "singly": "singl",
    **{word: word for word in ("sky", "news", "howe", "atlas", "cosmos", "bias", "andes")},
}
_DONE_AFTER_PLURAL = set("inning outing canning herring earring proceed exceed succeed".split())

_VOWEL = re.compile("[aeiouy]")
_REGION = re.compile("[aeiouy][^aeiouy]")
_LONG_START = re.compile("gener|commun|arsen")
_SHORT_END = re.compile("(?:^[aeiouy][^aeiouy]|[^aeiouy][aeiouy][^aeiouywxY])$")
_DOUBLE = re.compile("(?:bb|dd|ff|gg|mm|nn|pp|rr|tt)$")

# Suffix -> what replaces it. The longest that fits decides, whether or not its condition then holds.
_STEP_2 = {
    "tional": "tion",
    "enci": "ence",
    "anci": "ance",
    "abli": "able",
    "entli": "ent",
    "izer": "ize",
    "ization": "ize",
    "ational": "ate",
    "ation": "ate",
    "ator": "ate",
    "alism": "al",
    "aliti": "al",
    "alli": "al",
    "fulness": "ful",
    "ousli": "ous",
    "ousness": "ous",
    "iveness": "ive",
    "iviti": "ive",
    "biliti": "ble",
    "bli": "ble",
    "ogi": "og",
    "fulli": "ful",
    "lessli": "less",
    "li": "",
}
_STEP_3 = {
    "tional": "tion",
    "ational": "ate",
    "alize": "al",
    "icate": "ic",
    "iciti": "ic",
    "ical": "ic",
    "ful": "",
    "ness": "",
    "ative": "",
}
_STEP_4 = "al ance ence er ic able ible ant ement ment ent ism ate iti ous ive ize ion".split()
_BEFORE = {"ogi": "l", "li": "cdeghkmnrt", "ion": "st"}  # letters that must stand before a suffix


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """The stem of a lower-case English word; other characters count as consonants."""
    if word in _WHOLE or len(word) < 3:
        return _WHOLE.get(word, word)
    word = word.removeprefix("'")
    word = re.sub("^y|(?<=[aeiouy])y", "Y", word)  # Y: a y that is a consonant
    first, second = _regions(word)
    word = _without_plural(word)
    if word not in _DONE_AFTER_PLURAL:
        word = _without_tense(word, first)
        if re.search("[^aeiouy][yY]$", word) and len(word) > 2:
            word = word[:-1] + "i"
        word = _replaced(word, _STEP_2, first)
        word = _replaced(word, _STEP_3, first, {"ative": second})
        word = _replaced(word, dict.fromkeys(_STEP_4, ""), second)
        word = _without_last(word, first, second)
    return word.replace("Y", "y")


def _regions(word: str) -> tuple[int, int]:
    """Where R1 and R2 start: each after the first consonant behind a vowel, R2 counted within R1."""
    start = _LONG_START.match(word) or _REGION.search(word)
    first = start.end() if start else len(word)
    start = _REGION.search(word, first)
    return first, start.end() if start else len(word)


def _longest(word: str, suffixes) -> str | None:
    return max((suffix for suffix in suffixes if word.endswith(suffix)), key=len, default=None)


def _without_plural(word: str) -> str:
    """Steps 0 and 1a."""
    word = word.removesuffix(_longest(word, ("'", "'s", "'s'")) or "")
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and _VOWEL.search(word[:-2]):
        return word[:-1]
    return word


def _without_tense(word: str, first: int) -> str:
    """Step 1b."""
    suffix = _longest(word, ("eed", "eedly", "ed", "edly", "ing", "ingly"))
    if suffix is None:
        return word
    base = word.removesuffix(suffix)
    if suffix in ("eed", "eedly"):
        return base + "ee" if len(base) >= first else word
    if not _VOWEL.search(base):
        return word
    if base.endswith(("at", "bl", "iz")):
        return base + "e"
    if _DOUBLE.search(base):
        return base[:-1]
    return base + "e" if first >= len(base) and _SHORT_END.search(base) else base


def _replaced(word: str, table: dict[str, str], region: int, own_region: dict[str, int] | None = None) -> str:
    """Steps 2 to 4: the longest suffix of the table goes if region and letter before it fit."""
    suffix = _longest(word, table)
    if suffix is None:
        return word
    base = word.removesuffix(suffix)
    inside = len(base) >= max(region, (own_region or {}).get(suffix, 0))
    follows = suffix not in _BEFORE or (base and base[-1] in _BEFORE[suffix])
    return base + table[suffix] if inside and follows else word


def _without_last(word: str, first: int, second: int) -> str:
    """Step 5."""
    base = word[:-1]
    if word.endswith("e") and (len(base) >= second or (len(base) >= first and not _SHORT_END.search(base))):
        return base
    return base if word.endswith("ll") and len(base) >= second else word
