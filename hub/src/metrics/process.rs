//! What the process takes, read from `/proc`. What cannot be read is left out.

use std::fs;

/// Ticks of a second in `/proc`: `USER_HZ`, which is 100 wherever Linux has a stable interface.
/// Source: proc(5), sysconf(3) `_SC_CLK_TCK`.
const TICKS: u32 = 100;

/// What the process takes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Process {
    /// Processor time, in seconds.
    pub(super) cpu_seconds: Option<f64>,
    /// Memory that is resident, in bytes.
    pub(super) resident_bytes: Option<u64>,
    /// File descriptors that are open.
    pub(super) open_fds: Option<u64>,
    /// Most file descriptors that it may open.
    pub(super) max_fds: Option<u64>,
    /// Its threads.
    pub(super) threads: Option<u64>,
}

/// Reads what this process takes.
pub(super) fn read() -> Process {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let fds = fs::read_dir("/proc/self/fd").map(|entries| entries.count());
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Process {
        // The folder is read through a descriptor of its own.
        open_fds: fds
            .ok()
            .and_then(|count| u64::try_from(count).ok()?.checked_sub(1)),
        max_fds: limit.current,
        ..of(&stat, &status)
    }
}

fn of(stat: &str, status: &str) -> Process {
    // The name in parentheses may hold anything, parentheses too. Fields from the third on follow.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut ticks = fields.split_whitespace().skip(11);
    let mut tick = || ticks.next()?.parse::<u32>().ok();
    let cpu = tick().zip(tick());
    let named = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().split(' ').next()?.parse::<u64>().ok()
    };
    Process {
        cpu_seconds: cpu
            .map(|(user, system)| (f64::from(user) + f64::from(system)) / f64::from(TICKS)),
        resident_bytes: named("VmRSS:").map(|kib| kib.saturating_mul(1024)),
        threads: named("Threads:"),
        ..Process::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_parentheses_in_its_name_is_read_too() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 100 1 2";
        let status = "Name:\ta\nVmRSS:\t    2048 kB\nThreads:\t9\n";
        let found = of(stat, status);
        assert_eq!(found.cpu_seconds, Some(3.0));
        assert_eq!(found.resident_bytes, Some(2 << 20));
        assert_eq!(found.threads, Some(9));
        assert_eq!(of("", ""), Process::default());
    }

    #[test]
    fn this_process_takes_something_of_everything() {
        let found = read();
        assert!(found.resident_bytes > Some(1 << 20), "{found:?}");
        assert!(found.open_fds > Some(2), "{found:?}");
        assert!(found.max_fds >= found.open_fds, "{found:?}");
        assert!(
            found.threads > Some(0) && found.cpu_seconds.is_some(),
            "{found:?}"
        );
    }
}
