//! Personal data in entries: under a key of whoever it is about, so that it can be erased.
//!
//! ```text
//! {"per":[whose, base64url(nonce || ciphertext)]}
//! ```
//!
//! AES-256-GCM over address and note, bound to the log, the entry's place and the person. The chain
//! covers the ciphertext: what is destroyed with the key is what it says, not that it was there.

use crate::{
    ChainError, ChainId, Entry, Note, Record, Scribe,
    body::{Unreadable, milliseconds},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime},
};
use xylem_ids::{AgentId, Namespace};
use xylem_seal::{CipherKey, Fields, Sealed};
use zeroize::Zeroizing;

const NONCE: usize = 12;
const UNREADABLE: Unreadable = Unreadable("personal part");
/// Those who were not authenticated share a key for so long.
const ANONYMOUS: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// So long after it was made, the key of those who were not authenticated is destroyed: what they
/// left is at least 90 days old then.
pub const ANONYMOUS_FORGOTTEN: Duration = Duration::from_secs(120 * 24 * 60 * 60);

/// Whose personal data an entry holds: that of the agent that it names, or of all who were not
/// authenticated within the same 30 days.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Person {
    namespace: String,
    name: String,
}

impl Person {
    /// What the names of those begin with who were not authenticated.
    pub const ANONYMOUS: &'static str = "anonymous:";

    /// An agent.
    #[must_use]
    pub fn agent(namespace: &Namespace, agent: &AgentId) -> Self {
        Self {
            namespace: namespace.to_string(),
            name: format!("agent:{agent}"),
        }
    }

    /// Whose an entry is; `None` where nothing in it is personal.
    #[must_use]
    pub fn of(entry: &Entry) -> Option<Self> {
        if entry.address.is_none() && entry.note.is_none() {
            return None;
        }
        let name = match &entry.agent {
            Some(agent) => format!("agent:{agent}"),
            None => format!("{}{}", Self::ANONYMOUS, period(entry.at)),
        };
        Some(Self::named(entry, name))
    }

    fn named(entry: &Entry, name: String) -> Self {
        let namespace = entry.namespace.as_ref();
        Self {
            namespace: namespace.map(ToString::to_string).unwrap_or_default(),
            name,
        }
    }

    /// The namespace; empty where the entry has none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Who, within it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, label: &'static str) -> Fields {
        Fields::new(label).text(&self.namespace).text(&self.name)
    }
}

fn period(at: SystemTime) -> u64 {
    let length = u64::try_from(ANONYMOUS.as_millis()).unwrap_or(u64::MAX);
    milliseconds(at).checked_div(length).unwrap_or_default()
}

/// Keys of people, as far as they are needed; of some it is known that their key was destroyed.
#[derive(Debug, Default)]
pub struct People(BTreeMap<Person, Option<CipherKey>>);

impl People {
    /// Adds somebody's key, or that it was destroyed.
    pub fn insert(&mut self, person: Person, key: Option<CipherKey>) {
        self.0.insert(person, key);
    }

    /// Whether it is known what became of somebody's key.
    #[must_use]
    pub fn knows(&self, person: &Person) -> bool {
        self.0.contains_key(person)
    }

    /// What an entry at this place holds instead of its personal data. Of somebody who was erased it
    /// holds none.
    pub(crate) fn hide(
        &self,
        chain: &ChainId,
        seq: u64,
        person: &Person,
        entry: &Entry,
    ) -> Result<(String, String), ChainError> {
        let key = self.0.get(person).ok_or(ChainError::Person)?;
        let Some(key) = key else {
            return Ok((person.name.clone(), String::new()));
        };
        let personal = Personal {
            addr: entry.address,
            note: entry.note.as_ref().map(|note| note.as_str().to_owned()),
        };
        let plain = serde_json::to_vec(&personal).map_err(ChainError::Text)?;
        let plain = Zeroizing::new(plain);
        let sealed = key.seal(&place(chain, seq, person), &plain);
        let sealed = sealed.map_err(|_| ChainError::Crypto)?;
        let mut bytes = sealed.nonce.to_vec();
        bytes.extend(sealed.ciphertext);
        Ok((person.name.clone(), URL_SAFE_NO_PAD.encode(bytes)))
    }
}

