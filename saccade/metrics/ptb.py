"""Captions into the tokens that published caption scores are computed on, without Java.

coco-caption runs Stanford's PTBTokenizer (CoreNLP 3.4.1, -lowerCase) and then drops most punctuation. This
follows its behaviour on captions: contractions, possessives, hyphens, numbers, abbreviations, quotes,
brackets. It knows fewer abbreviations, addresses, smileys and markup; docs/metrics.md says where the two
differ.
"""

import re

# What coco-caption drops. Brackets of all kinds stay: it looks for -LRB- in text that is in lower case by
# then.
PUNCTUATION = frozenset(". ? ! , : - -- ... ; ' ` '' ``".split())

_PLAIN = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛´", "'"),
        **dict.fromkeys("“”„‟«»", '"'),
        **dict.fromkeys("–—―", " -- "),
        **dict.fromkeys("\u00a0\n\r\t", " "),
        **dict.fromkeys("\u00ad\u200b\ufeff"),  # soft hyphen, zero widths: gone
        "…": " ... ",
        "€": "$",
        "£": "#",
        "½": "1/2",
        "¼": "1/4",
        "¾": "3/4",
    }
)
_NAMES = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", '"': "''"}
_SPLIT = {
    word.replace("|", ""): word.split("|")
    for word in "can|not d'|ye gim|me gon|na got|ta lem|me more|'n 't|is 't|was wan|na".split()
}

_ABBREVIATIONS = (
    "mr|mrs|ms|dr|prof|st|ave|blvd|rd|jr|sr|lt|col|gen|capt|sgt|rev|gov|sen|rep|co|inc|ltd|corp|vs|etc|ft|mt|"
    "est|dept|sq|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
)
_TOKEN = re.compile(
    rf"""
    https?://[^\s"<>]*[^\s"<>.,;:!?)\]'] | www\.[^\s"<>]*[^\s"<>.,;:!?)\]']  # addresses
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)+
    | [@#][a-z]\w* | </?[a-z][^<>]*> | [:;=]-?[()]
    | (?:[a-z]\.){{2,}}(?!\w) | (?-i:(?<!\w)[A-Z])\.(?=\s)  # u.s. and J. Smith
    | (?<![\w'])(?:(?:{_ABBREVIATIONS})\.(?!\w) | no\.(?=\s*\d))
    | (?<!\w)(?:[cdlo]'(?!(?:re|ve|ll)\b)[a-z]{{2,}} | ma'am\b | y'(?=all\b) | '[t](?=is\b|was\b) | '\d\ds\b
    | 'em\b) | 'n'
    | [a-z]+?(?=n't\b) | n't\b
    | '(?:s|m|d|re|ve|ll)\b
    | (?:(?<!\S)[-+])?\d+(?:[.,:/]\d+)+ | (?<!\S)[-+]?\.?\d+\b(?![-'\w])
    | (?-i:[A-Z]+(?:&[A-Z]+)+)\b
    | [a-z]+(?:\.[a-z]+)+(?![-/\w]) | \w+(?:[-/]\w+)*
    | \.(?:\s?\.)+ | -{{2,}} | [?!]+ | \*{{2,}} | \#{{2,}} | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


def tokenize(text: str) -> list[str]:
    """The lower-case tokens of a caption, most punctuation left out: "A man's dog." -> a, man, 's, dog.

    Source: Penn Treebank conventions, as coco-caption's PTBTokenizer applies them.
    """
    tokens = []
    for token in _TOKEN.findall(text.translate(_PLAIN)):
        token = re.sub(r'[][(){}]|^"$', lambda found: _NAMES[found[0]], token.lower())
        tokens += [part for part in _SPLIT.get(token, [token]) if not _is_punctuation(part)]
    return tokens


def _is_punctuation(token: str) -> bool:
    runs = set(token) - {" "}
    return token in PUNCTUATION or (
        len(token) > 1 and runs in ({"."}, {"-"})
    )  # ".." and "---" are "..." and "--"
