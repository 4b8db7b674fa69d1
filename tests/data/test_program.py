"""The program language: types, text form, and every operation against answers worked out by hand."""

from random import Random

import pytest

from saccade.data.scenes import IllPosedError, ProgramError, Scene, SceneObject, execute, parse, trace
from saccade.data.scenes.program import SIGNATURES, Call, call, depth
from saccade.data.scenes.questions import ANSWERS_OF, PALETTES, draw_kind, draw_question

# Centres:            x    y
RED_CUBE = SceneObject("cube", "red", "small", "metal", (10, 80, 20, 90))  # 15, 85
BLUE_BALL = SceneObject("ball", "blue", "large", "rubber", (40, 20, 70, 50))  # 55, 35
RED_BALL = SceneObject("ball", "red", "medium", "glass", (80, 50, 100, 70))  # 90, 60
RED_STAR = SceneObject("star", "red", "large", "metal", (100, 90, 128, 118))  # 114, 104
WORLD = Scene((RED_CUBE, BLUE_BALL, RED_BALL, RED_STAR), 128, 120, "plain")

S = "scene()"
RED, BALLS = "filter(scene(),color,red)", "filter(scene(),shape,ball)"
BLUE = "unique(filter(scene(),color,blue))"
CUBE, STAR = "unique(filter(scene(),shape,cube))", "unique(filter(scene(),shape,star))"

BY_HAND = [
    (S, (0, 1, 2, 3)),
    (RED, (0, 2, 3)),
    (f"exclude({S},color,red)", (1,)),
    (f"relate({BLUE},left)", (0,)),
    (f"relate({BLUE},right)", (2, 3)),
    (f"relate(unique(filter({S},size,medium)),above)", (1,)),
    (f"relate(unique(filter({S},size,medium)),below)", (0, 3)),
    (f"same({STAR},color)", (0, 2)),
    (f"same({STAR},size)", (1,)),
    (f"same({STAR},material)", (0,)),
    (f"nth({S},left,2)", (1,)),
    (f"nth({RED},right,1)", (3,)),
    (f"nth({S},top,1)", (1,)),
    (f"nth({S},bottom,2)", (0,)),
    (f"nth({BALLS},bottom,3)", ()),
    (f"touching({S},right)", (3,)),
    (f"touching({S},bottom)", ()),
    (f"union({BALLS},filter({S},shape,star))", (1, 2, 3)),
    (f"intersect({BALLS},{RED})", (2,)),
    (BLUE, 1),
    (f"count({RED})", 3),
    (f"distinct({S},color)", 2),
    (f"distinct({RED},shape)", 3),
    ("number(4)", 4),
    (f"exist(filter({S},shape,cone))", False),
    (f"exist({BALLS})", True),
    (f"is({CUBE},material,metal)", True),
    (f"is({CUBE},size,large)", False),
    (f"same_attribute({CUBE},{STAR},material)", True),
    (f"same_attribute({BLUE},{STAR},color)", False),
    (f"query({BLUE},material)", "rubber"),
    (f"query({STAR},shape)", "star"),
    (f"equal(count({BALLS}),number(2))", True),
    (f"greater(count({RED}),count({BALLS}))", True),
    (f"less(count({RED}),count({BALLS}))", False),
    (f"at_least(count({BALLS}),number(2))", True),
    (f"at_most(count({BALLS}),number(1))", False),
    (f"and(exist({BALLS}),exist({RED}))", True),
    (f"and(exist({BALLS}),exist(filter({S},shape,cone)))", False),
    (f"or(exist(filter({S},shape,cone)),exist({RED}))", True),
    (f"not(exist({RED}))", False),
]


def panel(group, color, shape, x, y, size=20):
    left = 150 * group + x
    return SceneObject(shape, color, "medium", "rubber", (left, y, left + size, y + size), group)


PANELS = Scene(
    (
        panel(0, "black", "square", 0, 40),
        panel(0, "yellow", "circle", 50, 80),
        panel(1, "yellow", "circle", 40, 40),
        panel(2, "yellow", "triangle", 20, 30),
        panel(2, "yellow", "circle", 60, 60),
    ),
    400,
    100,
    "gray",
    "nlvr",
    3,
)
YELLOW = "filter(scene(),color,yellow)"
BLACK = "filter(scene(),color,black)"
PANELS_BY_HAND = [
    (f"every_group(exist({YELLOW}))", True),
    (f"every_group(equal(count({YELLOW}),number(1)))", False),
    (f"some_group(exist({BLACK}))", True),
    (f"no_group(exist({BLACK}))", False),
    ("no_group(exist(filter(scene(),color,blue)))", True),
    (f"count_groups(equal(count({YELLOW}),number(1)))", 2),
    (f"at_least(count_groups(at_least(count({YELLOW}),number(2))),number(2))", False),
    ("count_groups(equal(distinct(scene(),color),number(1)))", 2),
    ("touching(scene(),left)", (0,)),
    ("touching(scene(),bottom)", (1,)),
    ("touching(scene(),any)", (0, 1)),
    (f"apart({YELLOW},any)", (2, 3, 4)),
    (f"on({YELLOW},{YELLOW})", ()),  # the triangle ends at y = 50, the circle beside it starts at 60
    (f"relate(unique({BLACK}),right)", (1,)),  # its own panel only
    (f"count({YELLOW})", 4),
]


