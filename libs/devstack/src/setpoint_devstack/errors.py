"""What can go wrong when a stack starts, in words for the person at the terminal."""


class DevstackError(Exception):
    """A stack, or one of its processes, cannot do what was asked."""


class AlreadyRunningError(DevstackError):
    """Another live process holds this stack's directory."""


class ProcessDiedError(DevstackError):
    """A process of the stack ended although nobody asked it to."""
