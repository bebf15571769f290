//! Finds the physical disks behind a path, from the kernel's `/sys`.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The folder in which the kernel lists block devices by number.
const BY_NUMBER: &str = "/sys/dev/block";
/// Number of levels of stacked devices that are followed.
const DEPTH_MAX: usize = 8;

/// The disks, as `/dev/…` and in order, that make up a device or hold a file or folder. Empty if the path
/// does not exist, or if its disk is not listed by the kernel.
#[must_use]
pub fn physical_disks(path: &Path) -> Vec<String> {
    let Ok(metadata) = fs::metadata(path) else { return Vec::new() };
    let is_device = metadata.file_type().is_block_device();
    let (major, minor) = numbers(if is_device { metadata.rdev() } else { metadata.dev() });
    disks_of(&Path::new(BY_NUMBER).join(format!("{major}:{minor}")))
}

/// The two numbers that the C library packs into one.
fn numbers(device: u64) -> (u32, u32) {
    (libc::major(device), libc::minor(device))
}

fn disks_of(entry: &Path) -> Vec<String> {
    let mut found = Vec::new();
    collect(entry, 0, &mut found);
    found.sort();
    found.dedup();
    found
}

/// Adds the disks behind the device of `entry`.
fn collect(entry: &Path, depth: usize, found: &mut Vec<String>) {
    let Ok(mut folder) = fs::canonicalize(entry) else { return };
    if folder.join("partition").exists() {
        folder.pop();
    }
    let parts: Vec<PathBuf> = fs::read_dir(folder.join("slaves"))
        .map(|parts| parts.flatten().map(|part| part.path()).collect())
        .unwrap_or_default();
    if parts.is_empty() {
        found.extend(folder.file_name().map(|name| format!("/dev/{}", name.to_string_lossy())));
    } else if depth < DEPTH_MAX {
        parts.iter().for_each(|part| collect(part, depth + 1, found));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::temp_folder::TempFolder;

    #[test]
    fn device_numbers_are_taken_apart() {
        assert_eq!(numbers(0x803), (8, 3));
        assert_eq!(numbers(0x0010_fd05), (253, 261));
    }

    #[test]
    fn parts_and_combinations_lead_to_their_disks() {
        let folder = TempFolder::new("disks");
        let root: &Path = &folder;
        let device = |name: &str| {
            let path = root.join("devices").join(name);
            fs::create_dir_all(path.join("slaves")).unwrap();
            path
        };
        let (disk, other) = (device("sda"), device("sdb"));
        let part = device("sda/sda1");
        fs::write(part.join("partition"), "1\n").unwrap();
        let mirror = device("md0");
        for (name, to) in [("sda1", &part), ("sdb", &other)] {
            symlink(to, mirror.join("slaves").join(name)).unwrap();
        }
        for (number, to) in [("8:0", &disk), ("8:1", &part), ("9:0", &mirror)] {
            symlink(to, root.join(number)).unwrap();
        }
        assert_eq!(disks_of(&root.join("8:0")), ["/dev/sda"]);
        assert_eq!(disks_of(&root.join("8:1")), ["/dev/sda"]);
        assert_eq!(disks_of(&root.join("9:0")), ["/dev/sda", "/dev/sdb"]);
        assert!(disks_of(&root.join("0:1")).is_empty());
        // The search ends even if the devices form a ring, which a kernel does not allow.
        let ring = device("ring");
        symlink(&ring, ring.join("slaves").join("ring")).unwrap();
        assert!(disks_of(&ring).is_empty());
        assert!(physical_disks(Path::new("/proc/self")).is_empty());
    }
}
