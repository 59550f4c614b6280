//! The audit log.

use super::{Answers, Handlers, answer};
use crate::{
    caller::{caller, during_call},
    convert,
    fault::Fault,
    onlooker::Onlooker,
    tampered::Tampered,
};
use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::mpsc::{self, error::TrySendError};
use tonic::{Request, Response, Status};
use v1::audit_server::Audit;
use xylem_audit::{
    Entry, Filter, Finding, Intact, Kind, NodeRun, PageToken, Reason, Record, Segment, Subject,
    SubjectError, Verdict, Verified,
};
use xylem_ids::WorkflowId;
use xylem_proto::v1::{self, Rpc};

/// Entries in one report of a worker.
const MOST_ENTRIES: usize = 100;
/// A tail looks for new entries this often.
const TAIL_EVERY: Duration = Duration::from_millis(500);
const TAIL_PAGE: u32 = 500;

#[tonic::async_trait]
impl Audit for Handlers {
    type TailAuditStream = Answers<v1::AuditEntry>;
    type ExportAuditStream = Answers<v1::AuditLine>;
    type VerifyAuditStream = Answers<v1::VerifyAuditProgress>;

    async fn append_audit(
        &self,
        request: Request<v1::AppendAuditRequest>,
    ) -> Result<Response<v1::AppendAuditResponse>, Status> {
        answer(self.append(request.into_inner()).await)
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        answer(self.list(request.into_inner()).await)
    }

    async fn tail_audit(
        &self,
        request: Request<v1::TailAuditRequest>,
    ) -> Result<Response<Self::TailAuditStream>, Status> {
        answer(self.tail(request.into_inner()).await)
    }

    async fn export_audit(
        &self,
        request: Request<v1::ExportAuditRequest>,
    ) -> Result<Response<Self::ExportAuditStream>, Status> {
        answer(self.export(request.into_inner()).await)
    }

    async fn verify_audit(
        &self,
        _: Request<v1::VerifyAuditRequest>,
    ) -> Result<Response<Self::VerifyAuditStream>, Status> {
        answer(Ok(self.verify()))
    }

    async fn archive_audit(
        &self,
        _: Request<v1::ArchiveAuditRequest>,
    ) -> Result<Response<v1::ArchiveAuditResponse>, Status> {
        answer(self.archive().await)
    }
}

/// How an entry is exported.
type Write = fn(Record) -> Result<v1::AuditLine, Fault>;

impl Handlers {
    /// Who, when and which tree is not the worker's to say.
    async fn append(
        &self,
        given: v1::AppendAuditRequest,
    ) -> Result<v1::AppendAuditResponse, Fault> {
        let principal = caller()?;
        if given.entries.is_empty() || given.entries.len() > MOST_ENTRIES {
            let rule = format!("entries must be 1 to {MOST_ENTRIES}");
            return Err(Fault::invalid("entries", rule));
        }
        let claims = self.confirmed(&principal, given.claims).await?;
        let claimed = claims.claims();
        let mut entries = Vec::new();
        for new in given.entries {
            let mut entry = during_call(reported(new, self.now())?)
                .by(principal.agent())
                .of_tree(claims.tree());
            entry.node = Some(NodeRun {
                workflow_id: claimed.workflow_id.clone(),
                run_id: Some(claimed.run_id.clone()),
            });
            entry.activity = Some(claimed.activity.clone());
            entries.push(entry);
        }
        self.log.append(&entries).await?;
        Ok(v1::AppendAuditResponse {})
    }

    async fn list(&self, given: v1::ListAuditRequest) -> Result<v1::ListAuditResponse, Fault> {
        let size = match given.page_size {
            None => 100,
            Some(size @ 1..=1000) => size,
            Some(_) => {
                return Err(Fault::invalid(
                    "page_size",
                    "page_size must be between 1 and 1000",
                ));
            }
        };
        let after: Option<PageToken> = match given.page_token.as_str() {
            "" => None,
            text => Some(text.parse()?),
        };
        let filter = self.filter(given.filter).await?;
        let page = self.log.list(&filter, after.as_ref(), size).await?;
        Ok(v1::ListAuditResponse {
            archived: self.missed(&filter, after.as_ref()).await?,
            entries: page.records.into_iter().map(wire).collect(),
            next_page_token: page.next.map(|token| token.to_string()).unwrap_or_default(),
        })
    }

