import dataclasses

import pytest

from ranklens.data.errors import InvalidInputError
from ranklens.data.records import Document, Query


def test_full_text_is_title_then_text() -> None:
    assert Document("d", "body", "Title").full_text == "Title body"
    assert Document("d", "body").full_text == "body"


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Query("q", "text").text = "other"  # type: ignore[misc]


@pytest.mark.parametrize("bad", ["", 7, None])
def test_an_id_is_a_non_empty_string(bad: object) -> None:
    with pytest.raises(InvalidInputError, match="document id must"):
        Document(bad, "text")  # type: ignore[arg-type]
