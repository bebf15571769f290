"""Several operations in one request, carried out together or not at all."""
import aerospike
import pytest
from aerospike import exception
from aerospike_helpers.operations import operations


def test_operations_run_in_order_and_see_each_other(client, key):
    client.put(key, {"n": 1, "s": "b"})
    steps = [
        operations.increment("n", 9),
        operations.append("s", "c"),
        operations.prepend("s", "a"),
        operations.write("w", 3.5),
        operations.read("n"),
        operations.read("s"),
    ]
    _, meta, bins = client.operate(key, steps)
    assert (meta["gen"], bins) == (2, {"n": 10, "s": "abc"})
    assert client.get(key)[2] == {"n": 10, "s": "abc", "w": 3.5}


def test_reads_alone(client, key):
    client.put(key, {"a": 1, "b": 2})
    _, meta, bins = client.operate(key, [operations.read("a"), operations.read("missing")])
    assert (meta["gen"], bins) == (1, {"a": 1})


def test_ordered_answers(client, key):
    client.put(key, {"n": 1})
    steps = [operations.read("n"), operations.increment("n", 1), operations.read("n")]
    _, _, bins = client.operate_ordered(key, steps)
    assert [value for name, value in bins if value is not None] == [1, 2]


def test_touch_renews_the_time_to_live(client, key):
    client.put(key, {"a": 1}, meta={"ttl": 100})
    _, meta, _ = client.operate(key, [operations.touch(5000), operations.read("a")])
    assert 4990 <= client.get(key)[1]["ttl"] <= 5000 and meta["gen"] == 2


def test_delete_after_read(client, key):
    client.put(key, {"a": 1})
    _, _, bins = client.operate(key, [operations.read("a"), operations.delete()])
    assert bins == {"a": 1}
    assert client.exists(key)[1] is None


def test_delete_and_write_anew(client, key):
    client.put(key, {"a": 1, "b": 2})
    client.operate(key, [operations.delete(), operations.write("c", 3)])
    assert client.get(key)[2] == {"c": 3}


def test_one_failure_undoes_all(client, key):
    client.put(key, {"n": 1, "s": "text"})
    with pytest.raises(exception.BinIncompatibleType):
        client.operate(key, [operations.increment("n", 1), operations.increment("s", 1)])
    _, meta, bins = client.get(key)
    assert (meta["gen"], bins) == (1, {"n": 1, "s": "text"})


def test_operate_with_generation(client, key):
    client.put(key, {"n": 1})
    policy = {"gen": aerospike.POLICY_GEN_EQ}
    client.operate(key, [operations.increment("n", 1)], meta={"gen": 1}, policy=policy)
    with pytest.raises(exception.RecordGenerationError):
        client.operate(key, [operations.increment("n", 1)], meta={"gen": 1}, policy=policy)
    assert client.get(key)[2] == {"n": 2}


def test_many_increments_are_all_counted(client, key):
    for _ in range(1000):
        client.operate(key, [operations.increment("n", 1), operations.read("n")])
    _, meta, bins = client.get(key)
    assert (meta["gen"], bins) == (1000, {"n": 1000})
