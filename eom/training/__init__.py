"""Optimizers read as steppers on a gradient flow."""
