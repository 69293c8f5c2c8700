"""The soft penalty on answers that come near the longest allowed."""

from torch import Tensor


def overlong_penalty(lengths: Tensor, *, longest: int, cache: int) -> Tensor:
    """What is added to the score of an answer for its length, `(S,)` in [−1, 0], in units of the score.

        0                                up to longest − cache tokens
        (longest − cache − n) / cache    from there on, linear in the length n
        −1                               at the longest and beyond

    lengths: n, `(S,)`, in tokens. longest: tokens at which an answer is cut. cache: how many of the last tokens before
    it cost something. Raises ValueError unless 0 < cache ≤ longest.

    Source: Yu et al. (DAPO), arXiv 2503.14476, eq. 13.
    Paper: longest 20,480, cache 4,096; scores there are ±1.
    """
    if not 0 < cache <= longest:
        raise ValueError(f"cache is {cache}; it must be at least 1 and at most the longest answer, {longest} tokens")
    return ((longest - cache - lengths) / cache).clamp(-1.0, 0.0)
