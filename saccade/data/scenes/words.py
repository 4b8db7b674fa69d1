"""Every word and sentence frame the scene language can say, as tables.

Slots in a frame: {A:the} {A:a} {A:one} {A:many} name a set program and the form of its noun phrase; {F:...}
is the same without its last relation, which {R:is} / {R:are} then says as a predicate; other slots are words.
The first entry of a list of synonyms is the plain one, chosen more often.
"""

NOUNS = {
    "cube": ("cube", "block"),
    "ball": ("ball", "sphere"),
    "cone": ("cone",),
    "cylinder": ("cylinder", "tube"),
    "star": ("star",),
    "circle": ("circle",),
    "square": ("square", "block"),
    "triangle": ("triangle",),
    "": ("object", "thing", "item"),
}
SHAPE_QUESTION = {"cube": ("cube",), "ball": ("ball", "sphere"), "cylinder": ("cylinder", "tube")}
ADJECTIVES = {
    "red": ("red",),
    "blue": ("blue",),
    "green": ("green",),
    "yellow": ("yellow",),
    "purple": ("purple", "violet"),
    "orange": ("orange",),
    "cyan": ("cyan",),
    "gray": ("gray", "grey"),
    "black": ("black",),
    "small": ("small", "tiny", "little"),
    "medium": ("medium", "mid-sized", "medium-sized"),
    "large": ("large", "big"),
    "rubber": ("rubber", "matte"),
    "metal": ("metal", "shiny", "metallic"),
    "glass": ("glass", "see-through", "transparent"),
}
BEFORE_COLOR = ("matte", "shiny", "metallic", "see-through", "transparent")
PREDICATES = {
    "rubber": ("made of rubber", "matte"),
    "metal": ("made of metal", "shiny"),
    "glass": ("made of glass", "see-through"),
}
ATTRIBUTE_NOUNS = {
    "color": ("color", "colour"),
    "shape": ("shape",),
    "size": ("size",),
    "material": ("material",),
}
RELATIONS = {
    "left": ("left of", "to the left of", "on the left side of"),
    "right": ("right of", "to the right of", "on the right side of"),
    "above": ("above", "higher than", "higher up than"),
    "below": ("below", "lower than", "lower down than"),
}
END_FRAMES = {
    ("left", 1): ("leftmost {N}", "first {N} from the left"),
    ("right", 1): ("rightmost {N}", "first {N} from the right"),
    ("top", 1): ("topmost {N}", "highest {N}"),
    ("bottom", 1): ("lowest {N}", "bottommost {N}"),
    ("left", 2): ("second {N} from the left", "second leftmost {N}"),
    ("right", 2): ("second {N} from the right", "second rightmost {N}"),
    ("top", 2): ("second {N} from the top", "second highest {N}"),
    ("bottom", 2): ("second {N} from the bottom", "second lowest {N}"),
    ("left", 3): ("third {N} from the left",),
    ("right", 3): ("third {N} from the right",),
    ("top", 3): ("third {N} from the top",),
    ("bottom", 3): ("third {N} from the bottom",),
}
WALL_PHRASES = {
    "left": ("touching the left wall", "touching the left edge"),
    "right": ("touching the right wall", "touching the right edge"),
    "top": ("touching the top", "touching the top edge"),
    "bottom": ("touching the bottom", "touching the base"),
    "any": ("touching the edge", "touching a wall", "touching an edge"),
}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ORDINALS = ("", "first", "second", "third")
POSTMODIFIERS = {
    "relate": ("{that} {rel} {X:the}", "{rel} {X:the}"),
    "same": (
        "that {has} the same {attr} as {X:the}",
        "with the same {attr} as {X:the}",
        "which {has} the same {attr} as {X:the}",
    ),
    "both": ("{that} both {rel} {X:the} and {rel2} {Y:the}",),
    "not": ("{that} not {v}",),
    "touching": ("{that} {wall}", "{wall}"),
}
PREDICATE_FRAMES = {
    "relate": ("{be} {rel} {X:the}",),
    "same": ("{has} the same {attr} as {X:the}",),
    "both": ("{be} both {rel} {X:the} and {rel2} {Y:the}",),
    "not": ("{be} not {v}",),
    "touching": ("{be} {wall}",),
}

