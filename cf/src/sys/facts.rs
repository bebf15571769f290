//! Facts about the machine and this process, from the kernel's `/proc` and `/sys`.
//!
//! No function fails: if a file is missing (a sandbox, another kernel), the fact is zero or `None`. The
//! `procfs` crate, which the tools use, is not suitable here: it returns all fields of a file or none, so it
//! returns nothing in a sandbox or on an old kernel with fewer fields. It also cannot read from another root,
//! which the tests need.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

/// Memory available to this process: that of the machine, or of its control group if that is less.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// Total memory in bytes; zero when unknown.
    pub total: u64,
    /// Memory that can still be used without swapping, in bytes.
    pub available: u64,
    /// Part of the machine's memory in transparent huge pages, in bytes.
    pub huge_pages: u64,
}

impl Memory {
    /// The current values.
    #[must_use]
    pub fn now() -> Self {
        Self::under(Path::new("/"))
    }

    /// `available` in percent of `total`.
    #[must_use]
    pub fn available_pct(&self) -> u64 {
        let pct = (u128::from(self.available) * 100).checked_div(u128::from(self.total));
        pct.and_then(|pct| u64::try_from(pct).ok()).unwrap_or(0)
    }

    fn under(root: &Path) -> Self {
        let text = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
        let kilobytes = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(first_number).map(|value| value.saturating_mul(1024))
        };
        let total = kilobytes("MemTotal").unwrap_or(0);
        // Old kernels do not report available memory. A machine that does not even report free memory counts
        // as not full.
        let about_available = || {
            let cached = [kilobytes("Buffers"), kilobytes("Cached")].into_iter().flatten();
            Some(cached.fold(kilobytes("MemFree")?, u64::saturating_add).min(total))
        };
        let available = kilobytes("MemAvailable").or_else(about_available).unwrap_or(total);
        let huge_pages = kilobytes("AnonHugePages").unwrap_or(0);
        let mut memory = Memory { total, available, huge_pages };
        for version in [&VERSION_2, &VERSION_1] {
            for group in version.groups(root) {
                memory.limit_to_group(version, &group);
            }
        }
        memory
    }

    /// Applies the limit of a control group. The group counts file cache and other reclaimable memory as used, but that
    /// memory is available.
    fn limit_to_group(&mut self, version: &GroupVersion, group: &Path) {
        let Some(limit) = number_in(&group.join(version.limit)) else { return };
        let used = number_in(&group.join(version.used)).unwrap_or(0);
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let reclaimable = stat.lines().filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            version.reclaimable.contains(&name).then(|| first_number(value)).flatten()
        });
        let reclaimable = reclaimable.fold(0, u64::saturating_add);
        let available = limit.saturating_sub(used.saturating_sub(reclaimable));
        if self.total == 0 {
            (self.total, self.available) = (limit, available);
        } else {
            (self.total, self.available) = (self.total.min(limit), self.available.min(available));
        }
    }
}

/// Paths and names of a version of control groups, for memory.
struct GroupVersion {
    /// The controller in the second field of a line of `/proc/self/cgroup`; empty in version 2.
    controller: &'static str,
    mount: &'static str,
    /// Files with one number of bytes. "No limit" is a word in version 2, and a number larger than any machine's memory
    /// in version 1.
    limit: &'static str,
    used: &'static str,
    /// Lines of a group's `memory.stat` for memory that the kernel reclaims on demand.
    reclaimable: &'static [&'static str],
}

const VERSION_2: GroupVersion = GroupVersion {
    controller: "",
    mount: "sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    reclaimable: &["inactive_file", "active_file", "slab_reclaimable"],
};

const VERSION_1: GroupVersion = GroupVersion {
    controller: "memory",
    mount: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: &["total_inactive_file", "total_active_file"],
};

impl GroupVersion {
    /// The folders of this process's control group and of its parents, innermost first. In a container the
    /// outermost folder may be the container's own, whatever path the kernel reports.
    fn groups(&self, root: &Path) -> Vec<PathBuf> {
        let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let path = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let mut controllers = fields.next()?.split(',');
            controllers.any(|controller| controller == self.controller).then_some(())?;
            fields.next()?.strip_prefix('/')
        });
        let Some(path) = path else { return Vec::new() };
        let mounted = root.join(self.mount);
        mounted
            .join(path)
            .ancestors()
            .take_while(|group| group.starts_with(&mounted))
            .map(Path::to_owned)
            .collect()
    }
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// The number in a file of one line; `None` if the file is missing or holds no number (`max`).
#[must_use]
pub fn number_in(path: &Path) -> Option<u64> {
    first_number(&fs::read_to_string(path).ok()?)
}

