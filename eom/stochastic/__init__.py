"""Stochastic views: equations and their steppers, SGD as an SDE, random depth, Langevin sampling, thermodynamics.

Names in the order in which data flows; each is imported when first used.
"""