@pytest.mark.parametrize(("text", "value"), BY_HAND)
def test_value_by_hand(text, value):
    assert execute(parse(text), WORLD) == value


@pytest.mark.parametrize(("text", "value"), PANELS_BY_HAND)
def test_panel_value_by_hand(text, value):
    assert execute(parse(text), PANELS) == value


def test_every_operation_is_checked_by_hand():
    told = " ".join(text for text, _ in BY_HAND + PANELS_BY_HAND)
    assert [op for op in SIGNATURES if f"{op}(" not in told] == []


@pytest.mark.parametrize("text", [text for text, _ in BY_HAND + PANELS_BY_HAND])
def test_text_form_reads_back(text):
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)


def test_random_programs_read_back_and_have_the_depth_asked_for():
    rng = Random(5)
    for _ in range(300):
        wanted = rng.randint(1, 6)
        kind = draw_kind(rng, wanted)
        program = draw_question(rng, kind, wanted, PALETTES["world"])
        assert parse(str(program)) == program
        assert depth(program) == (1 if kind == "count_all" else wanted), program
        assert kind in ANSWERS_OF


@pytest.mark.parametrize("found", ["filter(scene(),shape,cone)", BALLS])
def test_the_needs_exactly_one(found):
    with pytest.raises(IllPosedError, match="exactly one"):
        execute(parse(f"query(unique({found}),color)"), WORLD)


@pytest.mark.parametrize(
    ("op", "args", "message"),
    [
        ("paint", (), "unknown operation 'paint'"),
        ("count", (), "count takes 1 arguments"),
        ("count", (call("number", 1),), "is int, expected set"),
        ("filter", (call("scene"), "taste", "red"), "'taste', expected one of color"),
        ("filter", (call("scene"), "color", "cube"), "'cube', expected one of red"),
        ("relate", (call("scene"), "left"), "is set, expected object"),
        ("number", (-1,), "expected a number"),
        ("number", (True,), "expected a number"),
        ("touching", (call("scene"), "north"), "'north', expected one of left"),
    ],
)
def test_a_wrong_program_cannot_be_made(op, args, message):
    with pytest.raises(ProgramError, match=message):
        Call(op, args)


@pytest.mark.parametrize(
    "text", ["", "red", "count(", "count(scene()) x", "count(scene(),)", "7", "count(scene();)"]
)
def test_text_that_is_no_program(text):
    with pytest.raises(ProgramError):
        parse(text)


def test_trace_ends_with_the_answer_and_holds_every_step():
    program = parse(f"count(filter(relate({BLUE},right),color,red))")
    steps = trace(program, WORLD)
    assert [str(step.op) for step, _ in steps] == ["scene", "filter", "unique", "relate", "filter", "count"]
    assert [value for _, value in steps] == [(0, 1, 2, 3), (1,), 1, (2, 3), (2, 3), 2]


def test_trace_shows_panels_one_by_one():
    program = parse(f"count_groups(exist({BLACK}))")
    body, answer = trace(program, PANELS)[-2:]
    assert body == (program.args[0], (True, False, False))
    assert answer == (program, 1)


def test_on_wants_the_next_object_below_in_the_same_panel():
    def tower(group, *colors):
        return [panel(group, color, "square", 40, y) for color, y in zip(colors, (80, 59, 38), strict=False)]

    blocks = (*tower(0, "black", "yellow", "blue"), *tower(1, "yellow"), *tower(2, "blue", "black"))
    scene = Scene(blocks, 400, 100, "gray", "nlvr", 3)
    blue = "filter(scene(),color,blue)"
    assert execute(parse(f"on({YELLOW},{BLACK})"), scene) == (1,)
    assert execute(parse(f"on({blue},{BLACK})"), scene) == ()  # a yellow one between them
    assert execute(parse(f"on({BLACK},{blue})"), scene) == (5,)
    assert execute(parse(f"on({BLACK},{YELLOW})"), scene) == ()  # below is not on
    assert execute(parse("on(scene(),scene())"), scene) == (1, 2, 5)


def test_a_tie_for_a_place_is_ill_posed():
    twin = SceneObject("cone", "gray", "small", "metal", (50, 100, 60, 110))
    scene = Scene((BLUE_BALL, twin), 128, 120, "plain")
    with pytest.raises(IllPosedError, match="tie"):
        execute(parse("nth(scene(),left,1)"), scene)


@pytest.mark.parametrize(
    ("text", "hops"),
    [
        (f"count({RED})", 1),
        (f"query({BLUE},color)", 1),
        (f"at_least(count({RED}),number(2))", 1),
        (f"count(relate({BLUE},left))", 2),
        (f"greater(count({RED}),count({BALLS}))", 2),
        (f"same_attribute({CUBE},{STAR},color)", 2),
        (f"every_group(exist({YELLOW}))", 2),
        (f"equal(count_groups(exist({YELLOW})),number(2))", 2),
        (f"count(relate(unique(same({BLUE},size)),left))", 3),
    ],
)
def test_depth(text, hops):
    assert depth(parse(text)) == hops
