//! Stored credentials that somebody has to look after.

use super::Finding;
use crate::cli::{credential, output::plain};
use xylem_client::{Client, Error, v1};

const CHECK: &str = "credentials";
/// So many are named.
const NAMED: usize = 5;

/// Nothing where none are stored, or where they are not for the caller to see.
pub(super) async fn check(client: &Client) -> Option<Finding> {
    match credential::all(client).await {
        Ok(credentials) => told(&credentials),
        Err(Error::Denied(_)) => None,
        Err(error) => Some(Finding::fail(
            CHECK,
            format!("cannot be listed: {error}"),
            "",
        )),
    }
}

fn told(credentials: &[v1::Credential]) -> Option<Finding> {
    let unwell: Vec<_> = credentials
        .iter()
        .filter(|credential| credential.state() != v1::CredentialState::Ok)
        .map(|found| format!("{} is {}", plain(&found.name), credential::state(found)))
        .collect();
    match (credentials.len(), unwell.len()) {
        (0, _) => None,
        (all, 0) => Some(Finding::ok(CHECK, format!("{all} stored, none is due"))),
        (_, many) => {
            let mut detail = unwell[..many.min(NAMED)].join(", ");
            if many > NAMED {
                detail.push_str(&format!(" and {} more", many - NAMED));
            }
            let advice = "`xylem credential rotate NAME` stores the next version";
            Some(Finding::warn(CHECK, detail, advice))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_named() {
        assert_eq!(told(&[]), None);
        let one = |name: &str, state: v1::CredentialState| v1::Credential {
            name: name.to_owned(),
            state: state.into(),
            ..v1::Credential::default()
        };
        let fine = told(&[one("acme", v1::CredentialState::Ok)]);
        assert_eq!(fine, Some(Finding::ok(CHECK, "1 stored, none is due")));
        let found = told(&[
            one("acme", v1::CredentialState::Overdue),
            one("git", v1::CredentialState::Expired),
        ]);
        let detail = found.expect("a finding").detail;
        assert_eq!(detail, "acme is overdue, git is expired");
    }
}
