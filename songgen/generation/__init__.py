"""From conditions to songs: sampling, the decoding loop, streaming, the processor and the pipeline."""