QUESTIONS = {
    "count_all": (
        "how many objects are there?",
        "how many things are in the picture?",
        "how many items can you see?",
        "what is the total number of objects?",
        "how many objects does the image show?",
        "count all the objects.",
    ),
    "count": (
        "how many {A:many} are there?",
        "what number of {A:many} are there?",
        "how many {A:many} can you see?",
        "how many {A:many} do you see?",
        "how many {A:many} does the picture show?",
        "how many {A:many} does the image contain?",
        "what is the number of {A:many}?",
        "count the {A:many}.",
        "tell me how many {A:many} there are.",
        "there are how many {A:many}?",
    ),
    "count_related": (
        "how many {F:many} {R:are}?",
        "what number of {F:many} {R:are}?",
        "how many of the {F:many} {R:are}?",
    ),
    "count_union": (
        "how many objects are either {A:many} or {B:many}?",
        "how many things are {A:many} or {B:many}?",
        "what number of objects are either {A:many} or {B:many}?",
        "what is the total number of {A:many} and {B:many}?",
        "how many {A:many} and {B:many} are there in total?",
        "counting both {A:many} and {B:many}, how many are there?",
    ),
    "exist": (
        "is there {A:a}?",
        "are there any {A:many}?",
        "can you see {A:a}?",
        "do you see {A:a}?",
        "do you see any {A:many}?",
        "does the picture show {A:a}?",
        "does the image contain {A:a}?",
        "does the picture contain any {A:many}?",
        "can you find {A:a}?",
    ),
    "exist_related": (
        "is any {F:one} {R:}?",
        "are any {F:many} {R:}?",
        "are any of the {F:many} {R:}?",
    ),
    "exist_union": (
        "is there anything that is either {A:a} or {B:a}?",
        "is anything either {A:a} or {B:a}?",
        "can you see something that is either {A:a} or {B:a}?",
    ),
    "all": (
        "are all {A:many} {v}?",
        "is every {A:one} {v}?",
        "are all of the {A:many} {v}?",
        "is each {A:one} {v}?",
    ),
    "is": ("is {A:the} {v}?",),
    "is_long": ("is it true that {A:the} is {v}?", "is it correct that {A:the} is {v}?"),
    "is_shape": ("is {A:the} {v}?", "is the shape of {A:the} that of {v}?"),
    "equal_number": (
        "are there exactly {n} {A:many}?",
        "is the number of {A:many} exactly {n}?",
        "can you count exactly {n} {A:many}?",
    ),
    "at_least_number": ("are there at least {n} {A:many}?", "are there {n} or more {A:many}?"),
    "at_most_number": ("are there at most {n} {A:many}?", "are there no more than {n} {A:many}?"),
    "equal": (
        "is the number of {A:many} the same as the number of {B:many}?",
        "are there exactly as many {A:many} as {B:many}?",
        "is the number of {A:many} equal to the number of {B:many}?",
        "are there just as many {A:many} as there are {B:many}?",
    ),
    "greater": (
        "are there more {A:many} than {B:many}?",
        "is the number of {A:many} greater than the number of {B:many}?",
        "do you see more {A:many} than {B:many}?",
        "are {A:many} more numerous than {B:many}?",
    ),
    "less": (
        "are there fewer {A:many} than {B:many}?",
        "is the number of {A:many} less than the number of {B:many}?",
        "do you see fewer {A:many} than {B:many}?",
        "is the number of {A:many} smaller than the number of {B:many}?",
    ),
    "same_attribute": (
        "does {A:the} have the same {attr} as {B:the}?",
        "is {A:the} the same {attr} as {B:the}?",
        "is the {attr} of {A:the} the same as that of {B:the}?",
        "does the {attr} of {A:the} match that of {B:the}?",
    ),
    "same_material": (
        "is {A:the} made of the same material as {B:the}?",
        "does {A:the} have the same material as {B:the}?",
        "is the material of {A:the} the same as that of {B:the}?",
    ),
    "and": (
        "is there {A:a}, and is there also {B:a}?",
        "is it true that there is {A:a} and that there is {B:a}?",
        "can you see {A:a}, and can you also see {B:a}?",
        "does the picture show {A:a}, and does it also show {B:a}?",
    ),
    "or": (
        "is it true that there is {A:a} or that there is {B:a}?",
        "can you find at least one of these: {A:a}, or {B:a}?",
        "does the picture show at least one of these: {A:a}, or {B:a}?",
        "is at least one of these present: {A:a}, or {B:a}?",
    ),
    "query_color": (
        "what color is {A:the}?",
        "what is the color of {A:the}?",
        "what colour is {A:the}?",
        "which color is {A:the}?",
        "which color does {A:the} have?",
        "tell me the color of {A:the}.",
    ),
    "query_shape": (
        "what shape is {A:the}?",
        "what is the shape of {A:the}?",
        "which shape is {A:the}?",
        "which shape does {A:the} have?",
        "tell me the shape of {A:the}.",
    ),
    "query_size": (
        "what size is {A:the}?",
        "how big is {A:the}?",
        "how large is {A:the}?",
        "what is the size of {A:the}?",
        "is {A:the} small, medium or large?",
    ),
    "query_material": (
        "what is {A:the} made of?",
        "what material is {A:the}?",
        "what material is {A:the} made of?",
        "which material is {A:the} made of?",
        "is {A:the} made of rubber, metal or glass?",
    ),
}

