"""One statement of an NLVR picture in the words of its writers, and its program, from small parts to large.

What a phrase means was read off the labels of the training sentences (tests/data/test_panels.py holds every
form against them): a bare number is exact ("there are 2 blue squares"); above, over and on mean directly on;
"only black and blue items" has both; what is "closely touching" a wall is at most 4 pixels from it.
"""

from collections.abc import Callable
from random import Random

from saccade.data.scenes.program import Call, call
from saccade.data.scenes.scene import NLVR_COLORS, NLVR_SHAPES
from saccade.data.text import NUMBER_WORDS

_SCENE = call("scene")


class Writer:
    """Draws one statement: pairs of words and programs, from small to large. Sets are of one box or
    picture."""

    def __init__(self, rng: Random, towers: bool):
        self.rng, self.towers = rng, towers

    def pick(self, *options):
        return self.rng.choice(options)

    def number(self, n: int) -> str:
        return self.pick(NUMBER_WORDS[n], NUMBER_WORDS[n], str(n))

    def color(self) -> str:
        return self.rng.choice(NLVR_COLORS)

    def thing(self, color: bool | None = None) -> tuple[str, Call]:
        """(singular noun with adjectives, the set): "yellow circle", "blue block", "item"."""
        if color is None:
            color = self.rng.random() < 0.8
        words, found = [], _SCENE
        shape = not self.towers and (not color or self.rng.random() < 0.6)
        if shape:
            value = self.rng.choice(NLVR_SHAPES)
            found = call("filter", found, "shape", value)
            words = [value]
        else:
            words = ["block"] if self.towers else [self.pick("item", "item", "object")]
        if color:
            value = self.color()
            found = call("filter", found, "color", value)
            words.insert(0, value)
        return " ".join(words), found

    def amount(self, noun: str, found: Call, most: int = 4, only: str = "only ") -> tuple[str, Call]:
        """ "exactly two blue items", "at least 1 circle", "a yellow block"; and what that says of the set.

        only: what "only" is said as where writers disagree whether anything else may be there.
        """
        n = self.rng.randint(1, most)
        form = self.rng.random()
        if form < 0.25:
            return f"a {noun}", call("exist", found)
        way, op = self.pick(
            ("", "equal"), ("", "equal"), ("exactly ", "equal"), ("at least ", "at_least"), (only, "equal")
        )
        if form > 0.95:
            way, op = "at most ", "at_most"
        return f"{way}{self.number(n)} {noun}{'s' * (n > 1)}", call(
            op, call("count", found), call("number", n)
        )

    # -- what a box or tower has

    def content(self) -> tuple[str, Call]:
        forms: list[Callable] = [self.one_amount, self.one_amount, self.size, self.only, self.only_two]
        if self.towers:
            forms += [self.end, self.end, self.end, self.both_ends, self.directly_on, self.directly_on]
        else:
            forms += [self.two_amounts, self.two_amounts, self.of_which, self.distinct_colors, self.at_wall]
        return self.rng.choice(forms)()

    def one_amount(self) -> tuple[str, Call]:
        return self.amount(*self.thing(color=True if self.towers else None), only="exactly ")

    def size(self) -> tuple[str, Call]:
        noun = "block" if self.towers else self.pick("item", "object")
        n = self.rng.randint(1, 4 if self.towers else 7)
        way, op = self.pick(
            ("", "equal"), ("exactly ", "equal"), ("at least ", "at_least"), ("only ", "equal")
        )
        return f"{way}{self.number(n)} {noun}{'s' * (n > 1)}", call(
            op, call("count", _SCENE), call("number", n)
        )

    def only(self) -> tuple[str, Call]:
        color, noun = self.color(), "blocks" if self.towers else "items"
        words = self.pick(f"only {color} {noun}", f"{noun} of only {color} color", f"{color} {noun} only")
        return words, call("not", call("exist", call("exclude", _SCENE, "color", color)))

    def only_two(self) -> tuple[str, Call]:
        one, two, odd = self.rng.sample(NLVR_COLORS, 3)
        noun = "blocks" if self.towers else "items"
        none = call("not", call("exist", call("filter", _SCENE, "color", odd)))
        both = call("equal", call("distinct", _SCENE, "color"), call("number", 2))
        words = self.pick(f"only {one} and {two} {noun}", f"{noun} of only {one} and {two} color")
        return words, call("and", both, none)

    def two_amounts(self) -> tuple[str, Call]:
        (one, first), (two, second) = self.thing(color=True), self.thing(color=True)
        if first == second:
            return self.two_amounts()
        (one, first), (two, second) = (
            self.amount(noun, found, 2, "exactly ") for noun, found in ((one, first), (two, second))
        )
        return f"{one} and {two}", call("and", first, second)

    def of_which(self) -> tuple[str, Call]:
        n, color = self.rng.randint(2, 6), self.color()
        k = self.rng.randint(1, min(n, 3))
        noun, least = self.pick("item", "object"), self.rng.random() < 0.3
        colored = call("count", call("filter", _SCENE, "color", color))
        few = f"{'at least ' * least}{self.number(k)}"
        words = self.pick(
            f"{self.number(n)} {noun}s of which {few} {'is' if k == 1 else 'are'} {color}",
            f"{self.number(n)} {noun}s and {few} {'is' if k == 1 else 'are'} {color}",
        )
        total = call("equal", call("count", _SCENE), call("number", n))
        return words, call("and", total, call("at_least" if least else "equal", colored, call("number", k)))

    def distinct_colors(self) -> tuple[str, Call]:
        n = self.rng.randint(1, 3)
        words = "items of only one color" if n == 1 else f"items of {self.number(n)} different colors"
        return words, call("equal", call("distinct", _SCENE, "color"), call("number", n))

    def at_wall(self) -> tuple[str, Call]:
        noun, found = self.thing()
        words, found = self.touching(found)
        return f"a {noun} {words}", call("exist", found)

    def touching(self, found: Call) -> tuple[str, Call]:
        wall, words = self.pick(
            ("any", ("the edge", "the wall", "any edge", "the side")),
            ("any", ("the edge", "the wall", "an edge")),
            ("bottom", ("the base", "the bottom of a box", "the bottom")),
            ("right", ("right wall of a box", "the right wall")),
            ("left", ("left wall of a box", "the left wall")),
            ("top", ("the top", "the roof of a box")),
            ("corner", ("a corner", "the corner", "a corner of a box")),
        )
        words = f"{self.pick('', '', 'closely ')}touching {self.rng.choice(words)}"
        if wall != "corner":
            if wall == "any" and self.rng.random() < 0.4:
                return f"not {words}", call("apart", found, wall)
            return words, call("touching", found, wall)
        corners = [
            call("touching", call("touching", found, side), end)
            for side in ("left", "right")
            for end in ("top", "bottom")
        ]
        return words, call(
            "union", call("union", corners[0], corners[1]), call("union", corners[2], corners[3])
        )

    def end(self) -> tuple[str, Call]:
        color, (end, number, words) = self.color(), self.place()
        return f"a {color} block {words}", _placed(color, end, number)

    def place(self) -> tuple[str, int, str]:
        if self.rng.random() < 0.15:
            end, number = self.pick("top", "bottom"), self.pick(2, 3)
            name = self.pick("base", "bottom") if end == "bottom" else "top"
            return end, number, f"as the {('', '', 'second', 'third')[number]} block from the {name}"
        return self.pick(
            ("top", 1, self.pick("at the top", "on top", "at the top")),
            ("bottom", 1, self.pick("at the base", "as its base", "at the bottom")),
        )

    def both_ends(self) -> tuple[str, Call]:
        base, top = self.color(), self.color()
        words = self.pick(
            f"a {base} block at the base and a {top} block at the top",
            f"a {top} block at the top and a {base} block at the base",
        )
        return words, call("and", _placed(base, "bottom", 1), _placed(top, "top", 1))

    def directly_on(self) -> tuple[str, Call]:
        upper, lower = self.color(), self.color()
        pair = [call("filter", _SCENE, "color", color) for color in (upper, lower)]
        if self.rng.random() < 0.2:
            below = self.pick("below", "beneath", "under")
            return f"a {lower} block {below} a {upper} block", call("exist", call("on", *pair))
        over = self.pick("above", "above", "over", "on")
        return f"a {upper} block {over} {self.pick('a', 'a', 'the')} {lower} block", call(
            "exist", call("on", *pair)
        )

    # -- sentences

    def sentence(self) -> tuple[str, Call]:
        forms: list[Callable] = [self.boxes] * 5 + [self.whole] * 3
        forms += [self.tower_of] * 3 if self.towers else [self.walls] * 4
        return self.rng.choice(forms)()

    def boxes(self) -> tuple[str, Call]:
        words, body = self.content()
        one, many = ("tower", "towers") if self.towers else ("box", "boxes")
        if self.towers and self.rng.random() < 0.15:
            one, many, words = "box", "boxes", words.replace("block", "item")
        has = self.pick("with", "with", "with", "which has", "that has")
        form = self.rng.random()
        if form < 0.4:
            return f"there is a {one} {has} {words}", call("some_group", body)
        if form < 0.5:
            grey = self.pick("grey ", "") if one == "box" else ""
            contains = self.pick("contains", "has")
            return f"one of the {grey}{self.pick(one, many)} {contains} {words}", call("some_group", body)
        if form < 0.57:
            return self.pick(f"each {one} has {words}", f"all the {many} have {words}"), call(
                "every_group", body
            )
        if form < 0.63:
            return f"there is no {one} {has} {words}", call("no_group", body)
        n = self.pick(1, 1, 2, 2, 3)
        way, op = self.pick(("at least ", "at_least"), ("exactly ", "equal"), ("only ", "equal"))
        if n > 1 and self.towers and self.rng.random() < 0.5:  # of boxes, half of the writers mean "at least"
            way, op = "", "equal"
        return (
            f"there {'is' if n == 1 else 'are'} {way}{self.number(n)} {one if n == 1 else many} with {words}",
            call(op, call("count_groups", body), call("number", n)),
        )

    def whole(self) -> tuple[str, Call]:
        noun, found = self.thing(color=True if self.towers else None)
        if self.towers and self.rng.random() < 0.4:
            return self.stacked()
        words, program = self.amount(noun, found, 5)
        if not self.towers and self.rng.random() < 0.25:
            other, among = self.thing(color=True)
            if among != found:
                more, second = self.amount(other, among, 3)
                words, program = f"{words} and {more}", call("and", program, second)
        return f"there {self.be(words)} {words}", program

    def stacked(self) -> tuple[str, Call]:
        """ "there is exactly one black block on a blue block": blocks are counted, in all towers."""
        upper, lower = self.color(), self.color()
        found = call("on", *(call("filter", _SCENE, "color", color) for color in (upper, lower)))
        over = f"{self.pick('above', 'over', 'on', 'on')} a {lower} block"
        if self.rng.random() < 0.2:
            return f"there is no {upper} block {over}", call("not", call("exist", found))
        words, program = self.amount(f"{upper} block", found, 1)
        return f"there is {words} {over}", program

    def walls(self) -> tuple[str, Call]:
        noun, found = self.thing()
        words, found = self.touching(found)
        form = self.rng.random()
        if form < 0.12:
            return f"there is no {noun} {words}", call("not", call("exist", found))
        if form < 0.2:
            return f"none of the {noun}s are {words}", call("not", call("exist", found))
        many, program = self.amount(noun, found, 4)
        return f"there {self.be(many)} {many} {words}", program

    def be(self, words: str) -> str:
        head = words.removeprefix("exactly ").removeprefix("at least ").removeprefix("at most ")
        return "is" if head.removeprefix("only ").split()[0] in ("a", "1", "one") else "are"

    def tower_of(self) -> tuple[str, Call]:
        """A tower told by its height; or tops and bases counted."""
        color, end = self.color(), self.pick("top", "bottom")
        name = "top" if end == "top" else "base"
        placed = _placed(color, end, 1)
        form = self.rng.random()
        if form < 0.3:
            n = self.pick(1, 2, 3)
            way, op = self.pick(
                ("", "equal"), ("at least ", "at_least"), ("exactly ", "equal"), ("only ", "equal")
            )
            words = f"{way}{self.number(n)} of the three towers has a {color} {name}"
            if n == 1 and self.rng.random() < 0.5:
                words = f"there is {way}{self.number(n)} {color} block as the {name} of a tower"
            return words, call(op, call("count_groups", placed), call("number", n))
        n = self.rng.randint(1 + (form > 0.8), 4)
        blocks = f"{self.number(n)} block{'s' * (n > 1)}"
        way, op = self.pick(
            ("", "equal"),
            ("exactly ", "equal"),
            ("at least ", "at_least"),
            ("at most ", "at_most"),
            ("only ", "equal"),
        )
        if form > 0.8:
            blocks, way, op = f"{self.number(n)} blocks tower", "", "equal"
            words = self.pick(
                f"there is a {blocks} that the {name} is {color}", f"the {name} of a {blocks} is {color}"
            )
        else:
            words = self.pick(
                f"there is a {color} block as the {name} of a tower with {way}{blocks}",
                f"the tower with {way}{blocks} has a {color} block at the {name}",
                f"there is a tower with {way}{blocks} having a {color} block at the {name}",
                f"there is a tower with {way}{blocks} and the {name} is {color}",
            )
        tall = call(op, call("count", _SCENE), call("number", n))
        return words, call("some_group", call("and", tall, placed))


def _placed(color: str, end: str, number: int) -> Call:
    return call("exist", call("filter", call("nth", _SCENE, end, number), "color", color))


def draw(rng: Random, towers: bool) -> tuple[str, Call]:
    """A statement in lower case, and the bool program it stands for."""
    return Writer(rng, towers).sentence()
