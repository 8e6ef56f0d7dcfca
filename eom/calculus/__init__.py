"""Derivatives of plain functions on flat vectors; knows no networks."""
