"""The one error that is meant for people: a sentence that names the file or key and the way out."""


class LossAtlasError(ValueError):
    """Something the user can put right; its message is printed without a traceback."""
