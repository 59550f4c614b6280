//! The keys that the vault derives from its root secret, each used for one thing.

use crate::VaultError;
use xylem_ids::Fingerprint;
use xylem_seal::{Fields, Mac, MacKey, SubKey};

/// A room that keeps rows of its own sealed, or secrets of its own encrypted. Each gets another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Agents, their keys and sessions.
    Identity,
    /// Tools and their approvals.
    Registry,
    /// Policies, grants of access and limits.
    Policy,
}

impl Room {
    /// What the room's key is derived under. Another label is another key: what was sealed under
    /// the old one counts as edited.
    fn label(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Registry => "registry",
            Self::Policy => "policy",
        }
    }
}

pub(crate) struct Derived {
    seal: MacKey,
    fingerprint: MacKey,
    audit: SubKey,
    people: SubKey,
    rooms: SubKey,
}

impl Derived {
    pub(crate) fn from_root(root: &[u8]) -> Result<Self, VaultError> {
        let derive = |label: &str| SubKey::from_secret(root, label);
        Ok(Self {
            seal: derive("xylem row seal")?.into_mac(),
            fingerprint: derive("xylem token fingerprint")?.into_mac(),
            audit: derive("xylem audit mac")?,
            people: derive("xylem audit people")?,
            rooms: derive("xylem rooms")?,
        })
    }

    pub(crate) fn mac(&self, fields: &Fields) -> Mac {
        self.seal.seal(fields)
    }

    /// The first 64 bits of a keyed digest: enough to tell versions apart, useless for guessing.
    pub(crate) fn fingerprint(&self, token: &str) -> Result<Fingerprint, VaultError> {
        let Mac(tag) = self.fingerprint.tag(token.as_bytes());
        let short = tag.get(..8).ok_or(VaultError::Crypto)?;
        hex::encode(short).parse().map_err(|_| VaultError::Crypto)
    }

    pub(crate) fn audit(&self) -> &[u8; 32] {
        self.audit.bytes()
    }

    /// What keys of personal data in the audit log are wrapped under.
    pub(crate) fn people(&self) -> SubKey {
        self.people.clone()
    }

    pub(crate) fn room(&self, room: Room) -> Result<SubKey, VaultError> {
        Ok(self.rooms.derive(room.label())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_keyed() {
        let one = Derived::from_root(&[1; 32]).unwrap();
        let two = Derived::from_root(&[2; 32]).unwrap();
        assert_eq!(one.fingerprint("t").unwrap(), one.fingerprint("t").unwrap());
        assert_ne!(one.fingerprint("t").unwrap(), two.fingerprint("t").unwrap());
        assert_ne!(one.fingerprint("t").unwrap(), one.fingerprint("u").unwrap());
    }

    #[test]
    fn each_room_has_a_key_of_its_own() {
        let derived = Derived::from_root(&[1; 32]).unwrap();
        let key = |room| derived.room(room).unwrap();
        let [identity, registry, policy] = [Room::Identity, Room::Registry, Room::Policy].map(key);
        assert_ne!(identity.bytes(), registry.bytes());
        assert_ne!(registry.bytes(), policy.bytes());
        assert_ne!(policy.bytes(), identity.bytes());
    }
}
