//! Deposits: set, rotate, take in, roll back. Each makes the slot's next version.

use crate::{
    ConfirmedClaims, CredentialMark, Refusal, RequestId, StartId, Transaction, TreeRow, Vault,
    VaultError, VersionInfo, VersionState, Worker, rows::token_place, storage::VersionRow,
};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use url::{Host, Url};
use xylem_audit::{Entry, Kind, Verdict};
use xylem_grant::{GRANT_PREFIX, UnixSeconds, VerifiedGrant};
use xylem_ids::{AgentId, Audience, Fingerprint, Order, Serial, Slot, TreeId, Version};

/// Shorter tokens are refused unless forced: redaction would hit ordinary words.
pub const MIN_TOKEN_BYTES: usize = 16;
/// Longer tokens are refused: they go into an HTTP header.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
const MAX_AUDIENCES: usize = 20;
const MAX_LIFETIME: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// Where a token may be sent: at least one place, each https, or http on a loopback host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audiences(Vec<Audience>);

impl Audiences {
    /// Checks a depositor's list; repetitions are dropped.
    ///
    /// # Errors
    /// The list is empty or long, or names a place that would get the token in the clear.
    pub fn new(mut audiences: Vec<Audience>) -> Result<Self, VaultError> {
        audiences.sort();
        audiences.dedup();
        if audiences.is_empty() || audiences.len() > MAX_AUDIENCES {
            return Err(invalid(
                "audiences",
                "1 to 20 places the token may be sent to",
            ));
        }
        if !audiences.iter().all(encrypted) {
            return Err(invalid("audiences", "https, or http on a loopback host"));
        }
        Ok(Self(audiences))
    }

    /// The list, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Audience] {
        &self.0
    }
}

fn encrypted(audience: &Audience) -> bool {
    encrypted_url(audience.origin().as_str())
}

/// Whether what is sent there cannot be read on the way.
pub(crate) fn encrypted_url(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else {
        return false;
    };
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || loopback
}

pub(crate) fn invalid(field: &'static str, rule: &'static str) -> VaultError {
    VaultError::Invalid { field, rule }
}

/// Which tree a deposit is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One whose root has not started.
    Start(StartId),
    /// One that runs.
    Tree(TreeId),
}

/// A token to deposit. Its `Debug` shows everything but the token.
#[derive(Debug)]
pub struct Deposit {
    /// The tree.
    pub target: Target,
    /// The slot.
    pub slot: Slot,
    /// The token: 16 bytes to 16 KiB of visible ASCII.
    pub token: SecretString,
    /// Where it may be sent.
    pub audiences: Audiences,
    /// How long its grant lives before it has to be re-issued.
    pub lifetime: Duration,
    /// Who deposits it.
    pub depositor: AgentId,
    /// The same when the same deposit is made again.
    pub request: RequestId,
    /// Take a token that is shorter than 16 bytes.
    pub accept_short: bool,
}

/// A raw token that came in through a signal. Its `Debug` shows everything but the token.
#[derive(Debug)]
pub struct TakeIn {
    /// The node that was signalled.
    pub claims: ConfirmedClaims,
    /// The worker it runs on.
    pub worker: Worker,
    /// The slot.
    pub slot: Slot,
    /// The token.
    pub token: SecretString,
    /// Where it may be sent: nobody said, so whoever runs the tree decides.
    pub audiences: Audiences,
    /// How long its grant lives.
    pub lifetime: Duration,
    /// The same when the same signal is taken in again.
    pub request: RequestId,
}

/// What became of a deposit.
#[derive(Debug, Clone)]
pub struct Deposited {
    /// Its place among the grants of its slot.
    pub order: Order,
    /// Where it is in its life. A token that was taken in while an authenticated one was active is
    /// superseded from the start.
    pub state: VersionState,
    /// The token's keyed digest.
    pub fingerprint: Fingerprint,
    /// When its grant expires.
    pub expires_at: UnixSeconds,
    /// The grant that is current now; absent while the tree is starting.
    pub grant: Option<VerifiedGrant>,
    /// Whether this request had been carried out before.
    pub repeated: bool,
}

/// The next version, before it has a number.
pub(crate) struct Next<'a> {
    pub(crate) slot: &'a Slot,
    pub(crate) token: &'a SecretString,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) audiences: Vec<Audience>,
    pub(crate) lifetime: Duration,
    pub(crate) exposed: bool,
    pub(crate) depositor: &'a AgentId,
    pub(crate) request: &'a RequestId,
    pub(crate) credential: Option<CredentialMark>,
}

