"""Errors a user can mend. Each says where, by which rule, and the way out; the command line prints it and exits with 2.

Violations of our own invariants are `assert`s, never these.
"""

from __future__ import annotations


def counted(number: int | str, noun: str) -> str:
    """A number with its noun, for messages.

    >>> counted(1, "pair"), counted(2, "pair")
    ('1 pair', '2 pairs')
    """
    return f"{number} {noun}{'' if str(number) == '1' else 's'}"


class MedsegError(Exception):
    """A user's mistake or a broken input.

    where: the file, row, key or option at fault.  rule: what was expected and what was found.  fix: what to do about it.

    >>> str(MedsegError("a.png", "the image is 3 x 4, its mask 4 x 3", "export the mask again"))
    'a.png: the image is 3 x 4, its mask 4 x 3; export the mask again'
    """

    exit_code = 2

    def __init__(self, where: object, rule: str, fix: str):
        self.where, self.rule, self.fix = str(where), rule, fix
        between = "" if rule.endswith("\n") else "; "  # after a list of lines the way out has a line of its own
        super().__init__(f"{where}: {rule}{between}{fix}")

    def __reduce__(self) -> tuple[type[MedsegError], tuple[str, str, str]]:
        """So that a worker process can hand it on: an exception is made anew from one string otherwise."""
        return type(self), (self.where, self.rule, self.fix)


class ConfigError(MedsegError):
    """An experiment file or an override that cannot be run."""


class LabelError(MedsegError):
    """A mask or an annotation with a class that the label set does not have."""


class ImageError(MedsegError):
    """An image or mask file that cannot be read safely."""


class ImageTooLargeError(ImageError):
    """An image whose header promises more pixels than are decoded."""


class NoImageError(ImageError):
    """Bytes that are no image, or one of a kind that is not read."""


class AnnotationError(MedsegError):
    """An annotation file that cannot be imported."""


class ManifestError(MedsegError):
    """A manifest, dataset file or split that breaks a rule, or does not fit the data root."""


class CheckpointError(MedsegError):
    """A checkpoint that is missing, truncated or not ours."""


class WeightsError(MedsegError):
    """Weights to start from that are not there, cannot be read, or are of another network."""


class RunError(MedsegError):
    """A run folder that is missing, unfinished or not ours."""


class ExportError(MedsegError):
    """A network that cannot be exported, or an export that is not whole."""


class TrainingError(MedsegError):
    """A training that cannot go on: a loss that is not finite, memory that ran out. agreed: whether all its processes find it at once."""

    agreed = False


class ProcessError(MedsegError):
    """Another process of a training has ended."""


class FetchError(MedsegError):
    """A public data set that cannot be fetched, verified or unpacked safely."""
