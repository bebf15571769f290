//! The contents of the installation and of the packages, with stand-ins for the programs, and the man pages
//! and completions that the programs generate.
//!
//! `make test-deb` and `make test-rpm`, which need root and the network, test the packages in a real system.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ferrospike_tests::programs::{binary, built};
use ferrospike_tests::report;
use tempfile::TempDir;

const PROGRAMS: [&str; 6] = ["asd", "asd-inspect", "asd-tls", "asinfo", "asbench", "asd-bench"];
const SERVER_PROGRAMS: usize = 3;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in a workspace")
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("ferrospike-packages-").tempdir().expect("a temporary folder")
}

/// A folder of programs that report their arguments.
fn stand_ins(folder: &TempDir) -> String {
    let programs = folder.path().join("programs");
    fs::create_dir_all(&programs).expect("make a folder");
    for name in PROGRAMS {
        let path = programs.join(name);
        fs::write(&path, format!("#!/bin/sh\n# needs GLIBC_2.17 and GLIBC_2.9\necho \"{name}: $*\"\n"))
            .expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    }
    programs.to_str().expect("plain text").to_owned()
}

fn make(arguments: &[&str]) -> Output {
    make_command(arguments).output().expect("run make")
}

/// The command does not depend on a `make` that runs the tests.
fn make_command(arguments: &[&str]) -> Command {
    let mut command = Command::new("make");
    command.current_dir(root()).env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    command.args(["--silent", "--no-print-directory"]).args(arguments);
    command
}

