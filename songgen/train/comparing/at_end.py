"""The comparison at the end of an adapter run."""

from __future__ import annotations

import logging
from dataclasses import replace

from songgen.adapters.apply import without_adapters
from songgen.adapters.folder import read_adapter
from songgen.runtime.processes.commands import Interrupted
from songgen.train.comparing.measure import ComparedModel
from songgen.train.comparing.page import COMPARISON_FOLDER, PAGE_FILE, Subject, summary, write_comparison
from songgen.train.trainer import Trainer

CLIPS, SONGS = 64, 4
"""Most held-out clips that are measured, and most songs that are generated, so that the end of a run stays short."""

logger = logging.getLogger(__name__)


def compare_at_end(trainer: Trainer) -> None:
    """Compare a trained adapter with its base on held-out clips, and write the page. Every process must call this.

    Runs without an adapter, and those that were stopped, are left alone. A failure is logged: the adapter is written.
    """
    if trainer.engine.trainable.form is None or trainer.stopped:
        return
    command = f"songgen compare {trainer.output_dir} --data SET"
    if trainer.evaluator is None:
        logger.info("what the adapter changes: the run has no held-out clips; compare it with `%s`", command)
        return
    trainer.heartbeat.beat("comparing", trainer.state.step)
    generates = trainer.evaluator.songs is not None
    compared = ComparedModel(
        trainer.objective, trainer.engine.model, trainer.core, lambda: without_adapters(trainer.core)
    )
    try:
        with trainer.averaged_weights():
            comparison = compared.compare(trainer.evaluator.data, trainer.inbox, clips=CLIPS, songs=SONGS * generates)
    except Interrupted:
        logger.info("the comparison was stopped; start it again with `%s`", command)
        return
    if not trainer.accelerator.is_main_process:
        return
    comparison = replace(comparison, idle=read_adapter(trainer.output_dir).is_idle)
    subject = Subject(trainer.output_dir.name, trainer.config.model.model_name_or_path, trainer.state.step)
    try:
        write_comparison(comparison, subject, trainer.output_dir)
    except (OSError, ValueError, RuntimeError) as error:
        logger.warning("the comparison could not be written: %s", error)
    else:
        logger.info("%s: %s", summary(comparison), trainer.output_dir / COMPARISON_FOLDER / PAGE_FILE)
    for warning in comparison.warnings():
        logger.warning("%s", warning)
