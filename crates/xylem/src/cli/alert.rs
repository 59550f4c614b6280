//! `xylem alert`.

use super::{
    audit::time,
    failure::Failure,
    output::{absolute, plain},
    pages,
    session::Session,
    tree::listed,
};
use std::collections::BTreeMap;
use xylem_client::{Timestamp, v1};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List alerts, oldest first: when, which rule, about what, and the numbers that raised it
    ///
    /// `xylem server --alerts FILE` says what raises an alert and where it is sent; each one is an
    /// entry of the audit log too.
    #[command(after_help = LIST_EXAMPLE)]
    List(List),
}

const LIST_EXAMPLE: &str = "\
Example:
  xylem alert list --rule denials --since 2h";

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only alerts of this rule, such as denials, new_network, exposed_token or credential_overdue
    #[arg(long)]
    rule: Option<String>,
    /// Only alerts about this, such as agent:svc-7 or credential:acme
    #[arg(long, value_name = "KIND:ID")]
    subject: Option<String>,
    /// Not before: a time such as 2026-01-31T12:00:00Z, or so long ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "7d")]
    since: Timestamp,
}

pub(crate) async fn run(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::List(arguments) => list(arguments, session).await,
    }
}

async fn list(arguments: List, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let asked = v1::ListAlertsRequest {
        rule: arguments.rule.unwrap_or_default(),
        subject: arguments.subject.unwrap_or_default(),
        since: Some(arguments.since),
        page_size: Some(pages::SIZE),
        page_token: String::new(),
    };
    let alerts = pages::all(async |page_token| {
        let page = client
            .list_alerts(v1::ListAlertsRequest {
                page_token,
                ..asked.clone()
            })
            .await?;
        Ok((page.alerts, page.next_page_token))
    })
    .await?;
    listed(session.output, &alerts, "no alerts", |alerts| {
        alerts.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

/// An alert in one line: when, which rule, about what, with which numbers, and whether it arrived.
fn line(alert: &v1::Alert) -> String {
    let mut parts = vec![
        absolute(alert.at.as_ref()),
        format!("{:18}", plain(&alert.rule)),
        plain(&alert.subject),
    ];
    let tree = alert.tree.as_ref().map(|tree| tree.workflow_id.clone());
    let named = [
        ("tree", tree.unwrap_or_default()),
        ("workflow", alert.workflow_id.clone()),
        ("tool", alert.tool.clone()),
        ("slot", alert.slot.clone()),
        ("address", alert.address.clone()),
    ];
    let named = named.iter().filter(|(_, value)| !value.is_empty());
    parts.extend(named.map(|(name, value)| format!("{name}={}", plain(value))));
    let numbers: BTreeMap<_, _> = alert.numbers.iter().collect();
    let numbers = numbers.into_iter();
    parts.extend(numbers.map(|(name, number)| format!("{}={number}", plain(name))));
    parts.push(format!("entry={}", plain(&alert.id)));
    match alert.delivery() {
        v1::AlertDelivery::Unspecified => {}
        v1::AlertDelivery::Pending => parts.push(format!("not received yet, {}×", alert.attempts)),
        v1::AlertDelivery::Delivered => parts.push("received".to_owned()),
        v1::AlertDelivery::GivenUp => parts.push("NOT received".to_owned()),
    }
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::after;

    #[test]
    fn an_alert_is_a_line_with_its_numbers() {
        let alert = v1::Alert {
            id: "41".into(),
            at: after(0),
            rule: "denials".into(),
            subject: "agent:svc-7".into(),
            numbers: [("denials".into(), 10), ("within_s".into(), 60)].into(),
            tool: "acme.deploy".into(),
            delivery: v1::AlertDelivery::Delivered.into(),
            attempts: 1,
            ..v1::Alert::default()
        };
        assert_eq!(
            line(&alert),
            "2023-11-14T22:13:20.000Z  denials             agent:svc-7  tool=acme.deploy  denials=10  \
             within_s=60  entry=41  received"
        );
    }
}
