"""Expressions: filters of single requests, batches and queries, and operations that read or write what one comes to."""
import os

import aerospike
import pytest
from aerospike import exception
from aerospike_helpers import expressions as exp
from aerospike_helpers.batch import records as batch
from aerospike_helpers.operations import expression_operations as expression
from aerospike_helpers.operations import operations


def filtered(question):
    """A policy that has requests answered only where `question` is true."""
    return {"expressions": question.compile()}


@pytest.fixture
def record(client, key):
    bins = {"i": 7, "f": 2.5, "s": "kelp", "b": True, "l": [3, 1, 2], "m": {"x": 1, "y": [9]}, "y": b"\x0f\xf0"}
    client.put(key, bins, meta={"ttl": 1000}, policy={"key": aerospike.POLICY_KEY_SEND})
    return key


TRUE = [
    exp.Eq(exp.IntBin("i"), 7),
    exp.And(exp.GT(exp.IntBin("i"), 6), exp.LT(exp.FloatBin("f"), 3.0)),
    exp.Or(exp.Eq(exp.StrBin("none"), "x"), exp.Eq(exp.StrBin("s"), "kelp")),
    exp.Not(exp.BinExists("none")),
    exp.Exclusive(exp.BoolBin("b"), exp.Eq(exp.IntBin("i"), 8)),
    exp.CmpRegex(aerospike.REGEX_EXTENDED | aerospike.REGEX_ICASE, "^K.+p$", exp.StrBin("s")),
    exp.Eq(exp.Add(exp.IntBin("i"), exp.ToInt(exp.FloatBin("f"))), 9),
    exp.Eq(exp.Let(exp.Def("d", exp.Mul(exp.IntBin("i"), 2)), exp.Sub(exp.Var("d"), 4)), 10),
    exp.Eq(exp.Cond(exp.GT(exp.IntBin("i"), 100), "big", exp.BoolBin("b"), "good", "bad"), "good"),
    exp.Eq(exp.ListGetByIndex(None, aerospike.LIST_RETURN_VALUE, exp.ResultType.INTEGER, 0, exp.ListBin("l")), 3),
    exp.Eq(exp.MapGetByKey(None, aerospike.MAP_RETURN_VALUE, exp.ResultType.INTEGER, "x", exp.MapBin("m")), 1),
    exp.Eq(exp.ListSize(None, exp.ListAppend(None, None, 4, exp.ListBin("l"))), 4),
    exp.Eq(exp.BitCount(0, 16, exp.BlobBin("y")), 8),
    exp.Eq(exp.BinType("m"), aerospike.AS_BYTES_MAP),
    exp.Eq(exp.KeyStr(), exp.KeyStr()),
    exp.KeyExists(),
    exp.Eq(exp.SetName(), "python"),
    exp.And(exp.GT(exp.TTL(), 900), exp.LE(exp.TTL(), 1000)),
    exp.LT(exp.SinceUpdateTime(), 60_000),
    exp.GT(exp.LastUpdateTime(), 1_600_000_000_000_000_000),
    exp.GT(exp.VoidTime(), exp.LastUpdateTime()),
    exp.And(exp.GT(exp.RecordSize(), 100), exp.LT(exp.RecordSize(), 400)),
    exp.GE(exp.DigestMod(3), 0),
    exp.Not(exp.IsTombstone()),
]


@pytest.mark.parametrize("number", range(len(TRUE)))
def test_filters_let_pass_or_not(client, record, number):
    policy = filtered(TRUE[number])
    assert client.get(record, policy)[2]["i"] == 7
    assert client.exists(record, policy)[1] is not None
    with pytest.raises(exception.FilteredOut):
        client.get(record, filtered(exp.Not(TRUE[number])))


def test_what_is_unknown_passes_nothing(client, record):
    for unknown in (exp.Eq(exp.IntBin("s"), 1), exp.Eq(exp.IntBin("none"), 1), exp.Eq(exp.Div(1, 0), 1)):
        for question in (unknown, exp.Not(unknown)):
            with pytest.raises(exception.FilteredOut):
                client.select(record, ["i"], filtered(question))


def test_writes_and_deletes_are_filtered(client, record):
    no, yes = filtered(exp.Eq(exp.IntBin("i"), 8)), filtered(exp.Eq(exp.IntBin("i"), 7))
    for write in (
        lambda policy: client.put(record, {"i": 8}, policy=policy),
        lambda policy: client.increment(record, "i", 1, policy=policy),
        lambda policy: client.operate(record, [operations.delete()], policy=policy),
        lambda policy: client.touch(record, 5, policy=policy),
        lambda policy: client.remove(record, policy=policy),
        lambda policy: client.put(record, {"i": 8}, policy={**policy, "exists": aerospike.POLICY_EXISTS_REPLACE}),
    ):
        with pytest.raises(exception.FilteredOut):
            write(no)
    assert client.get(record)[1]["gen"] == 1
    client.put(record, {"new": 1}, policy=yes)
    client.remove(record, policy=yes)
    assert client.exists(record)[1] is None


