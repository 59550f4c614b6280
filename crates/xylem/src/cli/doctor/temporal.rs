//! Temporal as the doctor sees it.

use super::Finding;
use crate::temporal::{TemporalOptions, pollers};
use temporalio_client::{Client, NamespacedClient};
use temporalio_common::protos::temporal::api::{
    enums::v1::{IndexedValueType, TaskQueueType},
    operatorservice::v1::ListSearchAttributesRequest,
    workflowservice::v1::{DescribeNamespaceRequest, DescribeScheduleRequest},
};
use tonic::{Code, IntoRequest, Status};
use xylem_control::CONTROL_QUEUE;
use xylem_stateful::{SEARCH_ATTRIBUTE, WATCH_QUEUE_SUFFIX};

/// The schedule that the control plane makes.
const SWEEP_SCHEDULE: &str = "xylem-sweep";

/// Every check that needs Temporal; one failure where it cannot be reached.
pub(super) async fn checks(options: &TemporalOptions, queue: &str) -> Vec<Finding> {
    let connected = async { options.resolve()?.connect().await };
    let client = match connected.await {
        Ok(client) => client,
        Err(error) => {
            let advice = "start it, or name another with --temporal-address or TEMPORAL_ADDRESS";
            return vec![Finding::fail("Temporal", error.to_string(), advice)];
        }
    };
    let mut checks = vec![Finding::ok("Temporal", "answers")];
    let namespace = namespace(&client).await;
    let found = namespace.verdict == super::Verdict::Ok;
    checks.push(namespace);
    if found {
        checks.push(search_attribute(&client).await);
        checks.push(worker(&client, queue).await);
        checks.push(sweep(&client).await);
    }
    checks
}

async fn namespace(client: &Client) -> Finding {
    const CHECK: &str = "namespace";
    let name = client.namespace();
    let request = DescribeNamespaceRequest {
        namespace: name.clone(),
        ..DescribeNamespaceRequest::default()
    };
    let mut service = client.connection().workflow_service();
    match service.describe_namespace(request.into_request()).await {
        Ok(_) => Finding::ok(CHECK, name),
        Err(status) => namespace_failure(CHECK, &name, &status),
    }
}

fn namespace_failure(check: &str, name: &str, status: &Status) -> Finding {
    match status.code() {
        Code::NotFound => Finding::fail(
            check,
            format!("{name} does not exist"),
            format!("temporal operator namespace create --namespace {name}"),
        ),
        Code::PermissionDenied | Code::Unauthenticated => Finding::fail(
            check,
            format!("{name} may not be looked at with these credentials"),
            "name an API key with TEMPORAL_API_KEY, or a certificate with --tls-cert and --tls-key",
        ),
        code => Finding::fail(
            check,
            format!("{name} could not be looked at: {code}"),
            "try again; look at the Temporal server's log",
        ),
    }
}

async fn search_attribute(client: &Client) -> Finding {
    let namespace = client.namespace();
    let request = ListSearchAttributesRequest {
        namespace: namespace.clone(),
    };
    let mut service = client.connection().operator_service();
    match service.list_search_attributes(request.into_request()).await {
        Ok(answer) => {
            let registered = answer.into_inner().custom_attributes;
            let kind = registered.get(SEARCH_ATTRIBUTE.name()).copied();
            search_attribute_finding(kind, &namespace)
        }
        Err(_) => Finding::warn(
            SEARCH,
            "these credentials may not list search attributes",
            registration(&namespace),
        ),
    }
}

const SEARCH: &str = "search attribute";

fn search_attribute_finding(kind: Option<i32>, namespace: &str) -> Finding {
    let name = SEARCH_ATTRIBUTE.name();
    match kind.and_then(|kind| IndexedValueType::try_from(kind).ok()) {
        Some(IndexedValueType::KeywordList) => Finding::ok(SEARCH, format!("{name} is registered")),
        Some(_) => Finding::fail(
            SEARCH,
            format!("{name} is registered with another type than KeywordList"),
            "use another namespace: a search attribute's type cannot be changed",
        ),
        None => Finding::warn(
            SEARCH,
            format!("{name} is not registered: trees work, but cannot be searched by token"),
            registration(namespace),
        ),
    }
}

