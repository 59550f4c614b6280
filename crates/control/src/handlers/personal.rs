//! What is kept about an agent: handed out, and erased.

use super::{Answers, Handlers, agents::wire_agent, audit};
use crate::{caller::check_reach, convert, fault::Fault};
use serde_json::{Map, Value, json};
use std::{sync::Arc, time::SystemTime};
use tokio::sync::mpsc::{self, Sender};
use tonic::Status;
use xylem_audit::{Filter, Kind, Log, PageToken, Record, Subject, SubjectKind};
use xylem_identity::{Datum, Fact};
use xylem_ids::{AgentId, Namespace};
use xylem_proto::v1;

const PAGE: u32 = 500;

impl Handlers {
    pub(super) async fn erase_agent(
        &self,
        request: v1::EraseAgentRequest,
    ) -> Result<v1::Agent, Fault> {
        let name: AgentId = convert::id(request.name, "name")?;
        let entry = self.change(Kind::AgentErased);
        let namespace = &self.settings.namespace;
        let agent = self.identity.erase_agent(namespace, &name, entry).await?;
        Ok(wire_agent(agent))
    }

    /// Whoever takes it along is in the log before anything is sent.
    pub(super) async fn export_data(
        &self,
        request: v1::ExportAgentDataRequest,
    ) -> Result<Answers<v1::AgentDataLine>, Fault> {
        let name: AgentId = convert::id(request.name, "name")?;
        check_reach(&name, "agent")?;
        let namespace = self.settings.namespace.clone();
        let (agent, data) = self.identity.agent_data(&namespace, &name).await?;
        let agent = serde_json::to_value(wire_agent(agent)).map_err(Fault::internal)?;
        let mut lines = vec![line("agents", &agent)];
        lines.extend(data.into_iter().map(datum));
        let entry = self.change(Kind::AgentDataExported);
        let entry = entry.regarding(SubjectKind::Agent, &name);
        // What is archived is not looked through: whoever asks is told that there is more.
        let archived = self.log.archived().await?;
        lines.extend(archived.map(|archived| {
            let (last, file) = (archived.last.to_string(), archived.file);
            line("audit_archive", &json!({"last": last, "file": file}))
        }));
        let end = self.log.end().await?.place();
        self.log.append(&[entry]).await?;
        let (send, receive) = mpsc::channel(64);
        let entries = Entries {
            log: Arc::clone(&self.log),
            namespace,
            agent: name,
            end,
        };
        let plane = Arc::clone(&self.0);
        self.tasks.spawn(async move {
            for line in lines {
                if send.send(Ok(line)).await.is_err() {
                    return;
                }
            }
            if let Err(fault) = entries.send(&send).await {
                let _ = send.send(Err(plane.ended_by(fault))).await;
            }
        });
        Ok(self.answers(receive))
    }
}

/// The entries of the audit log about an agent, as the log is at one moment.
struct Entries {
    log: Arc<dyn Log>,
    namespace: Namespace,
    agent: AgentId,
    end: u64,
}

/// How an entry is about an agent.
#[derive(Clone, Copy)]
enum About {
    Did,
    For,
    Subject,
}

impl Entries {
    async fn send(&self, to: &Sender<Result<v1::AgentDataLine, Status>>) -> Result<(), Fault> {
        for about in [About::Did, About::For, About::Subject] {
            let filter = self.filter(about);
            let mut after = PageToken::after(0);
            loop {
                let page = self.log.list(&filter, Some(&after), PAGE).await?;
                for record in page.records {
                    let Some(record) = self.share(about, record) else {
                        continue;
                    };
                    let entry = serde_json::to_value(audit::wire(record));
                    let line = line("audit", &entry.map_err(Fault::internal)?);
                    if to.send(Ok(line)).await.is_err() {
                        return Ok(());
                    }
                }
                match page.next {
                    Some(next) if next.place() < self.end => after = next,
                    _ => break,
                }
            }
        }
        Ok(())
    }

    fn subject(&self) -> Subject {
        Subject::new(SubjectKind::Agent, &self.agent)
    }

    fn filter(&self, about: About) -> Filter {
        let agent = Some(self.agent.clone());
        let filter = match about {
            About::Did => Filter {
                agent,
                ..Filter::default()
            },
            About::For => Filter {
                owner: agent,
                ..Filter::default()
            },
            About::Subject => Filter {
                subject: Some(self.subject()),
                ..Filter::default()
            },
        };
        Filter {
            namespace: Some(self.namespace.clone()),
            ..filter
        }
    }

    /// Each entry once; of what others did, not where they were and what they said.
    fn share(&self, about: About, mut record: Record) -> Option<Record> {
        let id: u64 = record.id.as_str().parse().unwrap_or(u64::MAX);
        let did = record.entry.agent.as_ref() == Some(&self.agent);
        let was_for = record.entry.owner.as_ref() == Some(&self.agent);
        let told = match about {
            About::Did => false,
            About::For => did,
            About::Subject => did || was_for,
        };
        if told || id > self.end {
            return None;
        }
        if !did {
            record.entry.address = None;
            record.entry.note = None;
            record.erased = false;
        }
        Some(record)
    }
}

fn line(record: &str, data: &Value) -> v1::AgentDataLine {
    let line = json!({ "record": record, "data": data }).to_string();
    v1::AgentDataLine { line }
}

fn datum(datum: Datum) -> v1::AgentDataLine {
    let fields = datum.fields.into_iter().map(|(name, fact)| {
        let value = match fact {
            Fact::Text(text) => json!(text),
            Fact::Number(number) => json!(number),
            Fact::Time(time) => json!(timestamp(time)),
        };
        (name.to_owned(), value)
    });
    line(datum.record, &Value::Object(fields.collect::<Map<_, _>>()))
}

fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339(time).to_string()
}