impl Vault {
    /// Deposits a token as the slot's next version and makes it the active one; what was active is
    /// superseded at that moment. The same request is carried out once.
    ///
    /// # Errors
    /// A field breaks its rule, the tree is unknown or stopped, or the request id was used for
    /// something else.
    pub async fn deposit(&self, deposit: Deposit) -> Result<Deposited, VaultError> {
        check_token(&deposit.token, deposit.accept_short)?;
        let next = Next {
            slot: &deposit.slot,
            token: &deposit.token,
            fingerprint: self.derived.fingerprint(deposit.token.expose_secret())?,
            audiences: deposit.audiences.0.clone(),
            lifetime: check_lifetime(deposit.lifetime)?,
            exposed: false,
            depositor: &deposit.depositor,
            request: &deposit.request,
            credential: None,
        };
        let mut tx = self.begin().await?;
        let owner = self.target(&mut *tx, &deposit.target).await?;
        if let Some(known) = self.repeated(&mut *tx, &owner, &next).await? {
            return Ok(known);
        }
        let row = self.add_version(&mut *tx, &owner, next, true).await?;
        let entry = self.tree_entry(Kind::Deposit, &owner.tree, &deposit.depositor);
        tx.audit(&self.about(entry, &row.info)).await?;
        let deposited = self.deposited(row, None, false)?;
        tx.commit().await?;
        Ok(deposited)
    }

    /// Takes in a raw token that a node was signalled. It is marked exposed, and becomes active
    /// only where no token that was deposited with authentication is.
    ///
    /// # Errors
    /// Refused where the tree does not take in raw tokens; refusals are audited as exposures.
    pub async fn take_in(&self, intake: TakeIn) -> Result<Deposited, VaultError> {
        check_token(&intake.token, false)?;
        let mut tx = self.begin().await?;
        let taken = self.take_in_in(&mut *tx, &intake).await;
        match taken {
            Ok(deposited) => {
                tx.commit().await?;
                Ok(deposited)
            }
            Err(VaultError::Refused(refusal)) => {
                let mut entry = exposure(self, &intake, Verdict::Denied);
                entry = entry.because(refusal.code());
                tx.audit(&entry).await?;
                tx.commit().await?;
                Err(refusal.into())
            }
            Err(other) => Err(other),
        }
    }

    async fn take_in_in(
        &self,
        tx: &mut dyn Transaction,
        intake: &TakeIn,
    ) -> Result<Deposited, VaultError> {
        let owner = self
            .entitled_tree(tx, &intake.claims, &intake.worker)
            .await?;
        if !owner.tree.intake {
            return Err(Refusal::IntakeOff.into());
        }
        let next = Next {
            slot: &intake.slot,
            token: &intake.token,
            fingerprint: self.derived.fingerprint(intake.token.expose_secret())?,
            audiences: intake.audiences.0.clone(),
            lifetime: check_lifetime(intake.lifetime)?,
            exposed: true,
            depositor: &intake.worker.agent,
            request: &intake.request,
            credential: None,
        };
        if let Some(known) = self.repeated(tx, &owner, &next).await? {
            return Ok(known);
        }
        let active = self.active(tx, &owner.tree.start, &intake.slot).await?;
        let entry = exposure(self, intake, Verdict::Granted);
        if let Some(active) = active {
            if active.info.fingerprint == next.fingerprint {
                return self.exposed_again(tx, intake, active, entry).await;
            }
            if !active.info.exposed {
                let current = self.grant_of(&active)?;
                let row = self.add_version(tx, &owner, next, false).await?;
                tx.audit(&self.about(entry, &row.info)).await?;
                return self.deposited(row, Some(current), false);
            }
        }
        let row = self.add_version(tx, &owner, next, true).await?;
        tx.audit(&self.about(entry, &row.info)).await?;
        self.deposited(row, None, false)
    }

    /// The active token itself was signalled: it lies in a history from now on.
    async fn exposed_again(
        &self,
        tx: &mut dyn Transaction,
        intake: &TakeIn,
        active: VersionRow,
        entry: Entry,
    ) -> Result<Deposited, VaultError> {
        tx.audit(&self.about(entry, &active.info)).await?;
        let (start, slot) = (active.info.start.clone(), active.info.slot.clone());
        if !active.info.exposed {
            let by = &intake.worker.agent;
            self.mark_exposed(tx, intake.claims.tree(), active, by)
                .await?;
        }
        let row = self.active(tx, &start, &slot).await?;
        let row = row.ok_or(VaultError::NotFound {
            what: "active version in this slot",
        })?;
        self.deposited(row, None, true)
    }

