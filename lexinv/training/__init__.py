"""Training: state, step, fit, checkpoints, metrics, meshes and populations. A method gives only its loss function."""
