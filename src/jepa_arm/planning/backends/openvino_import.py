"""Import of OpenVINO without its telemetry, which would report usage statistics from the robot.

OpenVINO also runs if the telemetry package is missing, so the import of that package is blocked.
"""

from __future__ import annotations

import sys

sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]

import openvino  # noqa: E402
from openvino.frontend import FrontEndManager  # noqa: E402
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # noqa: E402

__all__ = ['FrontEndManager', 'TorchScriptPythonDecoder', 'openvino']