/// The kernel's policy for huge pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HugePages {
    /// Whenever possible, which costs memory and stalls.
    Always,
    /// Only where a program asks for them.
    Madvise,
    /// Never.
    Never,
}

/// The state of transparent huge pages; `None` when the kernel has none.
#[must_use]
pub fn huge_pages() -> Option<HugePages> {
    parse_huge_pages(&fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?)
}

fn parse_huge_pages(text: &str) -> Option<HugePages> {
    let chosen = text.split_once('[')?.1.split_once(']')?.0;
    match chosen {
        "always" => Some(HugePages::Always),
        "madvise" => Some(HugePages::Madvise),
        "never" => Some(HugePages::Never),
        _ => None,
    }
}

/// Resident memory of this process in bytes, zero when unknown.
#[must_use]
pub fn resident_size() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    // SAFETY: no memory is passed.
    let page_size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages.saturating_mul(u64::try_from(page_size).unwrap_or(4096))
}

/// Number of threads of this process, zero when unknown.
#[must_use]
pub fn thread_count() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| first_number(line.strip_prefix("Threads:")?)).unwrap_or(0)
}

/// A thread as the kernel sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ThreadFacts {
    /// Its system-wide id.
    pub id: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Its state: `R` running, `S` sleeping, `D` waiting for a device …
    pub state: String,
    /// The kernel function in which it waits; empty if it runs or the kernel does not report it.
    pub waits_in: String,
}

/// The threads of this process, by id. Empty if the kernel does not report them.
#[must_use]
pub fn threads() -> Vec<ThreadFacts> {
    let Ok(folder) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let mut threads: Vec<ThreadFacts> = folder
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            let status = read("status");
            if status.is_empty() {
                // The thread ended after the folder was read.
                return None;
            }
            let field = |name: &str| {
                let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                value.unwrap_or_default().trim().to_owned()
            };
            let waits_in = read("wchan").trim_end().trim_start_matches('0').to_owned();
            let id = entry.file_name().to_str()?.parse().ok()?;
            Some(ThreadFacts { id, name: field("Name"), state: field("State"), waits_in })
        })
        .collect();
    threads.sort_unstable_by_key(|thread| thread.id);
    threads
}

/// Processor time of all threads of this process, in nanoseconds.
#[must_use]
pub fn process_cpu_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The system-wide id of the calling thread.
#[must_use]
pub fn own_thread_id() -> u32 {
    nix::unistd::gettid().as_raw().unsigned_abs()
}

/// Scheduler times of a thread since its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Schedule {
    /// Nanoseconds on a processor.
    pub ran: u64,
    /// Nanoseconds ready to run without a processor.
    pub delayed: u64,
}

/// The scheduler times of a thread of this process; `None` if it does not exist or the kernel does not report them.
#[must_use]
pub fn schedule_of(thread_id: u32) -> Option<Schedule> {
    let text = fs::read_to_string(format!("/proc/self/task/{thread_id}/schedstat")).ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(Schedule { ran: numbers.next()?.ok()?, delayed: numbers.next()?.ok()? })
}

/// How often the system has taken the processor away from the calling thread, which had more to do: the yields after which
/// another thread ran, and all preemptions. `None` if the system does not tell.
#[must_use]
pub fn own_preemptions() -> Option<u64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).ok()?;
    u64::try_from(usage.involuntary_context_switches()).ok()
}

/// Measures the number of idle processors.
#[derive(Default)]
pub struct IdleMeter {
    last: Option<(Instant, SystemTimes)>,
}

impl IdleMeter {
    /// An older sample is no longer meaningful.
    const STALE: Duration = Duration::from_millis(500);

    /// The average number of idle processors since the last sample, if that was less than half a second ago.
    /// All processors if the kernel does not report it.
    pub fn sample(&mut self) -> Option<f64> {
        let (now, times) = (Instant::now(), SystemTimes::now());
        if times.processors == 0 {
            return Some(f64::INFINITY);
        }
        let (then, before) = self.last.replace((now, times))?;
        let elapsed = now - then;
        if elapsed.is_zero() || elapsed > Self::STALE {
            return None;
        }
        let spare = Duration::from_millis(times.spare().saturating_sub(before.spare()) * TICK_MS);
        Some(spare.as_secs_f64() / elapsed.as_secs_f64())
    }
}

/// Use of the processors between two samples, in percent of one processor: two busy processors make 200.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuUsage {
    /// The machine's use outside the kernel.
    pub system_user_pct: u64,
    /// The machine's use in the kernel.
    pub system_kernel_pct: u64,
    /// The use of this process.
    pub process_pct: u64,
}

/// Measures [`CpuUsage`] from one sample to the next.
pub struct CpuMeter {
    taken_nanos: u64,
    process_nanos: u64,
    system: SystemTimes,
}

