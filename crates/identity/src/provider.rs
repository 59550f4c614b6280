//! Identity providers: whose tokens are accepted, and what those must be.

use crate::Invalid;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};
use url::{Host, Url};
use xylem_ids::{AgentKind, Role, Roles};

/// What may be pinned: signatures by a key whose other half nobody here has.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// Claims that people can change, or that may be another person's tomorrow.
const UNSTABLE: [&str; 6] = [
    "email",
    "email_verified",
    "preferred_username",
    "upn",
    "nickname",
    "name",
];
/// The word for a token whose header names no type.
const ABSENT: &str = "absent";

/// What an identity provider is called here: the beginning of its agents' names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProviderName(String);

impl fmt::Display for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A provider as a configuration file names it. [`Provider::new`] looks at its rules.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderSettings {
    /// What it is called here, 1 to 20 characters of a-z, 0-9 and `-`.
    pub name: String,
    /// Its issuer, exactly as its tokens name it: an https URL.
    pub issuer: String,
    /// The audience that its tokens must be for.
    pub audience: String,
    /// The algorithms that its tokens may be signed with.
    pub algorithms: Vec<String>,
    /// The type that the header of its tokens must name; `absent` where it names none.
    #[serde(rename = "type", default = "access_token")]
    pub token_type: String,
    /// What kind of identity its subjects are.
    #[serde(default = "person")]
    pub kind: AgentKind,
    /// The claim whose values give roles: its name, or a JSON pointer to it.
    pub roles_claim: Option<String>,
    /// The roles that a value of that claim gives.
    #[serde(default)]
    pub roles: BTreeMap<String, Roles>,
    /// Whoever has none of these values.
    #[serde(default)]
    pub unmapped: Unmapped,
    /// Values of `amr` that say that a second factor was shown.
    #[serde(default)]
    pub second_factor: BTreeSet<String>,
}

/// What becomes of a subject to which no role is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmapped {
    /// It is refused.
    #[default]
    Refuse,
    /// It has the role `user`.
    User,
}

fn access_token() -> String {
    "at+jwt".to_owned()
}

fn person() -> AgentKind {
    AgentKind::User
}

/// An identity provider whose tokens are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    pub(crate) name: ProviderName,
    pub(crate) issuer: String,
    pub(crate) audience: String,
    pub(crate) algorithms: Vec<Algorithm>,
    /// In lower case, and without `application/`; none where the header has none.
    token_type: Option<String>,
    pub(crate) kind: AgentKind,
    claim: Option<Claim>,
    roles: BTreeMap<String, Roles>,
    unmapped: Roles,
    second_factor: BTreeSet<String>,
}

/// Where the values lie that give roles.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Claim {
    Name(String),
    Pointer(String),
}

impl Claim {
    /// The name of the claim itself.
    fn last(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Pointer(pointer) => pointer.rsplit('/').next().unwrap_or_default(),
        }
    }

    fn values<'c>(&self, claims: &'c Map<String, Value>) -> Vec<&'c str> {
        let found = match self {
            Self::Name(name) => claims.get(name),
            Self::Pointer(pointer) => {
                let mut parts = pointer.split('/').skip(1).map(unescaped);
                let first = parts.next().and_then(|part| claims.get(&part));
                parts.fold(first, |value, part| value?.get(part))
            }
        };
        match found {
            Some(Value::String(value)) => vec![value],
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }
}