fn text_of(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn has(command: &str) -> bool {
    let found = Command::new(command).arg("--version").output().is_ok();
    if !found {
        report(&format!("SKIPPED: {command} is not installed, so nothing made with it was tested"));
    }
    found
}

fn run(command: &str, arguments: &[&str]) -> String {
    text_of(&Command::new(command).args(arguments).output().expect(command))
}

/// The file in `folder` that `make` created, with the prefix `start`.
fn made(folder: &Path, start: &str) -> PathBuf {
    let files =
        fs::read_dir(folder.join("packages")).expect("packages").map(|entry| entry.expect("a file").path());
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
    files.into_iter().find(named).unwrap_or_else(|| panic!("no {start}… in {}", folder.display()))
}

/// The files of a program, for a folder of zsh completions.
fn files_of(program: &str, zsh: &str) -> [String; 5] {
    let section = if program == "asd" { 8 } else { 1 };
    [
        format!("/usr/bin/{program}"),
        format!("/usr/share/man/man{section}/{program}.{section}.gz"),
        format!("/usr/share/bash-completion/completions/{program}"),
        format!("{zsh}/_{program}"),
        format!("/usr/share/fish/vendor_completions.d/{program}.fish"),
    ]
}

const SERVER_FILES: [&str; 7] = [
    "/etc/aerospike/aerospike.conf",
    "/etc/logrotate.d/aerospike",
    "/usr/lib/systemd/system/aerospike.service",
    "/usr/lib/sysusers.d/aerospike.conf",
    "/usr/lib/tmpfiles.d/aerospike.conf",
    "/usr/share/doc/ferrospike/examples/aerospike_ssd.conf",
    "/usr/share/doc/ferrospike/third-party.txt",
];

#[test]
fn install_puts_everything_in_its_place_and_keeps_a_changed_configuration() {
    let folder = folder();
    let programs = format!("BINARIES={}", stand_ins(&folder));
    let destination = folder.path().join("root");
    let destdir = format!("DESTDIR={}", destination.display());
    let install = || text_of(&make(&["install", &programs, &destdir, "PREFIX=/usr"]));
    install();
    let own = PROGRAMS.iter().flat_map(|program| files_of(program, "/usr/share/zsh/site-functions"));
    for path in own.chain(SERVER_FILES.map(str::to_owned)) {
        assert!(destination.join(&path[1..]).is_file(), "{path} is missing");
    }
    let read = |path: &str| fs::read_to_string(destination.join(path)).expect(path);
    let unit = read("usr/lib/systemd/system/aerospike.service");
    assert!(
        unit.contains("\nExecStart=/usr/bin/asd $ASD_OPTIONS --config-file ${ASD_CONFIG_FILE} --fgdaemon\n")
    );
    assert!(unit.contains("\nEnvironment=ASD_CONFIG_FILE=/etc/aerospike/aerospike.conf\n"), "{unit}");
    assert_eq!(read("usr/share/bash-completion/completions/asinfo"), "asinfo: --generate bash\n");

    for notices in
        ["usr/share/doc/ferrospike/third-party.txt", "usr/share/doc/ferrospike-tools/third-party.txt"]
    {
        let text = read(notices);
        let crates = text.lines().filter(|line| line.starts_with("libc ") && line.contains(", MIT")).count();
        assert_eq!(crates, 1, "each crate is listed with its licence:\n{text}");
        assert!(text.contains("Permission is hereby granted"), "the texts are there");
        assert!(!text.lines().any(|line| line.starts_with("asd ")), "our own code is not that of others");
    }

    assert_eq!(install(), "", "the same again is nothing to talk about");
    let conf = destination.join("etc/aerospike/aerospike.conf");
    fs::write(&conf, "# changed\n").expect("change the configuration");
    assert!(install().contains("aerospike.conf.new"));
    assert_eq!(read("etc/aerospike/aerospike.conf"), "# changed\n");
    assert!(read("etc/aerospike/aerospike.conf.new").contains("namespace test"));

    // logrotate would read a second file in its folder.
    fs::write(destination.join("etc/logrotate.d/aerospike"), "# changed\n").expect("change the rotation");
    assert!(install().contains("etc/aerospike/logrotate.new"));
    assert!(read("etc/aerospike/logrotate.new").contains("postrotate"));
    assert_eq!(read("etc/logrotate.d/aerospike"), "# changed\n");
    assert_eq!(fs::read_dir(destination.join("etc/logrotate.d")).expect("a folder").count(), 1);
}

#[test]
fn install_for_the_machine_has_the_user_wherever_it_is() {
    let folder = folder();
    let programs = format!("BINARIES={}", stand_ins(&folder));
    for (places, prefix, sysconfdir) in [
        (&["PREFIX=/opt/ferrospike"][..], "opt/ferrospike", "opt/ferrospike/etc"),
        (&["PREFIX=/usr/local", "SYSCONFDIR=/usr/local/etc"], "usr/local", "usr/local/etc"),
    ] {
        let destination = folder.path().join(prefix);
        let destdir = format!("DESTDIR={}", destination.display());
        text_of(&make(&[&["install", &programs, &destdir], places].concat()));
        let read = |path: String| fs::read_to_string(destination.join(&path)).expect(&path);
        let conf = read(format!("{sysconfdir}/aerospike/aerospike.conf"));
        assert!(conf.contains("\tuser aerospike\n\tgroup aerospike\n"), "{conf}");
        assert!(conf.contains("/var/log/aerospike/aerospike.log"), "{conf}");
        let unit = read(format!("{prefix}/lib/systemd/system/aerospike.service"));
        assert!(unit.contains(&format!("=/{sysconfdir}/aerospike/aerospike.conf\n")), "{unit}");
        assert!(read(format!("{prefix}/lib/sysusers.d/aerospike.conf")).contains("u aerospike "));
        assert!(read(format!("{prefix}/lib/tmpfiles.d/aerospike.conf")).contains("/run/aerospike "));
        let rotation = read(format!("{sysconfdir}/logrotate.d/aerospike"));
        assert!(rotation.contains("systemctl kill"), "{rotation}");
    }
}

/// Whether `make install` with these arguments, by the user with this id, is a private installation.
fn is_own(folder: &TempDir, user: u32, arguments: &[&str]) -> bool {
    let id = folder.path().join("id");
    fs::write(&id, format!("#!/bin/sh\necho {user}\n")).expect("write");
    fs::set_permissions(&id, fs::Permissions::from_mode(0o755)).expect("make it executable");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
    let arguments = [&["--eval", "own: ; @echo $(OWN)", "own"], arguments].concat();
    let answer = text_of(&make_command(&arguments).env("PATH", path).output().expect("run make"));
    match answer.trim_end() {
        "yes" => true,
        "no" => false,
        other => panic!("{other}"),
    }
}

#[test]
fn only_a_user_installs_for_oneself_unless_root_asks_for_it() {
    let folder = folder();
    let is_own = |user, arguments: &[&str]| is_own(&folder, user, arguments);
    assert!(is_own(1000, &["PREFIX=/home/someone/.local"]));
    assert!(!is_own(1000, &["PREFIX=/opt/ferrospike", "DESTDIR=/tmp/package"]));
    assert!(!is_own(1000, &["PREFIX=/usr/local", "SYSCONFDIR=/usr/local/etc"]));
    assert!(!is_own(0, &["PREFIX=/opt/ferrospike"]));
    assert!(is_own(0, &["PREFIX=/srv/trial", "OWN=yes"]));
}

#[test]
fn install_for_oneself_stays_in_its_folder() {
    let folder = folder();
    let programs = format!("BINARIES={}", stand_ins(&folder));
    let home = folder.path().join("home");
    text_of(&make(&["install", &programs, "OWN=yes", &format!("PREFIX={}", home.display())]));
    assert!(home.join("bin/asd").is_file() && home.join("etc/aerospike/aerospike.conf").is_file());
    assert!(!home.join("lib").exists(), "the machine's service is not that of a user");
    // No file contains a path of the machine, and the configuration needs nothing else.
    let conf = home.join("etc/aerospike/aerospike.conf");
    let installed = [
        "etc/aerospike/aerospike.conf",
        "etc/logrotate.d/aerospike",
        "share/doc/ferrospike/examples/aerospike_ssd.conf",
    ];
    for path in installed {
        let text = fs::read_to_string(home.join(path)).expect(path);
        let elsewhere = text.replace(home.to_str().expect("plain text"), "HOME");
        let is_foreign =
            |word: &&str| ["/opt", "/etc", "/var", "/run"].iter().any(|place| word.starts_with(place));
        assert_eq!(elsewhere.split_whitespace().find(is_foreign), None, "{path}");
        assert!(!elsewhere.contains("HOMEHOME"), "{path}");
    }
    let rotation = fs::read_to_string(home.join("etc/logrotate.d/aerospike")).expect("a rotation");
    assert!(!rotation.contains("systemctl"), "{rotation}");
    let pid_file = home.join("var/run/aerospike/asd.pid");
    assert_eq!(signalled(&folder, &rotation, &pid_file), "-HUP 4711\n");
    let text = fs::read_to_string(&conf).expect("a configuration");
    assert!(!text.contains("user aerospike"), "{text}");
    let usable = text.replace("address any", "address 127.0.0.1").replace("port 3", "port 2");
    fs::write(&conf, usable).expect("change the ports");
    let check = Command::new(binary()).args(["--check-config", "--config-file"]).arg(&conf).output();
    assert_eq!(text_of(&check.expect("asd")), format!("{} is accepted\n", conf.display()));
}

/// The arguments of `kill` in the script that runs after a rotation, with process 4711 in the pid file.
fn signalled(folder: &TempDir, rotation: &str, pid_file: &Path) -> String {
    fs::write(pid_file, "4711\n").expect("the folder of the pid file is there");
    let script = rotation.split_once("postrotate\n").and_then(|(_, rest)| rest.split_once("endscript"));
    let (script, _) = script.expect("a script");
    let file = folder.path().join("postrotate");
    fs::write(&file, format!("kill() {{ echo \"$*\"; }}\n{script}")).expect("write");
    run("sh", &[file.to_str().expect("plain text")])
}

/// Builds packages of one kind in a folder.
fn packages(kind: &str) -> TempDir {
    let folder = folder();
    let programs = format!("BINARIES={}", stand_ins(&folder));
    let target = format!("CARGO_TARGET_DIR={}", folder.path().display());
    text_of(&make(&[kind, &programs, &target, "PACKAGE_RELEASE=7"]));
    folder
}

#[test]
fn debian_packages() {
    if !has("dpkg-deb") {
        return;
    }
    let folder = packages("deb");
    let fields = |package: &Path| -> BTreeMap<String, String> {
        let text = run("dpkg-deb", &["--field", package.to_str().expect("plain text")]);
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let contents = |package: &Path| -> BTreeMap<String, String> {
        let text = run("dpkg-deb", &["--contents", package.to_str().expect("plain text")]);
        let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        words.map(|words| (words[5][1..].to_owned(), format!("{} {}", words[0], words[1]))).collect()
    };
    let version = format!("{}-7", env!("CARGO_PKG_VERSION"));
    let (server, tools) = (made(folder.path(), "ferrospike_"), made(folder.path(), "ferrospike-tools_"));
    for (package, programs) in
        [(&server, &PROGRAMS[..SERVER_PROGRAMS]), (&tools, &PROGRAMS[SERVER_PROGRAMS..])]
    {
        let fields = fields(package);
        assert_eq!(fields["Version"], version);
        assert!(fields["Depends"].contains("libc6 (>= 2.17)"), "the newest symbol decides: {fields:?}");
        let contents = contents(package);
        for path in programs.iter().flat_map(|program| files_of(program, "/usr/share/zsh/vendor-completions"))
        {
            let expected =
                if path.starts_with("/usr/bin") { "-rwxr-xr-x root/root" } else { "-rw-r--r-- root/root" };
            assert_eq!(contents.get(&path).map(String::as_str), Some(expected), "{path}");
        }
        let copyright = format!("/usr/share/doc/{}/copyright", fields["Package"]);
        let command = format!("dpkg-deb --fsys-tarfile {} | tar -xO .{copyright}", package.display());
        let copyright = run("sh", &["-c", &command]);
        assert!(
            copyright.contains("License: AGPL-3.0-or-later\n GNU AFFERO GENERAL PUBLIC LICENSE\n"),
            "{copyright}"
        );
    }
    let contents = contents(&server);
    for path in SERVER_FILES {
        assert_eq!(contents.get(path).map(String::as_str), Some("-rw-r--r-- root/root"), "{path}");
    }
    assert!(
        !contents.keys().any(|path| path.starts_with("/opt") || path.starts_with("/var")),
        "{contents:?}"
    );
    let conflicts = &fields(&server)["Conflicts"];
    assert!(conflicts.contains("aerospike-server-community"), "{conflicts}");

    let control = folder.path().join("control");
    run("dpkg-deb", &["--control", server.to_str().expect("text"), control.to_str().expect("text")]);
    let conffiles = fs::read_to_string(control.join("conffiles")).expect("conffiles");
    assert_eq!(conffiles, "/etc/aerospike/aerospike.conf\n/etc/logrotate.d/aerospike\n");
    for script in ["postinst", "prerm", "postrm"] {
        let path = control.join(script);
        run("sh", &["-n", path.to_str().expect("text")]);
        let mode = fs::metadata(&path).expect(script).permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{script}");
    }
    let postinst = fs::read_to_string(control.join("postinst")).expect("a script");
    assert!(postinst.contains("useradd --system") && !postinst.contains('@'), "{postinst}");
}

#[test]
fn rpm_packages_are_built_or_the_missing_tool_is_named() {
    if !has("rpmbuild") {
        let output = make(&["rpm", "BINARIES=/nonexistent"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("rpmbuild is not installed"), "{said}");
        return;
    }
    let folder = packages("rpm");
    for (start, programs) in
        [("ferrospike-0", &PROGRAMS[..SERVER_PROGRAMS]), ("ferrospike-tools-", &PROGRAMS[SERVER_PROGRAMS..])]
    {
        let package = made(folder.path(), start);
        let package = package.to_str().expect("plain text");
        assert_eq!(run("rpm", &["-qp", "--queryformat", "%{LICENSE}", package]), "AGPL-3.0-or-later");
        let listed = run("rpm", &["-qpl", package]);
        for path in programs.iter().flat_map(|program| files_of(program, "/usr/share/zsh/site-functions")) {
            assert!(listed.lines().any(|line| line == path), "{path} is not in {listed}");
        }
        if start == "ferrospike-0" {
            let kept = run("rpm", &["-qpc", package]);
            assert_eq!(kept, "/etc/aerospike/aerospike.conf\n/etc/logrotate.d/aerospike\n");
            assert!(run("rpm", &["-qp", "--scripts", package]).contains("useradd --system"));
        }
    }
}

#[test]
fn programs_tell_their_man_pages_and_completions() {
    for program in PROGRAMS {
        let path = if program == "asd" { binary() } else { built(program).expect("the path of the tests") };
        let tell = |what: &str| run(path.to_str().expect("plain text"), &["--generate", what]);
        let page = tell("man");
        let section = if program == "asd" { 8 } else { 1 };
        assert!(page.contains(&format!(".TH {} {section}", program.to_uppercase())), "{program}: {page}");
        assert!(
            page.contains("AGPL\\-3.0\\-or\\-later") || page.contains("AGPL-3.0-or-later"),
            "{program}: {page}"
        );
        for shell in ["bash", "zsh", "fish"] {
            assert!(tell(shell).contains(program), "{program} {shell}");
        }
    }
    for mistake in [&["--generate"][..], &["--generate", "config"], &["--generate", "parameters", "more"]] {
        let output = Command::new(binary()).args(mistake).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("asd --generate parameters"),
            "{mistake:?}: {said}"
        );
    }
    let page = run(binary().to_str().expect("plain text"), &["--generate", "man"]);
    for word in ["config\\-file", "fgdaemon", ".SH SIGNALS", "SIGHUP"] {
        assert!(page.contains(word), "{word}: {page}");
    }
}

/// The command line with which the entrypoint of the container image starts the server, and the configuration
/// that it writes.
fn entrypoint(folder: &TempDir, variables: &[(&str, &str)], arguments: &[&str]) -> (String, String) {
    let programs = stand_ins(folder);
    let script = format!(
        "#!/bin/sh\nwhile [ $# -gt 1 ]; do\n    if [ \"$1\" = --config-file ]; then cp \"$2\" {programs}/made.conf; rm -f \"$2\"; fi\n\
         \x20   printf '%s ' \"$1\"\n    shift\ndone\necho \"$1\"\n"
    );
    fs::write(Path::new(&programs).join("asd"), script).expect("write");
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(root().join("build/docker/entrypoint"))
        .args(arguments)
        .env_clear()
        .env("PATH", path)
        .envs(variables.iter().copied())
        .output();
    let started = text_of(&output.expect("run the entrypoint"));
    let made = Path::new(&programs).join("made.conf");
    let conf = fs::read_to_string(&made).unwrap_or_default();
    if made.exists() {
        // The configuration gets folders and free ports of this machine.
        let mut here = conf.replace("address 2001:db8::1", "address 127.0.0.1");
        for there in ["/opt/aerospike/data", "/var/log/aerospike"] {
            here = here.replace(there, &programs);
        }
        let network =
            here.lines().map(|line| if line.trim_start().starts_with("port ") { "port 0" } else { line });
        fs::write(&made, network.collect::<Vec<_>>().join("\n")).expect("write");
        let check = Command::new(binary()).args(["--check-config", "--config-file"]).arg(&made).output();
        text_of(&check.expect("check the configuration"));
    }
    (started, conf)
}

#[test]
fn the_container_takes_its_configuration_from_the_environment() {
    if Path::new("/etc/aerospike/aerospike.conf").exists() || Path::new("/run/aerospike").exists() {
        return report(
            "SKIPPED: a server is installed on this machine, the entrypoint was not tried beside it",
        );
    }
    let has = |conf: &str, lines: &[&str]| {
        for line in lines {
            assert!(conf.lines().any(|found| found.trim() == *line), "no line '{line}' in\n{conf}");
        }
    };
    let folder = folder();
    let (started, conf) = entrypoint(&folder, &[], &["asd"]);
    assert!(started.starts_with("--config-file ") && started.ends_with(" --fgdaemon\n"), "{started}");
    let usual = ["address any", "port 3000", "namespace test {", "storage-engine device {"];
    has(&conf, &usual);
    has(
        &conf,
        &["file /opt/aerospike/data/test.dat", "filesize 4G", "nsup-period 120", "read-page-cache true"],
    );

    let variables = [
        ("NAMESPACE", "demo"),
        ("STORAGE_GB", "0"),
        ("MEM_GB", "3"),
        ("DEFAULT_TTL", "30d"),
        ("SERVICE_PORT", "3100"),
        ("ACCESS_ADDRESS", "2001:db8::1"),
        ("ACCESS_PORT", "4000"),
        ("FABRIC_PORT", "3101"),
        ("HEARTBEAT_PORT", "3102"),
        ("INFO_PORT", "3103"),
        ("LOGFILE", "/var/log/aerospike/aerospike.log"),
        ("FEATURE_KEY_FILE", "/no/such/file"),
    ];
    let (started, conf) = entrypoint(&folder, &variables, &["--cold-start"]);
    assert!(started.starts_with("--cold-start --config-file "), "{started}");
    has(&conf, &["namespace demo {", "storage-engine memory {", "data-size 3G", "default-ttl 30d"]);
    has(&conf, &["port 3100", "access-address 2001:db8::1", "access-port 4000"]);
    has(&conf, &["port 3101", "port 3102", "port 3103", "file /var/log/aerospike/aerospike.log {"]);

    let in_memory_too = [("DATA_IN_MEMORY", "true"), ("MEM_GB", "2"), ("STORAGE_GB", "8")];
    let (_, conf) = entrypoint(&folder, &in_memory_too, &[]);
    has(&conf, &["storage-engine memory {", "filesize 8G", "indexes-memory-budget 2G"]);
}

#[test]
fn the_container_fills_in_a_template() {
    if Path::new("/etc/aerospike/aerospike.conf").exists() {
        return report(
            "SKIPPED: a server is installed on this machine, the entrypoint was not tried beside it",
        );
    }
    let folder = folder();
    let template = folder.path().join("template.conf");
    let text = "service {\n\tcluster-name tpl-$(printf '%s' \"a b\" | tr -d ' ')\n}\nnetwork {\n\tservice {\n\t\taddress \
                ${SERVICE_ADDRESS}\n\t\tport ${SERVICE_PORT}\n\t}\n}\nnamespace ${NAMESPACE} {\n\tstorage-engine memory {\n\
                \t\tdata-size ${MEM_GB}G\n\t}\n}";
    fs::write(&template, text).expect("write");
    let template = template.to_str().expect("plain text");
    let variables = [("CONFIG_TEMPLATE", template), ("NAMESPACE", "app"), ("MEM_GB", "2")];
    let (started, conf) = entrypoint(&folder, &variables, &["asd"]);
    assert!(started.starts_with("--config-file "), "{started}");
    for line in ["cluster-name tpl-ab", "address any", "port 3000", "namespace app {", "data-size 2G"] {
        assert!(conf.lines().any(|found| found.trim() == line), "no line '{line}' in\n{conf}");
    }
}

/// Templates of the official image use the syntax of bash, and variables that its entrypoint sets.
#[test]
fn templates_of_the_official_image_are_filled_in() {
    if Path::new("/etc/aerospike/aerospike.conf").exists() {
        return report(
            "SKIPPED: a server is installed on this machine, the entrypoint was not tried beside it",
        );
    }
    let folder = folder();
    let template = folder.path().join("template.conf");
    let text = r#"# it's a "comment" with pa$$word and $HOME, ${NO_SUCH} and $(false)
  # "another"
service {
	cluster-name $([[ "${NAMESPACE}" == t* ]] && echo "with-t")
}
network {
	service {
		address ${SERVICE_ADDRESS}
		"port ${SERVICE_PORT}"
	}
	heartbeat {
		mode mesh
		port 3002
		$(for seed in ${SEEDS//,/ }; do echo "mesh-seed-address-port ${seed} 3002"; done)
	}
	fabric {
		port 3001
	}
}
logging {
	$([ -n "${LOGFILE}" ] && echo "file ${LOGFILE} {")
	$([ -n "${LOGFILE}" ] && echo "context any info")
	$([ -n "${LOGFILE}" ] && echo "}")
	console {
		context any info
	}
}
namespace ${NAMESPACE^^}-$(tr a-z A-Z <<<"x") {
	$( ((NSUP_PERIOD != 0)) && echo "nsup-period ${NSUP_PERIOD}" )
	storage-engine $([ "${DATA_IN_MEMORY}" == "true" ] && echo "memory" || echo "device") {
		file /opt/aerospike/data/${NAMESPACE}.dat
		filesize ${STORAGE_GB}G
		$(([ -z "${DATA_IN_MEMORY}" ] || [ "${DATA_IN_MEMORY}" = "false" ]) && echo "read-page-cache ${READ_PAGE_CACHE}")
	}
}"#;
    fs::write(&template, text).expect("write");
    let template = template.to_str().expect("plain text");
    let mut variables =
        vec![("CONFIG_TEMPLATE", template), ("SEEDS", "192.0.2.1,192.0.2.2"), ("NAMESPACE", "test")];
    for (engine, has_file) in [("device", false), ("memory", true)] {
        if has_file {
            variables.extend([("LOGFILE", "/var/log/aerospike/a.log"), ("DATA_IN_MEMORY", "true")]);
        }
        let (_, conf) = entrypoint(&folder, &variables, &["asd"]);
        let has = |line: &str| conf.lines().any(|found| found.trim() == line);
        for line in [
            "# it's a \"comment\" with pa$$word and $HOME, ${NO_SUCH} and $(false)",
            "# \"another\"",
            "cluster-name with-t",
            "port 3000",
            "mesh-seed-address-port 192.0.2.1 3002",
            "mesh-seed-address-port 192.0.2.2 3002",
            "namespace TEST-X {",
            "nsup-period 120",
            &format!("storage-engine {engine} {{"),
            "filesize 4G",
        ] {
            assert!(has(line), "no line '{line}' in\n{conf}");
        }
        assert_eq!(has("file /var/log/aerospike/a.log {"), has_file, "{conf}");
        assert_eq!(has("read-page-cache true"), !has_file, "{conf}");
    }
    let unset = folder.path().join("unset.conf");
    fs::write(&unset, "service {\n\tcluster-name ${NO_SUCH_VARIABLE}\n}\n").expect("write");
    let output = Command::new(root().join("build/docker/entrypoint")).env("CONFIG_TEMPLATE", &unset).output();
    let output = output.expect("run the entrypoint");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("unset.conf:2: this line cannot be expanded"),
        "{said}"
    );
}

#[test]
fn the_container_takes_a_configuration_or_another_program_as_they_are() {
    let folder = folder();
    let own = folder.path().join("own.conf");
    fs::write(&own, fs::read(root().join("etc/aerospike_dev.conf")).expect("a sample")).expect("write");
    let own = own.to_str().expect("plain text");
    let (started, _) = entrypoint(&folder, &[], &["asd", "--config-file", own]);
    assert_eq!(started, format!("--config-file {own} --fgdaemon\n"));
    let (started, _) = entrypoint(&folder, &[], &["asinfo", "-v", "status"]);
    assert_eq!(started, "asinfo: -v status\n");
}
