"""One self-contained HTML page, and PNG figures, out of a run folder; and a page that compares runs."""

from edgecmd.report.comparison import write_comparison
from edgecmd.report.page import refresh_report, write_report

__all__ = ["refresh_report", "write_comparison", "write_report"]
