//! Every way an activity can fail, and what Temporal is told about it: mapped here and nowhere
//! else.

use crate::{
    ports::PortError,
    refusals::{MAX_REFUSALS, Refusals},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;
use temporalio_common::error::{ApplicationErrorCategory, ApplicationFailure};
use temporalio_sdk::activities::ActivityError;
use xylem_ids::{Order, Origin, Slot, ToolName, TreeId};
use xylem_outbound::{AddressRefused, Untrusted};

/// Which token a call used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) tree: TreeId,
    /// The slot; none for a stored credential of the tool.
    pub(crate) slot: Option<Slot>,
    pub(crate) order: Order,
}

impl std::fmt::Display for Used {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (tree, version) = (&self.tree.workflow_id, self.order.version);
        match &self.slot {
            Some(slot) => write!(f, "version {version} of slot '{slot}' of tree '{tree}'"),
            None => write!(f, "version {version} of the tool's stored credential"),
        }
    }
}

/// What an API answered when it rejected a call: the details of an `xylem.api_rejected` failure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApiAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body, redacted; cut to its first 2,048 characters of text where it is longer.
    pub body: Value,
}

/// Why an activity failed.
///
/// It does not implement `Error`: `ActivityError` takes any error as a retryable failure without
/// a type, and a `?` would do so silently.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Failure {
    /// The activity was cancelled, or the worker is shutting down.
    Cancelled,
    /// No workflow started the activity.
    NotInWorkflow,
    /// A tool call as a local activity, whose claims cannot be confirmed.
    Local,
    /// The tool's definition cannot be called.
    Definition { tool: ToolName, what: &'static str },
    /// The parameters break the tool's schema, or do not fit where they go.
    Parameters { tool: ToolName, what: String },
    /// The call names another slot than the tool is registered with.
    WrongSlot {
        tool: ToolName,
        asked: Option<Slot>,
        registered: Option<Slot>,
    },
    /// The workflow's `apiUrl` is not one the tool allows.
    ApiUrl { tool: ToolName },
    /// The host must not be connected to.
    Address { tool: ToolName, why: AddressRefused },
    /// The server did not show that it is the tool's; nothing was sent.
    Untrusted { tool: ToolName, why: Untrusted },
    /// The token may not be sent there.
    Audience {
        tool: ToolName,
        origin: Origin,
        used: Box<Used>,
    },
    /// The token does not fit where it is to be sent.
    Unsendable { tool: ToolName, used: Box<Used> },
    /// The definition changed between the check and the redemption.
    ToolChanged { tool: ToolName },
    /// A port did not do what it was asked.
    Port(PortError),
    /// 401, and the next attempt redeems again.
    Unauthorized {
        tool: ToolName,
        used: Box<Used>,
        refusals: Refusals,
        superseded: bool,
    },
    /// 401 for the newest version, too often.
    TokenRefused { tool: ToolName, used: Box<Used> },
    /// 429 or 503.
    Throttled {
        tool: ToolName,
        status: u16,
        after: Option<Duration>,
    },
    /// Another status that a repetition may cure.
    ApiUnavailable { tool: ToolName, status: u16 },
    /// A status that a repetition does not cure.
    ApiRejected { tool: ToolName, answer: ApiAnswer },
    /// A redirect, which is not followed.
    Redirect { tool: ToolName, status: u16 },
    /// The response is larger than the tool allows.
    TooLarge { tool: ToolName, limit: usize },
    /// The answer does not fit the tool's schema of answers.
    Response {
        tool: ToolName,
        place: String,
        rule: String,
    },
    /// No answer, or not a whole one.
    NoAnswer { tool: ToolName, what: &'static str },
    /// A call that is made at most once, and nobody knows whether the API did what it was asked.
    OutcomeUnknown { tool: ToolName, what: String },
    /// Temporal did not answer as expected.
    Temporal { what: &'static str },
}

/// How Temporal is to treat a failure.
struct Treatment {
    kind: &'static str,
    retry: Retry,
}

enum Retry {
    Never,
    ByPolicy,
    After(Duration),
}

impl Failure {
    /// The same of a call that is made at most once and was sent: it is not made again where the API
    /// may have done what it was asked. 401 says that it did not (RFC 9110, section 15.5.2), and 429
    /// that it refused to (RFC 6585, section 4); other errors may come after the fact.
    pub(crate) fn of_single_call(self) -> Self {
        let (tool, what) = match self {
            Self::NoAnswer { tool, what } => (tool, what.to_owned()),
            Self::ApiUnavailable { tool, status } => (tool, format!("it answered {status}")),
            Self::Throttled { tool, status, .. } if status != 429 => {
                (tool, format!("it answered {status}"))
            }
            failure => return failure,
        };
        Self::OutcomeUnknown { tool, what }
    }

    /// The stable type that workflows can tell failures apart by.
    pub(crate) fn kind(&self) -> &'static str {
        self.treatment().kind
    }

    fn treatment(&self) -> Treatment {
        use Retry::{After, ByPolicy, Never};
        let (kind, retry) = match self {
            Self::Cancelled => ("xylem.cancelled", Never),
            Self::NotInWorkflow => ("xylem.not_in_workflow", Never),
            Self::Local => ("xylem.local_tool_call", Never),
            Self::Definition { .. } => ("xylem.tool_definition", Never),
            Self::Parameters { .. } => ("xylem.parameters", Never),
            Self::WrongSlot { .. } => ("xylem.wrong_slot", Never),
            Self::ApiUrl { .. } => ("xylem.api_url", Never),
            Self::Address { .. } => ("xylem.address", Never),
            Self::Untrusted { .. } => ("xylem.untrusted_server", After(MENDED)),
            Self::Audience { .. } => ("xylem.audience", Never),
            Self::Unsendable { .. } => ("xylem.token_unsendable", Never),
            Self::ToolChanged { .. } => ("xylem.tool_changed", After(SOON)),
            Self::Port(PortError::Unavailable { .. }) => ("xylem.unavailable", ByPolicy),
            Self::Port(PortError::NotYet { after, .. }) => {
                ("xylem.not_yet", after.map_or(ByPolicy, After))
            }
            Self::Port(PortError::Refused { .. }) => ("xylem.refused", Never),
            Self::Unauthorized {
                refusals,
                superseded,
                ..
            } => {
                let delay = if *superseded { SOON } else { refusals.delay() };
                ("xylem.api_unauthorized", After(delay))
            }
            Self::TokenRefused { .. } => ("xylem.token_refused", Never),
            Self::Throttled { after, .. } => ("xylem.api_throttled", after.map_or(ByPolicy, After)),
            Self::ApiUnavailable { .. } => ("xylem.api_unavailable", ByPolicy),
            Self::ApiRejected { .. } => ("xylem.api_rejected", Never),
            Self::Redirect { .. } => ("xylem.redirect", Never),
            Self::TooLarge { .. } => ("xylem.response_too_large", Never),
            Self::Response { .. } => ("xylem.response_schema", Never),
            Self::NoAnswer { .. } => ("xylem.no_answer", ByPolicy),
            Self::OutcomeUnknown { .. } => ("xylem.outcome_unknown", Never),
            Self::Temporal { .. } => ("xylem.temporal", ByPolicy),
        };
        Treatment { kind, retry }
    }

    /// What a person reads: what was being done to what, and what to do next.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Cancelled => "cancelled".to_owned(),
            Self::NotInWorkflow => "the activity was not started by a workflow: only a node of a \
                tree can use its token"
                .to_owned(),
            Self::Local => "a tool call cannot be a local activity: Temporal does not confirm \
                those; start it as a regular one"
                .to_owned(),
            Self::Definition { tool, what } => {
                format!("tool '{tool}' cannot be called: {what}; register it again")
            }
            Self::Parameters { tool, what } => {
                format!("the parameters do not fit tool '{tool}': {what}")
            }
            Self::WrongSlot {
                tool,
                asked,
                registered,
            } => match (registered, asked) {
                (Some(registered), Some(asked)) => format!(
                    "tool '{tool}' uses slot '{registered}', the call names slot '{asked}': name \
                     the tool's slot, and declare it"
                ),
                (Some(registered), None) => format!(
                    "tool '{tool}' uses slot '{registered}', the call names none: name the tool's \
                     slot, and declare it"
                ),
                (None, _) => {
                    format!("tool '{tool}' takes no token of the tree: call it without a slot")
                }
            },
            Self::ApiUrl { tool } => format!(
                "the workflow's apiUrl is not one that tool '{tool}' allows: signal another \
                 apiUrl, or register the tool with it among its allowed API URLs"
            ),
            Self::Address { tool, why } => format!("tool '{tool}' was not called: {why}"),
            Self::Untrusted { tool, why } => format!(
                "tool '{tool}' was not called and nothing was sent to its server: {why}; it is tried \
                 again every minute, until the server has another certificate or the tool is \
                 approved with another CA or pin"
            ),
            Self::Audience { tool, origin, used } => format!(
                "tool '{tool}' was not called: {used} may not be sent to {origin}; deposit it \
                 with that audience, or call a tool it is meant for"
            ),
            Self::Unsendable { tool, used } => format!(
                "tool '{tool}' was not called: {used} cannot be sent as the tool says; a header \
                 takes visible characters, basic authentication without a user `user:password`: \
                 rotate the token"
            ),
            Self::ToolChanged { tool } => {
                format!("tool '{tool}' was registered anew during the call: it is tried again")
            }
            Self::Port(error) => port_message(error),
            Self::Unauthorized { tool, used, .. } => format!(
                "the API of tool '{tool}' answered 401 to {used}: the newest version is tried next"
            ),
            Self::TokenRefused { tool, used } => format!(
                "the API of tool '{tool}' answered 401 to {used}, the newest there is, \
                 {MAX_REFUSALS} times: rotate the token"
            ),
            Self::Throttled { tool, status, .. } => {
                format!("the API of tool '{tool}' answered {status}: it is tried again later")
            }
            Self::ApiUnavailable { tool, status } => {
                format!("the API of tool '{tool}' answered {status}: it is tried again")
            }
            Self::ApiRejected { tool, answer } => format!(
                "the API of tool '{tool}' rejected the call with {}: see the failure's details",
                answer.status
            ),
            Self::Redirect { tool, status } => format!(
                "the API of tool '{tool}' answered with redirect {status}, which is not followed \
                 with a token: register the tool where it is"
            ),
            Self::TooLarge { tool, limit } => format!(
                "the response of tool '{tool}' is larger than {limit} bytes: ask for less, or \
                 register the tool with a higher limit"
            ),
            Self::Response { tool, place, rule } => format!(
                "the answer of tool '{tool}' is not what its definition says: at '{place}' it \
                 breaks the rule '{rule}' of the schema; the API changed, or the tool is to be \
                 registered with another schema"
            ),
            Self::NoAnswer { tool, what } => format!("tool '{tool}' gave no answer: {what}"),
            Self::OutcomeUnknown { tool, what } => format!(
                "tool '{tool}' is called at most once, and nobody knows whether the API did what it \
                 was asked: {what}; find out, and call it anew if not"
            ),
            Self::Temporal { what } => format!("Temporal did not answer: {what}; tried again"),
        }
    }

    /// The form Temporal takes.
    pub(crate) fn into_activity(self) -> ActivityError {
        if self == Self::Cancelled {
            return ActivityError::cancelled();
        }
        let Treatment { kind, retry } = self.treatment();
        // A 401 that the next attempt cures is part of a rotation, not something to alert on.
        let expected = matches!(self, Self::Unauthorized { .. } | Self::ToolChanged { .. });
        let category = if expected {
            ApplicationErrorCategory::Benign
        } else {
            ApplicationErrorCategory::Unspecified
        };
        let failure = ApplicationFailure::builder(Message(self.message()))
            .type_name(kind.to_owned())
            .category(category)
            .non_retryable(matches!(retry, Retry::Never))
            .maybe_next_retry_delay(match retry {
                Retry::After(delay) => Some(delay),
                Retry::Never | Retry::ByPolicy => None,
            });
        ActivityError::application(match self {
            Self::ApiRejected { answer, .. } => failure.details(answer).build(),
            _ => failure.build(),
        })
    }
}

