//! What is measured, with its goal.

use std::time::Duration;

/// One figure.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// The most that it should be; `None` where it is only told.
    pub(crate) goal: Option<f64>,
}

impl Figure {
    pub(crate) fn told(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        let what = what.into();
        Self {
            what,
            value,
            unit,
            goal: None,
        }
    }

    pub(crate) fn at_most(mut self, goal: f64) -> Self {
        self.goal = Some(goal);
        self
    }

    pub(crate) fn print(&self) {
        let Self {
            what, value, unit, ..
        } = self;
        let verdict = match self.goal {
            None => String::new(),
            Some(goal) if *value <= goal => format!("goal {goal}: met"),
            Some(goal) => format!("goal {goal}: MISSED"),
        };
        println!("{what:<58} {value:>12.1} {unit:<6} {verdict}");
    }
}

/// Prints figures; returns them.
pub(crate) fn print(figures: Vec<Figure>) -> Vec<Figure> {
    figures.iter().for_each(Figure::print);
    figures
}

pub(crate) fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

/// The time within which so many of a hundred were done.
pub(crate) fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let place = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(place).copied().unwrap_or_default()
}

/// A line of `/proc/self/status`, in mebibytes. Source: proc(5).
pub(crate) fn memory_mib(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    let kib: u32 = number.and_then(|kib| kib.parse().ok()).unwrap_or_default();
    f64::from(kib) / 1024.0
}

/// A count as a float, for rates. Counts here are far below 2⁵³.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2⁵³")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}
