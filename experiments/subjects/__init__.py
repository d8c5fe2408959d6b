"""What experiments stand on: data, a model and its training, cached and shared. They import the harness and never an experiment."""
