"""The steps of the trainer contract, one module each, with a function `run(context) -> result`."""

STEPS = ("generate", "validate", "preprocess", "features", "train", "evaluate", "predict", "clean")
