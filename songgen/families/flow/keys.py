"""Which configuration keys a flow model has; asked when a run is planned and again when its model is opened."""

from __future__ import annotations

from songgen.config import RunConfig
from songgen.config.keys import all_keys
from songgen.families.flow.training.timesteps import Sampling
from songgen.families.foreign_keys import TOKEN_KEYS, refuse_keys


def check_keys(config: RunConfig, *, is_turbo: bool) -> None:
    """Compare keys with the kind of model.

    Args:
        config: configuration of the run.
        is_turbo: whether guidance is distilled into the model.

    Raises:
        ValueError: if the configuration has keys or values that mean nothing for the model.
    """
    refuse_keys(config, TOKEN_KEYS, "a flow-matching model")
    name = config.model.model_name_or_path
    if is_turbo:
        if config.model.condition_dropout:
            raise ValueError(
                f"condition_dropout: {name} is a turbo model, which is used without guidance, so that nothing reads "
                "its null condition; set it to 0, or start from a base model"
            )
        if config.model.guidance_scale != 1:
            raise ValueError(f"guidance_scale: {name} is a turbo model, which is used without guidance; set it to 1")
    elif config.flow.timestep_sampling == "discrete":
        raise ValueError(
            f"timestep_sampling: {name} is not a turbo model, and is used with other steps than the eight of turbo "
            'models; set it to "auto", "logit_normal" or "uniform"'
        )
    sampling = timestep_sampling(config, is_turbo=is_turbo)
    ignored = [
        name
        for name in ("timestep_mean", "timestep_std")
        if sampling != "logit_normal" and getattr(config.flow, name) != all_keys()[name].default
    ]
    if ignored:
        raise ValueError(f"{', '.join(ignored)}: without effect on timesteps that are {sampling}; remove")


def timestep_sampling(config: RunConfig, *, is_turbo: bool) -> Sampling:
    """Return the sampling of timesteps that a run uses."""
    chosen = config.flow.timestep_sampling
    if chosen != "auto":
        return chosen
    return "discrete" if is_turbo else "logit_normal"