/// What is personal about an entry, while it is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden {
    chain: ChainId,
    seq: u64,
    person: Person,
    /// Absent where it was written after the key was destroyed.
    sealed: Option<Sealed>,
}

impl Hidden {
    pub(crate) fn read(
        chain: &ChainId,
        seq: u64,
        entry: &Entry,
        (name, sealed): (String, String),
    ) -> Result<Self, Unreadable> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| UNREADABLE)?;
        let sealed = match bytes.split_first_chunk::<NONCE>() {
            Some((nonce, ciphertext)) => Some(Sealed {
                nonce: *nonce,
                ciphertext: ciphertext.to_vec(),
            }),
            None if bytes.is_empty() => None,
            None => return Err(UNREADABLE),
        };
        Ok(Self {
            chain: *chain,
            seq,
            person: Person::named(entry, name),
            sealed,
        })
    }

    /// Whose key reveals it.
    #[must_use]
    pub fn person(&self) -> &Person {
        &self.person
    }

    /// Adds it to the record that it was read with; or that it was erased, where there is no key any
    /// more that opens it.
    pub fn reveal(&self, people: &People, record: &mut Record) {
        match self.open(people) {
            Some(personal) => {
                record.entry.address = personal.addr;
                record.entry.note = personal.note.and_then(|note| Note::new(&note));
            }
            None => record.erased = true,
        }
    }

    fn open(&self, people: &People) -> Option<Personal> {
        let key = people.0.get(&self.person)?.as_ref()?;
        let place = place(&self.chain, self.seq, &self.person);
        let plain = key.open(&place, self.sealed.as_ref()?).ok()??;
        serde_json::from_slice(&plain).ok()
    }
}

#[derive(Serialize, Deserialize)]
struct Personal {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    addr: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// What the ciphertext is bound to: elsewhere it does not open.
fn place(chain: &ChainId, seq: u64, person: &Person) -> Fields {
    let fields = person.fields("personal part of an audit entry");
    fields.bytes(&chain.0).number(seq)
}

impl Scribe {
    /// A fresh key for somebody, and as it is to be stored.
    ///
    /// # Errors
    /// The random source or the cipher failed.
    pub fn new_person(&self, person: &Person) -> Result<(CipherKey, Sealed), ChainError> {
        let key = CipherKey::generate().map_err(|_| ChainError::Crypto)?;
        let place = person.fields("key of an audit person");
        let wrapped = self.keys.people().seal(&place, key.bytes());
        Ok((key, wrapped.map_err(|_| ChainError::Crypto)?))
    }