    /// Deposits an earlier, unrevoked version again as the next one, without showing it. The same
    /// request is carried out once.
    ///
    /// # Errors
    /// The version is unknown or revoked, or the tree is stopped.
    pub async fn rollback(
        &self,
        tree: &TreeId,
        slot: &Slot,
        to: Version,
        lifetime: Duration,
        by: &AgentId,
        request: &RequestId,
    ) -> Result<Deposited, VaultError> {
        let lifetime = check_lifetime(lifetime)?;
        let mut tx = self.begin().await?;
        let owner = self.living_tree(&mut *tx, tree).await?;
        let earlier = self.version_in(&mut *tx, &owner, slot, to).await?;
        if earlier.info.state == VersionState::Revoked {
            return Err(VaultError::AlreadyRevoked(to));
        }
        let key = self.data_key(&mut *tx, &owner).await?;
        let token = self
            .open_token(&mut *tx, &key, &owner.tree, &earlier)
            .await?;
        let next = Next {
            slot,
            token: &token,
            fingerprint: earlier.info.fingerprint.clone(),
            audiences: earlier.info.audiences.clone(),
            lifetime,
            exposed: earlier.info.exposed,
            depositor: by,
            request,
            credential: earlier.info.credential.clone(),
        };
        if let Some(known) = self.repeated(&mut *tx, &owner, &next).await? {
            return Ok(known);
        }
        let row = self.add_version(&mut *tx, &owner, next, true).await?;
        let entry = self.tree_entry(Kind::Rollback, &owner.tree, by);
        tx.audit(&self.about(entry, &row.info)).await?;
        let deposited = self.deposited(row, None, false)?;
        tx.commit().await?;
        Ok(deposited)
    }

    pub(crate) async fn target(
        &self,
        tx: &mut dyn Transaction,
        target: &Target,
    ) -> Result<TreeRow, VaultError> {
        match target {
            Target::Tree(id) => self.living_tree(tx, id).await,
            Target::Start(start) => {
                let row = self.start_in(tx, start).await?;
                if row.data_key.is_some() {
                    Ok(row)
                } else {
                    Err(VaultError::Stopped)
                }
            }
        }
    }

    /// What the same request made before, if it did.
    pub(crate) async fn repeated(
        &self,
        tx: &mut dyn Transaction,
        owner: &TreeRow,
        next: &Next<'_>,
    ) -> Result<Option<Deposited>, VaultError> {
        let known = tx
            .version_by_request(&owner.tree.start, next.request)
            .await?;
        let Some(known) = known else {
            return Ok(None);
        };
        let known = self.derived.check_version(known)?;
        let same = known.info.slot == *next.slot
            && known.info.fingerprint == next.fingerprint
            && known.info.audiences == next.audiences;
        if !same {
            return Err(VaultError::RequestReused);
        }
        let active = self.active(tx, &owner.tree.start, next.slot).await?;
        let current = match active {
            Some(active) if active.info.grant.is_some() => Some(self.grant_of(&active)?),
            _ => None,
        };
        self.deposited(known, current, true).map(Some)
    }

    /// Writes the slot's next version. Where it is to be active, what was active is superseded.
    pub(crate) async fn add_version(
        &self,
        tx: &mut dyn Transaction,
        owner: &TreeRow,
        next: Next<'_>,
        active: bool,
    ) -> Result<VersionRow, VaultError> {
        let now = self.seconds();
        let mut info = VersionInfo {
            start: owner.tree.start.clone(),
            slot: next.slot.clone(),
            version: self.next_number(tx, &owner.tree.start, next.slot).await?,
            serial: Serial::FIRST,
            epoch: self.epoch_in(tx).await?,
            state: VersionState::Superseded,
            state_since: now,
            exposed: next.exposed,
            fingerprint: next.fingerprint,
            audiences: next.audiences,
            issued_at: now,
            expires_at: now.plus(next.lifetime),
            grant: None,
            issuer: None,
            depositor: next.depositor.clone(),
            deposited_at: now,
            request: next.request.clone(),
            credential: next.credential,
        };
        if active {
            self.supersede(tx, &info.start, &info.slot).await?;
            info.state = VersionState::Active;
            let issuers = self.issuers_in(tx).await?;
            match owner.tree.id() {
                Some(tree) => drop(issuers.sign(&tree, &mut info)?),
                None => issuers.check_size(owner, &info)?,
            }
        }
        let key = self.data_key(tx, owner).await?;
        let place = token_place(&owner.tree, &info, key.id());
        let secret = self.store_token(tx, &key, &place, next.token.expose_secret());
        let secret = secret.await?;
        let row = self.derived.seal_version(info, Some(secret));
        tx.put_version(&row).await?;
        Ok(row)
    }

    async fn next_number(
        &self,
        tx: &mut dyn Transaction,
        start: &StartId,
        slot: &Slot,
    ) -> Result<Version, VaultError> {
        let row = self.slot_in(tx, start, slot).await?;
        let number = row.last.checked_add(1).ok_or(VaultError::Exhausted)?;
        let row = self
            .derived
            .seal_slot(row.start, row.slot, number, row.exclusions);
        tx.put_slot(&row).await?;
        Ok(Version(number))
    }

