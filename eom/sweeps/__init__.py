"""Many runs of one model: a grid of settings, in parallel, resumed where it was killed."""
