//! The official Rust client against the server at `ASD_ADDRESS` (host:port), namespace `test`.
//!
//! Each test uses its own records, so that the order of tests and the server's contents do not matter.
#![cfg(test)]

use aerospike::operations::{self, scalar};
use aerospike::{
    AuthMode, Bins, Client, ClientPolicy, Error, Expiration, GenerationPolicy, Key, ReadPolicy, Record,
    RecordExistsAction, ResultCode, Value, WritePolicy, as_bin, as_key,
};

const SET: &str = "rust";

fn address() -> String {
    std::env::var("ASD_ADDRESS").expect("ASD_ADDRESS")
}

fn client() -> Client {
    Client::new(&ClientPolicy::default(), &address()).expect("connect")
}

fn get(client: &Client, key: &Key) -> Record {
    client.get(&ReadPolicy::default(), key, Bins::All).expect("get")
}

fn put(client: &Client, key: &Key, value: i64) {
    client.put(&WritePolicy::default(), key, &[as_bin!("a", value)]).expect("put");
}

/// A key whose record does not exist.
fn fresh(client: &Client, name: &str) -> Key {
    let key = as_key!("test", SET, name);
    client.delete(&WritePolicy::default(), &key).expect("delete what an earlier run left");
    key
}

fn code<T>(result: Result<T, Error>) -> Option<ResultCode> {
    result.err().and_then(|error| error.server_result_code())
}

#[test]
fn connects_to_one_node() {
    let client = client();
    assert!(client.is_connected());
    assert_eq!(client.node_names().len(), 1);
    client.close().expect("close");
    assert!(!client.is_connected());
}

#[test]
fn credentials_are_taken_by_a_server_without_security() {
    let mut policy = ClientPolicy::default();
    policy.set_auth_mode(AuthMode::Internal("someone".to_owned(), "secret".to_owned()));
    let client = Client::new(&policy, &address()).expect("connect");
    let key = fresh(&client, "credentials");
    put(&client, &key, 1);
    assert_eq!(get(&client, &key).bins.get("a"), Some(&Value::from(1)));
}

#[test]
fn get_returns_what_was_put() {
    let client = client();
    let key = fresh(&client, "put");
    let bins = [as_bin!("i", 42), as_bin!("f", 1.5), as_bin!("s", "text"), as_bin!("b", vec![1u8, 0, 255])];
    client.put(&WritePolicy::default(), &key, &bins).expect("put");
    let record = get(&client, &key);
    assert_eq!((record.generation, record.bins.len()), (1, 4));
    assert_eq!(record.bins.get("i"), Some(&Value::from(42)));
    assert_eq!(record.bins.get("f"), Some(&Value::from(1.5)));
    assert_eq!(record.bins.get("s"), Some(&Value::from("text")));
    assert_eq!(record.bins.get("b"), Some(&Value::from(vec![1u8, 0, 255])));

    let some = client.get(&ReadPolicy::default(), &key, Bins::from(["i", "missing"])).expect("get");
    assert_eq!(some.bins.len(), 1);
    let none = client.get(&ReadPolicy::default(), &key, Bins::None).expect("get");
    assert_eq!((none.generation, none.bins.len()), (1, 0));
}

#[test]
fn delete_removes() {
    let client = client();
    let key = fresh(&client, "delete");
    put(&client, &key, 1);
    assert!(client.exists(&ReadPolicy::default(), &key).expect("exists"));
    assert!(client.delete(&WritePolicy::default(), &key).expect("delete"));
    assert!(!client.delete(&WritePolicy::default(), &key).expect("delete"));
    assert!(!client.exists(&ReadPolicy::default(), &key).expect("exists"));
    let missing = client.get(&ReadPolicy::default(), &key, Bins::All);
    assert_eq!(code(missing), Some(ResultCode::KeyNotFoundError));
}

