"""Diagnosis of folders: runs, checkpoints, data sets and models. Nothing is ever changed."""

from songgen.doctor.findings import Diagnosis, Finding, Kind, Level
from songgen.doctor.folders import examine

__all__ = ["Diagnosis", "Finding", "Kind", "Level", "examine"]
