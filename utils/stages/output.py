"""What a stage prints: in any encoding, and to a reader who may go."""

import codecs
import os
import select
import signal
import sys
import unicodedata

# What stands for characters that an encoding lacks, where they are not letters with accents
SPELLED = {
    "±": "+-",
    "−": "-",
    "–": "-",
    "×": "x",
    "·": "*",
    "½": "1/2",
    "¼": "1/4",
    "¾": "3/4",
    "…": "...",
    "’": "'",
}


def take_over() -> None:
    """Let printing never fail for a character, and Ctrl-C be an exception again after `start.quietly`."""
    codecs.register_error("spelled", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a test or a notebook has put its own
            stream.reconfigure(errors="spelled")
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _spelled(error: UnicodeError) -> tuple[str | bytes, int]:
    """What Python's codecs ask for what cannot be encoded: a replacement, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is no text
        return bytes([ord(character) - 0xDC00]), error.start + 1
    letters = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return SPELLED.get(character) or letters or "?", error.start + 1


def is_unread() -> bool:
    """Whether whoever reads what this process prints has gone, as `head` does when it has its lines."""
    if not hasattr(select, "poll"):  # on Windows
        return True
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        poll.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def abandon() -> None:
    """Print to nobody from now on, so that the interpreter finds nothing to complain about at its end."""
    nobody = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nobody, stream.fileno())
