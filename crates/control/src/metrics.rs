//! Counters in Prometheus' text form. Labels are rpcs and codes: nothing a caller chooses.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tonic::Code;
use xylem_audit::Rule;
use xylem_proto::v1::Rpc;

const CODES: usize = 17;

/// What is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// By rpc, then by code.
    calls: Vec<[AtomicU64; CODES]>,
    /// By rpc, in microseconds.
    time: Vec<AtomicU64>,
    in_flight: AtomicU64,
    pub(crate) unauthenticated: AtomicU64,
    /// Taken, over the whole time.
    pub(crate) connections: AtomicU64,
    /// Those that ended.
    pub(crate) connections_ended: AtomicU64,
    /// Not taken, because their source had too many.
    pub(crate) connections_refused: AtomicU64,
    /// Ended here, because they were silent.
    pub(crate) connections_idle: AtomicU64,
    pub(crate) handshakes_failed: AtomicU64,
    pub(crate) limited_by_address: AtomicU64,
    pub(crate) limited_by_agent: AtomicU64,
    pub(crate) signals: AtomicU64,
    pub(crate) swept: AtomicU64,
    pub(crate) sweeps: AtomicU64,
    /// By rule.
    alerts: Vec<AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            calls: Rpc::ALL.iter().map(|_| Default::default()).collect(),
            time: Rpc::ALL.iter().map(|_| AtomicU64::default()).collect(),
            in_flight: AtomicU64::default(),
            unauthenticated: AtomicU64::default(),
            connections: AtomicU64::default(),
            connections_ended: AtomicU64::default(),
            connections_refused: AtomicU64::default(),
            connections_idle: AtomicU64::default(),
            handshakes_failed: AtomicU64::default(),
            limited_by_address: AtomicU64::default(),
            limited_by_agent: AtomicU64::default(),
            signals: AtomicU64::default(),
            swept: AtomicU64::default(),
            sweeps: AtomicU64::default(),
            alerts: Rule::ALL.iter().map(|_| AtomicU64::default()).collect(),
        }
    }
}

