"""Which objects a text means on its way, and what is asked of them, against answers worked out by hand."""

from dataclasses import replace

import pytest

from saccade.data.scenes import IllPosedError, Scene, SceneObject, Source, execute, parse
from saccade.data.scenes import builders as builders_module
from saccade.data.scenes.program import GROUP_OPS, call, depth
from saccade.data.scenes.questions import MAX_DEPTH
from saccade.data.scenes.referents import BRANCHES, CHANNELS, program_referents, referents, told
from saccade.data.scenes.scene import Example

# Centres:            x    y
CUBE = SceneObject("cube", "red", "small", "metal", (10, 80, 20, 90))  # 15, 85
BLUE = SceneObject("ball", "blue", "large", "rubber", (40, 20, 70, 50))  # 55, 35
BALL = SceneObject("ball", "red", "medium", "glass", (80, 50, 100, 70))  # 90, 60
STAR = SceneObject("star", "red", "large", "metal", (100, 90, 128, 118))  # 114, 104
WORLD = Scene((CUBE, BLUE, BALL, STAR), 128, 120, "plain")
ALL = {0, 1, 2, 3}

S = "scene()"
RED, BALLS, STARS = "filter(scene(),color,red)", "filter(scene(),shape,ball)", "filter(scene(),shape,star)"
THE_BLUE, THE_CUBE, THE_STAR = (
    "unique(filter(scene(),color,blue))",
    "unique(filter(scene(),shape,cube))",
    f"unique({STARS})",
)
RED_BALL_LIKE_STAR = f"unique(filter(same({THE_STAR},color),shape,ball))"
BALL_RIGHT_OF_BLUE = f"unique(filter(relate({THE_BLUE},right),shape,ball))"

# Channel 2 * (hops) + branch: the first hop's are 0 and 1, the second's 2 and 3.
REFERENTS = [
    (f"count({S})", {0: ALL}),
    (f"count({RED})", {0: {0, 2, 3}}),  # the scene is no set of its own
    (f"exist(filter({S},shape,cone))", {0: set()}),
    (f"count(exclude({S},color,red))", {0: {1}}),
    (f"exist(touching({RED},right))", {0: {3}}),
    (f"not(exist(filter({RED},shape,ball)))", {0: {2}}),
    (f"distinct({RED},shape)", {0: {0, 2, 3}}),
    (f"query({THE_BLUE},material)", {0: {1}}),
    (THE_BLUE, {0: {1}}),
    (f"equal(count({BALLS}),number(2))", {0: {1, 2}}),
    # one hop more
    (f"count(relate({THE_BLUE},right))", {0: {1}, 2: {2, 3}}),
    (f"count(filter(relate({THE_BLUE},right),shape,ball))", {0: {1}, 2: {2}}),
    (f"count(exclude(relate({THE_BLUE},right),shape,ball))", {0: {1}, 2: {3}}),
    (f"exist(same({THE_STAR},size))", {0: {3}, 2: {1}}),
    (f"query(unique(nth({RED},right,1)),shape)", {0: {0, 2, 3}, 2: {3}}),
    # branches
    (f"count(union({BALLS},{STARS}))", {0: {1, 2}, 1: {3}, 2: {1, 2, 3}}),
    (f"count(filter(intersect({BALLS},{RED}),size,medium))", {0: {1, 2}, 1: {0, 2, 3}, 2: {2}}),
    (f"greater(count({RED}),count({BALLS}))", {0: {0, 2, 3}, 1: {1, 2}}),
    (f"same_attribute({THE_CUBE},{THE_STAR},material)", {0: {0}, 1: {3}}),
    (f"less(count({BALLS}),count(relate({THE_BLUE},left)))", {0: {1, 2}, 1: {1}, 3: {0}}),
    # a branch within a branch stays in the outer one, where sets of one level are one set
    (
        f"or(exist(relate({THE_BLUE},left)),exist(union({BALLS},{STARS})))",
        {0: {1}, 2: {0}, 1: {1, 2, 3}, 3: {1, 2, 3}},
    ),
    # two hops
    (
        f"query(unique(filter(relate({BALL_RIGHT_OF_BLUE},below),shape,star)),size)",
        {0: {1}, 2: {2}, 4: {3}},
    ),
]

