"""One self-contained HTML page, and PNG figures, out of a run folder."""

from edgecmd.report.page import refresh_report, write_report

__all__ = ["refresh_report", "write_report"]