/// A call, for as long as its handler works.
#[derive(Debug)]
pub(crate) struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// A call begins.
    pub(crate) fn begin(&self) -> InFlight<'_> {
        add(&self.in_flight, 1);
        InFlight(&self.in_flight)
    }

    /// Counts one call.
    pub(crate) fn call(&self, rpc: Rpc, code: Code, took: Duration) {
        let at = rpc as usize;
        if let Some(counter) = self
            .calls
            .get(at)
            .and_then(|codes| codes.get(code as usize))
        {
            add(counter, 1);
        }
        if let Some(time) = self.time.get(at) {
            add(time, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// Counts one alert.
    pub(crate) fn alert(&self, rule: Rule) {
        if let Some(counter) = self.alerts.get(rule as usize) {
            add(counter, 1);
        }
    }

    /// Everything, as Prometheus reads it.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        let out = &mut text;
        header(
            out,
            "xylem_calls_total",
            "Calls, by rpc and gRPC status code.",
        );
        for (rpc, codes) in Rpc::ALL.iter().zip(&self.calls) {
            for (code, counter) in codes.iter().enumerate() {
                let count = counter.load(Ordering::Relaxed);
                if count > 0 {
                    let code = i32::try_from(code).map_or(Code::Unknown, Code::from_i32);
                    let rpc = rpc.name();
                    let _ = writeln!(
                        out,
                        "xylem_calls_total{{rpc=\"{rpc}\",code=\"{code:?}\"}} {count}"
                    );
                }
            }
        }
        header(
            out,
            "xylem_call_seconds_total",
            "Time spent in calls, by rpc.",
        );
        for (rpc, time) in Rpc::ALL.iter().zip(&self.time) {
            let micros = time.load(Ordering::Relaxed);
            if micros > 0 {
                let seconds = Duration::from_micros(micros).as_secs_f64();
                let _ = writeln!(
                    out,
                    "xylem_call_seconds_total{{rpc=\"{}\"}} {seconds}",
                    rpc.name()
                );
            }
        }
        for (name, help, value) in [
            (
                concat!(
                    "xylem_build_info{version=\"",
                    env!("CARGO_PKG_VERSION"),
                    "\"}"
                ),
                "The version that runs.",
                1,
            ),
            (
                "xylem_calls_in_flight",
                "Calls that a handler works on.",
                self.in_flight.load(Ordering::Relaxed),
            ),
            (
                "xylem_connections",
                "Connections that are open.",
                self.open_connections(),
            ),
        ] {
            gauge(out, name, help, value);
        }
        for (name, help, counter) in [
            (
                "xylem_unauthenticated_total",
                "Calls without a valid API key.",
                &self.unauthenticated,
            ),
            (
                "xylem_connections_total",
                "Connections that were taken.",
                &self.connections,
            ),
            (
                "xylem_connections_refused_total",
                "Connections that were not taken: their source had too many.",
                &self.connections_refused,
            ),
            (
                "xylem_connections_idle_total",
                "Connections that were ended because they were silent.",
                &self.connections_idle,
            ),
            (
                "xylem_handshakes_failed_total",
                "TLS handshakes that failed or took too long.",
                &self.handshakes_failed,
            ),
            (
                "xylem_requests_limited_by_address_total",
                "Requests that were refused because their address made too many.",
                &self.limited_by_address,
            ),
            (
                "xylem_requests_limited_by_agent_total",
                "Requests that were refused because their agent made too many.",
                &self.limited_by_agent,
            ),
            (
                "xylem_signals_total",
                "Grants signalled to roots.",
                &self.signals,
            ),
            (
                "xylem_swept_total",
                "Nodes that a sweep signalled.",
                &self.swept,
            ),
            (
                "xylem_sweeps_total",
                "Sweeps of single trees.",
                &self.sweeps,
            ),
        ] {
            header(out, name, help);
            let _ = writeln!(out, "{name} {}", counter.load(Ordering::Relaxed));
        }
        header(
            out,
            "xylem_alerts_total",
            "Alerts that this process raised, by rule.",
        );
        for (rule, counter) in Rule::ALL.iter().zip(&self.alerts) {
            let count = counter.load(Ordering::Relaxed);
            let _ = writeln!(out, "xylem_alerts_total{{rule=\"{rule}\"}} {count}");
        }
        text
    }

    fn open_connections(&self) -> u64 {
        // Ended first: who ends in between was counted as taken.
        let ended = self.connections_ended.load(Ordering::Relaxed);
        self.connections
            .load(Ordering::Relaxed)
            .saturating_sub(ended)
    }
}

/// Adds to a counter. Counters are read one by one: no ordering between them is needed.
pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// A value that goes up and down.
pub(crate) fn gauge(out: &mut String, name: &str, help: &str, value: u64) {
    let family = name.split('{').next().unwrap_or(name);
    let _ = writeln!(
        out,
        "# HELP {family} {help}\n# TYPE {family} gauge\n{name} {value}"
    );
}

fn header(out: &mut String, name: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_rpc_and_code() {
        let metrics = Metrics::default();
        metrics.call(Rpc::Redeem, Code::Ok, Duration::from_millis(2));
        metrics.call(Rpc::Redeem, Code::Ok, Duration::from_millis(1));
        metrics.call(Rpc::Redeem, Code::PermissionDenied, Duration::ZERO);
        metrics.alert(Rule::Denials);
        let text = metrics.render();
        for line in [
            "xylem_calls_total{rpc=\"Redeem\",code=\"Ok\"} 2",
            "xylem_calls_total{rpc=\"Redeem\",code=\"PermissionDenied\"} 1",
            "xylem_call_seconds_total{rpc=\"Redeem\"} 0.003",
            "xylem_sweeps_total 0",
            "xylem_alerts_total{rule=\"denials\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_manual_explains_every_metric() {
        let manual = include_str!("../../../docs/operations.md");
        for line in Metrics::default().render().lines() {
            let help = line.strip_prefix("# HELP ");
            if let Some((name, _)) = help.and_then(|help| help.split_once(' ')) {
                assert!(manual.contains(&format!("`{name}")), "{name}");
            }
        }
    }
}
