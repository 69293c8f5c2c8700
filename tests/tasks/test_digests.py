import json

import pytest

from tasks.digests import with_digest, without_digest


@pytest.mark.parametrize("value", [{}, {"a": 1}, {"answers": [0.1, None], "é": "\n"}])
def test_an_object_comes_back_and_is_one_line_of_json(value: dict[str, object]) -> None:
    line = with_digest(value)  # type: ignore[arg-type]
    assert without_digest(line) == value
    assert line.count(b"\n") == 1
    digest = json.loads(line).pop("digest")
    assert len(digest) == 32
    assert json.loads(line) == {"digest": digest, **value}


def test_no_bit_of_it_may_change() -> None:
    line = with_digest({"key": "abc", "seconds": 1e-05, "none": None})
    for bit in range(8 * len(line)):
        flipped = bytearray(line)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):  # noqa: PT011
            without_digest(bytes(flipped))


@pytest.mark.parametrize("line", [b"", b"\n", b"{}\n", b'{"a":1}\n', b"[1]\n", with_digest({"a": 1})[:-1]])
def test_a_line_without_its_digest_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="digest"):
        without_digest(line)
