"""English that is true of the mirror image: left and right swapped, or a reason why they cannot be.

Each "left" and "right" must stand where it can only be a side ("on the left", "his right hand", "left of the
cube"). One that does not ("the right answer", "she left", "turn left at the church") is a reason to leave the
picture as it is. All rules hold for both words alike, so what was swapped can be swapped back.
"""

import re
from functools import cache

_SIDE = r"(?<![^\W_])(?:left|right)(?![^\W_])"
_D = f"(?P<side>{_SIDE})"
_THE = r"(?:the|its|his|her|their|your|my|our|a|each|every|both|either|\w+['’]s|\w+s['’])"
_FAR = "(?:far|extreme|very|upper|lower|top|bottom|middle|center|centre|back|front|rear)"
_AT = r"(?:on|at|to|from|in|near|along|toward|towards|of|with|touching|touches|by|behind)"
_IMAGE = "(?:image|picture|photo|photograph|frame|scene|screen|page|view)"
_NOUNS = (
    "side half edge wall corner end border margin third quarter lane hand arm leg foot shoulder eye ear knee "
    "elbow wrist ankle thumb cheek paw sleeve shoe headlight"
).split()
_DETERMINER = (
    "(?:the|an?|it|him|me|you|us|them|this|that|these|those|his|her|its|their|my|your|our|each|another)"
)
# What may come after a side that stands for itself: "on the right is", never "on the right answer".
_STOP = r"\s*(?:$|[.,;:?!)])"
_END = (
    rf"(?={_STOP}|\s+(?:is|are|was|were|and|or|in|has|have|with|from|at|on|who|which|that|while|than|does|do|can|"
    r"of|near|wearing|holding|standing|sitting|facing|riding|eating|smiling|there)\b)"
)
_START = r"(?:^\s*|[.,;:?!(]\s+)"
_MOVES = "(?:facing|faces|pointing|points|leaning|leans|moving|walking|running|heading|flying)"
_ANY_SIDE = re.compile(r"(?<![^\W_])(?:left|right)(?=(?:most|wards?|handed|hand|side)?(?![^\W_]))", re.I)

# Reasons to refuse a text, whether or not it names a side.
_UNSAFE = {
    "it tells of writing, which would be mirrored": re.compile(
        r"""["“”«»]|\b(?:reads?|says?|saying|writing|written|wrote|writes|letters?|words?|text|texts|logos?|signs?|
        labels?|labell?ed|spell(?:s|ed|ing)?|licen[cs]e\ plates?|clocks?|o['’]clock|
        digits?|digital|numbers?\ (?:\#\s*)?\d+|numbered|numerals?|alphabet|initials|[a-z][-\ ]shaped)\b|
        \b\d{1,2}:\d\d\b|\#\s*\d""",
        re.I | re.X,
    ),
    "it names a turn or a direction other than left and right": re.compile(
        r"\b(?:(?:counter|anti)?[-\s]?clockwise|(?:north|south)?[-\s]?(?:east|west)(?:ern|erly|wards?|most)?|starboard|"
        r"port\s+side|southpaws?|left(?:y|ies)|right(?:y|ies))\b",
        re.I,
    ),
    "left or right is not clearly a side": re.compile(
        r"\b(?:what|all|nothing|little|much|anything|everything|something|none|some|few|more|enough|bits?|any)"
        r"(?:['’]s)?(?:\s+that)?(?:\s+(?:is|was|are|were|remains|still))*\s+(?:left|right)\s+of\b"
        r"|\b(?:left|right)\s+(?:of\s+(?:the\s+)?way|of\s+\w+\s+own|(?:side\s+)?of\s+(?:history|the\s+law))\b"
        r"|\b(?:left|right)[-\s]+(?:side[-\s]+(?:up|out)|hand[-\s]+m[ae]n)\b",
        re.I,
    ),
    "it has letters of another script": re.compile(r"[^\W\d_a-zA-Z\u00aa-\u024f]"),
}
_BARE = re.compile(r"\W*(?:left|right)\W*", re.I)
_ASKS_FOR_SIDE = re.compile(
    r"\b(?:which|what)\s+(?:side|hand|direction|way|half|end|corner)\b|^\W*where\b", re.I
)