STATEMENTS = {
    "exist": (
        "there is {A:a}.",
        "the picture shows {A:a}.",
        "the image contains {A:a}.",
        "you can see {A:a}.",
        "there is at least one {A:one}.",
    ),
    "none": ("there is no {A:one}.", "there are no {A:many}.", "the picture does not show any {A:many}."),
    "equal_number": (
        "there are exactly {n} {A:many}.",
        "the picture shows exactly {n} {A:many}.",
        "the number of {A:many} is {n}.",
    ),
    "at_least_number": ("there are at least {n} {A:many}.", "there are {n} or more {A:many}."),
    "at_most_number": ("there are at most {n} {A:many}.", "there are no more than {n} {A:many}."),
    "greater": ("there are more {A:many} than {B:many}.", "the picture has more {A:many} than {B:many}."),
    "less": ("there are fewer {A:many} than {B:many}.", "the picture has fewer {A:many} than {B:many}."),
    "equal": (
        "there are exactly as many {A:many} as {B:many}.",
        "the number of {A:many} is the same as the number of {B:many}.",
    ),
    "same_attribute": (
        "{A:the} has the same {attr} as {B:the}.",
        "{A:the} is the same {attr} as {B:the}.",
        "the {attr} of {A:the} is the same as that of {B:the}.",
    ),
    "same_material": (
        "{A:the} is made of the same material as {B:the}.",
        "{A:the} has the same material as {B:the}.",
    ),
    "is": ("{A:the} is {v}.",),
    "is_shape": ("{A:the} is {v}.",),
    "all": ("all {A:many} are {v}.", "every {A:one} is {v}.", "each {A:one} is {v}."),
    "and": (
        "there is {A:a}, and there is also {B:a}.",
        "the picture shows {A:a}, and it also shows {B:a}.",
    ),
    "or": (
        "there is {A:a}, or there is {B:a}, or both.",
        "at least one of these is present: {A:a}, or {B:a}.",
    ),
    "related": ("{F:a} {R:is}.", "at least one {F:one} {R:is}."),
}

