"""Every error that gmsearch raises on purpose.

    GmsearchError
    ├── UserError              a mistake that the user can mend; the command line exits with 2
    │   ├── ArchitectureError  a value that no network can have
    │   ├── SpaceError         a search space that cannot be read or searched
    │   ├── SettingsError      a setting that is wrong, or contradicts its run folder
    │   ├── DataError          a data set that cannot be found or read
    │   └── WeightsError       weights that do not fit their network
    ├── ExportError            a network that another format cannot hold
    └── TrainingError          a training that cannot go on; its trial fails, the search does not

A message is one line: what, where, the value, and the remedy.
"""


class GmsearchError(Exception):
    """Base of all errors that gmsearch raises on purpose."""


class UserError(GmsearchError):
    """A mistake of the user: its message names the value and the remedy."""


class ArchitectureError(UserError):
    """A value that no network of the family can have."""


class SpaceError(UserError):
    """A search space that cannot be read, or holds nothing that may be trained."""


class SettingsError(UserError):
    """A setting of an experiment that is wrong, or that contradicts its run folder."""


class DataError(UserError):
    """A data set that cannot be found, read or used."""


class WeightsError(UserError):
    """Weights that cannot be read, or that are those of another network."""


class ExportError(GmsearchError):
    """A network that cannot be exported, because of an operator that the format does not have."""


class TrainingError(GmsearchError):
    """A training that cannot go on, for example because the loss is not finite."""
