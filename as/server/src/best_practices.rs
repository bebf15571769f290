//! Recommended settings of the machine and of the configuration. The server reports practices that are not
//! followed at start, in `best-practices` and in statistics; with `enforce-best-practices` it then refuses to
//! start.

use std::path::Path;

use cf::sys::facts::{self, HugePages, Memory, number_in};

use crate::config::Config;
use crate::config::model::Engine;

/// Minimum memory in KiB that the kernel should keep for itself.
const MIN_FREE_KBYTES: u64 = 100 << 10;
/// Minimum length of the queue of connections to be accepted.
const SOMAXCONN_MIN: u64 = 4096;

/// A practice that is not followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FailedPractice {
    /// Its name in tools.
    pub(crate) name: &'static str,
    /// How to follow it.
    pub(crate) advice: String,
}

/// A file of the kernel with one number, and the recommended number.
struct KernelSetting {
    name: &'static str,
    path: &'static str,
    is_right: fn(u64) -> bool,
    advice: &'static str,
}

static KERNEL_SETTINGS: &[KernelSetting] = &[
    KernelSetting {
        name: "min-free-kbytes",
        path: "/proc/sys/vm/min_free_kbytes",
        is_right: |value| value >= MIN_FREE_KBYTES,
        advice: "vm.min_free_kbytes should be at least 102400",
    },
    KernelSetting {
        name: "swappiness",
        path: "/proc/sys/vm/swappiness",
        is_right: |value| value == 0,
        advice: "vm.swappiness should be 0",
    },
    KernelSetting {
        name: "zone-reclaim-mode",
        path: "/proc/sys/vm/zone_reclaim_mode",
        is_right: |value| value == 0,
        advice: "vm.zone_reclaim_mode should be 0",
    },
    KernelSetting {
        name: "somaxconn",
        path: "/proc/sys/net/core/somaxconn",
        is_right: |value| value >= SOMAXCONN_MIN,
        advice: "net.core.somaxconn should be at least 4096",
    },
];

/// The practices that this machine and `config`, which is resolved, do not follow.
pub(crate) fn failures(config: &Config) -> Vec<FailedPractice> {
    let mut failures: Vec<FailedPractice> = KERNEL_SETTINGS
        .iter()
        // A value that cannot be read counts as followed.
        .filter(|setting| number_in(Path::new(setting.path)).is_some_and(|value| !(setting.is_right)(value)))
        .map(|setting| FailedPractice { name: setting.name, advice: setting.advice.to_owned() })
        .collect();
    if facts::huge_pages() == Some(HugePages::Always) {
        let advice = "transparent huge pages should be set to 'madvise' or 'never'".to_owned();
        failures.push(FailedPractice { name: "thp-enabled", advice });
    }
    failures.extend(of_config(config, cf::threads::cpu_count() as u64, Memory::now().total));
    failures
}

/// Best practices that `config` violates on a machine with this many processors and bytes of memory (0: unknown).
fn of_config(config: &Config, cpu_count: u64, memory_size: u64) -> Vec<FailedPractice> {
    let mut failures = Vec::new();
    let on_device = config.namespaces.iter().any(|namespace| !namespace.storage.is_inline());
    let threads = if on_device { cpu_count * 3 } else { cpu_count };
    if u64::from(config.service.service_threads.get()) < threads {
        let advice = format!("service-threads should be at least {threads}");
        failures.push(FailedPractice { name: "service-threads", advice });
    }
    let of_namespaces = config.namespaces.iter().map(|namespace| {
        let data = match namespace.storage.engine {
            Engine::Memory => namespace.storage.params.data_size.get(),
            _ => 0,
        };
        data.saturating_add(namespace.params.indexes_memory_budget.get())
    });
    let wanted = of_namespaces.fold(0, u64::saturating_add);
    if memory_size != 0 && wanted > memory_size {
        let advice = format!(
            "the namespaces may take {wanted} bytes for data and indexes, the machine has {memory_size}"
        );
        failures.push(FailedPractice { name: "memory", advice });
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_for_another_machine_is_noticed() {
        let config = Config::developer();
        config.resolve(2);
        let names =
            |cpus, memory| of_config(&config, cpus, memory).into_iter().map(|f| f.name).collect::<Vec<_>>();
        assert_eq!(names(2, 1 << 40), [""; 0]);
        assert_eq!(names(64, 1 << 40), ["service-threads"]);
        assert_eq!(names(2, 1 << 20), ["memory"]);
        assert_eq!(names(2, 0), [""; 0]);
    }

    #[test]
    fn this_machine_can_be_judged() {
        let config = Config::developer();
        config.resolve(1);
        assert!(
            failures(&config).iter().all(|failure| !failure.name.is_empty() && !failure.advice.is_empty())
        );
    }
}
