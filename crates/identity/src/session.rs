//! Sessions: what a refresh token stands for.
//!
//! A refresh token is derived from its session's row and from a key that is not in the database: neither
//! gives one alone, and there is nothing to store, to hash or to clear away. The successor of a token can
//! be derived again, which is what whoever lost the answer with it needs.

use crate::{
    Password,
    agent::{seconds, time},
};
use aws_lc_rs::constant_time;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xylem_ids::{AgentId, ClientId, KeyId, Namespace, Scopes, SessionId};
use xylem_seal::{Fields, Mac, MacKey};

/// What every refresh token begins with, so that scanners recognise one.
pub const REFRESH_PREFIX: &str = "xyr_";
/// A session ends when it was not refreshed for so long,
pub(crate) const IDLE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// and in any case after so long.
pub(crate) const LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// For so long, whoever lost the answer to a refresh gets the same one again.
const GRACE: Duration = Duration::from_secs(10);
/// An id of 128 bits, as text.
const ID: usize = 22;

/// A session as it is stored. The seal covers everything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The namespace it works in.
    pub namespace: Namespace,
    /// Who signed in.
    pub agent: AgentId,
    /// With what.
    pub client: ClientId,
    /// What its refresh tokens are derived from, besides the key.
    pub salt: [u8; 32],
    /// The refresh token that is due; lower ones were used.
    pub generation: u32,
    /// When that one was made, to the millisecond.
    pub rotated_at: SystemTime,
    /// When somebody signed in.
    pub opened_at: SystemTime,
    /// When it ends if it is not refreshed.
    pub idle_until: SystemTime,
    /// When it ends in any case.
    pub ends_at: SystemTime,
    /// What it is narrowed to.
    pub scopes: Scopes,
    /// Whether a second factor was shown.
    pub second_factor: bool,
    /// The password it was opened with: another one ends it.
    pub password: KeyId,
    /// When it was ended.
    pub ended_at: Option<SystemTime>,
    /// The keyed seal over the rest.
    pub seal: Mac,
}

impl Session {
    pub(crate) fn fields(&self) -> Fields {
        let fields = Fields::new("session")
            .text(self.id.as_str())
            .text(self.namespace.as_str())
            .text(self.agent.as_str())
            .text(self.client.as_str())
            .bytes(&self.salt)
            .number(self.generation)
            .number(millis(self.rotated_at))
            .number(seconds(self.opened_at))
            .number(seconds(self.idle_until))
            .number(seconds(self.ends_at))
            .list(self.scopes.codes().unwrap_or(vec!["all"]).into_iter())
            .number(u32::from(self.second_factor))
            .text(self.password.as_str());
        time(fields, self.ended_at)
    }

    /// Whether it goes on, as long as its password is this one.
    pub(crate) fn is_open(&self, password: Option<&Password>, now: SystemTime) -> bool {
        self.ended_at.is_none()
            && now < self.ends_at
            && now < self.idle_until
            && password.is_some_and(|password| password.id == self.password)
    }

    /// The refresh token of the generation that is due.
    pub(crate) fn token(&self, key: &MacKey) -> SecretString {
        let mut bytes = self.generation.to_be_bytes().to_vec();
        bytes.extend(self.mac(key, self.generation).0);
        let rest = URL_SAFE_NO_PAD.encode(bytes);
        SecretString::from(format!("{REFRESH_PREFIX}{}{rest}", self.id))
    }

    fn mac(&self, key: &MacKey, generation: u32) -> Mac {
        let fields = Fields::new("refresh token")
            .text(self.namespace.as_str())
            .text(self.id.as_str())
            .text(self.client.as_str())
            .bytes(&self.salt)
            .number(generation);
        key.seal(&fields)
    }
}

/// A refresh token as somebody presents it: of the right form.
#[derive(Debug)]
pub(crate) struct PresentedRefresh {
    pub(crate) session: SessionId,
    generation: u32,
    mac: [u8; 32],
}

impl PresentedRefresh {
    pub(crate) fn parse(text: &SecretString) -> Option<Self> {
        let body = text.expose_secret().strip_prefix(REFRESH_PREFIX)?;
        let (id, rest) = body.split_at_checked(ID)?;
        let bytes = URL_SAFE_NO_PAD.decode(rest).ok()?;
        let (generation, mac) = bytes.split_at_checked(4)?;
        Some(Self {
            session: id.parse().ok()?,
            generation: u32::from_be_bytes(generation.try_into().ok()?),
            mac: mac.try_into().ok()?,
        })
    }
}

/// What a refresh token that is presented comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refresh {
    /// It is the one that is due: its successor is given out.
    Rotate,
    /// Its successor was given out a moment ago, was not used, and is given out again.
    Again,
    /// It was used before: somebody has a copy, and nobody knows who. The session ends.
    Reuse,
    /// Another client has it: the session ends.
    OtherClient,
    /// It is from later than the row: the row was put back. The session ends.
    RolledBack,
    /// It was never given out. The session is not touched, for anybody could end it.
    Forged,
}

