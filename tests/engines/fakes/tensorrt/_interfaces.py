"""What a caller may derive from: loggers, profilers, monitors."""

from __future__ import annotations

import sys
from typing import Any

from tensorrt._base import Setting, Strict
from tensorrt._enums import Severity


class ILogger(Strict):
    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None:
        pass

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError("pure virtual")


class Logger(ILogger):
    """Writes what is as bad as `min_severity` or worse to stderr."""

    min_severity = Setting(Severity.WARNING)

    def __init__(self, min_severity: Severity = Severity.WARNING) -> None:
        self.min_severity = min_severity

    def log(self, severity: Severity, msg: str) -> None:
        if int(severity) <= int(self.min_severity):
            sys.stderr.write(f"[TRT] [{severity.name[0]}] {msg}\n")


class IProfiler(Strict):
    def __init__(self) -> None:
        pass

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError("pure virtual")


class IProgressMonitor(Strict):
    def __init__(self) -> None:
        pass

    def phase_start(self, phase_name: str, parent_phase: Any, num_steps: int) -> None:
        raise NotImplementedError("pure virtual")

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError("pure virtual")

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError("pure virtual")
