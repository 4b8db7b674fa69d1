"""Word lists that tell what a change of the picture could make untrue."""

import re
from collections.abc import Iterable

COLOR_WORDS = frozenset(
    """red blue green yellow purple violet orange cyan gray grey black white brown pink magenta turquoise teal
    beige tan maroon crimson scarlet navy indigo lavender lilac gold golden silver silvery bronze copper olive
    khaki cream ivory blond blonde brunette amber aqua azure charcoal coral fuchsia lime mauve mustard peach
    plum rose ruby emerald sapphire rust salmon sepia reddish bluish greenish yellowish greyish grayish
    brownish pinkish color colors colored colorful coloring colour colours coloured colourful colouring hue
    hues shade shades tint tinted bright brighter brightest brightly dark darker darkest light lighter
    lightest pale dim vivid faded saturated monochrome multicolored multicoloured rainbow""".split()
)

_COUNTS = """how many|number|count|counting|total|one|two|three|four|five|six|seven|eight|nine|ten|\\d+|dozen|
couple|several|few|fewer|fewest|less|least|more|most|all|every|each|only|none|no|nothing|nobody|any|anything|
anyone|both|else|not|never|without|is there|are there|there is|there are|can you see|do you see|can you find|
entire|entirely|whole|everything|everyone|alone|empty|single|pair|exactly"""
_PLACES = """leftmost|rightmost|topmost|bottommost|left-most|right-most|highest|lowest|nearest|closest|
farthest|furthest|largest|biggest|smallest|tallest|shortest|first|second|third|last|corners?|edges?|borders?|walls?|
middle|cent(?:er|re)|centered|centred|foreground|background|top|bottom|sides?"""
# "left of the dog" holds in every crop that shows both, "on the left" does not.
_SIDES = r"(?:left|right)(?! of (?!the (?:image|picture|photo|photograph|frame|scene|screen)\b))"
_WHOLE = re.compile(rf"(?<![\w-])(?:{_COUNTS}|{_PLACES}|{_SIDES})(?!\w)".replace("\n", ""), re.I)
_WORD = re.compile(r"[^\W\d_]+")


def names_colors(texts: Iterable[str]) -> bool:
    """Whether a text names, or asks for, a color or how bright something is."""
    return any(word in COLOR_WORDS for text in texts for word in _WORD.findall(text.lower()))


def tells_whole(texts: Iterable[str]) -> bool:
    """Whether a text may be untrue of a part of the picture: it counts, denies, asks for presence, ranks, or
    names a place in the picture."""
    return any(_WHOLE.search(text) for text in texts)