@cache
def _contexts(nouns: tuple[str, ...]) -> tuple[re.Pattern, ...]:
    """Where a side is a side: patterns with a group `side`, and maybe `other`."""
    noun = f"(?:{'|'.join(map(re.escape, (*_NOUNS, 'feet', *nouns)))})s?"
    patterns = (
        r"(?<![^\W_])(?P<side>left|right)(?=(?:-?most|wards?|-?hand(?:ed)?|-?side)(?![^\W_]))",
        # the left side; touching the right wall; on left side; his left hand
        rf"(?:{_START}|\b(?:{_THE}|{_FAR}|{_AT})[-\s]+){_D}(?=[-\s]+{noun}\b)",
        # on the left; to the far right of it
        rf"\b(?:on|at|to|from|towards?)\s+(?:the|its|his|her|their|your|my)\s+(?:{_FAR}[-\s]+)?{_D}{_END}",
        rf"\b(?:on|at|from)\s+{_D}{_END}",
        # top left; the bottom-right of the photo
        rf"\b(?:upper|lower|top|bottom|middle|center|centre)[-\s]+{_D}{_END}",
        # left of the cube; but "the right of the people" needs a picture in their place
        rf"(?<!\bthe )(?<!\ba )(?<!\bany ){_D}(?=\s+of\s+{_DETERMINER}\b)",
        rf"\bthe\s+{_D}(?=\s+of\s+(?:the|this)\s+{_IMAGE}\b)",
        # from left to right; left-to-right; from the left to the right
        rf"{_D}[-\s]+to[-\s]+(?:the\s+)?(?P<other>{_SIDE})",
        # on the left or the right; to the left and right of it; his left and right hands
        rf"\b(?:{_AT}|{_THE})\s+{_D}(?:\s+side)?,?\s+(?:and|or)\s+(?:(?:on|to|at|from)\s+)?(?:the\s+)?"
        rf"(?P<other>{_SIDE})(?:{_END}|(?=\s+{noun}\b))",
        rf"\b{_MOVES}\s+{_D}(?={_STOP}|\s+(?:and|while)\b)",
    )
    return tuple(re.compile(pattern, re.I) for pattern in patterns)


def why_not(text: str, nouns: tuple[str, ...] = ()) -> str:
    """Why a text cannot be mirrored, or "".

    Args: nouns: more words, in the singular, before which left and right are sides, as "man".
    """
    for reason, pattern in _UNSAFE.items():
        if pattern.search(text):
            return reason
    sides = {match.start(): match.group() for match in _ANY_SIDE.finditer(text)}
    if any(word not in (word.lower(), word.capitalize(), word.upper()) for word in sides.values()):
        return "left or right is not clearly a side"
    clear: set[int] = set()
    for pattern in _contexts(nouns) if sides else ():
        match = pattern.search(text)
        while match:
            clear.update(match.start(group) for group in pattern.groupindex)
            match = pattern.search(text, match.start() + 1)
    return "left or right is not clearly a side" if set(sides) - clear else ""


def mirror_text(text: str) -> str:
    """The text with every left and right swapped, case kept. Ask `why_not` first."""
    return _ANY_SIDE.sub(lambda match: _swapped(match.group()), text)


def mirror_answer(question: str, answer: str, nouns: tuple[str, ...] = ()) -> str | None:
    """The answer for the mirror image, or None if that is not clear.

    A bare "left" or "right" is a side only where the question asks for one, or offers both.
    """
    if _BARE.fullmatch(answer):
        offered = {match.group().lower() for match in _ANY_SIDE.finditer(question)}
        clear = _ASKS_FOR_SIDE.search(question) or len(offered) == 2
        return mirror_text(answer) if clear else None
    return None if why_not(answer, nouns) else mirror_text(answer)


def _swapped(side: str) -> str:
    other = "right" if side.lower() == "left" else "left"
    if side.isupper():
        return other.upper()
    return other.capitalize() if side[0].isupper() else other
