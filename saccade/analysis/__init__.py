"""A look into a model that reasons in steps: `write(analyse(saccade.load()), "report.html")`."""

from saccade.analysis.record import Report
from saccade.analysis.run import FORMATS, analyse, figures, write

__all__ = ["FORMATS", "Report", "analyse", "figures", "write"]
