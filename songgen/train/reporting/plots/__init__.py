"""Plots of runs, drawn from their files of metrics: curves, pictures and a page; torch is not needed."""
