"""Averaging of overlapping action chunks."""

from libs.temporal_ensemble.ensembler import TemporalEnsembler

__all__ = ["TemporalEnsembler"]