/// One step of a JSON pointer (RFC 6901).
fn unescaped(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

impl Provider {
    /// The first that has the name or the issuer of one before it: which it is, and why it cannot be.
    #[must_use]
    pub fn alike(providers: &[Self]) -> Option<(usize, Invalid)> {
        let (mut names, mut issuers) = (BTreeSet::new(), BTreeSet::new());
        let mut each = providers.iter().enumerate();
        each.find_map(|(index, provider)| {
            let field = match provider {
                it if !names.insert(&it.name) => "name",
                it if !issuers.insert(&it.issuer) => "issuer",
                _ => return None,
            };
            Some((index, Invalid::new(field, "of one identity provider alone")))
        })
    }

    /// Looks at the rules of what a configuration says.
    ///
    /// # Errors
    /// A field breaks its rule; the error names both.
    pub fn new(given: ProviderSettings) -> Result<Self, Invalid> {
        let claim = given.roles_claim.map(claim).transpose()?;
        check_roles(claim.as_ref(), &given.roles, given.unmapped)?;
        check_issuer(&given.issuer)?;
        if !printable(&given.audience, 500) {
            return Err(Invalid::new("audience", "1 to 500 printable characters"));
        }
        let unmapped = match given.unmapped {
            Unmapped::Refuse => Roles::new(),
            Unmapped::User => Roles::from([Role::User]),
        };
        Ok(Self {
            name: name(given.name)?,
            issuer: given.issuer,
            audience: given.audience,
            algorithms: algorithms(&given.algorithms)?,
            token_type: token_type(&given.token_type)?,
            kind: given.kind,
            claim,
            roles: given.roles,
            unmapped,
            second_factor: given.second_factor,
        })
    }

    /// What it is called here.
    #[must_use]
    pub fn name(&self) -> &ProviderName {
        &self.name
    }

    /// Its issuer, as its tokens name it.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whether a token's header names the type that was pinned.
    pub(crate) fn is_type(&self, given: Option<&str>) -> bool {
        given.map(plain_type) == self.token_type
    }

    /// The roles that these claims give. A value that nobody mapped gives none.
    pub(crate) fn roles(&self, claims: &Map<String, Value>) -> Roles {
        let values = self.claim.iter().flat_map(|claim| claim.values(claims));
        let mapped = values.filter_map(|value| self.roles.get(value));
        let mapped: Roles = mapped.flatten().copied().collect();
        if mapped.is_empty() {
            self.unmapped.clone()
        } else {
            mapped
        }
    }

    /// Whether one of these ways to sign in counts as a second factor.
    pub(crate) fn is_second_factor(&self, ways: &[String]) -> bool {
        ways.iter().any(|way| self.second_factor.contains(way))
    }
}

fn name(text: String) -> Result<ProviderName, Invalid> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let kept = (1..=20).contains(&text.len()) && text.chars().all(allowed);
    if !kept || text.starts_with('-') {
        let rule = "1 to 20 characters of a-z, 0-9 and '-', not beginning with '-'";
        return Err(Invalid::new("name", rule));
    }
    Ok(ProviderName(text))
}

/// Without `https` the keys could come from anybody on the way.
fn check_issuer(text: &str) -> Result<(), Invalid> {
    let url = Url::parse(text).ok().filter(|url| {
        let local = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        let plain = url.username().is_empty() && url.password().is_none();
        let bare = url.query().is_none() && url.fragment().is_none();
        plain && bare && (url.scheme() == "https" || url.scheme() == "http" && local)
    });
    if url.is_none() || !printable(text, 500) {
        let rule = "the issuer of its tokens, an https URL without query and fragment";
        return Err(Invalid::new("issuer", rule));
    }
    Ok(())
}

fn algorithms(given: &[String]) -> Result<Vec<Algorithm>, Invalid> {
    let known = |text: &String| {
        let parsed = Algorithm::from_str(text).ok();
        parsed.filter(|algorithm| ALGORITHMS.contains(algorithm))
    };
    let algorithms: Option<Vec<_>> = given.iter().map(known).collect();
    let algorithms = algorithms.filter(|algorithms| !algorithms.is_empty());
    algorithms.ok_or(Invalid::new(
        "algorithms",
        "at least one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA",
    ))
}

fn token_type(text: &str) -> Result<Option<String>, Invalid> {
    if text == ABSENT {
        return Ok(None);
    }
    if !printable(text, 50) || text.contains(' ') {
        let rule = "the typ of its tokens' headers, such as at+jwt or JWT, or absent";
        return Err(Invalid::new("type", rule));
    }
    Ok(Some(plain_type(text)))
}

