"""Commands in a training run: agreed on by all processes, journaled, carried out at a step boundary, and replayed."""