def test_records_that_do_not_exist_are_not_filtered(client, key):
    never = filtered(exp.Eq(1, 2))
    with pytest.raises(exception.RecordNotFound):
        client.get(key, never)
    with pytest.raises(exception.RecordNotFound):
        client.remove(key, policy=never)
    client.put(key, {"a": 1}, policy=never)
    with pytest.raises(exception.FilteredOut):
        client.put(key, {"a": 2}, policy=never)


def test_bad_filters_are_parameter_errors(client, record):
    for bad in (exp.Add(exp.IntBin("i"), 1), exp.Eq(exp.IntBin("i"), "text"), exp.Eq(exp.Var("nobody"), 1)):
        for action in (
            lambda policy: client.get(record, policy),
            lambda policy: client.put(record, {"i": 8}, policy=policy),
            lambda policy: client.remove(record, policy=policy),
        ):
            with pytest.raises(exception.InvalidRequest):
                action(filtered(bad))


def test_batches_are_filtered_by_one_filter_or_by_row(client, key):
    keys = [(*key[:2], f"{key[2]}-{n}") for n in range(10)]
    for n, each in enumerate(keys):
        client.put(each, {"n": n})
    low = exp.LT(exp.IntBin("n"), 3)
    answer = client.batch_read(keys, policy=filtered(low))
    assert [record.result for record in answer.batch_records] == [0] * 3 + [27] * 7
    rows = [
        batch.Read(keys[5], None, read_all_bins=True, policy=filtered(exp.GE(exp.IntBin("n"), 5))),
        batch.Read(keys[6], None, read_all_bins=True),
        batch.Write(keys[1], [operations.increment("n", 100)], policy=filtered(exp.Eq(exp.IntBin("n"), 0))),
        batch.Write(keys[2], [operations.increment("n", 100)]),
        batch.Remove(keys[9], policy=filtered(exp.Eq(exp.IntBin("n"), 9))),
        batch.Remove(keys[8]),
    ]
    client.batch_write(batch.BatchRecords(rows), policy_batch=filtered(low))
    assert [row.result for row in rows] == [0, 27, 27, 0, 0, 27]
    assert [client.exists(each)[1] is not None for each in keys[7:]] == [True, True, False]
    assert client.get(keys[2])[2] == {"n": 102}
    # The batch is too large for the thread that reads it to carry out alone.
    many = (keys * 60)[:600]
    answer = client.batch_read(many, policy=filtered(exp.LT(exp.IntBin("n"), 2)))
    passed = sum(record.result == 0 for record in answer.batch_records)
    assert passed == sum(each in keys[:2] for each in many)
    assert client.batch_read(keys, policy=filtered(exp.Add(1, 2))).result == 4
    for each in keys:
        client.batch_remove([each])


def test_queries_are_filtered(client):
    set_name, count = f"filtered-{os.getpid()}", 50
    keys = [("test", set_name, n) for n in range(count)]
    for n, key in enumerate(keys):
        send = aerospike.POLICY_KEY_SEND if n % 2 else aerospike.POLICY_KEY_DIGEST
        client.put(key, {"n": n, "s": "x" * n}, policy={"key": send})

    def found(question, *bins):
        query = client.query("test", set_name)
        if bins:
            query.select(*bins)
        return sorted(record[2]["n"] for record in query.results(filtered(question)))

    numbers = range(count)
    assert found(exp.GE(exp.IntBin("n"), 45)) == list(numbers[45:])
    assert found(exp.GE(exp.IntBin("n"), 45), "n") == list(numbers[45:])
    assert found(exp.KeyExists()) == list(numbers[1::2])
    assert found(exp.And(exp.KeyExists(), exp.LT(exp.KeyInt(), 10))) == [1, 3, 5, 7, 9]
    assert found(exp.CmpRegex(aerospike.REGEX_EXTENDED, "^x{3}$", exp.StrBin("s"))) == [3]
    assert found(exp.Eq(exp.SetName(), "elsewhere")) == []
    assert len(found(exp.Eq(exp.DigestMod(2), 0)) + found(exp.Eq(exp.DigestMod(2), 1))) == count
    scanned = client.scan("test", set_name).results(filtered(exp.Eq(exp.IntBin("n"), 3)))
    assert [record[2]["n"] for record in scanned] == [3]
    with pytest.raises(exception.InvalidRequest):
        found(exp.Add(1, 2))
    # Records that the filter excludes do not count as found.
    query = client.query("test", set_name)
    query.max_records = 5
    assert len(query.results(filtered(exp.GE(exp.IntBin("n"), 40)))) == 5
    for key in keys:
        client.remove(key)