#[test]
fn bins_are_changed_in_place() {
    let client = client();
    let key = fresh(&client, "modify");
    let policy = WritePolicy::default();
    client.put(&policy, &key, &[as_bin!("n", 40), as_bin!("s", "b")]).expect("put");
    client.add(&policy, &key, &[as_bin!("n", 2)]).expect("add");
    client.append(&policy, &key, &[as_bin!("s", "c")]).expect("append");
    client.prepend(&policy, &key, &[as_bin!("s", "a")]).expect("prepend");
    let record = get(&client, &key);
    assert_eq!(record.bins.get("n"), Some(&Value::from(42)));
    assert_eq!(record.bins.get("s"), Some(&Value::from("abc")));
    assert_eq!(record.generation, 4);
    let wrong = client.add(&policy, &key, &[as_bin!("s", 1)]);
    assert_eq!(code(wrong), Some(ResultCode::BinTypeError));
}

#[test]
fn operations_run_together() {
    let client = client();
    let key = fresh(&client, "operate");
    put(&client, &key, 1);
    let (one, text) = (as_bin!("a", 1), as_bin!("t", "new"));
    let steps = [scalar::add(&one), scalar::put(&text), scalar::get_bin("a"), scalar::get_bin("t")];
    let record = client.operate(&WritePolicy::default(), &key, &steps).expect("operate");
    assert!(format!("{:?}", record.bins.get("a")).contains('2'), "{record:?}");
    assert!(format!("{:?}", record.bins.get("t")).contains("new"), "{record:?}");

    let steps = [operations::get(), operations::delete()];
    client.operate(&WritePolicy::default(), &key, &steps).expect("read and delete");
    assert!(!client.exists(&ReadPolicy::default(), &key).expect("exists"));
}

#[test]
fn records_must_or_must_not_exist() {
    let client = client();
    let key = fresh(&client, "exists");
    let policy = |record_exists_action| WritePolicy { record_exists_action, ..WritePolicy::default() };
    let put = |action, name: &str| client.put(&policy(action), &key, &[as_bin!(name, 1)]);
    assert_eq!(code(put(RecordExistsAction::UpdateOnly, "a")), Some(ResultCode::KeyNotFoundError));
    assert_eq!(code(put(RecordExistsAction::ReplaceOnly, "a")), Some(ResultCode::KeyNotFoundError));
    put(RecordExistsAction::CreateOnly, "a").expect("create");
    assert_eq!(code(put(RecordExistsAction::CreateOnly, "b")), Some(ResultCode::KeyExistsError));
    put(RecordExistsAction::Replace, "c").expect("replace");
    let record = get(&client, &key);
    assert_eq!((record.generation, record.bins.contains_key("c"), record.bins.len()), (2, true, 1));
}

#[test]
fn generations_are_checked() {
    let client = client();
    let key = fresh(&client, "generation");
    put(&client, &key, 1);
    let mut policy = WritePolicy::default();
    policy.generation_policy = GenerationPolicy::ExpectGenEqual;
    policy.generation = 2;
    assert_eq!(code(client.put(&policy, &key, &[as_bin!("a", 2)])), Some(ResultCode::GenerationError));
    policy.generation = 1;
    client.put(&policy, &key, &[as_bin!("a", 2)]).expect("put");
    assert_eq!(get(&client, &key).generation, 2);
}

#[test]
fn time_to_live_is_kept_and_renewed() {
    let client = client();
    let key = fresh(&client, "ttl");
    let policy = |seconds| WritePolicy { expiration: Expiration::Seconds(seconds), ..WritePolicy::default() };
    client.put(&policy(1000), &key, &[as_bin!("a", 1)]).expect("put");
    let seconds = get(&client, &key).time_to_live().expect("it expires").as_secs();
    assert!((990..=1000).contains(&seconds), "{seconds}");
    client.touch(&policy(2000), &key).expect("touch");
    let seconds = get(&client, &key).time_to_live().expect("it expires").as_secs();
    assert!((1990..=2000).contains(&seconds), "{seconds}");
}

#[test]
fn threads_share_a_client() {
    let client = client();
    let key = fresh(&client, "threads");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..100 {
                    client.add(&WritePolicy::default(), &key, &[as_bin!("n", 1)]).expect("add");
                }
            });
        }
    });
    assert_eq!(get(&client, &key).bins.get("n"), Some(&Value::from(800)));
}
