//! The server runs in every environment: without root, without or with an unusual `/proc` and `/sys`, within
//! the limits of a container, with IPv6 addresses.
//!
//! Kernel files are replaced in a mount namespace of the server. If the system allows no such namespace
//! (neither for root nor for others), those tests say so and pass.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::report;
use ferrospike_tests::server::{BASICS, NAMESPACES, Server, usual_config};
use ferrospike_tests::wire::{Message, result};
use nix::sys::signal::Signal;

/// Longest wait for background work of the server.
const PATIENCE: Duration = Duration::from_secs(60);
/// The warning of a server that no network interface identifies.
const NO_INTERFACE: &str = "identifies this machine";

/// Info commands whose answers depend on the machine.
const ABOUT_THE_MACHINE: &[&str] = &[
    "statistics",
    "namespace/test",
    "best-practices",
    "health-stats",
    "node",
    "service",
    "endpoints",
    "thread-traces",
];

fn put(server: &Server) -> u8 {
    server.connect().ask(&Message::put("anywhere", b"value".to_vec())).expect("an answer").result
}

fn get(server: &Server) -> u8 {
    server.connect().ask(&Message::get("anywhere")).expect("an answer").result
}

/// Starts a server whose `/proc` and `/sys` have only the files that `script` creates; `None` if that is
/// impossible.
fn start_with_kernel_files(script: &str) -> Option<Server> {
    let unshare = ["unshare", "--map-root-user", "--mount"];
    let can = Command::new(unshare[0])
        .args(&unshare[1..])
        .args(["mount", "-t", "tmpfs", "none", "/proc"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !can {
        report("SKIPPED: this system gives no mount name spaces, so no server was started in one");
        return None;
    }
    let script = format!(
        "set -e\ncp /proc/meminfo {{dir}}/meminfo\nmount -t tmpfs none /proc\nmount -t tmpfs none /sys\n\
         mkdir -p /proc/self/task /sys/fs/cgroup\n{script}\nexec \"$0\" \"$@\""
    );
    let mut server =
        Server::start_under(&["unshare", "--map-root-user", "--mount", "sh", "-c", &script], &usual_config());
    server.allow(NO_INTERFACE);
    Some(server)
}

/// Checks that the server works, and answers all requests about the machine.
fn works(server: &Server) {
    assert_eq!((put(server), get(server)), (result::OK, result::OK));
    for command in ABOUT_THE_MACHINE {
        server.connect().info(command).unwrap_or_else(|error| panic!("{command}: {error}"));
    }
    server.signal(Signal::SIGUSR1);
    server.await_log("free-mem-pct");
}

#[test]
fn without_proc_and_sys() {
    let Some(server) = start_with_kernel_files("rmdir /proc/self/task /proc/self") else { return };
    works(&server);
}

#[test]
fn with_nonsense_in_proc_and_sys() {
    let nonsense = "
        mkdir -p /proc/self/task/x /proc/sys/vm /proc/sys/net/core /sys/class/net/lo /sys/class/net/eth0
        mkdir -p /sys/kernel/mm/transparent_hugepage
        for file in meminfo stat self/statm self/status self/task/x/status self/mountinfo sys/vm/swappiness \
            sys/vm/min_free_kbytes sys/vm/overcommit_memory sys/net/core/somaxconn; do
            head -c 3000 /dev/urandom >/proc/$file
        done
        for file in class/net/lo/address class/net/eth0/address kernel/mm/transparent_hugepage/enabled \
            fs/cgroup/memory.max fs/cgroup/memory.current fs/cgroup/memory.stat fs/cgroup/cpu.max; do
            head -c 3000 /dev/urandom >/sys/$file
        done
        printf '0::/../../../..\\n' >/proc/self/cgroup
        printf 'cpu 99999999999999999999 -1 x\\n' >>/proc/stat
        printf 'MemTotal: 18446744073709551615 kB\\n' >/proc/meminfo";
    let Some(server) = start_with_kernel_files(nonsense) else { return };
    works(&server);
}

/// A control group with half a processor and 256 MiB, of which little is used at first.
const SMALL_GROUP: &str = "
        cp {dir}/meminfo /proc/meminfo
        printf '0::/\\n' >/proc/self/cgroup
        cd /sys/fs/cgroup
        printf 'cpu memory\\n' >cgroup.controllers
        printf '50000 100000\\n' >cpu.max
        printf '268435456\\n' >memory.max
        mkdir {dir}/group
        printf '10000000\\n' >{dir}/group/memory.current
        ln -s {dir}/group/memory.current memory.current
        cd {dir}";

#[test]
fn within_the_limits_of_its_control_group() {
    let Some(mut server) = start_with_kernel_files(SMALL_GROUP) else { return };
    server.allow("stop-writes");
    works(&server);
    let mut client = server.connect();
    assert_eq!(client.figure("get-config:context=service", "service-threads").expect("threads"), 1);
    let free = client.figure("statistics", "system_free_mem_kbytes").expect("memory");
    assert!((200_000..262_144).contains(&free), "{free} kB");

    std::fs::write(server.folder().join("group/memory.current"), "268000000\n").expect("fill the group");
    let start = Instant::now();
    while put(&server) != result::OUT_OF_SPACE {
        assert!(start.elapsed() < PATIENCE, "the group is full and it goes on writing");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(get(&server), result::OK);
}

#[test]
fn without_root() {
    if !nix::unistd::geteuid().is_root() {
        return works(&Server::start(&usual_config()));
    }
    let script = "cp \"$0\" {dir}/asd && chown -R 65534:65534 {dir} &&
        exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs {dir}/asd \"$@\" --instance 3";
    let storage = "storage-engine device {\n        file {dir}/bar.dat\n        filesize 128M";
    let config = usual_config().replacen("storage-engine memory {\n        data-size 512M", storage, 1);
    let server = Server::start_under(&["sh", "-c", script], &config);
    works(&server);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process_id().expect("a process")));
    let status = status.expect("the state of the server");
    assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
}

/// `None` on a machine without IPv6.
fn free_v6_port() -> Option<u16> {
    let socket = TcpListener::bind("[::1]:0");
    if socket.is_err() {
        report("SKIPPED: this machine has no IPv6 loopback address");
    }
    Some(socket.ok()?.local_addr().expect("an address").port())
}

#[test]
fn with_ipv6_addresses() {
    let Some(info_port) = free_v6_port() else { return };
    let lines = "address ::1\n        access-address 2001:db8::7\n        access-port 4000\n        \
                 alternate-access-address fd00::1";
    let info = format!("    info {{\n        address ::1\n        port {info_port}\n    }}\n}}\n");
    let basics = BASICS.replacen("address 127.0.0.1", lines, 1);
    let network_end = basics.trim_end().strip_suffix('}').expect("the end of the network context");
    let server = Server::start(&[network_end, &info, NAMESPACES].concat());
    assert!(server.address().is_ipv6());
    works(&server);
    let mut client = server.connect();
    for (command, expected) in
        [("service-clear-std", "[2001:db8::7]:4000"), ("service-clear-alt", "[fd00::1]:4000")]
    {
        assert_eq!(client.info_value(command).expect(command), expected, "{command}");
    }
    let endpoints = client.info_value("endpoints").expect("endpoints");
    for pair in [
        "service.access-port=4000",
        "service.access-addresses=2001:db8::7",
        "service.alternate-access-port=4000",
        "service.alternate-access-addresses=fd00::1",
    ] {
        assert!(endpoints.split(';').any(|told| told == pair), "{pair} in {endpoints}");
    }
    let mut info = TcpStream::connect(("::1", info_port)).expect("the info port");
    info.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    info.write_all(b"status\n").expect("ask");
    let mut answer = String::new();
    BufReader::new(info).read_line(&mut answer).expect("an answer");
    assert_eq!(answer, "ok\n");
}

#[test]
fn both_families_share_a_port() {
    if free_v6_port().is_none() {
        return;
    }
    let addresses = "address 127.0.0.1\n        address ::1";
    let server = Server::start(&usual_config().replacen("address 127.0.0.1", addresses, 1));
    let port = server.address().port();
    let mut client = server.connect();
    let told = client.info_value("service-clear-std").expect("addresses");
    assert_eq!(told, format!("127.0.0.1:{port},[::1]:{port}"));
    TcpStream::connect(("::1", port)).expect("the other address");
}