/// The unit of times in `/proc/stat`; it is the same on all current Linux machines.
const TICK_MS: u64 = 10;

/// Times of all processors in ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct SystemTimes {
    /// Number of processors, including those that this process may not use.
    processors: u64,
    user: u64,
    /// Time of low-priority processes.
    nice: u64,
    kernel: u64,
    idle: u64,
    /// Idle time while a process waited for a device.
    waiting: u64,
}

impl CpuMeter {
    /// Takes the first sample.
    #[must_use]
    pub fn start() -> Self {
        CpuMeter {
            taken_nanos: crate::clock::monotonic_nanos(),
            process_nanos: process_cpu_nanos(),
            system: SystemTimes::now(),
        }
    }

    /// The use since the last sample.
    pub fn sample(&mut self) -> CpuUsage {
        let last = std::mem::replace(self, Self::start());
        let share = |part: u64, whole: u64| part.saturating_mul(100).checked_div(whole).unwrap_or(0);
        let elapsed = self.taken_nanos.saturating_sub(last.taken_nanos);
        let user = self.system.all_user().saturating_sub(last.system.all_user());
        let kernel = self.system.kernel.saturating_sub(last.system.kernel);
        let idle = self.system.idle.saturating_sub(last.system.idle);
        let all = user.saturating_add(kernel).saturating_add(idle);
        let processors = self.system.processors;
        CpuUsage {
            system_user_pct: share(user.saturating_mul(processors), all),
            system_kernel_pct: share(kernel.saturating_mul(processors), all),
            process_pct: share(self.process_nanos.saturating_sub(last.process_nanos), elapsed),
        }
    }
}

