"""What a scene is: typed objects on a canvas, nothing drawn and nothing said yet."""

from dataclasses import asdict, dataclass, field
from typing import Any

SHAPES = ("cube", "ball", "cone", "cylinder", "star")
COLORS = ("red", "blue", "green", "yellow", "purple", "orange", "cyan", "gray")
SIZES = ("small", "medium", "large")
MATERIALS = ("rubber", "metal", "glass")

NLVR_SHAPES = ("circle", "square", "triangle")
NLVR_COLORS = ("black", "blue", "yellow")


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object. `box_px` is (x0, y0, x1, y1) in image pixels, right and bottom exclusive."""

    shape: str
    color: str
    size: str
    material: str
    box_px: tuple[int, int, int, int]
    group: int = 0  # which panel it stands in; 0 in a scene of one panel
    layer: int = 0  # drawing order: a higher layer hides a lower one where they overlap

    @classmethod
    def from_json(cls, record: dict) -> "SceneObject":
        values: dict[str, Any] = {**record, "box_px": tuple(record["box_px"])}
        return cls(**values)

    @property
    def center_px(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.box_px
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture's meaning. `style` is "world" (one panel) or "nlvr" (three grey panels)."""

    objects: tuple[SceneObject, ...]
    width_px: int
    height_px: int
    background: str
    style: str = "world"
    num_groups: int = 1

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict) -> "Scene":
        objects = tuple(SceneObject.from_json(item) for item in record["objects"])
        values: dict[str, Any] = {**record, "objects": objects}
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Example:
    """One item of any task. Fields that a task does not use keep their defaults.

    image: uint8 (H, W, 3).  box: xyxy in [0, 1] of this image (task `ground`).
    text: what is asked or stated.  answer: the right answer, as a word
    ("3", "red", "yes"; "true"/"false" for `statement` and `match`).
    target: text to write (`caption`, `rationale`).
    pair: for `retrieve`, the minimal-edit twin: another Example whose text is true of its own image
    only, and this one's text is false of the twin's image.
    described, other_text: for `match`, the scene that the text describes, shown or not; and the description
    that is false of the picture where `text` is true, true where it is false.
    """

    task: str
    image: Any
    scene: Scene
    text: str = ""
    answer: str = ""
    target: str = ""
    box: tuple[float, float, float, float] | None = None
    pair: "Example | None" = None
    described: Scene | None = None
    other_text: str = ""
    program: object = None
    kind: str = ""  # family of the program: "count", "query_color", "compare", ...
    depth: int = 0  # program depth, 1 = one hop
    turns: tuple = field(default=())  # dialogue: ((question, answer), ...) before `text`
    regions: tuple = field(default=())  # task `region`: ((phrase, box), ...), boxes as in `box`
