//! `xylem doctor`.

mod credentials;
mod policies;
mod temporal;

use super::{
    failure::{Exit, Failure},
    output::{Output, plain},
    serve::TemporalArguments,
    session::{Access, Session},
};
use crate::data::{self, DataDir};
use reqwest::header::DATE;
use serde::Serialize;
use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};
use xylem_client::v1;
use xylem_ids::TaskQueue;

/// How long the control plane may take to say that it is there.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Nodes adopt grants with a minute of tolerance.
const SKEW_TOLERATED: Duration = Duration::from_secs(60);
/// Worth a word. HTTP tells whole seconds.
const SKEW_SEEN: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The task queue that a worker should poll [default: that of the data directory]
    #[arg(long, short = 'q', value_name = "QUEUE")]
    task_queue: Option<TaskQueue>,
    #[command(flatten)]
    temporal: TemporalArguments,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// Works, and could be better.
    Warn,
    /// Does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    pub(crate) check: String,
    pub(crate) verdict: Verdict,
    pub(crate) detail: String,
    /// What to do, one step per line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) advice: String,
}

impl Finding {
    pub(crate) fn ok(check: &str, detail: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, detail, "")
    }

    pub(crate) fn warn(check: &str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warn, detail, advice)
    }

    pub(crate) fn fail(check: &str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, Verdict::Fail, detail, advice)
    }

    fn new(
        check: &str,
        verdict: Verdict,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            check: check.to_owned(),
            verdict,
            detail: detail.into(),
            advice: advice.into(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Finding>,
}

pub(crate) async fn run(arguments: Arguments, session: &mut Session<'_>) -> Result<(), Failure> {
    let mut checks = files(&session.access)?;
    checks.extend(control(session).await?);
    checks.extend(temporal_checks(arguments, &session.access).await?);
    report(checks, session.output)
}

fn report(checks: Vec<Finding>, output: &mut Output) -> Result<(), Failure> {
    let failed = |finding: &&Finding| finding.verdict == Verdict::Fail;
    let failures = checks.iter().filter(failed).count();
    let report = Report {
        ok: failures == 0,
        checks,
    };
    output.answer(&report, |report| text(&report.checks))?;
    match failures {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Failed, "1 check failed")),
        count => Err(Failure::new(Exit::Failed, format!("{count} checks failed"))),
    }
}

fn text(checks: &[Finding]) -> String {
    let width = checks.iter().map(|finding| finding.check.chars().count());
    let width = width.max().unwrap_or(0);
    let mut lines = Vec::new();
    for finding in checks {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let detail = plain(&finding.detail);
        lines.push(format!("{verdict:4}  {:width$}  {detail}", finding.check));
        for step in finding.advice.lines() {
            lines.push(format!("{:width$}        {}", "", plain(step)));
        }
    }
    lines.join("\n")
}

/// Key files nobody else may read.
fn files(access: &Access) -> Result<Vec<Finding>, Failure> {
    const CHECK: &str = "key files";
    let data = access.data_or(DataDir::dev)?;
    let mut files: Vec<PathBuf> = [data.admin_key(), data.worker_key()].into();
    files.extend(access.key_path()?);
    if let Ok(keys) = std::fs::read_dir(data.keys()) {
        files.extend(keys.flatten().map(|entry| entry.path()));
    }
    files.sort();
    files.dedup();
    files.retain(|path| path.exists());
    let open: Vec<_> = files
        .iter()
        .filter(|path| !data::is_private(path).unwrap_or(false))
        .map(|path| format!("chmod 600 {}", path.display()))
        .collect();
    Ok(vec![match (files.len(), open.is_empty()) {
        (0, _) => Finding::ok(CHECK, "none on this machine"),
        (count, true) => Finding::ok(CHECK, format!("{count}, readable by their owner alone")),
        (_, false) => Finding::fail(
            CHECK,
            format!("{} can be read by others", open.len()),
            format!(
                "{}\nreplace keys that others may have read",
                open.join("\n")
            ),
        ),
    }])
}

/// The control plane: there, its clock, the key, and what it says about itself.
async fn control(session: &Session<'_>) -> Result<Vec<Finding>, Failure> {
    let address = session.access.address()?;
    let mut checks = reachable(&session.access, &address).await?;
    if checks
        .iter()
        .any(|finding| finding.verdict == Verdict::Fail)
    {
        return Ok(checks);
    }
    checks.extend(authenticated(session).await);
    Ok(checks)
}

async fn reachable(access: &Access, address: &str) -> Result<Vec<Finding>, Failure> {
    const CHECK: &str = "control plane";
    let advice = "start `xylem dev` or `xylem server`, or name another with --address";
    let client = access
        .trust
        .http()?
        .timeout(TIMEOUT)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build();
    let Ok(client) = client else {
        return Ok(vec![Finding::fail(
            CHECK,
            "the HTTP client cannot be made",
            "",
        )]);
    };
    let asked = SystemTime::now();
    let answer = client.get(format!("{address}/healthz")).send().await;
    Ok(match answer {
        Ok(answer) if answer.status().is_success() => {
            let mut checks = vec![Finding::ok(CHECK, format!("answers at {address}"))];
            let date = answer.headers().get(DATE);
            let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
            checks.extend(date.map(|theirs| clock(theirs, asked)));
            checks
        }
        Ok(answer) => {
            let detail = format!("{address} answers {} to /healthz", answer.status());
            vec![Finding::fail(CHECK, detail, advice)]
        }
        Err(_) => {
            let detail = format!("nobody answers at {address}");
            vec![Finding::fail(CHECK, detail, advice)]
        }
    })
}

