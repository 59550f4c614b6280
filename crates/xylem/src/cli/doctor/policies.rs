//! Whether anything is allowed, and by what.

use super::Finding;
use crate::{cli::policy, server::DEV_POLICY};
use xylem_client::{Client, Error, v1};
use xylem_control::SYSTEM;

const CHECK: &str = "policies";

/// Nothing where policies are not for the caller to see.
pub(super) async fn check(client: &Client, dev: bool) -> Option<Finding> {
    match policy::all(client, false).await {
        Ok(policies) => Some(told(&policies, dev)),
        Err(Error::Denied(_)) => None,
        Err(error) => Some(Finding::fail(
            CHECK,
            format!("cannot be read, and every call is refused: {error}"),
            "the control plane's log says which row is not what was written: restore the database",
        )),
    }
}

fn told(policies: &[v1::PolicyRecord], dev: bool) -> Finding {
    let allows = |record: &&v1::PolicyRecord| {
        let policy = record.policy.clone().unwrap_or_default();
        policy.effect == "allow" || !policy.cedar.is_empty() || !policy.inherits.is_empty()
    };
    let of_dev = |record: &v1::PolicyRecord| {
        let name = record.policy.as_ref().map(|policy| policy.name.as_str());
        name == Some(DEV_POLICY) && record.author == SYSTEM
    };
    match policies.iter().filter(allows).count() {
        0 => Finding::warn(
            CHECK,
            "none allows anything: every call of a tool is denied",
            "`xylem policy add --file FILE` writes one; docs/policies.md has examples",
        ),
        _ if !dev && policies.iter().any(of_dev) => Finding::warn(
            CHECK,
            "the one of `xylem dev` holds: administrators may call every tool",
            format!(
                "write the ones you mean with `xylem policy add`, then `xylem policy retire {DEV_POLICY}`"
            ),
        ),
        _ => Finding::ok(CHECK, format!("{} hold", policies.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    fn record(name: &str, effect: &str, author: &str) -> v1::PolicyRecord {
        v1::PolicyRecord {
            policy: Some(v1::Policy {
                name: name.to_owned(),
                effect: effect.to_owned(),
                ..v1::Policy::default()
            }),
            author: author.to_owned(),
            ..v1::PolicyRecord::default()
        }
    }

    #[test]
    fn what_keeps_every_call_from_being_made_is_told_with_what_to_do() {
        for policies in [vec![], vec![record("freeze", "deny", "admin")]] {
            let found = told(&policies, false);
            assert_eq!(found.verdict, Verdict::Warn);
            assert!(found.detail.contains("every call"), "{found:?}");
            assert!(found.advice.contains("xylem policy add"), "{found:?}");
        }
        let deploys = record("deploys", "allow", "admin");
        assert_eq!(told(&[deploys], false), Finding::ok(CHECK, "1 hold"));
    }

    #[test]
    fn the_policy_of_dev_belongs_to_dev() {
        let made = [record(DEV_POLICY, "allow", SYSTEM)];
        assert_eq!(told(&made, true).verdict, Verdict::Ok);
        let found = told(&made, false);
        assert_eq!(found.verdict, Verdict::Warn);
        assert!(found.advice.contains("policy retire dev"), "{found:?}");
        // One that somebody wrote under the same name is meant.
        let own = [record(DEV_POLICY, "allow", "admin")];
        assert_eq!(told(&own, false).verdict, Verdict::Ok);
    }
}
