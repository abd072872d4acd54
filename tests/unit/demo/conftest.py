"""Makes the demo's modules importable: its scripts run with their own folder on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "helpers" / "demo"))