    /// Somebody's stored key.
    ///
    /// # Errors
    /// It is not what was written.
    pub fn person(&self, person: &Person, wrapped: &Sealed) -> Result<CipherKey, ChainError> {
        let place = person.fields("key of an audit person");
        let plain = self.keys.people().open(&place, wrapped);
        let plain = plain.map_err(|_| ChainError::Crypto)?;
        let plain = plain.ok_or(ChainError::Person)?;
        let mut key = Zeroizing::new([0; 32]);
        if plain.len() != key.len() {
            return Err(ChainError::Person);
        }
        key.copy_from_slice(&plain);
        let id = "audit-person".parse().map_err(|_| ChainError::Crypto)?;
        Ok(CipherKey::new(id, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Index, Line,
        testing::{Stored, at, bare, full},
    };

    /// A log with what somebody did and two entries of nobody, and everybody's keys.
    fn told() -> (Stored, People) {
        let mut stored = Stored::with(3);
        let mut anonymous = bare(5);
        anonymous.address = Some("2001:db8::7".parse().unwrap());
        let entries = [full(), bare(4), anonymous];
        let mut people = People::default();
        for person in entries.iter().filter_map(Person::of) {
            let (key, wrapped) = stored.scribe.new_person(&person).unwrap();
            let again = stored.scribe.person(&person, &wrapped).unwrap();
            assert_eq!(again.bytes(), key.bytes());
            people.insert(person, Some(again));
        }
        let written = stored.scribe.write(&stored.head, &entries, &people, at(5));
        let written = written.unwrap();
        stored.head = written.head;
        stored.lines.extend(written.lines);
        (stored, people)
    }

    fn read(stored: &Stored, (line, index): &(Line, Index), people: &People) -> Record {
        let read = stored.scribe.read(&stored.head.chain, line, index);
        let (mut record, hidden) = read.unwrap();
        if let Some(hidden) = hidden {
            hidden.reveal(people, &mut record);
        }
        record
    }

    #[test]
    fn personal_parts_read_back_with_their_key_alone() {
        let (stored, mut people) = told();
        let person = Person::of(&full()).unwrap();
        for (line, _) in &stored.lines {
            assert!(!line.body.contains("192.0.2.7"), "{}", line.body);
            assert!(!line.body.contains("leaked"), "{}", line.body);
            assert!(!line.body.contains("2001:db8"), "{}", line.body);
        }
        assert_eq!(read(&stored, &stored.lines[3], &people).entry, full());
        let anonymous = read(&stored, &stored.lines[5], &people);
        assert!(anonymous.entry.address.is_some() && !anonymous.erased);

        people.insert(person, None);
        let erased = read(&stored, &stored.lines[3], &people);
        assert!(erased.erased);
        let mut rest = full();
        (rest.address, rest.note) = (None, None);
        assert_eq!(erased.entry, rest, "everything else is there");
        assert!(!read(&stored, &stored.lines[4], &people).erased);
    }

    #[test]
    fn a_moved_ciphertext_does_not_open() {
        let (stored, people) = told();
        let (line, index) = &stored.lines[3];
        let read = stored.scribe.read(&stored.head.chain, line, index);
        let (record, hidden) = read.unwrap();
        let hidden = hidden.unwrap();
        for change in [
            (|hidden| hidden.seq += 1) as fn(&mut Hidden),
            |hidden| hidden.chain.0[0] ^= 1,
            |hidden| hidden.person.namespace.push('x'),
            |hidden| hidden.sealed.as_mut().unwrap().nonce[0] ^= 1,
        ] {
            let (mut moved, mut record) = (hidden.clone(), record.clone());
            change(&mut moved);
            moved.reveal(&people, &mut record);
            assert!(record.erased && record.entry.address.is_none());
        }
        let other = Person::agent(&"default".parse().unwrap(), &"other".parse().unwrap());
        let (_, wrapped) = stored.scribe.new_person(&other).unwrap();
        let stolen = stored.scribe.person(hidden.person(), &wrapped);
        assert!(matches!(stolen, Err(ChainError::Person)));
    }

    #[test]
    fn nothing_personal_is_written_in_the_clear_or_after_its_end() {
        let stored = Stored::with(1);
        let write = |people: &People| stored.scribe.write(&stored.head, &[full()], people, at(2));
        let refused = write(&People::default());
        assert!(matches!(refused, Err(ChainError::Person)));
        let mut people = People::default();
        people.insert(Person::of(&full()).unwrap(), None);
        let written = write(&people).unwrap();
        let record = read(&stored, &written.lines[0], &people);
        assert!(record.erased && record.entry.note.is_none());
    }

    #[test]
    fn whoever_is_not_known_shares_a_key_for_a_month() {
        let mut entry = bare(0);
        assert_eq!(Person::of(&entry), None);
        entry.address = Some("192.0.2.7".parse().unwrap());
        let first = Person::of(&entry).unwrap();
        entry.at += ANONYMOUS - Duration::from_secs(1);
        assert_eq!(Person::of(&entry), Some(first.clone()));
        entry.at += Duration::from_secs(1);
        assert_ne!(Person::of(&entry), Some(first));
    }
}
