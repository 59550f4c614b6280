//! How a call carries its token.

use crate::{Invalid, Place, ToolDefinition};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use xylem_ids::{is_parameter_name, is_user_name, may_carry_parameter, may_carry_token};

/// How the token is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Auth {
    /// `Authorization: Bearer TOKEN` (RFC 6750).
    Bearer,
    /// The token alone in a header of this name.
    Header {
        /// The header; kept in lower case.
        name: String,
    },
    /// The token in the query, under this name.
    Query {
        /// The parameter; no other parameter of the query has it, in whatever case.
        name: String,
    },
    /// `Authorization: Basic …` (RFC 7617).
    Basic {
        /// The user, whose password the token is. Without one the token is `user:password`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        username: Option<String>,
    },
    /// A bearer token that the control plane obtains with OAuth 2.0 client credentials (RFC 6749,
    /// section 4.4) and keeps as a stored credential.
    ClientCredentials,
    /// Nothing: the API takes anybody.
    None,
}

impl Auth {
    /// Checks the names, and writes that of a header in lower case.
    pub(crate) fn checked(self) -> Result<Self, Invalid> {
        match self {
            Self::Header { name } if may_carry_token(&name) => Ok(Self::Header {
                name: name.to_ascii_lowercase(),
            }),
            Self::Header { .. } => Err(Invalid::new(
                "auth.name",
                "the name of a header, at most 100 characters of A-Z, a-z, 0-9, '-' and '_', that is not reserved for the request itself",
            )),
            Self::Query { name } if !is_parameter_name(&name) => Err(Invalid::new(
                "auth.name",
                "the name of a parameter, 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'",
            )),
            Self::Basic {
                username: Some(name),
            } if !is_user_name(&name) => Err(Invalid::new(
                "auth.username",
                "1 to 200 printable characters without ':'",
            )),
            auth => Ok(auth),
        }
    }

    /// The header that carries the token.
    pub(crate) fn header(&self) -> Option<&str> {
        match self {
            Self::Bearer | Self::Basic { .. } | Self::ClientCredentials => Some("authorization"),
            Self::Header { name } => Some(name),
            Self::Query { .. } | Self::None => None,
        }
    }
}

/// Whether the token comes from one place: a slot of the tree or a stored credential, or, where none is
/// sent, from nowhere.
pub(crate) fn check_source(definition: &ToolDefinition) -> Result<(), Invalid> {
    let (slot, credential) = (&definition.slot, &definition.credential);
    match definition.auth {
        Auth::None if slot.is_some() => Err(Invalid::new(
            "slot",
            "absent: a tool without authentication takes no token",
        )),
        Auth::None if credential.is_some() => Err(Invalid::new(
            "credential",
            "absent: a tool without authentication takes no token",
        )),
        Auth::ClientCredentials if credential.is_none() => Err(Invalid::new(
            "credential",
            "the stored credential whose token OAuth 2.0 obtains",
        )),
        Auth::None => Ok(()),
        _ if slot.is_some() && credential.is_some() => Err(Invalid::new(
            "credential",
            "absent where the token of a slot is sent: a tool has one of both",
        )),
        _ if slot.is_none() && credential.is_none() => Err(Invalid::new(
            "slot",
            "the slot whose token is sent, where there is no stored credential",
        )),
        _ => Ok(()),
    }
}

/// Whether every parameter that goes into a header or the query has its name for itself: reserved
/// headers and what carries the token are not for parameters, and names of headers that differ in
/// case are one.
pub(crate) fn check_apart(auth: &Auth, places: &BTreeMap<String, Place>) -> Result<(), Invalid> {
    let header = auth.header().map(str::to_ascii_lowercase);
    let mut taken: BTreeSet<String> = header.into_iter().collect();
    for (name, place) in places {
        if *place == Place::Header
            && !(may_carry_parameter(name) && taken.insert(name.to_ascii_lowercase()))
        {
            return Err(Invalid::new(
                "places",
                "header only for names that are not reserved, not the token's, and all different",
            ));
        }
        let of_token = matches!(auth, Auth::Query { name: of_token }
            if name.eq_ignore_ascii_case(of_token));
        if *place == Place::Query && of_token {
            return Err(Invalid::new(
                "places",
                "query only for names that are not the token's",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str) -> Auth {
        let name = name.to_owned();
        Auth::Query { name }
    }

    fn basic(name: &str) -> Auth {
        let username = Some(name.to_owned());
        Auth::Basic { username }
    }

    #[test]
    fn names_keep_their_rules() {
        for auth in [query("api_key"), basic("deploy@acme"), basic("Ünal")] {
            assert_eq!(auth.clone().checked(), Ok(auth));
        }
        let long = "x".repeat(201);
        for (auth, field) in [
            (query(""), "auth.name"),
            (query("a&b"), "auth.name"),
            (query("a b"), "auth.name"),
            (basic(""), "auth.username"),
            (basic("user:"), "auth.username"),
            (basic("line\nend"), "auth.username"),
            (basic(&long), "auth.username"),
        ] {
            assert_eq!(auth.checked().unwrap_err().field(), field);
        }
    }

    #[test]
    fn what_carries_the_token_is_not_for_parameters() {
        let at = |name: &str, place| BTreeMap::from([(name.to_owned(), place)]);
        assert!(check_apart(&query("key"), &at("Key", Place::Query)).is_err());
        assert!(check_apart(&query("key"), &at("key", Place::Body)).is_ok());
        assert!(check_apart(&query("key"), &at("key2", Place::Query)).is_ok());
        assert!(check_apart(&basic("u"), &at("Authorization", Place::Header)).is_err());
    }
}
