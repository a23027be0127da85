"""A model and what is made of it, opened so that both fit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from llamacffi.errors import DeviceMemoryError
from llamacffi.fitting import Fit
from llamacffi.model import Model

__all__ = ["open_fitted"]

Made = TypeVar("Made")
logger = logging.getLogger("llamacffi.fitting")


def open_fitted(
    load: Callable[[Fit], Model], make: Callable[[Model], Made], fit: Fit
) -> tuple[Model, Made]:
    """Load a model and make something of it; where a context finds too little memory, with less
    of the model on the devices.

    Args:
        load: Loads the model, with `fit` as it is given.
        make: Makes a context, or what has one.
        fit: What to begin with.

    Returns:
        The model, which is closed if anything is raised, and what was made.

    Raises:
        DeviceMemoryError: Nothing is left to try, or a number of layers was asked for.
    """
    while True:
        model = load(fit)
        try:
            return model, make(model)
        except DeviceMemoryError as error:
            model.close()
            if model.plan is None or model.fit is None or model.fit.next is None:
                raise
            logger.warning("%s It is tried again with less of the model on the devices.", error)
            fit = model.fit.next
        except BaseException:
            model.close()
            raise