def test_operations_read_what_expressions_come_to(client, record):
    def read(what, flags=aerospike.EXP_READ_DEFAULT, name="answer"):
        return client.operate(record, [expression.expression_read(name, what.compile(), flags)])[2]

    assert read(exp.Add(exp.IntBin("i"), 3)) == {"answer": 10}
    assert read(exp.StrBin("s")) == {"answer": "kelp"}
    assert read(exp.ListBin("l")) == {"answer": [3, 1, 2]}
    assert read(exp.KeyStr()) == {"answer": record[2]}
    with pytest.raises(exception.OpNotApplicable):
        read(exp.IntBin("none"))
    assert read(exp.IntBin("none"), aerospike.EXP_READ_EVAL_NO_FAIL) == {"answer": None}
    with pytest.raises(exception.InvalidRequest):
        read(exp.Add(exp.IntBin("i"), 1.5))


def test_operations_write_what_expressions_come_to(client, record):
    def write(name, what, flags=aerospike.EXP_WRITE_DEFAULT):
        client.operate(record, [expression.expression_write(name, what.compile(), flags)])
        return client.get(record)[2].get(name)

    assert write("i", exp.Mul(exp.IntBin("i"), exp.IntBin("i"))) == 49
    assert write("new", exp.ListAppend(None, None, exp.StrBin("s"), exp.ListBin("l"))) == [3, 1, 2, "kelp"]
    with pytest.raises(exception.BinExistsError):
        write("i", exp.Val(1), aerospike.EXP_WRITE_CREATE_ONLY)
    with pytest.raises(exception.BinNotFound):
        write("none", exp.Val(1), aerospike.EXP_WRITE_UPDATE_ONLY)
    assert write("i", exp.Val(1), aerospike.EXP_WRITE_CREATE_ONLY | aerospike.EXP_WRITE_POLICY_NO_FAIL) == 49
    with pytest.raises(exception.OpNotApplicable):
        write("i", exp.Val(None))
    assert write("i", exp.Val(None), aerospike.EXP_WRITE_ALLOW_DELETE) is None
    with pytest.raises(exception.OpNotApplicable):
        write("s", exp.IntBin("none"))
    assert write("s", exp.IntBin("none"), aerospike.EXP_WRITE_EVAL_NO_FAIL) == "kelp"


def test_operations_see_what_those_before_them_did(client, key):
    client.put(key, {"n": 1})
    steps = [
        operations.increment("n", 1),
        expression.expression_write("n", exp.Mul(exp.IntBin("n"), 10).compile()),
        expression.expression_read("seen", exp.IntBin("n").compile()),
        operations.write("s", "later"),
        expression.expression_read("late", exp.StrBin("s").compile()),
        expression.expression_read("age", exp.SinceUpdateTime().compile()),
    ]
    bins = client.operate(key, steps)[2]
    assert (bins["seen"], bins["late"]) == (20, "later")
    assert bins["age"] < 1000, "the write that asks counts"
    assert client.get(key)[2] == {"n": 20, "s": "later"}


def test_metadata_within_a_write_is_that_of_before_and_after(client, key):
    """A record that is not stored yet has the least size; times are already those of the write, a key is not there."""

    def read(*expressions):
        return [expression.expression_read(str(n), each.compile(), aerospike.EXP_READ_EVAL_NO_FAIL)
                for n, each in enumerate(expressions)]

    asked = read(exp.RecordSize(), exp.KeyExists(), exp.KeyStr(), exp.TTL(), exp.SetName())
    policy = {"key": aerospike.POLICY_KEY_SEND}
    steps = [operations.write("a", "x" * 100), *asked]
    answers = [client.operate(key, steps, meta={"ttl": 100}, policy=policy)[2] for _ in range(2)]
    first, second = ([answer[str(n)] for n in range(5)] for answer in answers)
    assert first == [16, False, None, 100, "python"]
    assert second == [176, True, key[2], 100, "python"]
    replaced = client.operate(key, steps, policy={**policy, "exists": aerospike.POLICY_EXISTS_REPLACE})[2]
    assert [replaced[str(n)] for n in range(3)] == [176, True, None]
