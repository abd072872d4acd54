"""What the libraries below must know before they are imported: nothing is reported to anyone."""

import os

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
    """Set these variables where the environment does not say otherwise.

    `import songgen` calls this, for the hub's client reads its variables once, when it is imported.
    """
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