impl SystemTimes {
    fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// Parses the line `cpu  user nice system idle …`, and counts the lines of single processors after it: `cpu0 …`.
    fn parse(text: &str) -> Self {
        let processors = text.lines().skip(1).filter(|line| line.starts_with("cpu")).count() as u64;
        let mut fields = text.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0));
        let mut next = || fields.next().unwrap_or(0u64);
        let (user, nice, kernel, idle, waiting) = (next(), next(), next(), next(), next());
        SystemTimes { processors, user, nice, kernel, idle, waiting }
    }

    fn all_user(&self) -> u64 {
        self.user.saturating_add(self.nice)
    }

    /// Time that was available to other processes.
    fn spare(&self) -> u64 {
        self.nice.saturating_add(self.idle).saturating_add(self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_folder::TempFolder;

    /// A file tree that replaces the machine's.
    fn machine(name: &str, files: &[(&str, &str)]) -> TempFolder {
        let root = TempFolder::new(name);
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: &str =
        "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    400 kB\nAnonHugePages:    20 kB\n";

    #[test]
    fn memory_of_a_machine_without_groups() {
        let root = machine("plain", &[("proc/meminfo", MEMINFO)]);
        let memory = Memory::under(&root);
        let expected = Memory { total: 1_024_000, available: 409_600, huge_pages: 20_480 };
        assert_eq!(memory, expected);
        assert_eq!(memory.available_pct(), 40);
    }

    #[test]
    fn memory_is_limited_by_the_tightest_group_around() {
        let root = machine(
            "groups",
            &[
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", "0::/pod/container\n"),
                ("sys/fs/cgroup/pod/memory.max", "100000\n"),
                ("sys/fs/cgroup/pod/memory.current", "90000\n"),
                (
                    "sys/fs/cgroup/pod/memory.stat",
                    "anon 1\ninactive_file 15000\nactive_file 4000\nslab_reclaimable 1000\nslab 7\n",
                ),
                ("sys/fs/cgroup/pod/container/memory.max", "max\n"),
                ("sys/fs/cgroup/pod/container/memory.current", "5\n"),
            ],
        );
        let memory = Memory::under(&root);
        assert_eq!((memory.total, memory.available), (100_000, 30_000));
    }

    #[test]
    fn memory_is_limited_by_groups_of_version_1_too() {
        const UNLIMITED: &str = "9223372036854771712\n";
        let files = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "11:cpu,cpuacct:/a\n4:memory:/pod/container\n1:name=systemd:/a\n0::/a\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", UNLIMITED),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "700000\n"),
            ("sys/fs/cgroup/memory/pod/memory.limit_in_bytes", "100000\n"),
            ("sys/fs/cgroup/memory/pod/memory.usage_in_bytes", "90000\n"),
            (
                "sys/fs/cgroup/memory/pod/memory.stat",
                "cache 7\ntotal_inactive_file 15000\ntotal_active_file 5000\n",
            ),
            ("sys/fs/cgroup/memory/pod/container/memory.limit_in_bytes", UNLIMITED),
            ("sys/fs/cgroup/memory/pod/container/memory.usage_in_bytes", "5\n"),
        ];
        let memory = Memory::under(&machine("version-1", &files));
        assert_eq!((memory.total, memory.available), (100_000, 30_000));
        // The files in a container that does not see its parent groups.
        let files = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "4:memory:/docker/0123\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "300000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "100000\n"),
        ];
        let memory = Memory::under(&machine("version-1-container", &files));
        assert_eq!((memory.total, memory.available), (300_000, 200_000));
        let unlimited = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "4:memory:/\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", UNLIMITED),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "100000\n"),
            ("sys/fs/cgroup/memory.max", "max\n"),
        ];
        let memory = Memory::under(&machine("version-1-unlimited", &unlimited));
        assert_eq!((memory.total, memory.available), (1_024_000, 409_600));
    }

    #[test]
    fn memory_is_zero_if_the_machine_reports_nothing() {
        let root = machine("bare", &[("proc/meminfo", "MemTotal: ???\nnonsense")]);
        assert_eq!(Memory::under(&root), Memory::default());
        assert_eq!(Memory::under(Path::new("/no/such/machine")).available_pct(), 0);
    }

    #[test]
    fn memory_that_is_reported_in_part_is_not_full() {
        let told = |name: &str, text: &str| Memory::under(&machine(name, &[("proc/meminfo", text)]));
        let old = "MemTotal: 100 kB\nMemFree: 10 kB\nBuffers: 20 kB\nCached: 30 kB\n";
        assert_eq!(told("old", old).available_pct(), 60);
        let vast = told("vast", "MemTotal: 18446744073709551615 kB\nMemAvailable: -1 kB\n");
        assert_eq!((vast.total, vast.available_pct()), (u64::MAX, 100));
        let only_group = machine(
            "only-group",
            &[
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/memory.max", "1000\n"),
                ("sys/fs/cgroup/memory.current", "400\n"),
            ],
        );
        let memory = Memory::under(&only_group);
        assert_eq!((memory.total, memory.available), (1000, 600));
    }

    #[test]
    fn this_machine_reports_its_facts() {
        let memory = Memory::now();
        assert!(memory.total >= memory.available && memory.available > 0, "{memory:?}");
        assert!(resident_size() > 100_000);
        let threads = threads();
        assert!(thread_count() >= 1 && threads.iter().any(|thread| thread.id == std::process::id()));
        assert!(
            threads.iter().all(|thread| !thread.name.is_empty() && !thread.state.is_empty()),
            "{threads:?}"
        );
        let mut meter = CpuMeter::start();
        let until = process_cpu_nanos() + 20_000_000;
        while process_cpu_nanos() < until {
            std::hint::spin_loop();
        }
        let usage = meter.sample();
        assert!(usage.process_pct > 0, "{usage:?}");
    }

    #[test]
    fn a_thread_has_a_schedule() {
        let own = own_thread_id();
        let before = schedule_of(own).expect("this thread runs");
        std::thread::sleep(Duration::from_millis(1));
        let after = schedule_of(own).expect("this thread runs");
        assert!(after.ran > before.ran && after.delayed >= before.delayed, "{before:?} {after:?}");
        assert_eq!(schedule_of(0), None);
    }

    #[test]
    fn idle_processors_are_known_from_the_second_look_on() {
        let mut meter = IdleMeter::default();
        assert_eq!(meter.sample(), None);
        let idle = loop {
            std::thread::sleep(Duration::from_millis(20));
            // The result is `None` if this thread did not run for long.
            if let Some(idle) = meter.sample() {
                break idle;
            }
        };
        let processors = SystemTimes::now().processors as f64;
        assert!((0.0..=2.0 * processors).contains(&idle), "{idle} of {processors}");
    }

    #[test]
    fn kernel_words_are_understood() {
        assert_eq!(parse_huge_pages("always [madvise] never\n"), Some(HugePages::Madvise));
        assert_eq!(parse_huge_pages("[always] madvise never\n"), Some(HugePages::Always));
        assert_eq!(parse_huge_pages("always madvise [never]\n"), Some(HugePages::Never));
        assert_eq!(parse_huge_pages("]["), None);
        let times = SystemTimes::parse("cpu  66180 34026 15411 217026 1329 0\ncpu0 1 2 3 4\ncpu1 5\nintr 6");
        let expected = SystemTimes {
            processors: 2,
            user: 66_180,
            nice: 34_026,
            kernel: 15_411,
            idle: 217_026,
            waiting: 1_329,
        };
        assert_eq!(times, expected);
        assert_eq!((times.all_user(), times.spare()), (100_206, 34_026 + 217_026 + 1_329));
        assert_eq!(SystemTimes::parse(""), SystemTimes::default());
    }
}