    async fn supersede(
        &self,
        tx: &mut dyn Transaction,
        start: &StartId,
        slot: &Slot,
    ) -> Result<(), VaultError> {
        if let Some(mut old) = self.active(tx, start, slot).await? {
            old.info.state = VersionState::Superseded;
            old.info.state_since = self.seconds();
            let old = self.derived.seal_version(old.info, old.secret);
            tx.put_version(&old).await?;
        }
        Ok(())
    }

    pub(crate) fn deposited(
        &self,
        row: VersionRow,
        current: Option<VerifiedGrant>,
        repeated: bool,
    ) -> Result<Deposited, VaultError> {
        let grant = match (current, &row.info.grant) {
            (Some(current), _) => Some(current),
            (None, Some(_)) => Some(self.grant_of(&row)?),
            (None, None) => None,
        };
        Ok(Deposited {
            order: row.info.order(),
            state: row.info.state,
            fingerprint: row.info.fingerprint,
            expires_at: row.info.expires_at,
            grant,
            repeated,
        })
    }

    pub(crate) async fn active(
        &self,
        tx: &mut dyn Transaction,
        start: &StartId,
        slot: &Slot,
    ) -> Result<Option<VersionRow>, VaultError> {
        let row = tx.active_version(start, slot).await?;
        row.map(|row| self.derived.check_version(row)).transpose()
    }

    pub(crate) async fn version_in(
        &self,
        tx: &mut dyn Transaction,
        owner: &TreeRow,
        slot: &Slot,
        version: Version,
    ) -> Result<VersionRow, VaultError> {
        let row = tx.version(&owner.tree.start, slot, version).await?;
        self.derived
            .check_version(row.ok_or(VaultError::NotFound { what: "version" })?)
    }

    /// The same entry, about a version.
    pub(crate) fn about(&self, mut entry: Entry, info: &VersionInfo) -> Entry {
        entry.slot = Some(info.slot.clone());
        entry.order = Some(info.order());
        entry.fingerprint = Some(info.fingerprint.clone());
        entry
    }
}

fn exposure(vault: &Vault, intake: &TakeIn, verdict: Verdict) -> Entry {
    let claims = intake.claims.claims();
    let mut entry = vault
        .entry(Kind::Exposure, verdict, &intake.worker.agent)
        .of_tree(intake.claims.tree());
    entry.node = Some(claims.node_run());
    entry.activity = Some(claims.activity.clone());
    entry.slot = Some(intake.slot.clone());
    entry
}

fn check_lifetime(lifetime: Duration) -> Result<Duration, VaultError> {
    if lifetime.as_secs() == 0 || lifetime > MAX_LIFETIME {
        return Err(invalid("lifetime", "1 second to 10 years"));
    }
    Ok(lifetime)
}

pub(crate) fn check_token(token: &SecretString, accept_short: bool) -> Result<(), VaultError> {
    let text = token.expose_secret();
    if text.starts_with(GRANT_PREFIX) {
        return Err(invalid("token", "a token; this is a grant, which is none"));
    }
    if text.is_empty() || text.len() > MAX_TOKEN_BYTES {
        return Err(invalid("token", "1 to 16384 bytes long"));
    }
    if text.len() < MIN_TOKEN_BYTES && !accept_short {
        return Err(invalid(
            "token",
            "at least 16 bytes long: shorter ones cannot be redacted reliably, force it if you must",
        ));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(invalid(
            "token",
            "visible ASCII without spaces or line ends",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_keep_their_rules() {
        let check = |text: &str, short| check_token(&SecretString::from(text), short);
        assert!(check("0123456789abcdef", false).is_ok());
        assert!(check("tiny", true).is_ok());
        for bad in [
            "",
            "tiny",
            "xylem1.0123456789abcdef",
            "0123456789 abcdef",
            "0123456789abcdef\n",
            "0123456789abcdefä",
            &"x".repeat(MAX_TOKEN_BYTES + 1),
        ] {
            let error = check(bad, false).unwrap_err().to_string();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn audiences_are_named_and_encrypted() {
        let audiences =
            |list: &[&str]| Audiences::new(list.iter().map(|text| text.parse().unwrap()).collect());
        assert!(audiences(&["https://h/v1", "http://127.0.0.1:1", "http://localhost"]).is_ok());
        assert_eq!(
            audiences(&["https://h", "https://h"])
                .unwrap()
                .as_slice()
                .len(),
            1
        );
        assert!(audiences(&[]).is_err());
        assert!(audiences(&["http://api.acme.example"]).is_err());
        let many: Vec<String> = (0..21).map(|n| format!("https://h{n}")).collect();
        assert!(audiences(&many.iter().map(String::as_str).collect::<Vec<_>>()).is_err());
    }
}
