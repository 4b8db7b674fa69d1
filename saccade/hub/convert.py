"""The one engine between our variables and the tensors of other programs; a model's map is data beside it.

Every tensor is used once and every variable is set once, or the whole conversion is refused.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from saccade.errors import SaccadeError

# Our layout of a tensor of theirs, and back. Their first axis is the one that joins and splits.
_OURS = {
    "same": lambda t: t,
    "linear": lambda t: t.T,  # (out, in) -> (in, out)
    "conv": lambda t: t.transpose(2, 3, 1, 0),  # (out, in, h, w) -> (h, w, in, out)
    "grid": lambda t: t,  # (N, D) -> (rows, columns, D), by the variable's shape; ours may be several
    "number": lambda t: t.reshape(()),  # (1,) -> ()
    "grid_row": lambda t: t[0],  # (1, N, D) -> (rows, columns, D)
}
_THEIRS = {
    "same": lambda t: t,
    "linear": lambda t: t.T,
    "conv": lambda t: t.transpose(3, 2, 0, 1),
    "grid": lambda t: t.reshape(-1, t.shape[-1]),
    "number": lambda t: t.reshape(1),
    "grid_row": lambda t: t.reshape(1, -1, t.shape[-1]),
}
_THEIR_FIRST_AXIS_IS_OUR_LAST = ("linear", "conv")


@dataclass(frozen=True, slots=True)
class Rule:
    """One or several tensors here are one or several tensors there, joined along their first axis.

    Args:
        ours, theirs: names; "{}" stands for the number of a block. Of several, theirs are of equal size.
        layout: `same`, `linear`, `conv`, `grid` (N, D) or `grid_row` (1, N, D), both of positions, `number`
            (1,) of a scalar.
    """

    ours: str | tuple[str, ...]
    theirs: str | tuple[str, ...]
    layout: str = "same"

    def of_block(self, index: int) -> "Rule":
        ours, theirs = (tuple(n.format(index) for n in _names(side)) for side in (self.ours, self.theirs))
        return Rule(ours, theirs, self.layout)


def _names(side: str | tuple[str, ...]) -> tuple[str, ...]:
    return (side,) if isinstance(side, str) else side


def rules(table: Iterable[Rule], depth: int, ours: str = "", theirs: str = "") -> list[Rule]:
    """A map for `depth` blocks, its names behind two prefixes."""
    whole = []
    for rule in table:
        rule = Rule(
            tuple(ours + name for name in _names(rule.ours)),
            tuple(theirs + name for name in _names(rule.theirs)),
            rule.layout,
        )
        blocks = "{}" in rule.ours[0]
        whole += [rule.of_block(i) for i in range(depth)] if blocks else [rule]
    return whole


def to_ours(
    table: Iterable[Rule],
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple],
    source: str,
    ignore: tuple[str, ...] = (),
) -> dict[str, np.ndarray]:
    """Their tensors as ours.

    Args:
        shapes: of our variables, by name.  source: names the file in errors.
        ignore: patterns of tensors that may be there and mean nothing here.
    Returns: our name -> array, in their dtype.
    Raises: SaccadeError: a tensor is missing, unused, or of another shape (both names, both shapes).
    """
    table = list(table)
    wanted = {name for rule in table for name in _names(rule.theirs)}
    missing = sorted(wanted - tensors.keys())
    unused = sorted(n for n in tensors.keys() - wanted if not any(re.fullmatch(p, n) for p in ignore))
    if missing or unused:
        raise SaccadeError(
            f"{source} does not fit its configuration: {len(missing)} tensors missing "
            f"(first: {missing[:1]}), {len(unused)} not known (first: {unused[:1]}); "
            "use the config.json that belongs to it"
        )
    result = {}
    for rule in table:
        result |= _read(rule, tensors, shapes, source)
    return result


def _read(rule: Rule, tensors, shapes, source: str) -> dict[str, np.ndarray]:
    ours, theirs = _names(rule.ours), _names(rule.theirs)
    wanted = [tuple(shapes[name]) for name in ours]
    try:
        joined = tensors[theirs[0]] if len(theirs) == 1 else np.concatenate([tensors[n] for n in theirs])
        axis = -1 if rule.layout in _THEIR_FIRST_AXIS_IS_OUR_LAST else 0
        sizes = [math.prod(s[:-1]) if rule.layout == "grid" else s[axis] for s in wanted if s]
        parts = [joined] if len(ours) == 1 else np.split(joined, np.cumsum(sizes)[:-1])
        parts = [_OURS[rule.layout](part) for part in parts]
        if rule.layout.startswith("grid"):
            parts = [part.reshape(shape) for part, shape in zip(parts, wanted, strict=True)]
    except (ValueError, IndexError):  # shapes that cannot even be joined or turned
        parts = []
    if [part.shape for part in parts] != wanted:
        found = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in theirs)
        here = ", ".join(f"{name} {shape}" for name, shape in zip(ours, wanted, strict=True))
        raise SaccadeError(f"{source} does not fit its configuration: {found} cannot become {here}")
    return dict(zip(ours, parts, strict=True))


def to_theirs(table: Iterable[Rule], tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our tensors as theirs: the way back of `to_ours`, bit for bit."""
    result = {}
    for rule in table:
        ours, theirs = _names(rule.ours), _names(rule.theirs)
        parts = [_THEIRS[rule.layout](tensors[name]) for name in ours]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        split = [joined] if len(theirs) == 1 else np.split(joined, len(theirs))
        result |= dict(zip(theirs, split, strict=True))
    return result
