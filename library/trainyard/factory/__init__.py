"""The model factory: `models/NAME.yaml` becomes the DAG NAME_training."""
