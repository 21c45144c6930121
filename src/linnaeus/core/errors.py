"""The errors that a user can meet. Each owns its exit code; its message says what came, what was expected and the fix.

| code | meaning |
|---|---|
| 0 | good |
| 1 | the job ran and the verdict is bad |
| 2 | the request was wrong: bad option, missing path, missing extra |
| 3 | the data cannot be used: no images, one class, an empty class, every file broken |
| 4 | the environment or our own fault: disk full, a bug |
| 130, 143 | interrupted, terminated: state saved, the command that resumes printed |
"""


class LinnaeusError(Exception):
    """Base of every error that is explained in one line rather than by a traceback.

    What its notes say (`add_note`) follows on lines of its own, such as the command that goes on.
    """

    exit_code = 4


class VerdictError(LinnaeusError):
    """The job ran to its end and its verdict is bad."""

    exit_code = 1


class Unstable(VerdictError):
    """Training went astray: a loss far above the usual one, or too many steps in a row that could not be taken."""


class NotFinite(Unstable):
    """A loss, a gradient or a weight became NaN or infinite."""


class RequestError(LinnaeusError, ValueError):
    """The request was wrong. Also a `ValueError`, so that users of the Python interface can catch it as one."""

    exit_code = 2


class DataError(LinnaeusError):
    """The data cannot be used."""

    exit_code = 3


class EnvironmentFault(LinnaeusError):
    """The machine failed us: no space left, a file that cannot be written, a corrupt checkpoint."""

    exit_code = 4


class Interrupted(LinnaeusError):
    """Stopped by a signal, with the state saved.

    Attributes:
        exit_code: 128 + the signal's number: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def one_line(text: str) -> str:
    """A message as one line that a terminal can show: control characters, as names of files may hold, as escapes."""
    plain = text.encode("utf-8", "backslashreplace").decode()
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in plain)