/// `application/` may be left out (RFC 7515, section 4.1.9).
fn plain_type(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    match text.strip_prefix("application/") {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

fn claim(text: String) -> Result<Claim, Invalid> {
    if !printable(&text, 200) {
        return Err(Invalid::new("roles_claim", "1 to 200 printable characters"));
    }
    let claim = if text.starts_with('/') {
        Claim::Pointer(text)
    } else {
        Claim::Name(text)
    };
    if UNSTABLE.contains(&claim.last()) {
        let rule = "a claim that the provider alone decides about, not a name or an address";
        return Err(Invalid::new("roles_claim", rule));
    }
    Ok(claim)
}

fn check_roles(
    claim: Option<&Claim>,
    roles: &BTreeMap<String, Roles>,
    unmapped: Unmapped,
) -> Result<(), Invalid> {
    if claim.is_none() != roles.is_empty() {
        let rule = "there where roles are mapped, and only there";
        return Err(Invalid::new("roles_claim", rule));
    }
    if roles.is_empty() && unmapped == Unmapped::Refuse {
        let rule = "mapped from at least one value, unless unmapped is \"user\"";
        return Err(Invalid::new("roles", rule));
    }
    let kept = |roles: &Roles| !roles.is_empty() && !roles.contains(&Role::Worker);
    if !roles.values().all(kept) {
        let rule = "at least one for each value, and not worker: workers have keys";
        return Err(Invalid::new("roles", rule));
    }
    Ok(())
}

fn printable(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn settings() -> ProviderSettings {
        ProviderSettings {
            name: "corp".to_owned(),
            issuer: "https://login.example/realms/main".to_owned(),
            audience: "xylem".to_owned(),
            algorithms: vec!["RS256".to_owned()],
            token_type: access_token(),
            kind: person(),
            roles_claim: Some("groups".to_owned()),
            roles: BTreeMap::from([
                ("deployers".to_owned(), [Role::User].into()),
                ("owners".to_owned(), [Role::Admin, Role::User].into()),
            ]),
            unmapped: Unmapped::Refuse,
            second_factor: BTreeSet::from(["mfa".to_owned()]),
        }
    }

    fn field(change: impl FnOnce(&mut ProviderSettings)) -> &'static str {
        let mut given = settings();
        change(&mut given);
        Provider::new(given).expect_err("a broken rule").field()
    }

    #[test]
    fn what_breaks_its_rule_is_named() {
        assert!(Provider::new(settings()).is_ok());
        for name in ["", "Corp", "-corp", "a.b", "aaaaaaaaaaaaaaaaaaaaa"] {
            assert_eq!(field(|given| given.name = name.to_owned()), "name");
        }
        for issuer in [
            "http://login.example",
            "login.example",
            "https://login.example?a=b",
            "https://login.example#a",
            "https://user@login.example",
            "ftp://localhost",
        ] {
            assert_eq!(field(|given| given.issuer = issuer.to_owned()), "issuer");
        }
        assert_eq!(field(|given| given.audience.clear()), "audience");
        for algorithm in ["none", "HS256", "HS512", "ES512", "rs256", ""] {
            let given = vec!["RS256".to_owned(), algorithm.to_owned()];
            assert_eq!(field(|old| old.algorithms = given), "algorithms");
        }
        assert_eq!(field(|given| given.algorithms.clear()), "algorithms");
        assert_eq!(field(|given| given.token_type.clear()), "type");
        for claim in ["email", "/user/email", "preferred_username", ""] {
            let given = Some(claim.to_owned());
            assert_eq!(field(|old| old.roles_claim = given), "roles_claim");
        }
        assert_eq!(field(|given| given.roles_claim = None), "roles_claim");
        let nobody = |given: &mut ProviderSettings| {
            given.roles_claim = None;
            given.roles.clear();
        };
        assert_eq!(field(nobody), "roles");
        let worker = [Role::Worker].into();
        let machine = |given: &mut ProviderSettings| given.roles.insert("ci".to_owned(), worker);
        assert_eq!(field(|given| drop(machine(given))), "roles");
    }

    #[test]
    fn only_what_was_mapped_gives_roles() {
        let provider = Provider::new(settings()).unwrap();
        let roles = |claims: Value| {
            let Value::Object(claims) = claims else {
                panic!("an object")
            };
            let roles: Vec<_> = provider.roles(&claims).into_iter().collect();
            roles
        };
        assert_eq!(roles(json!({"groups": ["deployers", 7]})), [Role::User]);
        assert_eq!(roles(json!({"groups": "deployers"})), [Role::User]);
        let both = json!({"groups": ["deployers", "owners"]});
        assert_eq!(roles(both), [Role::Admin, Role::User]);
        // A value is not a role because it is called like one.
        for other in [
            json!({"groups": ["admin", "Deployers", "deployers "]}),
            json!({"groups": {"deployers": true}}),
            json!({"groups": "deployers owners"}),
            json!({"roles": ["deployers"], "email": "deployers"}),
            json!({}),
        ] {
            assert_eq!(roles(other), []);
        }
    }

    #[test]
    fn a_claim_may_lie_deeper_and_others_may_be_users() {
        let mut given = settings();
        given.roles_claim = Some("/realm~1access/roles".to_owned());
        given.unmapped = Unmapped::User;
        let provider = Provider::new(given).unwrap();
        let claims = json!({"realm/access": {"roles": ["owners"]}, "roles": []});
        let roles = provider.roles(claims.as_object().unwrap());
        assert_eq!(roles, [Role::Admin, Role::User].into());
        assert_eq!(provider.roles(&Map::new()), [Role::User].into());
    }

    #[test]
    fn a_type_is_told_apart() {
        let is = |pinned: &str, given: Option<&str>| {
            let mut settings = settings();
            settings.token_type = pinned.to_owned();
            Provider::new(settings).unwrap().is_type(given)
        };
        for same in ["at+jwt", "AT+JWT", "application/at+jwt"] {
            assert!(is("at+jwt", Some(same)));
        }
        assert!(is("JWT", Some("jwt")) && is("absent", None));
        assert!(!is("at+jwt", Some("JWT")) && !is("at+jwt", None));
        assert!(!is("absent", Some("absent")) && !is("JWT", Some("at+jwt")));
    }
}
