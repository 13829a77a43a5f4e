"""Measures how fast a model runs on this machine, through the same engine as everything else."""
