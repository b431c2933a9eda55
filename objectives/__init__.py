"""How good a candidate is: cheap objectives from its structure, the error from training."""
