"""What is done to a vector after it was computed: its length, and how many numbers are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacffi.errors import ParameterError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["NORMALIZATIONS", "Normalize", "finished", "norm_of"]

Normalize = bool | str | float

# The exponents of norms; llama.cpp's numbers for them are 1, 2 and 0.
NORMALIZATIONS = {"none": None, "taxicab": 1.0, "euclidean": 2.0, "max-absolute": float("inf")}
INT16_RANGE = 32760.0  # what llama.cpp scales the largest number to


def norm_of(normalize: Normalize) -> float | None:
    """The exponent of a norm; None for none.

    Args:
        normalize: False or "none"; True or "euclidean", for vectors of length 1; "taxicab", for a
            sum of absolute values of 1; "max-absolute", for a largest of 32760, so that int16 can
            hold the numbers; or the exponent of another norm, more than 1.

    Raises:
        ParameterError: Something else.
    """
    if normalize is True:
        return NORMALIZATIONS["euclidean"]
    if normalize is False:
        return None
    if isinstance(normalize, str) and normalize in NORMALIZATIONS:
        return NORMALIZATIONS[normalize]
    if isinstance(normalize, int | float) and 1 < normalize < float("inf"):
        return float(normalize)
    raise ParameterError(
        f"normalize={normalize!r}: choose True, False, {', '.join(map(repr, NORMALIZATIONS))}, or "
        "the exponent of a norm, more than 1."
    )


def finished(
    vectors: NDArray[np.float32], norm: float | None, dimensions: int | None
) -> NDArray[np.float32]:
    """Cut and normalise a vector, or the rows of a matrix.

    Args:
        vectors: float32, of any shape; its last axis is normalised.
        norm: The exponent; None for none.
        dimensions: How many numbers to keep; None for all.

    Raises:
        ParameterError: More dimensions than there are.
    """
    import numpy as np

    width = vectors.shape[-1]
    if dimensions is not None:
        if not 1 <= dimensions <= width:
            raise ParameterError(
                f"dimensions={dimensions}: this model's vectors have {width}. Choose 1 to {width}."
            )
        vectors = vectors[..., :dimensions]
    if norm is None:
        return vectors
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, norm, axis=-1, keepdims=True)
    scale = INT16_RANGE if norm == float("inf") else 1.0
    return (wide * scale / np.where(lengths > 0, lengths, 1)).astype(np.float32)
