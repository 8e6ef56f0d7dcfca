"""Reads runs: errors of predictions, sentences, figures, a report. Imports no torch."""
