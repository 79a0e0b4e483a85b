"""Ray, MLflow and the command line: the only package that knows that a cluster exists."""