/// Decides by the session's row. Whether the session is still open is not looked at.
pub(crate) fn decide(
    session: &Session,
    key: &MacKey,
    presented: &PresentedRefresh,
    client: &ClientId,
    now: SystemTime,
) -> Refresh {
    let mac = session.mac(key, presented.generation);
    if constant_time::verify_slices_are_equal(&mac.0, &presented.mac).is_err() {
        return Refresh::Forged;
    }
    if *client != session.client {
        return Refresh::OtherClient;
    }
    let before = presented.generation.checked_add(1) == Some(session.generation);
    // Of two refreshes at once, the later one asked before its predecessor was replaced; and the clock of
    // another instance may be behind.
    let apart = now.duration_since(session.rotated_at);
    let recent = apart.unwrap_or_else(|ahead| ahead.duration()) <= GRACE;
    match presented.generation.cmp(&session.generation) {
        std::cmp::Ordering::Greater => Refresh::RolledBack,
        std::cmp::Ordering::Equal => Refresh::Rotate,
        std::cmp::Ordering::Less if before && recent => Refresh::Again,
        std::cmp::Ordering::Less => Refresh::Reuse,
    }
}

pub(crate) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xylem_seal::SubKey;

    fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(millis)
    }

    fn key() -> MacKey {
        let secret = SubKey::from_secret(&[7; 32], "test").unwrap();
        secret.mac("refresh").unwrap()
    }

    fn session(generation: u32) -> Session {
        Session {
            id: xylem_seal::random_id().unwrap().parse().unwrap(),
            namespace: "default".parse().unwrap(),
            agent: "one".parse().unwrap(),
            client: "cli".parse().unwrap(),
            salt: [3; 32],
            generation,
            rotated_at: at(1_000_000),
            opened_at: at(0),
            idle_until: at(0) + IDLE,
            ends_at: at(0) + LIFE,
            scopes: Scopes::All,
            second_factor: false,
            password: "abc".parse().unwrap(),
            ended_at: None,
            seal: Mac([0; 32]),
        }
    }

    fn presented(session: &Session, generation: u32) -> PresentedRefresh {
        let token = Session {
            generation,
            ..session.clone()
        }
        .token(&key());
        PresentedRefresh::parse(&token).unwrap()
    }

    #[test]
    fn what_a_refresh_token_comes_to_is_the_table() {
        let current = session(5);
        let own: ClientId = "cli".parse().unwrap();
        let other: ClientId = "other".parse().unwrap();
        let cases: [(u32, &ClientId, i64, Refresh); _] = [
            (5, &own, 0, Refresh::Rotate),
            (5, &own, 1_000_000, Refresh::Rotate),
            (5, &own, -1_000_000, Refresh::Rotate),
            (5, &other, 0, Refresh::OtherClient),
            (4, &own, 0, Refresh::Again),
            (4, &own, 10_000, Refresh::Again),
            (4, &own, 10_001, Refresh::Reuse),
            (4, &own, -10_000, Refresh::Again),
            (4, &own, -10_001, Refresh::Reuse),
            (4, &other, 0, Refresh::OtherClient),
            (3, &own, 0, Refresh::Reuse),
            (0, &own, 10_001, Refresh::Reuse),
            (6, &own, 0, Refresh::RolledBack),
            (u32::MAX, &own, 0, Refresh::RolledBack),
        ];
        for (generation, client, later, expected) in cases {
            let token = presented(&current, generation);
            let now = at(1_000_000_u64.saturating_add_signed(later));
            let came_to = decide(&current, &key(), &token, client, now);
            assert_eq!(came_to, expected, "{generation} {client} {later}");
        }
    }

    #[test]
    fn a_token_of_another_session_or_key_is_forged() {
        let (one, two) = (session(1), session(1));
        let own: ClientId = "cli".parse().unwrap();
        let mut token = presented(&two, 1);
        let forged = |token: &PresentedRefresh, key: &MacKey| {
            decide(&one, key, token, &own, at(1_000_000)) == Refresh::Forged
        };
        assert!(forged(&token, &key()));
        token = presented(&one, 1);
        assert!(!forged(&token, &key()));
        let other = SubKey::from_secret(&[8; 32], "test").unwrap();
        assert!(forged(&token, &other.mac("refresh").unwrap()));
        token.generation = 2;
        assert!(forged(&token, &key()));
    }

    #[test]
    fn text_of_another_form_is_no_token() {
        let good = session(1).token(&key());
        let good = good.expose_secret();
        for bad in [
            "",
            "xyr_",
            &good[..good.len() - 1],
            &format!("{good}A"),
            &good[4..],
        ] {
            assert!(PresentedRefresh::parse(&SecretString::from(bad)).is_none());
        }
    }
}
