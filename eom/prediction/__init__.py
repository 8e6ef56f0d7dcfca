"""Rates and displacements per source, with error bars."""
