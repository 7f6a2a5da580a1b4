"""The steps of the trainer contract, one module each, with a function `run(context) -> result`."""
