"""What the libraries below must know before they are imported: nothing is reported to anyone, no code is fetched."""

import logging
import os
import sys

QUIET_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_ERROR_REPORTING": "false",
    "TOKENIZERS_PARALLELISM": "false",
}
"""No telemetry, no look for newer versions, no request to convert weights elsewhere, no error reports, no threads
unasked."""


def keep_quiet() -> None:
    """Set these variables where the environment does not say otherwise, and let no library fetch code.

    `import songgen` calls this, for the hub's client reads its variables once, when it is imported.
    """
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Where the package `kernels` is installed, importing bitsandbytes (0.50, on processors with AVX512-BF16) downloads
    # a kernel from the hub and runs it. With this entry the package counts as not installed, unless the program has
    # imported it before; bitsandbytes would then advise to install it.
    sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


PARENT_AT_START = os.getppid()
"""Process that started this one. `import songgen` is the first thing that a program of songgen does, so that a launcher
that ends while the large libraries are still being imported is noticed later (`songgen.runtime.processes.signals`)."""


def _note_parent() -> None:
    """Note the parent again in a forked process."""
    global PARENT_AT_START
    PARENT_AT_START = os.getppid()


os.register_at_fork(after_in_child=_note_parent)
