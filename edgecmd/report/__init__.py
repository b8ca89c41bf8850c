"""One self-contained HTML page, and PNG figures, out of a run folder."""

from edgecmd.report.page import write_report

__all__ = ["write_report"]
