"""Values of bins: every type that is stored, and the limits of names and sizes."""
import aerospike
import pytest
from aerospike import GeoJSON, exception


@pytest.mark.parametrize(
    "value",
    [
        0,
        2**63 - 1,
        -(2**63),
        0.0,
        -1.5e300,
        float("inf"),
        True,
        False,
        "",
        "text",
        "текст 文字 🙂",
        b"",
        bytes(range(256)),
        [],
        [1, "two", 3.0, b"four", None, [5, [6]], {"seven": 8}],
        {},
        {"a": 1, 2: "b", "c": {"d": [1, 2, 3]}},
        "x" * 100_000,
        bytes(500_000),
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:20]}",
)
def test_a_value_comes_back_as_it_was_put(client, key, value):
    client.put(key, {"v": value})
    got = client.get(key)[2]["v"]
    assert got == value and type(got) is type(value)


def test_a_point_of_the_globe(client, key):
    point = GeoJSON({"type": "Point", "coordinates": [13.4, 52.5]})
    client.put(key, {"v": point})
    assert client.get(key)[2]["v"].unwrap() == point.unwrap()


def test_none_removes_the_bin(client, key):
    client.put(key, {"a": 1, "b": 2})
    client.put(key, {"a": aerospike.null()})
    assert client.get(key)[2] == {"b": 2}


def test_many_bins(client, key):
    bins = {f"bin{number}": number for number in range(1000)}
    client.put(key, bins)
    assert client.get(key)[2] == bins


def test_bin_names_up_to_15_bytes(client, key):
    client.put(key, {"n" * 15: 1})
    assert client.get(key)[2] == {"n" * 15: 1}
    with pytest.raises(exception.BinNameError):
        client.put(key, {"n" * 16: 1})


def test_increment(client, key):
    client.increment(key, "count", 5)
    client.increment(key, "count", -7)
    assert client.get(key)[2] == {"count": -2}


def test_increment_of_a_float(client, key):
    client.put(key, {"f": 1.5})
    client.increment(key, "f", 2.25)
    assert client.get(key)[2] == {"f": 3.75}


def test_increment_wraps_around(client, key):
    client.put(key, {"count": 2**63 - 1})
    client.increment(key, "count", 1)
    assert client.get(key)[2] == {"count": -(2**63)}


def test_append_and_prepend(client, key):
    client.append(key, "s", "b")
    client.append(key, "s", "c")
    client.prepend(key, "s", "a")
    assert client.get(key)[2] == {"s": "abc"}


def test_append_and_prepend_of_bytes(client, key):
    client.put(key, {"b": b"\x02"})
    client.append(key, "b", bytearray(b"\x03"))
    client.prepend(key, "b", bytearray(b"\x01"))
    assert client.get(key)[2] == {"b": b"\x01\x02\x03"}


def test_what_does_not_fit_the_type_is_refused_and_changes_nothing(client, key):
    client.put(key, {"s": "text", "i": 1})
    with pytest.raises(exception.BinIncompatibleType):
        client.increment(key, "s", 1)
    with pytest.raises(exception.BinIncompatibleType):
        client.append(key, "i", "text")
    _, meta, bins = client.get(key)
    assert (meta["gen"], bins) == (1, {"s": "text", "i": 1})