    /// The newest archive, where it has entries that these could be among: after a place, and not before
    /// a time.
    async fn missed(
        &self,
        filter: &Filter,
        after: Option<&PageToken>,
    ) -> Result<Option<v1::AuditSegment>, Fault> {
        let after = after.map_or(0, PageToken::place);
        let archived = self.log.archived().await?;
        let missed = archived.filter(|it| {
            let young = filter.since.is_some_and(|since| since > it.until());
            it.last > after && !young
        });
        Ok(missed.as_ref().map(segment))
    }

    /// It goes on where whoever asked for it is gone.
    async fn archive(&self) -> Result<v1::ArchiveAuditResponse, Fault> {
        let entry = during_call(self.archiving(caller()?.agent()));
        let plane = Arc::clone(&self.0);
        let archiving = self.to_the_end(async move { plane.archive_audit(entry).await });
        let archived = archiving.await?;
        Ok(v1::ArchiveAuditResponse {
            segments: archived.iter().map(segment).collect(),
        })
    }

    async fn tail(&self, given: v1::TailAuditRequest) -> Result<Answers<v1::AuditEntry>, Fault> {
        if given.last > 1000 {
            return Err(Fault::invalid("last", "last must be at most 1000"));
        }
        let filter = self.filter(given.filter).await?;
        let after = self.log.before_last(&filter, given.last).await?;
        let onlooker = Onlooker::caller(self, Rpc::TailAudit)?;
        let item: fn(Record) -> Result<_, Fault> = |record| Ok(wire(record));
        Ok(self.read(onlooker, filter, after, None, None, item))
    }

    /// Who takes the log along is in it before anything is sent.
    async fn export(&self, given: v1::ExportAuditRequest) -> Result<Answers<v1::AuditLine>, Fault> {
        let (code, line): (_, Write) = match given.format() {
            v1::AuditFormat::Unspecified | v1::AuditFormat::JsonLines => ("json_lines", json_line),
            v1::AuditFormat::Ocsf => ("ocsf", ocsf_line),
        };
        let after = match given.after.as_str() {
            "" => Ok(0),
            id => id.parse().map_err(|_| {
                Fault::invalid("after", "after must be the id of an entry, a whole number")
            }),
        };
        let after = PageToken::after(after?);
        let filter = self.filter(given.filter).await?;
        let end = self.log.end().await?.place();
        let entry = Entry::new(self.now(), Kind::AuditExported, Verdict::Granted).because(code);
        self.log.append(&[during_call(entry)]).await?;
        let until = (!given.follow).then_some(end);
        let onlooker = Onlooker::caller(self, Rpc::ExportAudit)?;
        let missed = self.missed(&filter, Some(&after)).await?;
        let first = missed.map(|archived| v1::AuditLine {
            archived: Some(archived),
            ..v1::AuditLine::default()
        });
        Ok(self.read(onlooker, filter, after, until, first, line))
    }

