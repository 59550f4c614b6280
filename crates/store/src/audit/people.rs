//! The keys of personal data. They are read for each transaction and never kept: what is destroyed on
//! one control plane is gone on all.

use super::{append::Book, unavailable};
use crate::{
    row::{Columns, seconds},
    sql::{Growing, Row, Work, statement},
};
use std::{collections::BTreeSet, time::SystemTime};
use xylem_audit::{ANONYMOUS_FORGOTTEN, Entry, LogError, People, Person};
use xylem_ids::{AgentId, Namespace};
use xylem_seal::Sealed;

/// People that one statement asks for.
const ASKED: usize = 500;

impl Book {
    /// The keys that entries are to be written under; whoever has none gets one.
    pub(super) async fn people_of(
        &self,
        work: &mut Work,
        entries: &[Entry],
        now: SystemTime,
    ) -> Result<People, LogError> {
        let wanted: BTreeSet<Person> = entries.iter().filter_map(Person::of).collect();
        let mut people = self.people(work, &wanted, Broken::Refused).await?;
        for person in wanted {
            if people.knows(&person) {
                continue;
            }
            let (key, wrapped) = self.scribe().new_person(&person)?;
            insert(work, &person, &wrapped, now)
                .await
                .map_err(unavailable)?;
            people.insert(person, Some(key));
        }
        Ok(people)
    }

    /// The keys that there are of them. One that is not what was written opens nothing.
    pub(super) async fn known_people(
        &self,
        work: &mut Work,
        wanted: &BTreeSet<Person>,
    ) -> Result<People, LogError> {
        self.people(work, wanted, Broken::PassedOver).await
    }

    async fn people(
        &self,
        work: &mut Work,
        wanted: &BTreeSet<Person>,
        broken: Broken,
    ) -> Result<People, LogError> {
        let mut people = People::default();
        let names: BTreeSet<&str> = wanted.iter().map(Person::name).collect();
        let names: Vec<&str> = names.into_iter().collect();
        for names in names.chunks(ASKED) {
            let rows = work.all(asked(names)).await.map_err(unavailable)?;
            for person in wanted {
                let is = |row: &&Row| is_of(row, person);
                let Some(row) = rows.iter().find(is) else {
                    continue;
                };
                let key = match sealed(row) {
                    None => None,
                    Some(sealed) => match (self.scribe().person(person, &sealed), broken) {
                        (Ok(key), _) => Some(key),
                        (Err(_), Broken::PassedOver) => None,
                        (Err(error), Broken::Refused) => return Err(error.into()),
                    },
                };
                people.insert(person.clone(), key);
            }
        }
        Ok(people)
    }

    /// Destroys the keys of those who were not authenticated, where what they left is old enough.
    pub(super) async fn forget_strangers(
        &self,
        work: &mut Work,
        now: SystemTime,
    ) -> Result<(), sqlx::Error> {
        let old = now.checked_sub(ANONYMOUS_FORGOTTEN);
        let query = statement(
            "UPDATE audit_people SET nonce = NULL, wrapped = NULL, erased_at = $1
             WHERE erased_at IS NULL AND made_at < $2 AND substr(person, 1, 10) = $3",
        )
        .bind(seconds(now))
        .bind(old.map_or(0, seconds))
        .bind(Person::ANONYMOUS);
        work.run(query).await.map(drop)
    }
}

/// What becomes of a key that is not what was written.
#[derive(Clone, Copy)]
enum Broken {
    Refused,
    PassedOver,
}

/// Destroys the key of an agent, and leaves word of it: it gets no other one.
pub(crate) async fn forget(
    work: &mut Work,
    namespace: &Namespace,
    agent: &AgentId,
    now: SystemTime,
) -> Result<(), sqlx::Error> {
    let person = Person::agent(namespace, agent);
    let query = statement(
        "INSERT INTO audit_people (namespace, person, made_at, erased_at) VALUES ($1, $2, $3, $3)
         ON CONFLICT (namespace, person) DO UPDATE
            SET nonce = NULL, wrapped = NULL, erased_at = excluded.erased_at",
    )
    .bind(person.namespace())
    .bind(person.name())
    .bind(seconds(now));
    work.run(query).await.map(drop)
}

fn asked(names: &[&str]) -> crate::sql::Statement {
    let mut query = Growing::new(
        "SELECT namespace, person, nonce, wrapped FROM audit_people WHERE person IN (",
    );
    for (at, name) in names.iter().enumerate() {
        if at > 0 {
            query.push(", ");
        }
        query.push_bind(*name);
    }
    query.push(")");
    query.done()
}

fn is_of(row: &Row, person: &Person) -> bool {
    let columns = Columns::new(row, "key of personal data");
    let is = |name, text: &str| columns.raw::<&str>(name).is_ok_and(|it| it == text);
    is("namespace", person.namespace()) && is("person", person.name())
}

/// The wrapped key; none where it was destroyed, or is no key.
fn sealed(row: &Row) -> Option<Sealed> {
    let columns = Columns::new(row, "key of personal data");
    Some(Sealed {
        nonce: columns.bytes("nonce").ok()?,
        ciphertext: columns.raw("wrapped").ok()?,
    })
}

async fn insert(
    work: &mut Work,
    person: &Person,
    wrapped: &Sealed,
    now: SystemTime,
) -> Result<(), sqlx::Error> {
    let query = statement(
        "INSERT INTO audit_people (namespace, person, nonce, wrapped, made_at)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(person.namespace())
    .bind(person.name())
    .bind(wrapped.nonce.as_slice())
    .bind(wrapped.ciphertext.clone())
    .bind(seconds(now));
    work.run(query).await.map(drop)
}