PANEL_STATEMENTS = {
    "every_group": (
        "every box has {B}.",
        "each box contains {B}.",
        "all boxes have {B}.",
        "each grey box has {B}.",
        "all of the grey boxes contain {B}.",
    ),
    "some_group": (
        "there is a box with {B}.",
        "there is at least one box with {B}.",
        "at least one box contains {B}.",
        "there is a grey box which has {B}.",
        "at least one of the grey boxes contains {B}.",
    ),
    "no_group": (
        "no box has {B}.",
        "there is no box with {B}.",
        "none of the boxes contains {B}.",
        "no grey box contains {B}.",
    ),
    "exactly_groups": (
        "exactly {n} {boxes} {have} {B}.",
        "there {be} exactly {n} {boxes} with {B}.",
        "there {be} exactly {n} grey {boxes} with {B}.",
    ),
    "at_least_groups": ("at least {n} {boxes} {have} {B}.", "there are at least {n} {boxes} with {B}."),
}
# Said only of pictures whose panels each hold one tower of blocks.
TOWER_STATEMENTS = {
    "every_group": ("every tower has {B}.", "each tower has {B}.", "all towers have {B}."),
    "some_group": (
        "there is a tower with {B}.",
        "there is at least one tower with {B}.",
        "at least one tower has {B}.",
    ),
    "no_group": ("no tower has {B}.", "there is no tower with {B}.", "none of the towers has {B}."),
    "exactly_groups": (
        "exactly {n} {towers} {have} {B}.",
        "there {be} exactly {n} {towers} with {B}.",
    ),
    "at_least_groups": ("at least {n} {towers} {have} {B}.", "there are at least {n} {towers} with {B}."),
}
TOWER_ENDS = {"top": ("at the top", "on top"), "bottom": ("at the base", "as its base", "at the bottom")}
PANEL_BODIES = {
    "placed": ("{A:a} {end}",),
    "exist": ("{A:a}", "at least one {A:one}"),
    "equal": ("exactly {n} {A:n}",),
    "at_least": ("at least {n} {A:many}", "{n} or more {A:many}"),
    "at_most": ("at most {n} {A:many}", "no more than {n} {A:many}"),
    "none": ("no {A:many}",),
    "only": ("only {v} objects", "only {v} items"),
    "colors": ("objects of exactly {n} different colors", "items of exactly {n} different colors"),
    "one_color": ("objects of only one color", "items of only one color"),
    "and": ("{B} and {C}",),
}
BOXES = {"one": ("box", "tower", "has", "is"), "many": ("boxes", "towers", "have", "are")}

# Captions. {L} is a list of noun phrases; what facts() reads back, it reads by these same frames.
CAPTIONS = {
    "including": (
        "there are {n} objects, including {L}.",
        "the picture shows {n} objects, among them {L}.",
        "{n} objects, including {L}.",
        "a picture of {n} objects, among them {L}.",
    ),
    "related": ("{A} is {rel} {B}.", "there is {A} {rel} {B}.", "the picture shows {A} {rel} {B}."),
    "related_twice": (
        "{A} is {rel} {B}, and {C} is {rel2} {D}.",
        "{A} is {rel} {B}, while {C} is {rel2} {D}.",
    ),
    "row": (
        "from left to right: {L}.",
        "from left to right, the picture shows {L}.",
        "from left to right, there are {L}.",
    ),
    "column": (
        "from top to bottom: {L}.",
        "from top to bottom, the picture shows {L}.",
        "from top to bottom, there are {L}.",
    ),
    "first_left": (
        "the {n} leftmost objects are, from left to right, {L}.",
        "starting from the left, the first {n} objects are {L}.",
    ),
    "first_top": (
        "the {n} highest objects are, from top to bottom, {L}.",
        "starting from the top, the first {n} objects are {L}.",
    ),
}
LIST_ENDS = (" and ", ", and ")

# Rationales: what was looked for, and what was found, step by step.
STEP_RELATIONS = {"left": "left of it", "right": "right of it", "above": "above it", "below": "below it"}
STEPS = {
    "same": "same {attr}",
    "intersect": "both",
    "nth": "{k} from the {end}",
    "exclude": "not {v}",
    "end": "so {answer}",
}

# Dialogue: {A} is the topic when first named, then "it" or "they".
OPENINGS = {
    "one": ("is there {A:a}?", "can you see {A:a}?", "do you see {A:a}?", "does the picture show {A:a}?"),
    "many": (
        "how many {A:many} are there?",
        "how many {A:many} do you see?",
        "how many {A:many} can you see?",
    ),
}
FOLLOW_UPS = {
    "query_color": ("what color is it?", "what is its color?", "and its color?"),
    "query_shape": ("what shape is it?", "what is its shape?", "and its shape?"),
    "query_size": ("what size is it?", "how big is it?", "and its size?"),
    "query_material": ("what is it made of?", "what material is it?", "and its material?"),
    "is": ("is it {v}?", "and is it {v}?"),
    "count_related": ("how many {F:many} are {rel} it?", "and how many {F:many} are {rel} it?"),
    "exist": ("is there {F:a} {rel} it?", "are any {F:many} {rel} it?", "is any {F:one} {rel} it?"),
    "count_same": ("how many other objects have the same {attr}?", "how many other things have its {attr}?"),
    "count_of_them": ("how many of them are {v}?", "of these, how many are {v}?"),
    "count_them_related": ("how many of them are {rel} {B:the}?",),
}