TOLD = [
    (f"count({RED})", {}),
    (f"exist(relate({THE_BLUE},right))", {}),
    (THE_BLUE, {}),
    (f"query({THE_BLUE},material)", {1: "rubber"}),
    (f"is({THE_CUBE},size,large)", {0: "small"}),
    (f"exist(same({THE_STAR},size))", {3: "large"}),
    (f"same_attribute({THE_CUBE},{THE_STAR},material)", {0: "metal", 3: "metal"}),
    (f"is({RED_BALL_LIKE_STAR},size,medium)", {2: "medium", 3: "red"}),
    # of two attributes of the star, the outer one
    (f"same_attribute({THE_STAR},{RED_BALL_LIKE_STAR},material)", {3: "metal", 2: "glass"}),
    (f"and(is({THE_BLUE},color,blue),is({THE_CUBE},shape,cube))", {1: "blue", 0: "cube"}),
]


def example(program=None, scene=WORLD, **fields) -> Example:
    return Example("vqa", None, scene, program=program, **fields)


def ids(cases):
    return [text for text, _ in cases]


@pytest.mark.parametrize(("text", "expected"), REFERENTS, ids=ids(REFERENTS))
def test_referents_by_hand(text, expected):
    assert referents(example(parse(text))) == expected
    assert program_referents(parse(text), WORLD) == expected


@pytest.mark.parametrize(("text", "expected"), TOLD, ids=ids(TOLD))
def test_told_by_hand(text, expected):
    assert told(example(parse(text))) == expected


def test_a_program_deeper_than_any_question_shares_the_last_level():
    program = parse(S)
    for _ in range(MAX_DEPTH + 1):
        program = call("nth", program, "left", 1)
    assert depth(program) == MAX_DEPTH + 2
    assert program_referents(program, WORLD) == {0: ALL, **{2 * hops: {0} for hops in range(1, MAX_DEPTH)}}
    assert CHANNELS == BRANCHES * MAX_DEPTH


@pytest.mark.parametrize("op", GROUP_OPS)
def test_programs_over_panels_mean_in_each_what_their_body_means_there(op):
    quantified = f"{op}(exist(filter(nth(scene(),right,1),color,red)))"
    if op == "count_groups":
        quantified = f"equal({quantified},number(1))"
    halves = replace(
        WORLD, objects=(CUBE, BLUE, replace(BALL, group=1), replace(STAR, group=1)), num_groups=2
    )
    assert program_referents(parse(quantified), halves) == {0: ALL, 2: {3}}  # not the blue ball of panel 0
    assert told(example(parse(quantified))) == {}


def test_what_the_scene_does_not_have_is_an_error():
    with pytest.raises(IllPosedError):
        program_referents(parse(f"count(relate(unique({BALLS}),left))"), WORLD)


def test_without_a_program_nothing_is_said():
    assert referents(example()) == {}
    assert told(example()) == {}


def described(*objects) -> dict:
    shown = example(described=replace(WORLD, objects=objects))
    assert told(shown) == {}
    return referents(shown)


def test_a_description_marks_what_is_not_as_described():
    assert described(*WORLD.objects) == {0: set()}
    assert described(STAR, BALL, BLUE, CUBE) == {0: set()}
    assert described(CUBE, replace(BLUE, color="green"), BALL, STAR) == {0: {1}}
    swapped = replace(CUBE, box_px=STAR.box_px), replace(STAR, box_px=CUBE.box_px)
    assert described(swapped[0], BLUE, BALL, swapped[1]) == {0: {0, 3}}
    assert described(CUBE, BLUE, STAR) == {0: {2}}  # one more than described
    assert described(*WORLD.objects, replace(CUBE, box_px=(0, 0, 9, 9))) == {0: set()}  # one fewer
    assert described(replace(CUBE, size="large"), replace(BLUE, size="small"), STAR) == {}  # another scene


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr(builders_module, "render", lambda scene: None)


def test_of_a_referring_expression_the_last_channel_is_the_object(undrawn):
    source = Source("ground")
    for one in (source[i] for i in range(200)):
        assert referents(one)[BRANCHES * (one.depth - 1)] == {execute(one.program, one.scene)}


def test_what_a_question_asks_of_an_object_is_its_answer(undrawn):
    source, seen = Source("vqa"), 0
    for one in (source[i] for i in range(400)):
        if one.program.op == "query":
            assert told(one)[execute(one.program.args[0], one.scene)] == one.answer
            seen += 1
        assert referents(one).keys() <= set(range(CHANNELS))
    assert seen > 50


def test_a_true_description_marks_nothing_and_a_twins_at_most_two(undrawn):
    source, marked = Source("match"), 0
    for one in (source[i] for i in range(300)):
        found = referents(one)
        if one.answer == "true":
            assert found == {0: set()}
        elif one.kind == "twin":
            assert found.keys() == {0}
            assert len(found[0]) <= 2
            marked += bool(found[0])
    assert marked > 60