/// How to register it, on one's own cluster and at Temporal Cloud.
fn registration(namespace: &str) -> String {
    let name = SEARCH_ATTRIBUTE.name();
    format!(
        "temporal operator search-attribute create --namespace {namespace} --name {name} --type \
         KeywordList\nat Temporal Cloud: tcld namespace search-attributes add --namespace \
         {namespace} --search-attribute \"{name}=KeywordList\""
    )
}

async fn worker(client: &Client, queue: &str) -> Finding {
    const CHECK: &str = "worker";
    let watching = format!("{queue}{WATCH_QUEUE_SUFFIX}");
    let polled = [
        (queue, TaskQueueType::Workflow, "workflows"),
        (queue, TaskQueueType::Activity, "activities"),
        (watching.as_str(), TaskQueueType::Activity, "child watchers"),
    ];
    let mut missing = Vec::new();
    for (queue, kind, what) in polled {
        if !pollers(client, queue, kind).await {
            missing.push(what);
        }
    }
    if missing.is_empty() {
        return Finding::ok(CHECK, format!("polls task queue {queue}"));
    }
    Finding::fail(
        CHECK,
        format!("nobody polls task queue {queue} for {}", missing.join(", ")),
        format!("xylem worker --task-queue {queue}\nor start your own worker on it"),
    )
}

/// The schedule that heals what a cascade missed, and the worker that carries it out.
async fn sweep(client: &Client) -> Finding {
    let request = DescribeScheduleRequest {
        namespace: client.namespace(),
        schedule_id: SWEEP_SCHEDULE.to_owned(),
    };
    let mut service = client.connection().workflow_service();
    let described = service.describe_schedule(request.into_request()).await;
    let described = described.map(|answer| {
        let schedule = answer.into_inner().schedule.unwrap_or_default();
        schedule.state.unwrap_or_default().paused
    });
    let served = pollers(client, CONTROL_QUEUE, TaskQueueType::Activity).await;
    sweep_finding(described, served)
}

fn sweep_finding(paused: Result<bool, Status>, served: bool) -> Finding {
    const CHECK: &str = "sweep";
    match paused {
        Ok(false) if served => Finding::ok(CHECK, format!("schedule {SWEEP_SCHEDULE} is active")),
        Ok(false) => Finding::fail(
            CHECK,
            format!("nobody polls task queue {CONTROL_QUEUE}"),
            "start `xylem server`: it carries the sweep out",
        ),
        Ok(true) => Finding::fail(
            CHECK,
            format!("schedule {SWEEP_SCHEDULE} is paused: what a cascade misses is not healed"),
            format!("temporal schedule toggle --unpause --schedule-id {SWEEP_SCHEDULE}"),
        ),
        Err(status) if status.code() == Code::NotFound => Finding::fail(
            CHECK,
            format!("there is no schedule {SWEEP_SCHEDULE}"),
            "start `xylem server` again: it makes the schedule",
        ),
        Err(status) => Finding::warn(
            CHECK,
            format!("the schedule could not be looked at: {}", status.code()),
            "",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_missing_search_attribute_comes_with_both_commands() {
        let finding = search_attribute_finding(None, "tenants");
        assert_eq!(finding.verdict, Verdict::Warn);
        insta::assert_snapshot!(finding.advice);
    }

    #[test]
    fn a_search_attribute_of_another_type_fails() {
        let keyword = Some(IndexedValueType::Keyword.into());
        let finding = search_attribute_finding(keyword, "default");
        assert_eq!(finding.verdict, Verdict::Fail);
        let right = Some(IndexedValueType::KeywordList.into());
        let finding = search_attribute_finding(right, "default");
        assert_eq!(finding.verdict, Verdict::Ok);
    }

    #[test]
    fn a_sweep_needs_its_schedule_and_somebody_to_carry_it_out() {
        for (paused, served, verdict) in [
            (Ok(false), true, Verdict::Ok),
            (Ok(false), false, Verdict::Fail),
            (Ok(true), true, Verdict::Fail),
            (Err(Status::not_found("schedule")), true, Verdict::Fail),
            (Err(Status::permission_denied("no")), true, Verdict::Warn),
        ] {
            assert_eq!(sweep_finding(paused, served).verdict, verdict);
        }
    }

    #[test]
    fn a_missing_namespace_comes_with_the_command() {
        let status = Status::not_found("namespace");
        let finding = namespace_failure("namespace", "tenants", &status);
        assert!(finding.advice.contains("--namespace tenants"));
    }
}
