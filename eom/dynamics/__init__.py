"""Fields, steppers, observables, and the corrected field between them; knows no networks."""
