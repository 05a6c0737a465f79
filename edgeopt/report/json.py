"""`report.json`: the truth of a run, from which the other formats are made."""

from __future__ import annotations

import json

from edgeopt.report import REPORT_FILE, Report, ReportFormat


class Json(ReportFormat):
    """Every field of the report, in the order of its definition."""

    file_name = REPORT_FILE

    def render(self, report: Report) -> str:
        data = report.model_dump(mode="json", by_alias=True)
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
