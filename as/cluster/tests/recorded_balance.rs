//! Compares partition tables with those of the C server: node sequences of clusters of 1 to 8 nodes, and
//! every node's state in 57 rebalances for joins, kills, returns, cuts and merges, most of them in the middle
//! of migrations.
//!
//! The recordings are in `tests/corpora/cluster/balance`. `shapes-*` hold replica lists, in which each digit
//! is an index into the succession list. `steps-*` hold the versions before each rebalance, and
//! `partition-info` and the client maps after it.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use cluster::balance::{Member, NamespaceView, PARTITIONS, Partition, Route, Superfluous};
use flate2::read::GzDecoder;
use proto::peer::{ClusterKey, NodeId};
use serde_json::Value;

fn recordings(prefix: &str) -> Vec<(PathBuf, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpora/cluster/balance");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix)).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let value = serde_json::from_reader(GzDecoder::new(File::open(&path).unwrap())).unwrap();
        (path, value)
    };
    paths.into_iter().map(read).collect()
}

fn hex(value: &str) -> u64 {
    u64::from_str_radix(value, 16).unwrap()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn succession(nodes: &Value) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = list(nodes).iter().map(|node| NodeId(hex(text(node)))).collect();
    nodes.sort_unstable_by(|left, right| right.cmp(left));
    nodes
}

fn member(node: NodeId, versions: Vec<datamodel::partition_version::PartitionVersion>) -> Member {
    Member { node, rack: 0, is_quiesced: false, versions }
}

#[test]
fn replica_lists_are_those_of_the_c_server() {
    let (mut agree, mut total) = (0, 0);
    for (_, recording) in recordings("shapes") {
        for shape in list(&recording["shapes"]) {
            let nodes = succession(&shape["nodes"]);
            for namespace in shape["namespaces"].as_object().unwrap().values() {
                let replicas = namespace["effective_rf"].as_u64().unwrap() as usize;
                let view = NamespaceView {
                    cluster_key: ClusterKey(1),
                    members: nodes.iter().map(|node| member(*node, Vec::new())).collect(),
                    replication_factor: replicas,
                    is_uniform: false,
                    active_rack: 0,
                };
                let want: Vec<u8> = text(&namespace["replicas"]).bytes().map(|digit| digit - b'0').collect();
                for (row, want) in view.rows(PARTITIONS).iter().zip(want.chunks(replicas)) {
                    total += 1;
                    agree += usize::from(row[..replicas] == *want);
                }
            }
        }
    }
    println!("{agree} of {total} replica lists as the C server's");
    assert_eq!((agree, total), (196_608, 196_608));
}

/// A node's `partition-info` and its columns in the clients' map.
#[derive(PartialEq, Debug)]
struct Seen {
    replica: i64,
    duplicates: u64,
    working_master: NodeId,
    proxy_destination: NodeId,
    pending: [u64; 3],
    version: String,
    final_version: String,
    columns: u64,
}

impl Seen {
    fn recorded(row: &Value, columns: char) -> Self {
        let number = |at: usize| row[at].as_u64().unwrap();
        Seen {
            replica: row[0].as_i64().unwrap(),
            duplicates: number(1),
            working_master: NodeId(hex(text(&row[2]))),
            proxy_destination: NodeId(hex(text(&row[3]))),
            pending: [number(4), number(5), number(6)],
            version: text(&row[7]).to_owned(),
            final_version: text(&row[8]).to_owned(),
            columns: u64::from(columns.to_digit(16).unwrap()),
        }
    }

    fn computed(partition: &Partition, node: NodeId) -> Self {
        Seen {
            replica: partition.replica_place(node).map_or(-1, |place| place as i64),
            duplicates: partition.duplicates.len() as u64,
            working_master: partition.working_master,
            proxy_destination: partition.proxy_destination,
            pending: [
                partition.pending_emigrations,
                partition.pending_lead_emigrations,
                partition.pending_immigrations,
            ]
            .map(u64::from),
            version: partition.version.to_string(),
            final_version: partition.final_version.to_string(),
            columns: partition.client_columns(node),
        }
    }
}

#[test]
fn rebalances_end_as_on_the_c_server() {
    let (mut agree, mut total) = (0, 0);
    for (path, recording) in recordings("steps") {
        for step in list(&recording["steps"]) {
            let versions: Vec<_> = list(&step["versions"]).iter().map(|v| text(v).parse().unwrap()).collect();
            let nodes = succession(&step["nodes"]);
            let keyed = |field: &str, node: &NodeId| {
                let of_node = step[field].as_object().unwrap().iter().find(|(key, _)| hex(key) == node.0);
                of_node.unwrap().1.clone()
            };
            let before = |node: &NodeId| -> Vec<_> {
                let indexes = keyed("before", node);
                list(&indexes).iter().map(|index| versions[index.as_u64().unwrap() as usize]).collect()
            };
            let view = NamespaceView {
                cluster_key: ClusterKey(hex(text(&step["cluster_key"]))),
                members: nodes.iter().map(|node| member(*node, before(node))).collect(),
                replication_factor: recording["configured_rf"].as_u64().unwrap() as usize,
                is_uniform: false,
                active_rack: 0,
            };
            assert_eq!(view.effective_replication_factor() as u64, step["effective_rf"].as_u64().unwrap());
            let rows = view.rows(PARTITIONS);
            for member in &view.members {
                let (after, columns) = (keyed("after", &member.node), keyed("client_columns", &member.node));
                let columns: Vec<char> = text(&columns).chars().collect();
                for (pid, row) in rows.iter().enumerate() {
                    let mut partition = Partition { version: member.versions[pid], ..Partition::default() };
                    partition.rebalance(&view.plan(pid, row), member.node, 0, Superfluous::Drop);
                    let want =
                        Seen::recorded(&step["rows"][after[pid].as_u64().unwrap() as usize], columns[pid]);
                    let got = Seen::computed(&partition, member.node);
                    let name = (path.file_name(), text(&step["name"]), member.node, pid);
                    assert_eq!(got, want, "{name:?} from {}", member.versions[pid]);
                    let is_master = partition.route(member.node, false) == Route::Here;
                    assert_eq!(is_master, got.columns & 1 != 0, "who is master carries out writes");
                    total += 1;
                    agree += usize::from(got == want);
                }
            }
        }
    }
    println!("{agree} of {total} states of partitions as the C server's");
    assert_eq!((agree, total), (823_296, 823_296));
}
