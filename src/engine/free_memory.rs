//! How much memory could be taken now: what the machine has, cut to what the process's control groups leave of theirs.
//!
//! In a container the machine's figure is not the limit: whoever passes that of a group is killed, without an error.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Taken where the system does not tell.
///
/// # Units
/// bytes
const FALLBACK: u64 = 2 << 30;

/// Where a version of control groups keeps what.
struct Hierarchy {
    /// Where it is mounted.
    root: &'static str,
    /// The controllers of its line in `/proc/self/cgroup`; version 2 names none there.
    controller: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// The line of `memory.stat` with the page cache that is given up first: used, but as good as free.
    reclaimable: &'static str,
}

const HIERARCHIES: [Hierarchy; 2] = [
    Hierarchy {
        root: "/sys/fs/cgroup",
        controller: "",
        limit: "memory.max",
        usage: "memory.current",
        reclaimable: "inactive_file",
    },
    Hierarchy {
        root: "/sys/fs/cgroup/memory",
        controller: "memory",
        limit: "memory.limit_in_bytes",
        usage: "memory.usage_in_bytes",
        reclaimable: "total_inactive_file",
    },
];

/// Returns the memory that could be taken now without swapping and without passing a limit of the process's.
///
/// # Units
/// bytes
pub fn free_bytes() -> u64 {
    free_bytes_by(&|path| fs::read_to_string(path).ok())
}

/// As [`free_bytes`], with what `read` says that the files hold; `None` is a file that cannot be read.
fn free_bytes_by(read: &dyn Fn(&Path) -> Option<String>) -> u64 {
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| available_bytes(&text));
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let left = HIERARCHIES.iter().filter_map(|hierarchy| hierarchy.bytes_left(&groups, read));
    left.chain(machine).min().unwrap_or(FALLBACK)
}

impl Hierarchy {
    /// Returns what the tightest of the process's groups leaves; `None` where none has a limit.
    fn bytes_left(&self, groups: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
        let group = groups.lines().find_map(|line| self.group(line))?;
        // A limit binds all groups below it. In a container the path may be the host's, which is not mounted there;
        // its own group is then the root.
        let folders = Path::new(group).ancestors();
        folders.filter_map(|folder| self.bytes_left_in(&self.folder(folder), read)).min()
    }

    /// Returns the process's group, where this line of `/proc/self/cgroup` names it: `id:controllers:path`.
    fn group<'a>(&self, line: &'a str) -> Option<&'a str> {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|controller| controller == self.controller).then_some(path)
    }

    fn folder(&self, group: &Path) -> PathBuf {
        Path::new(self.root).join(group.strip_prefix("/").unwrap_or(group))
    }

    fn bytes_left_in(&self, folder: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
        let number = |file: &str| read(&folder.join(file))?.trim().parse::<u64>().ok();
        // No limit is the word `max` in version 2, and in version 1 a number that no machine reaches.
        let (limit, usage) = (number(self.limit)?, number(self.usage)?);
        let stat = read(&folder.join("memory.stat")).unwrap_or_default();
        let reclaimable = stat.lines().find_map(|line| {
            let (name, bytes) = line.split_once(' ')?;
            (name == self.reclaimable).then(|| bytes.trim().parse::<u64>().ok())?
        });
        Some(limit.saturating_sub(usage.saturating_sub(reclaimable.unwrap_or(0))))
    }
}

/// Returns the machine's free memory by its `/proc/meminfo`.
fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: (&str, &str) = ("/proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    8000 kB\n");

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: u64) {
        let read = |path: &Path| {
            let file = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some(file.1.to_owned())
        };
        assert_eq!(free_bytes_by(&read), expected);
    }

    #[test]
    fn without_groups_the_machine_counts_and_without_either_the_fallback() {
        check(&[MEMINFO], 8_192_000);
        check(&[], FALLBACK);
        check(&[("/proc/meminfo", "MemAvailable: many kB\n")], FALLBACK);
        check(&[MEMINFO, ("/proc/self/cgroup", "nonsense\n0::/\n")], 8_192_000);
    }

    #[test]
    fn version_2_leaves_its_limit_without_what_is_used_and_cannot_be_given_up() {
        let group = ("/proc/self/cgroup", "0::/a/b\n");
        let current = ("/sys/fs/cgroup/a/b/memory.current", "700\n");
        let max = ("/sys/fs/cgroup/a/b/memory.max", "1000\n");
        check(&[MEMINFO, group, max, current], 300);
        let stat = ("/sys/fs/cgroup/a/b/memory.stat", "file 9\ninactive_file 200\nslab 1\n");
        check(&[MEMINFO, group, max, current, stat], 500);
        check(&[group, max, current], 300);
        check(&[MEMINFO, group, max, ("/sys/fs/cgroup/a/b/memory.current", "1200")], 0);
        check(&[MEMINFO, group, ("/sys/fs/cgroup/a/b/memory.max", "max\n"), current], 8_192_000);
    }

    #[test]
    fn the_tightest_group_above_counts() {
        let files = [
            MEMINFO,
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/b/memory.current", "10\n"),
            ("/sys/fs/cgroup/a/memory.max", "5000\n"),
            ("/sys/fs/cgroup/a/memory.current", "1000\n"),
            ("/sys/fs/cgroup/memory.max", "6000\n"),
            ("/sys/fs/cgroup/memory.current", "5500\n"),
        ];
        check(&files[..6], 4000);
        check(&files, 500);
    }

    #[test]
    fn version_1_has_a_line_of_its_own_and_the_containers_group_at_the_root() {
        let groups = ("/proc/self/cgroup", "9:cpu,cpuacct:/x\n4:hugetlb,memory:/host/path\n0::/\n");
        let root = "/sys/fs/cgroup/memory";
        let files = [
            (&format!("{root}/memory.limit_in_bytes")[..], "9000\n"),
            (&format!("{root}/memory.usage_in_bytes")[..], "5000\n"),
            (&format!("{root}/memory.stat")[..], "inactive_file 1\ntotal_inactive_file 1000\n"),
        ];
        check(&[MEMINFO, groups, files[0], files[1], files[2]], 5000);
        let unlimited = (files[0].0, "9223372036854771712\n");
        check(&[MEMINFO, groups, unlimited, files[1]], 8_192_000);
    }

    #[test]
    fn this_machine_has_some() {
        assert!(free_bytes() > 0);
    }
}
