//! What a process takes, read from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};

/// The state of a process and the processor time it has used, in seconds.
///
/// # Errors
/// When the process is gone.
pub fn times(pid: u32) -> Result<(char, f64)> {
    stat(Path::new(&format!("/proc/{pid}/stat")))
}

/// The processor time of a process by the names of its threads, in seconds. Threads that have ended are not in it.
///
/// # Errors
/// When the process is gone.
pub fn times_by_thread(pid: u32) -> Result<BTreeMap<String, f64>> {
    let mut times = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the process is gone")? {
        let task = task?.path();
        // A thread may end at any moment.
        let Ok(name) = fs::read_to_string(task.join("comm")) else {
            continue;
        };
        let Ok((_, seconds)) = stat(&task.join("stat")) else {
            continue;
        };
        *times.entry(name.trim().to_owned()).or_default() += seconds;
    }
    Ok(times)
}

/// Source: proc(5), fields 3, 14 and 15 of `stat`.
fn stat(file: &Path) -> Result<(char, f64)> {
    let text = fs::read_to_string(file).context("the process is gone")?;
    // The second field is the name in parentheses, which may hold spaces.
    let (_, rest) = text
        .rsplit_once(')')
        .context("an unknown form of /proc/PID/stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<f64>().ok())
    };
    let state = fields.first().and_then(|field| field.chars().next());
    match (state, ticks(11), ticks(12)) {
        (Some(state), Some(user), Some(system)) => {
            Ok((state, (user + system) / ticks_per_second()?))
        }
        _ => bail!("an unknown form of /proc/PID/stat: {text}"),
    }
}

fn ticks_per_second() -> Result<f64> {
    let done = Command::new("getconf")
        .arg("CLK_TCK")
        .output()
        .context("there is no getconf")?;
    String::from_utf8_lossy(&done.stdout)
        .trim()
        .parse()
        .context("getconf CLK_TCK is no number")
}

/// One line of `/proc/PID/status`, in MiB.
#[must_use]
pub fn memory_mib(pid: u32, name: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024.0)
}

/// The processor of this machine.
#[must_use]
pub fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let cores = thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{model}, {cores} cores")
}
