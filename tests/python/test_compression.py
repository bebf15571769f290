"""Compressed messages: requests above a client's threshold, and answers."""
TEXT = "a line of text, again and again\n" * 500
POLICY = {"compress": True, "compression_threshold": 128}


def test_writes_and_reads(client, key):
    client.put(key, {"text": TEXT}, policy={"compression_threshold": 128})
    assert client.get(key)[2] == {"text": TEXT}
    assert client.get(key, policy=POLICY)[2] == {"text": TEXT}
    assert client.select(key, ["text"], policy=POLICY)[2] == {"text": TEXT}


def test_batches(client, key):
    client.put(key, {"text": TEXT})
    keys = [key] * 50
    records = client.batch_read(keys, policy={"compress": True}).batch_records
    assert [record.record[2] for record in records] == [{"text": TEXT}] * 50


def test_queries(client, key):
    client.put(key, {"text": TEXT})
    records = client.query(*key[:2]).results({"compress": True})
    assert {"text": TEXT} in [bins for _, _, bins in records]