/// Expiry is judged by the control plane's clock, adoption by Temporal's.
fn clock(theirs: SystemTime, ours: SystemTime) -> Finding {
    const CHECK: &str = "clock";
    let apart = ours
        .duration_since(theirs)
        .unwrap_or_else(|error| error.duration());
    let detail = match apart {
        apart if apart < Duration::from_secs(2) => "the same here and there".to_owned(),
        apart => format!("{} s apart from the control plane's", apart.as_secs()),
    };
    let advice = "synchronise both machines' clocks (NTP)";
    match apart {
        apart if apart >= SKEW_TOLERATED => Finding::fail(CHECK, detail, advice),
        apart if apart >= SKEW_SEEN => Finding::warn(CHECK, detail, advice),
        _ => Finding::ok(CHECK, detail),
    }
}

async fn authenticated(session: &Session<'_>) -> Vec<Finding> {
    const CHECK: &str = "authentication";
    let asked = async {
        let client = session.client().await?;
        let status = client.status().await?;
        let dev = session.access.is_dev()?;
        let found = [
            policies::check(&client, dev).await,
            credentials::check(&client).await,
        ];
        Ok::<_, Failure>((status, found))
    };
    match asked.await {
        Ok((status, found)) => {
            let who = format!("{} as {}", status.agent, status.roles.join(", "));
            let mut checks = vec![Finding::ok(CHECK, who), version(&status.version)];
            checks.extend(status.checks.into_iter().map(told));
            checks.extend(found.into_iter().flatten());
            checks
        }
        Err(failure) => {
            let text = failure.to_string();
            let mut lines = text.lines();
            let detail = lines.next().unwrap_or_default();
            let advice: Vec<_> = lines.map(str::trim).collect();
            let detail = detail.strip_prefix("error: ").unwrap_or(detail);
            vec![Finding::fail(CHECK, detail, advice.join("\n"))]
        }
    }
}

fn version(theirs: &str) -> Finding {
    const CHECK: &str = "versions";
    let ours = env!("CARGO_PKG_VERSION");
    if ours == theirs {
        return Finding::ok(CHECK, format!("{ours} here and there"));
    }
    let detail = format!("{ours} here, {theirs} in the control plane");
    Finding::warn(CHECK, detail, "use the same version on both sides")
}

/// What the control plane says about itself. Without its search attribute and sweep it works, and with
/// older key-encryption keys.
fn told(check: v1::Check) -> Finding {
    let name = format!("server: {}", check.name.replace('_', " "));
    let verdict = match (check.ok, check.name.as_str()) {
        (true, _) => Verdict::Ok,
        (false, "search_attribute" | "older_keys") => Verdict::Warn,
        (false, _) => Verdict::Fail,
    };
    Finding::new(&name, verdict, check.detail, check.advice)
}

/// Temporal as seen from here: where the data directory says, unless another is named.
async fn temporal_checks(arguments: Arguments, access: &Access) -> Result<Vec<Finding>, Failure> {
    let endpoints = access.endpoints()?;
    let queue = match (&arguments.task_queue, &endpoints) {
        (Some(queue), _) => queue.to_string(),
        (None, Some(endpoints)) => endpoints.task_queue.clone(),
        (None, None) => "xylem".to_owned(),
    };
    let options = arguments.temporal.options_or(endpoints.as_ref())?;
    Ok(temporal::checks(&options, &queue).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{Format, tests::seen};

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("control plane", "answers at http://127.0.0.1:7243"),
            Finding::warn(
                "clock",
                "7 s apart",
                "synchronise both machines' clocks (NTP)",
            ),
            Finding::fail("worker", "nobody polls xylem", "one step\nanother step"),
        ]
    }

    #[test]
    fn findings_are_named_with_what_to_do() {
        let (mut output, out, _) = seen(Format::Text);
        let failure = report(findings(), &mut output).expect_err("one has failed");
        assert_eq!(failure.exit, Exit::Failed);
        insta::assert_snapshot!(out.text());
    }

    #[test]
    fn warnings_alone_are_no_failure() {
        let (mut output, out, _) = seen(Format::Json);
        let mut findings = findings();
        findings.pop();
        report(findings, &mut output).expect("nothing has failed");
        insta::assert_snapshot!(out.text());
    }

    #[test]
    fn clocks_may_differ_by_less_than_the_tolerance() {
        let now = SystemTime::now();
        for (seconds, verdict) in [
            (0, Verdict::Ok),
            (4, Verdict::Ok),
            (5, Verdict::Warn),
            (59, Verdict::Warn),
            (60, Verdict::Fail),
        ] {
            let apart = Duration::from_secs(seconds);
            assert_eq!(clock(now - apart, now).verdict, verdict, "{seconds}");
            assert_eq!(clock(now + apart, now).verdict, verdict, "-{seconds}");
        }
    }

    #[test]
    fn a_key_that_others_can_read_fails() {
        use std::os::unix::fs::PermissionsExt;
        let guard = tempfile::tempdir().expect("a directory");
        let access = Access {
            data_dir: Some(guard.path().to_owned()),
            ..Access::default()
        };
        let path = DataDir::at(guard.path()).admin_key();
        std::fs::write(&path, "xyk_a\n").expect("written");
        for (mode, verdict) in [(0o600, Verdict::Ok), (0o604, Verdict::Fail)] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).expect("changed");
            assert_eq!(files(&access).expect("looked")[0].verdict, verdict);
        }
    }

    #[tokio::test]
    async fn nobody_there_is_one_failure_that_says_what_to_start() {
        let checks = reachable(&Access::default(), "http://127.0.0.1:9").await;
        let checks = checks.expect("looked");
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].verdict, Verdict::Fail);
        assert!(checks[0].advice.contains("xylem dev"));
    }
}
