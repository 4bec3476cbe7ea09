//! What the kernel says of this process, under the names that Prometheus' client libraries use. From `/proc`, a few small reads.

use std::fs;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

/// Ticks of `/proc/self/stat` per second: USER_HZ, which is 100 on every architecture of Linux that we run on (proc(5), time(7)).
const TICKS: u64 = 100;

pub(crate) fn describe() {
    describe_counter!(
        "process_cpu_seconds_total",
        Unit::Seconds,
        "Processor time used, in whole seconds"
    );
    describe_gauge!(
        "process_resident_memory_bytes",
        Unit::Bytes,
        "Memory in use"
    );
    describe_gauge!("process_open_fds", "Open file descriptors");
    describe_gauge!("process_max_fds", "File descriptors that may be open");
    describe_gauge!(
        "process_start_time_seconds",
        Unit::Seconds,
        "When the process started, seconds since 1970"
    );
}

/// Sets them. What cannot be read is left out.
pub(crate) fn collect() {
    #[allow(
        clippy::cast_precision_loss,
        reason = "numbers of this size are exact in floating point"
    )]
    let set = |name: &'static str, value: Option<u64>| {
        if let Some(value) = value {
            gauge!(name).set(value as f64);
        }
    };
    if let Some(stat) = Stat::read() {
        counter!("process_cpu_seconds_total").absolute(stat.cpu_ticks / TICKS);
        let start = boot_time().map(|boot| boot + stat.start_ticks / TICKS);
        set("process_start_time_seconds", start);
    }
    set("process_resident_memory_bytes", resident());
    set(
        "process_open_fds",
        // The one this is read through is not counted.
        fs::read_dir("/proc/self/fd")
            .ok()
            .map(|entries| (entries.count() as u64).saturating_sub(1)),
    );
    set("process_max_fds", most_files());
}

struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
}

impl Stat {
    fn read() -> Option<Stat> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        // The name in parentheses may hold blanks; field 3 comes behind it.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Stat {
            cpu_ticks: number(14)? + number(15)?,
            start_ticks: number(22)?,
        })
    }
}

fn after(path: &str, label: &str) -> Option<u64> {
    fs::read_to_string(path)
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix(label))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

fn boot_time() -> Option<u64> {
    after("/proc/stat", "btime ")
}

fn resident() -> Option<u64> {
    after("/proc/self/status", "VmRSS:").map(|kibibytes| kibibytes * 1024)
}

fn most_files() -> Option<u64> {
    after("/proc/self/limits", "Max open files")
}
