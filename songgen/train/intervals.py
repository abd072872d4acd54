"""How often a run logs, evaluates, saves and plots."""

from __future__ import annotations

from dataclasses import dataclass

from songgen.config import TrainingArguments


@dataclass(frozen=True)
class Intervals:
    """Numbers of steps between logging, evaluations and checkpoints. None: at the end of the run only."""

    log: int
    """Steps between two lines of metrics."""
    evaluate: int | None
    """Steps between two evaluations."""
    save: int | None
    """Steps between two checkpoints."""
    plot: int | None = None
    """Steps between two plots."""

    @classmethod
    def of(cls, training: TrainingArguments, steps_per_epoch: int, total_steps: int) -> Intervals:
        """Return the intervals that the configuration of a run gives or implies."""
        return cls(
            log=training.logging_interval(total_steps, steps_per_epoch),
            evaluate=training.eval_interval(total_steps, steps_per_epoch),
            save=training.save_interval(total_steps, steps_per_epoch),
            plot=training.plot_interval(total_steps, steps_per_epoch),
        )

    def problems(self, total_steps: int) -> dict[str, str]:
        """Return what is never due before the end of a run of `total_steps`: key -> what that means."""

        def is_due(interval: int | None) -> bool:
            return interval is not None and interval < total_steps

        found = {}
        if not is_due(self.log):
            found["logging_steps"] = f"{self.log:,} in a run of {total_steps:,} steps: no metrics before its end"
        if self.save is None:
            found["save_steps"] = "null: no checkpoint before the end of this run, unless it is stopped by a signal"
        elif not is_due(self.save) and not is_due(self.evaluate):  # the first evaluation is followed by a checkpoint
            found["save_steps"] = f"{self.save:,} in a run of {total_steps:,} steps: no checkpoint before its end"
        return found