    /// Sends what matches, up to an entry or for as long as somebody listens who may.
    fn read<T: Send + 'static>(
        &self,
        mut onlooker: Onlooker,
        filter: Filter,
        mut after: PageToken,
        until: Option<u64>,
        first: Option<T>,
        item: fn(Record) -> Result<T, Fault>,
    ) -> Answers<T> {
        let (send, receive) = mpsc::channel(64);
        let log = Arc::clone(&self.log);
        let plane = Arc::clone(&self.0);
        self.tasks.spawn(async move {
            if let Some(first) = first {
                let _ = send.send(Ok(first)).await;
            }
            loop {
                if let Err(fault) = onlooker.may_go_on(&plane).await {
                    let _ = send.send(Err(plane.ended_by(fault))).await;
                    return;
                }
                // Read before the page: what it does not match up to here never will.
                let end = log.end().await;
                let page = log.list(&filter, Some(&after), TAIL_PAGE).await;
                let (end, page) = match (end, page) {
                    (Ok(end), Ok(page)) => (end, page),
                    (Err(error), _) | (_, Err(error)) => {
                        let _ = send.send(Err(plane.ended_by(error))).await;
                        return;
                    }
                };
                let mut seen = end.place();
                for record in page.records {
                    let id = record.id.as_str().parse().unwrap_or(0);
                    if until.is_some_and(|until| id > until) {
                        return;
                    }
                    seen = seen.max(id);
                    let item = item(record).map_err(Status::from);
                    if send.send(item).await.is_err() {
                        return;
                    }
                }
                match page.next {
                    Some(next) => after = next,
                    None if until.is_some() => return,
                    None => {
                        after = PageToken::after(seen.max(after.place()));
                        tokio::select! {
                            () = tokio::time::sleep(TAIL_EVERY) => {}
                            () = send.closed() => return,
                        }
                    }
                }
            }
        });
        self.answers(receive)
    }

    /// Goes on for as long as somebody listens.
    fn verify(&self) -> Answers<v1::VerifyAuditProgress> {
        let (send, receive) = mpsc::channel(4);
        let log = Arc::clone(&self.log);
        let plane = Arc::clone(&self.0);
        self.tasks.spawn(async move {
            let mut seen = v1::VerifyAuditProgress::default();
            let verified = log
                .verify(&mut |progress| {
                    seen.checked = convert::count(progress.checked);
                    seen.of = convert::count(progress.of);
                    // Who reads slowly is told less often.
                    match send.try_send(Ok(seen.clone())) {
                        Err(TrySendError::Closed(_)) => ControlFlow::Break(()),
                        _ => ControlFlow::Continue(()),
                    }
                })
                .await;
            let last = match verified {
                Ok(Verified::Stopped) => return,
                Ok(Verified::Intact(intact)) => match log.archived().await {
                    Ok(archived) => Ok(whole(intact, archived.as_ref())),
                    Err(error) => Err(plane.ended_by(error)),
                },
                Ok(Verified::Broken(finding)) => {
                    tracing::error!(finding = finding.code(), "the audit log: {finding}");
                    if let Some(row) = Tampered::in_log(finding) {
                        plane.tampered(row);
                    }
                    Ok(broken(finding))
                }
                Err(error) => Err(plane.ended_by(error)),
            };
            let last = last.map(|result| v1::VerifyAuditProgress {
                result: Some(result),
                ..seen
            });
            let _ = send.send(last).await;
        });
        self.answers(receive)
    }

    async fn filter(&self, given: Option<v1::AuditFilter>) -> Result<Filter, Fault> {
        let given = given.unwrap_or_default();
        let tree: Option<WorkflowId> = convert::optional(given.tree, "filter.tree")?;
        let tree = match tree {
            None => None,
            Some(name) => {
                let found = self
                    .vault
                    .find_tree(&self.settings.namespace, &name)
                    .await?;
                Some(found.id().ok_or_else(|| Fault::not_found("tree"))?)
            }
        };
        Ok(Filter {
            namespace: Some(self.settings.namespace.clone()),
            tree,
            workflow_id: convert::optional(given.workflow_id, "filter.workflow_id")?,
            kind: code(&given.action, "filter.action", ACTIONS, Kind::from_code)?,
            verdict: code(
                &given.outcome,
                "filter.outcome",
                OUTCOMES,
                Verdict::from_code,
            )?,
            agent: convert::optional(given.agent, "filter.agent")?,
            owner: convert::optional(given.owner, "filter.owner")?,
            subject: subject(&given.subject)?,
            tool: convert::optional(given.tool, "filter.tool")?,
            slot: convert::optional(given.slot, "filter.slot")?,
            since: convert::instant(given.since, "filter.since")?,
            until: convert::instant(given.until, "filter.until")?,
        })
    }
}

const ACTIONS: &str = "an action of the log, such as deposit, redeem, outcome or revoke";
const OUTCOMES: &str = "granted, denied, succeeded or failed";

fn code<T>(
    text: &str,
    field: &str,
    known: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    read(text)
        .map(Some)
        .ok_or_else(|| Fault::invalid(field, format!("{field} must be {known}")))
}

fn subject(text: &str) -> Result<Option<Subject>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let read = text.parse().map(Some);
    read.map_err(|rule: SubjectError| Fault::invalid("filter.subject", rule.to_string()))
}

/// What a worker refused before it asked for a token is a redemption that was denied: who looks for
/// refused calls finds all of them under one kind, these by their missing lease and their reason.
fn reported(given: v1::NewAuditEntry, at: SystemTime) -> Result<Entry, Fault> {
    let kind = match given.action.as_str() {
        "signal.rejected" => Kind::SignalsRejected,
        "tool.refused" => Kind::Redeem,
        _ => {
            let rule = "entries.action must be signal.rejected or tool.refused";
            return Err(Fault::invalid("entries.action", rule));
        }
    };
    let reason = Reason::parse(&given.reason).ok_or_else(|| {
        Fault::invalid(
            "entries.reason",
            "entries.reason must be a code of a-z, 0-9 and '_'",
        )
    })?;
    let mut entry = Entry::new(at, kind, Verdict::Denied);
    entry.reason = Some(reason);
    entry.slot = convert::optional(given.slot, "entries.slot")?;
    entry.tool = convert::optional(given.tool, "entries.tool")?;
    entry.count = given.count.max(1).into();
    Ok(entry)
}

