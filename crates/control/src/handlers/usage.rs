//! How often tools were called.

use super::{Handlers, answer};
use crate::{
    caller::{Reach, caller, check_reach, reach},
    convert,
    fault::Fault,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::{Request, Response, Status};
use v1::{UsageGroup, UsagePeriod, usage_server};
use xylem_audit::{By, Period, Usage, UsageKey, UsageQuery};
use xylem_ids::{AgentId, ToolName};
use xylem_proto::v1;
use xylem_registry::RegistryError;

const HOUR: u64 = 60 * 60;

/// How far back usage is told where nothing is said.
const SINCE: Duration = Duration::from_secs(30 * 24 * HOUR);

#[tonic::async_trait]
impl usage_server::Usage for Handlers {
    async fn list_usage(
        &self,
        request: Request<v1::ListUsageRequest>,
    ) -> Result<Response<v1::ListUsageResponse>, Status> {
        answer(self.usage(request.into_inner()).await)
    }
}

impl Handlers {
    async fn usage(&self, given: v1::ListUsageRequest) -> Result<v1::ListUsageResponse, Fault> {
        let size = convert::page_size(given.page_size)?;
        let after = place(&given.page_token)?;
        let query = self.usage_query(given).await?;
        let namespace = &self.settings.namespace;
        // One more than is answered, to see whether there is one.
        let mut found = self
            .watch
            .usage(namespace, &query, after.as_ref(), size + 1)
            .await?;
        let more = found.len() > usize::try_from(size).unwrap_or(usize::MAX);
        found.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        let last = found.last().filter(|_| more);
        let next_page_token = last.map(|usage| token(&usage.key)).unwrap_or_default();
        let usage = found.into_iter().map(|usage| wire(usage, query.per));
        Ok(v1::ListUsageResponse {
            usage: usage.collect(),
            next_page_token,
        })
    }

    async fn usage_query(&self, given: v1::ListUsageRequest) -> Result<UsageQuery, Fault> {
        let (per, by) = (period(&given)?, group(&given)?);
        let agent: Option<AgentId> = convert::optional(given.agent, "agent")?;
        let tool: Option<ToolName> = convert::optional(given.tool, "tool")?;
        let since = convert::instant(given.since, "since")?;
        let since = since.unwrap_or_else(|| self.now() - SINCE);
        let until = convert::instant(given.until, "until")?;
        let until = until.unwrap_or_else(|| self.now());
        if until < since {
            let rule = "until must not be before since";
            return Err(Fault::invalid("until", rule));
        }
        let from = hour(since);
        Ok(UsageQuery {
            agent: self.whose_usage(agent, tool.as_ref()).await?,
            tool,
            from: match per {
                Period::Day => from / 24 * 24,
                Period::Hour | Period::All => from,
            },
            until: hour(until) + 1,
            per,
            by,
        })
    }

    /// Whose usage is told: that of whom was asked for, where the call reaches it. A tool's owner is
    /// told of everybody who called it.
    async fn whose_usage(
        &self,
        asked: Option<AgentId>,
        tool: Option<&ToolName>,
    ) -> Result<Option<AgentId>, Fault> {
        if reach()? == Reach::All {
            return Ok(asked);
        }
        let own = caller()?.agent().clone();
        if let Some(tool) = tool {
            match self.tools.get(&self.settings.namespace, tool).await {
                Ok(known) if known.record.row().owner.as_ref() == Some(&own) => return Ok(asked),
                Ok(_) | Err(RegistryError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(asked) = asked {
            check_reach(&asked, "usage of this agent")?;
        }
        Ok(Some(own))
    }
}

fn hour(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() / HOUR)
}

fn period(given: &v1::ListUsageRequest) -> Result<Period, Fault> {
    match UsagePeriod::try_from(given.period) {
        Ok(UsagePeriod::Unspecified) => Ok(Period::All),
        Ok(UsagePeriod::Hour) => Ok(Period::Hour),
        Ok(UsagePeriod::Day) => Ok(Period::Day),
        Err(_) => Err(Fault::invalid(
            "period",
            "period must be HOUR or DAY, or be left out",
        )),
    }
}

fn group(given: &v1::ListUsageRequest) -> Result<By, Fault> {
    match UsageGroup::try_from(given.group) {
        Ok(UsageGroup::Unspecified) => Ok(By::AgentAndTool),
        Ok(UsageGroup::Agent) => Ok(By::Agent),
        Ok(UsageGroup::Tool) => Ok(By::Tool),
        Err(_) => Err(Fault::invalid(
            "group",
            "group must be AGENT or TOOL, or be left out",
        )),
    }
}

/// Neither agents nor tools have a slash in their names.
fn token(key: &UsageKey) -> String {
    format!("{}/{}/{}", key.hour, key.agent, key.tool)
}

fn place(token: &str) -> Result<Option<UsageKey>, Fault> {
    if token.is_empty() {
        return Ok(None);
    }
    let mut parts = token.split('/');
    let hour = parts.next().and_then(|hour| hour.parse().ok());
    match (hour, parts.next(), parts.next(), parts.next()) {
        (Some(hour), Some(agent), Some(tool), None) => Ok(Some(UsageKey {
            hour,
            agent: agent.to_owned(),
            tool: tool.to_owned(),
        })),
        _ => {
            let rule = "page_token must be one that a page ended with";
            Err(Fault::invalid("page_token", rule))
        }
    }
}

fn wire(usage: Usage, per: Period) -> v1::ToolUsage {
    let apart = per != Period::All;
    let since = UNIX_EPOCH + Duration::from_secs(usage.key.hour.saturating_mul(HOUR));
    let hours = match per {
        Period::Day => 24,
        Period::Hour | Period::All => usage.hours,
    };
    let lasts = xylem_proto::Duration {
        seconds: i64::try_from(hours.saturating_mul(HOUR)).unwrap_or(i64::MAX),
        nanos: 0,
    };
    v1::ToolUsage {
        p50_ms: usage.percentile(50),
        p95_ms: usage.percentile(95),
        p99_ms: usage.percentile(99),
        agent: usage.key.agent,
        tool: usage.key.tool,
        since: apart.then(|| convert::time(since)),
        lasts: apart.then_some(lasts),
        calls: usage.counts.calls,
        failures: usage.counts.failures,
        denials: usage.counts.denials,
        bytes_out: usage.counts.bytes_out,
        bytes_in: usage.counts.bytes_in,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_is_the_place_it_was_made_of() {
        let key = UsageKey {
            hour: 500_000,
            agent: String::new(),
            tool: "acme.deploy".to_owned(),
        };
        assert_eq!(place(&token(&key)).ok().flatten(), Some(key));
        assert_eq!(place("").ok().flatten(), None);
        for wrong in ["x", "1/2", "1/2/3/4", "a/b/c"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
