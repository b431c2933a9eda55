"""The error hierarchy of the whole project.

It lives in the lowest room because every room raises::

    HwnasError
    ├── SpecError          a key, value or option of the user's is wrong
    ├── DataError          images cannot be read, split or used
    ├── ArchError          a graph breaks a rule of the intermediate representation
    │   └── MoveRefused    a morphism's condition does not hold for this graph
    ├── LatencyError       a device or runtime cannot be timed
    │   ├── MissingKernel  a table lacks a kernel and may not measure it
    │   ├── TableError     a latency table is unreadable, or of another device or runtime
    │   └── BundleError    a bundle cannot be made, or what came back is not what was asked
    ├── TrainingError      a candidate diverged or ran out of memory; it costs only itself
    ├── StoreError         a run folder is missing, corrupt, full or not writable
    ├── LimitError         no network of the space can meet a limit
    └── ExportError        an exported file does not do what the network does

Every message says what was wrong, with the value, the rule, and the next thing to do.
"""


class HwnasError(Exception):
    """Base of every error that is about the user's input or machine, not about a bug in hwnas."""


class SpecError(HwnasError):
    """A specification, option or name given by the user is wrong."""


class DataError(HwnasError):
    """The images cannot be found, read, split or used for classification."""


class ArchError(HwnasError):
    """A graph breaks a rule of the intermediate representation."""


class MoveRefused(ArchError):
    """A morphism's condition does not hold for this graph; the message names the condition."""


class LatencyError(HwnasError):
    """A device or runtime cannot be timed."""


class MissingKernel(LatencyError):
    """A latency table lacks a kernel and may not measure it here."""


class TableError(LatencyError):
    """A latency table is unreadable, or belongs to another device, runtime or version."""


class BundleError(LatencyError):
    """A bundle for a device cannot be made, or what came back from there cannot be used."""


class TrainingError(HwnasError):
    """A candidate diverged or ran out of memory."""


class StoreError(HwnasError):
    """A run folder is missing, corrupt, full, in use or not writable."""


class LimitError(HwnasError):
    """No network of the space can meet a limit."""


class ExportError(HwnasError):
    """An exported file does not compute what the network computes."""
