//! The process's own numbers, read from `/proc` at each scrape, under the names that Prometheus gives them.

use std::fs;
use std::time::SystemTime;

use prometheus::{Counter, Error, Gauge, Registry};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::unix_seconds;

#[derive(Debug)]
pub struct Process {
    cpu: Counter,
    resident: Gauge,
    virtual_size: Gauge,
    threads: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
}

impl Process {
    /// Called as the process starts: the time of the call is taken for the time of the start.
    pub(crate) fn declare(registry: &Registry) -> Result<Self, Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = Gauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, Error>(gauge)
        };
        let cpu = Counter::new("process_cpu_seconds_total", "CPU time used, user and system.")?;
        registry.register(Box::new(cpu.clone()))?;
        let started =
            gauge("process_start_time_seconds", "When the process started, in seconds since 1970.")?;
        started.set(unix_seconds(SystemTime::now()));
        Ok(Self {
            cpu,
            resident: gauge("process_resident_memory_bytes", "Resident memory.")?,
            virtual_size: gauge("process_virtual_memory_bytes", "Virtual memory.")?,
            threads: gauge("process_threads", "Threads of the process.")?,
            open_fds: gauge("process_open_fds", "Open file descriptors.")?,
            max_fds: gauge("process_max_fds", "Most file descriptors the process may open.")?,
        })
    }

    /// What cannot be read keeps its last value.
    pub(crate) fn sample(&self) {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        #[allow(clippy::cast_precision_loss, reason = "precise for a hundred million seconds")]
        let cpu = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
        self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            set(&self.resident, field(&status, "VmRSS:").map(|kib| kib * 1024));
            set(&self.virtual_size, field(&status, "VmSize:").map(|kib| kib * 1024));
            set(&self.threads, field(&status, "Threads:"));
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // Less the one that reads the directory.
            set(&self.open_fds, u64::try_from(entries.count().saturating_sub(1)).ok());
        }
        set(&self.max_fds, getrlimit(Resource::Nofile).current);
    }
}

/// First number after `name` in `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

fn set(gauge: &Gauge, value: Option<u64>) {
    #[allow(clippy::cast_precision_loss, reason = "bytes and counts far below 2^53")]
    if let Some(value) = value {
        gauge.set(value as f64);
    }
}
