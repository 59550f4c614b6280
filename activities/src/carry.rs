//! How a token gets into a request.

use crate::{
    redact::Redactor,
    tool::{Auth, header},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use xylem_ids::{is_parameter_name, is_user_name, may_carry_token};
use zeroize::Zeroizing;

/// The place of a tool's token in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// A header, behind this prefix.
    Header(HeaderName, &'static str),
    /// The query, under this name.
    Query(String),
    /// The header of basic authentication, for this user.
    Basic(Option<String>),
    /// Nowhere: there is none.
    None,
}

/// A token in the form in which a request takes it. Its `Debug` does not show it.
#[derive(Debug)]
pub(crate) enum Carried {
    /// A header.
    Header(HeaderName, HeaderValue),
    /// A parameter of the query.
    Query(String, SecretString),
    /// Nothing.
    Nothing,
}

impl Carrier {
    /// Checks how a definition sends its token.
    pub(crate) fn new(auth: &Auth) -> Result<Self, &'static str> {
        match auth {
            Auth::Bearer => Ok(Self::Header(http::header::AUTHORIZATION, "Bearer ")),
            Auth::Header(name) => header(name, may_carry_token)
                .map(|name| Self::Header(name, ""))
                .ok_or("the header that carries its token cannot be set"),
            Auth::Query(name) if is_parameter_name(name) => Ok(Self::Query(name.clone())),
            Auth::Query(_) => Err("the parameter that carries its token has no valid name"),
            Auth::Basic { username } if username.as_deref().is_none_or(is_user_name) => {
                Ok(Self::Basic(username.clone()))
            }
            Auth::None => Ok(Self::None),
            Auth::Basic { .. } => Err("its user has a name that cannot be sent"),
        }
    }

    /// The header that the token takes.
    pub(crate) fn header(&self) -> Option<HeaderName> {
        match self {
            Self::Header(name, _) => Some(name.clone()),
            Self::Basic(_) => Some(http::header::AUTHORIZATION),
            Self::Query(_) | Self::None => None,
        }
    }

    /// Whether the token goes into the query under this name, in whatever case.
    pub(crate) fn is_in_query(&self, parameter: &str) -> bool {
        matches!(self, Self::Query(name) if name.eq_ignore_ascii_case(parameter))
    }

    /// What a call carries that is given no token; none where it needs one.
    pub(crate) fn without_token(&self) -> Option<Carried> {
        matches!(self, Self::None).then_some(Carried::Nothing)
    }

    /// The token in its place; none where it does not fit there.
    pub(crate) fn carry(&self, token: &SecretString) -> Option<Carried> {
        let plain = token.expose_secret();
        let (name, text) = match self {
            Self::None => return Some(Carried::Nothing),
            Self::Query(name) => return Some(Carried::Query(name.clone(), token.clone())),
            Self::Header(name, prefix) => {
                (name.clone(), Zeroizing::new(format!("{prefix}{plain}")))
            }
            Self::Basic(user) => {
                let encoded = encoded(user.as_deref(), plain)?;
                let text = Zeroizing::new(format!("Basic {}", *encoded));
                (http::header::AUTHORIZATION, text)
            }
        };
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(Carried::Header(name, value))
    }

    /// What takes the token out of an answer. Of basic authentication it takes out what was sent as
    /// well, which an echo may encode once more, and the password alone where the token is both.
    pub(crate) fn redactor(&self, token: &SecretString) -> Redactor {
        let mut redactor = Redactor::new(token);
        let Self::Basic(user) = self else {
            return redactor;
        };
        let plain = token.expose_secret();
        if let Some(encoded) = encoded(user.as_deref(), plain) {
            redactor = redactor.and(&encoded);
        }
        match plain.split_once(':') {
            Some((_, password)) if user.is_none() => redactor.and(password),
            _ => redactor,
        }
    }
}

/// User and password as basic authentication writes them; none where they are not two.
fn encoded(user: Option<&str>, token: &str) -> Option<Zeroizing<String>> {
    let pair = Zeroizing::new(match user {
        Some(user) => format!("{user}:{token}"),
        None => token.to_owned(),
    });
    let fits = pair.contains(':') && !pair.chars().any(char::is_control);
    fits.then(|| Zeroizing::new(STANDARD.encode(pair.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: Option<&str>, token: &str) -> Option<String> {
        let username = user.map(str::to_owned);
        let carrier = Carrier::new(&Auth::Basic { username }).expect("a good definition");
        match carrier.carry(&SecretString::from(token))? {
            Carried::Header(name, value) => {
                assert_eq!(name, http::header::AUTHORIZATION);
                assert!(value.is_sensitive());
                Some(value.to_str().expect("ASCII").to_owned())
            }
            Carried::Query(..) | Carried::Nothing => None,
        }
    }

    #[test]
    fn basic_is_that_of_rfc_7617() {
        let expected = Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_owned());
        assert_eq!(basic(Some("Aladdin"), "open sesame"), expected);
        assert_eq!(basic(None, "Aladdin:open sesame"), expected);
        assert_eq!(basic(None, "no-user-in-it"), None);
        assert_eq!(basic(Some("u"), "line\nend"), None);
        let with_colon = Some("Basic dTphOmI=".to_owned());
        assert_eq!(basic(Some("u"), "a:b"), with_colon);
    }

    #[test]
    fn a_carried_token_is_not_shown() {
        let token = SecretString::from("canary-0123456789");
        for auth in [
            Auth::Bearer,
            Auth::Header("x-key".to_owned()),
            Auth::Query("key".to_owned()),
            Auth::Basic {
                username: Some("u".to_owned()),
            },
        ] {
            let carrier = Carrier::new(&auth).expect("a good definition");
            let shown = format!("{:?}", carrier.carry(&token).expect("it fits"));
            assert!(!shown.contains("canary"), "{shown}");
        }
    }

    #[test]
    fn a_password_is_taken_out_of_an_answer_by_itself() {
        let carrier = Carrier::Basic(None);
        let redactor = carrier.redactor(&SecretString::from("deploy:pass-word-1234"));
        assert_eq!(
            redactor.text("is pass-word-1234 yours?"),
            "is [redacted] yours?"
        );
    }
}
