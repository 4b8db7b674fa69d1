"""Count the matrix-multiplication and convolution FLOPs of a traced step.

A multiply-add is two FLOPs, as in the usual definition of model FLOPs utilisation; elementwise work is left
out.
"""

import math
from dataclasses import dataclass, field


@dataclass
class Count:
    """`total` FLOPs of one call; `notes` say what could not be known exactly."""

    total: int = 0
    notes: list[str] = field(default_factory=list)


def count(closed_jaxpr) -> Count:
    """FLOPs of a closed jaxpr; None (torch) counts as zero. Loops of unknown length count once: a note."""
    result = Count()
    if closed_jaxpr is not None:
        result.total = _walk(closed_jaxpr.jaxpr, result.notes)
    result.notes = list(dict.fromkeys(result.notes))
    return result


def _walk(jaxpr, notes: list[str]) -> int:
    return sum(_equation(equation, notes) for equation in jaxpr.eqns)


def _equation(equation, notes: list[str]) -> int:
    primitive, parameters = equation.primitive.name, equation.params
    if primitive == "dot_general":
        return _dot(equation)
    if primitive == "conv_general_dilated":
        return _convolution(equation)
    inner = [_walk(jaxpr, notes) for jaxpr in _sub_jaxprs(parameters)]
    if primitive == "wgmma_ref" or (primitive == "pallas_call" and sum(inner)):
        # One block's, of as many as its grid has.
        notes.append("FLOPs: products within saccade.kernels are not seen, so MFU is too low")
        return 0
    if primitive == "scan":
        return parameters["length"] * sum(inner)
    if primitive == "cond":
        return max(inner)
    if primitive == "while" and sum(inner):
        notes.append("FLOPs: a loop whose length depends on the data counts as one pass, so MFU is too low")
    return sum(inner)


def _sub_jaxprs(parameters: dict):
    for value in parameters.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            item = getattr(item, "jaxpr", item)  # ClosedJaxpr -> Jaxpr
            if hasattr(item, "eqns"):
                yield item


def _dot(equation) -> int:
    left = equation.invars[0].aval.shape
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution(equation) -> int:
    kernel = equation.invars[1].aval.shape
    numbers = equation.params["dimension_numbers"]
    out_channels = kernel[numbers.rhs_spec[0]]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // out_channels
