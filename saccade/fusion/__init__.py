"""Bringing modalities together: projections and resamplers."""
