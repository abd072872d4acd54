"""Songs of flow-matching models for `songgen generate`."""

from __future__ import annotations

from songgen.families.use.generating import OptionGroup

OPTIONS = OptionGroup("flow-matching models", ())