impl From<PortError> for Failure {
    fn from(error: PortError) -> Self {
        Self::Port(error)
    }
}

/// When a repetition is known to be worth it.
const SOON: Duration = Duration::from_millis(100);

/// What somebody has to mend is not mended by the next second, and not for good by failing.
const MENDED: Duration = Duration::from_secs(60);

fn port_message(error: &PortError) -> String {
    match error {
        PortError::Unavailable { what } => format!("no decision: {what}"),
        PortError::NotYet { reason, why, .. } => format!("not yet ({reason}): {why}"),
        PortError::Refused { reason, why } => format!("refused ({reason}): {why}"),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Message(String);

#[cfg(test)]
mod tests {
    use super::*;
    use xylem_ids::{Epoch, Serial, Version};

    fn used() -> Box<Used> {
        Box::new(Used {
            tree: crate::fake::tree(),
            slot: Some(Slot::default_slot()),
            order: Order {
                epoch: Epoch(1),
                version: Version(3),
                serial: Serial(1),
            },
        })
    }

    fn application(failure: Failure) -> ApplicationFailure {
        match failure.into_activity() {
            ActivityError::Application(application) => *application,
            other => panic!("{other:?}"),
        }
    }

    fn tool() -> ToolName {
        "acme.deploy".parse().expect("a tool name")
    }

    #[test]
    fn a_refused_version_is_named_with_what_to_do() {
        let refused = application(Failure::TokenRefused {
            tool: tool(),
            used: used(),
        });
        assert!(refused.is_non_retryable());
        assert_eq!(refused.type_name(), Some("xylem.token_refused"));
        let text = refused.to_string();
        for part in ["acme.deploy", "version 3", "'default'", "'train'", "rotate"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn delays_reach_temporal() {
        let after = Some(Duration::from_secs(7));
        let throttled = application(Failure::Throttled {
            tool: tool(),
            status: 429,
            after,
        });
        assert_eq!(throttled.next_retry_delay(), after);
        assert!(!throttled.is_non_retryable());
        let down = application(Failure::Port(PortError::Unavailable {
            what: "the control plane cannot be reached".to_owned(),
        }));
        assert!(!down.is_non_retryable());
        assert_eq!(down.next_retry_delay(), None);
    }

    #[test]
    fn cancellation_stays_cancellation() {
        let cancelled = Failure::Cancelled.into_activity();
        assert!(matches!(cancelled, ActivityError::Cancelled { .. }));
    }
}
