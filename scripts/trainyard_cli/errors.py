"""The one error that users are meant to see."""


class CliError(Exception):
    """A failure with its cause and its cure, shown without a traceback; the command exits with 1."""

    def __init__(self, message: str, cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.message}\n  cure: {self.cure}" if self.cure else self.message
