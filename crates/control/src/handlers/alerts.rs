//! Alerts, out of the audit log.

use super::{Handlers, answer};
use crate::{convert, fault::Fault, watch};
use std::collections::BTreeMap;
use tonic::{Request, Response, Status};
use v1::alerts_server::Alerts;
use xylem_audit::{Delivery, Filter, Kind, PageToken, Record, Rule, Subject, SubjectError};
use xylem_proto::v1;

#[tonic::async_trait]
impl Alerts for Handlers {
    async fn list_alerts(
        &self,
        request: Request<v1::ListAlertsRequest>,
    ) -> Result<Response<v1::ListAlertsResponse>, Status> {
        answer(self.alerts(request.into_inner()).await)
    }
}

impl Handlers {
    async fn alerts(&self, given: v1::ListAlertsRequest) -> Result<v1::ListAlertsResponse, Fault> {
        let size = match given.page_size {
            None => 100,
            Some(size @ 1..=1000) => size,
            Some(_) => {
                let rule = "page_size must be between 1 and 1000";
                return Err(Fault::invalid("page_size", rule));
            }
        };
        let after: Option<PageToken> = match given.page_token.as_str() {
            "" => None,
            text => Some(text.parse()?),
        };
        let only = named(&given.rule)?;
        let namespace = &self.settings.namespace;
        let filter = Filter {
            namespace: Some(namespace.clone()),
            kind: Some(Kind::Alert),
            subject: subject(&given.subject)?,
            since: convert::instant(given.since, "since")?,
            ..Filter::default()
        };
        let page = self.log.list(&filter, after.as_ref(), size).await?;
        let (first, last) = (page.records.first(), page.records.last());
        let delivered = match (first.and_then(place), last.and_then(place)) {
            (Some(first), Some(last)) => self.watch.deliveries(namespace, first, last).await?,
            _ => Vec::new(),
        };
        let delivered: BTreeMap<_, _> = delivered
            .into_iter()
            .map(|(seq, delivery, attempts)| (seq, (delivery, attempts)))
            .collect();
        let wanted = |record: &Record| only.is_none() || watch::rule(&record.entry) == only;
        let alerts = page.records.into_iter().filter(wanted).map(|record| {
            let delivery = place(&record).and_then(|seq| delivered.get(&seq).copied());
            wire(record, delivery)
        });
        Ok(v1::ListAlertsResponse {
            alerts: alerts.collect(),
            next_page_token: page.next.map(|token| token.to_string()).unwrap_or_default(),
        })
    }
}

fn named(rule: &str) -> Result<Option<Rule>, Fault> {
    if rule.is_empty() {
        return Ok(None);
    }
    let codes: Vec<_> = Rule::ALL.iter().map(|rule| rule.code()).collect();
    let text = format!("rule must be one of {}", codes.join(", "));
    let found = Rule::from_code(rule).map(Some);
    found.ok_or_else(|| Fault::invalid("rule", text))
}

fn subject(text: &str) -> Result<Option<Subject>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let read = text.parse().map(Some);
    read.map_err(|rule: SubjectError| Fault::invalid("subject", rule.to_string()))
}

fn place(record: &Record) -> Option<u64> {
    record.id.as_str().parse().ok()
}

fn wire(record: Record, delivery: Option<(Delivery, u32)>) -> v1::Alert {
    let entry = record.entry;
    let state = delivery.map(|(state, _)| match state {
        Delivery::Pending => v1::AlertDelivery::Pending,
        Delivery::Delivered => v1::AlertDelivery::Delivered,
        Delivery::GivenUp => v1::AlertDelivery::GivenUp,
    });
    let numbers = entry.numbers.into_iter();
    v1::Alert {
        id: record.id.into(),
        at: Some(convert::time(entry.at)),
        rule: text(entry.reason),
        subject: text(entry.subject),
        numbers: numbers
            .map(|(name, number)| (name.to_string(), number))
            .collect(),
        tree: entry.tree.map(convert::tree_id),
        workflow_id: text(entry.node.map(|node| node.workflow_id)),
        tool: text(entry.tool),
        slot: text(entry.slot),
        address: text(entry.address),
        first: text(entry.about.map(|(first, _)| first)),
        last: text(entry.about.map(|(_, last)| last)),
        delivery: state.unwrap_or_default().into(),
        attempts: delivery.map_or(0, |(_, attempts)| attempts),
    }
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}