fn segment(segment: &Segment) -> v1::AuditSegment {
    let time = |ms| convert::time(UNIX_EPOCH + Duration::from_millis(ms));
    v1::AuditSegment {
        first: segment.first.to_string(),
        last: segment.last.to_string(),
        hash: segment.hash.to_string(),
        file: segment.file.clone(),
        until: Some(time(segment.until_ms)),
        archived_at: Some(time(segment.at_ms)),
    }
}

fn whole(intact: Intact, archived: Option<&Segment>) -> v1::AuditVerification {
    v1::AuditVerification {
        intact: true,
        entries: convert::count(intact.entries),
        checkpoints: convert::count(intact.checkpoints),
        hash: intact.hash.to_string(),
        finding: None,
        archived: archived.map(segment),
    }
}

fn broken(finding: Finding) -> v1::AuditVerification {
    let (first, last) = finding.entries().unzip();
    let id = |seq: Option<u64>| seq.map(|seq| seq.to_string()).unwrap_or_default();
    v1::AuditVerification {
        finding: Some(v1::AuditFinding {
            what: finding.code().to_owned(),
            first: id(first),
            last: id(last),
            column: finding.column().unwrap_or_default().to_owned(),
            message: finding.to_string(),
        }),
        ..v1::AuditVerification::default()
    }
}

fn json_line(record: Record) -> Result<v1::AuditLine, Fault> {
    let id = record.id.to_string();
    let line = serde_json::to_string(&wire(record)).map_err(Fault::internal)?;
    Ok(exported(id, line))
}

fn ocsf_line(record: Record) -> Result<v1::AuditLine, Fault> {
    let line = xylem_audit::ocsf(&record).to_string();
    Ok(exported(record.id.into(), line))
}

fn exported(id: String, line: String) -> v1::AuditLine {
    v1::AuditLine {
        id,
        line,
        archived: None,
    }
}

pub(super) fn wire(record: Record) -> v1::AuditEntry {
    let erased = record.erased;
    let entry = record.entry;
    let (workflow_id, run_id) = entry.node.map_or_else(Default::default, |node| {
        let run_id = node.run_id.map(String::from).unwrap_or_default();
        (String::from(node.workflow_id), run_id)
    });
    v1::AuditEntry {
        id: record.id.into(),
        at: Some(convert::time(entry.at)),
        agent: entry.agent.map(Into::into).unwrap_or_default(),
        action: entry.kind.code().to_owned(),
        outcome: entry.verdict.code().to_owned(),
        reason: text(entry.reason),
        tree: entry.tree.map(convert::tree_id),
        slot: entry.slot.map(Into::into).unwrap_or_default(),
        order: entry.order.map(convert::order),
        fingerprint: entry.fingerprint.map(Into::into).unwrap_or_default(),
        workflow_id,
        run_id,
        attempt: entry
            .activity
            .as_ref()
            .map_or(0, |activity| activity.attempt()),
        activity_id: entry
            .activity
            .map(|activity| activity.id().to_owned())
            .unwrap_or_default(),
        tool: entry.tool.map(Into::into).unwrap_or_default(),
        http_status: entry.status.map(Into::into),
        duration_ms: entry.duration_ms.map(convert::count),
        lease_id: entry.lease.map(Into::into).unwrap_or_default(),
        count: convert::count(entry.count),
        note: entry
            .note
            .map(|note| note.as_str().to_owned())
            .unwrap_or_default(),
        owner: entry.owner.map(Into::into).unwrap_or_default(),
        subject: text(entry.subject),
        address: text(entry.address),
        request_id: text(entry.request),
        policy: text(entry.policy),
        second_factor: entry.second_factor,
        presented: entry.presented.map(convert::order),
        behind_seconds: entry.behind_s.map(convert::count),
        bytes_out: entry.bytes_out,
        bytes_in: entry.bytes_in,
        numbers: entry
            .numbers
            .into_iter()
            .map(|(name, number)| (name.to_string(), number))
            .collect(),
        first: text(entry.about.map(|(first, _)| first)),
        last: text(entry.about.map(|(_, last)| last)),
        erased,
    }
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}
