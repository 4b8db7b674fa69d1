"""A small train_scenes.jsonl.gz in the published form, made of statements with programs."""

import gzip
import json
from pathlib import Path

from saccade.data.scenes import panels
from saccade.data.scenes.execute import execute
from saccade.data.scenes.render import NLVR_PANEL_X_PX
from saccade.data.scenes.scene import NLVR_COLORS, NLVR_SHAPES, Scene


def boxes(scene: Scene) -> list:
    found: list = [[], [], []]
    for item in scene.objects:
        x0, y0, x1, _ = item.box_px
        kind = [NLVR_SHAPES.index(item.shape), NLVR_COLORS.index(item.color)]
        found[item.group].append([*kind, x1 - x0, x0 - NLVR_PANEL_X_PX[item.group], y0])
    return found


def write(folder: Path, sentences: int = 24, scenes: int = 6) -> list:
    """Write the file; returns (sentence, program, label, scene) of its rows."""
    source = panels.PanelStatements(seed=5)
    rows, index = [], 0
    for i in range(sentences):
        first = source[i]
        for _ in range(scenes):
            other = source[1000 + index]
            while other.kind != first.kind:
                index += 1
                other = source[1000 + index]
            index += 1
            rows.append((first.text, first.program, execute(first.program, other.scene), other.scene))
        rows.append((first.text, first.program, first.answer == "true", first.scene))
    with gzip.open(folder / "train_scenes.jsonl.gz", "wt", encoding="utf-8") as file:
        for k, (text, _, label, scene) in enumerate(rows):
            row = {"id": f"x-{k}", "sentence": text, "label": label, "boxes": boxes(scene)}
            file.write(json.dumps(row) + "\n")
    return rows
