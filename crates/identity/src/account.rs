//! Local accounts: who may have one, and its password.

use crate::{
    Agent, Identity, IdentityError, Invalid, Password, SecondFactor,
    agent::{check_name, seconds},
    guess::{Attempt, Lane},
};
use aws_lc_rs::constant_time;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xylem_audit::{Entry, SubjectKind};
use xylem_ids::{AgentId, AgentKind, Namespace, Role};
use xylem_seal::{CryptoError, Fields, Mac, random_id, random_key};

/// What every invitation begins with, so that scanners recognise one.
const INVITATION_PREFIX: &str = "xyi_";
/// How long an invitation is good.
const INVITATION_LIFE: Duration = Duration::from_secs(72 * 60 * 60);

/// What is known of an account.
#[derive(Debug, Clone)]
pub struct Account {
    /// The agent.
    pub agent: Agent,
    /// Its password, where it has one.
    pub password: Option<Password>,
    /// Its second factor, where it has one or is about to.
    pub factor: Option<SecondFactor>,
}

impl Account {
    /// Whether signing in takes a second factor.
    pub(crate) fn has_factor(&self) -> bool {
        let confirmed = |factor: &SecondFactor| factor.confirmed_at.is_some();
        self.factor.as_ref().is_some_and(confirmed)
    }
}

/// Somebody who wants an account.
#[derive(Debug)]
pub struct Registration {
    /// The name.
    pub name: AgentId,
    /// The password.
    pub password: SecretString,
    /// An invitation, without which only an open registration lets anybody in.
    pub invitation: Option<SecretString>,
    /// Where the call came from.
    pub address: Option<IpAddr>,
}

impl Identity {
    /// Makes an account: a new agent in the role `user` where registration is open, and the password of
    /// an agent that was invited.
    ///
    /// # Errors
    /// Registration is closed and the invitation is not good, the name is taken, the password is not a
    /// good one, or somebody registers too often from there.
    pub async fn register(
        &self,
        namespace: &Namespace,
        new: Registration,
        open: bool,
        entry: Entry,
    ) -> Result<Agent, IdentityError> {
        self.admit(&self.registering(new.address), entry.at).await?;
        match &new.invitation {
            Some(invitation) => self.accept(namespace, &new, invitation, entry).await,
            None if open => self.register_new(namespace, &new, entry).await,
            None => Err(IdentityError::RegistrationClosed),
        }
    }

    async fn register_new(
        &self,
        namespace: &Namespace,
        new: &Registration,
        mut entry: Entry,
    ) -> Result<Agent, IdentityError> {
        check_name(&new.name)?;
        let agent = self.secrets.seal_agent(Agent {
            namespace: namespace.clone(),
            id: new.name.clone(),
            kind: AgentKind::User,
            roles: [Role::User].into(),
            created_at: entry.at,
            created_by: None,
            federated: None,
            retired_at: None,
            seal: Mac([0; 32]),
        });
        let password = self.password(&agent, &new.password, false).await?;
        entry.agent = Some(agent.id.clone());
        let entry = entry.regarding(SubjectKind::Agent, &agent.id);
        let registered = self.storage.register(&agent, &password, &[entry]).await;
        registered.map_err(IdentityError::taken)?;
        Ok(agent)
    }

    async fn accept(
        &self,
        namespace: &Namespace,
        new: &Registration,
        invitation: &SecretString,
        mut entry: Entry,
    ) -> Result<Agent, IdentityError> {
        let hash = self
            .invitation(namespace, &new.name, invitation, entry.at)
            .ok_or(IdentityError::InvitationInvalid)?;
        let account = self.account(namespace, &new.name).await?;
        let account = account.ok_or(IdentityError::InvitationInvalid)?;
        check_person(&account.agent)?;
        let factor = account.has_factor();
        let password = self.password(&account.agent, &new.password, factor).await?;
        entry.agent = Some(new.name.clone());
        let entry = entry.regarding(SubjectKind::Agent, &new.name);
        self.storage
            .put_password(&password, &hash, &[entry])
            .await
            .map_err(|error| match error {
                crate::StorageError::Changed => IdentityError::InvitationInvalid,
                other => other.into(),
            })?;
        Ok(account.agent)
    }

    /// Invites an agent to choose a password, its first or another one: whoever has the answer can. It
    /// is good once, for three days, and replaces an earlier one.
    ///
    /// # Errors
    /// There is no such agent, or it is no person.
    pub async fn invite(
        &self,
        namespace: &Namespace,
        id: &AgentId,
        entry: Entry,
    ) -> Result<(SecretString, SystemTime), IdentityError> {
        let agent = self.agent(namespace, id).await?;
        check_person(&agent)?;
        let ends = entry.at + INVITATION_LIFE;
        let random = random_key()?;
        let mut bytes = seconds(ends).to_be_bytes().to_vec();
        bytes.extend(random.iter().take(16));
        let text = format!("{INVITATION_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        let code = SecretString::from(text);
        let hash = self.invitation_hash(namespace, id, &code);
        let entry = entry.regarding(SubjectKind::Agent, id);
        self.storage
            .put_invitation(namespace, id, &hash, ends, &[entry])
            .await?;
        Ok((code, ends))
    }

    /// Changes a password, for whoever knows the one before. Every session that was opened with that
    /// one ends.
    ///
    /// # Errors
    /// The present password is wrong, there is none, the new one is not a good one, or the present one
    /// was replaced or taken away meanwhile.
    pub async fn change_password(
        &self,
        namespace: &Namespace,
        id: &AgentId,
        present: &SecretString,
        new: &SecretString,
        address: Option<IpAddr>,
        entry: Entry,
    ) -> Result<(), IdentityError> {
        let account = self
            .prove(namespace, id, present, address, entry.at)
            .await?;
        let factor = account.has_factor();
        let password = self.password(&account.agent, new, factor).await?;
        let read = account.password.ok_or(IdentityError::PasswordWrong)?;
        let entries = [entry.regarding(SubjectKind::Agent, id)];
        let replaced = self.storage.replace_password(&read, &password, &entries);
        Ok(replaced.await?)
    }

    /// The account of this name, if its rows are what was written.
    pub(crate) async fn account(
        &self,
        namespace: &Namespace,
        id: &AgentId,
    ) -> Result<Option<Account>, IdentityError> {
        let Some(found) = self.storage.account(namespace, id).await? else {
            return Ok(None);
        };
        let agent = self.secrets.check_agent(found.agent)?;
        let password = found.password.map(|row| self.secrets.check_password(row));
        let password = password.transpose()?;
        let factor = found.factor.map(|row| self.secrets.check_factor(row));
        let factor = factor.transpose()?;
        Ok(Some(Account {
            agent,
            password,
            factor,
        }))
    }

    async fn password(
        &self,
        agent: &Agent,
        text: &SecretString,
        second_factor: bool,
    ) -> Result<Password, IdentityError> {
        let hashed = self.hasher.new_password(&agent.id, text, second_factor);
        let (hash, long) = hashed.await?;
        Ok(self.secrets.seal_password(Password {
            namespace: agent.namespace.clone(),
            agent: agent.id.clone(),
            id: random_id()?.parse().map_err(|_| CryptoError)?,
            hash,
            long,
            seal: Mac([0; 32]),
        }))
    }

    /// The hash of an invitation that is not over. That it was given out is for the storage to know.
    fn invitation(
        &self,
        namespace: &Namespace,
        id: &AgentId,
        code: &SecretString,
        now: SystemTime,
    ) -> Option<[u8; 32]> {
        let body = code.expose_secret().strip_prefix(INVITATION_PREFIX)?;
        let bytes = URL_SAFE_NO_PAD.decode(body).ok()?;
        let ends = bytes.first_chunk::<8>().filter(|_| bytes.len() == 24)?;
        let ends = Duration::from_secs(u64::from_be_bytes(*ends));
        (now < UNIX_EPOCH.checked_add(ends)?).then(|| self.invitation_hash(namespace, id, code))
    }

    fn invitation_hash(
        &self,
        namespace: &Namespace,
        id: &AgentId,
        code: &SecretString,
    ) -> [u8; 32] {
        let fields = Fields::new("invitation")
            .text(namespace.as_str())
            .text(id.as_str())
            .text(code.expose_secret());
        self.secrets.account.seal(&fields).0
    }

    /// Clears away what decides nothing any more, so that attempts of strangers do not fill a disk.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn tidy(&self, now: SystemTime) -> Result<(), IdentityError> {
        Ok(self.storage.tidy(now).await?)
    }

    /// Counts an attempt.
    ///
    /// # Errors
    /// It has to wait.
    pub(crate) async fn admit(
        &self,
        attempt: &Attempt,
        now: SystemTime,
    ) -> Result<(), IdentityError> {
        match self.storage.attempt(attempt, now).await? {
            Ok(()) => Ok(()),
            Err(wait) => Err(IdentityError::TooMany(Duration::from_secs(wait))),
        }
    }

    /// An attempt at a password. A device that signed in before is no stranger, and counted for itself.
    pub(crate) fn attempt(
        &self,
        namespace: &Namespace,
        name: &str,
        address: Option<IpAddr>,
        device: Option<[u8; 32]>,
    ) -> Attempt {
        let bucket = |what: &'static str, place: Option<&[u8]>| {
            let fields = Fields::new(what).text(namespace.as_str()).text(name);
            let fields = fields.bytes(place.unwrap_or_default());
            self.secrets.account.seal(&fields).0
        };
        if let Some(device) = device {
            return Attempt {
                lanes: vec![(Lane::Pair, bucket("device attempts", Some(&device)))],
                strangers: None,
                place: None,
            };
        }
        let source = network(address);
        Attempt {
            lanes: vec![
                (Lane::Pair, bucket("pair attempts", Some(&source))),
                self.source_lane(address),
            ],
            strangers: Some(bucket("strangers attempts", None)),
            place: Some(bucket("known place", Some(&source))),
        }
    }

    fn registering(&self, address: Option<IpAddr>) -> Attempt {
        Attempt {
            lanes: vec![self.source_lane(address)],
            strangers: None,
            place: None,
        }
    }

    fn source_lane(&self, address: Option<IpAddr>) -> (Lane, [u8; 32]) {
        let fields = Fields::new("source attempts").bytes(&network(address));
        (Lane::Source, self.secrets.account.seal(&fields).0)
    }

    /// What a device shows the next time, to be known: it names the account and nothing else.
    pub(crate) fn device_token(
        &self,
        namespace: &Namespace,
        id: &AgentId,
    ) -> Result<SecretString, CryptoError> {
        let random = random_key()?;
        let device = random.split_at(16).0;
        let mut bytes = device.to_vec();
        bytes.extend(self.device_mac(namespace, id, device).0);
        let text = URL_SAFE_NO_PAD.encode(bytes);
        Ok(SecretString::from(format!("{DEVICE_PREFIX}{text}")))
    }

    /// The device, if it signed in to this account before.
    pub(crate) fn device(
        &self,
        namespace: &Namespace,
        id: &AgentId,
        token: &str,
    ) -> Option<[u8; 32]> {
        let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix(DEVICE_PREFIX)?);
        let bytes = bytes.ok()?;
        let (device, mac) = bytes.split_at_checked(16)?;
        let expected = self.device_mac(namespace, id, device).0;
        let same = constant_time::verify_slices_are_equal(&expected, mac).is_ok();
        same.then_some(expected)
    }

    fn device_mac(&self, namespace: &Namespace, id: &AgentId, device: &[u8]) -> Mac {
        let fields = Fields::new("device")
            .text(namespace.as_str())
            .text(id.as_str())
            .bytes(device);
        self.secrets.account.seal(&fields)
    }
}

/// What every device token begins with.
const DEVICE_PREFIX: &str = "xyd_";

/// Only people have passwords.
fn check_person(agent: &Agent) -> Result<(), IdentityError> {
    if agent.retired_at.is_some() {
        return Err(IdentityError::Retired);
    }
    if agent.federated.is_some() {
        return Err(Invalid::new(
            "name",
            "that of an agent with an account here: others sign in at their identity provider",
        )
        .into());
    }
    if agent.kind != AgentKind::User {
        return Err(Invalid::new(
            "name",
            "that of an agent of the kind user: others have keys",
        )
        .into());
    }
    Ok(())
}

/// Where an address is: with IPv6, whoever has one has the network of 64 bits around it.
fn network(address: Option<IpAddr>) -> Vec<u8> {
    match address.map(|address| address.to_canonical()) {
        None => Vec::new(),
        Some(IpAddr::V4(address)) => address.octets().to_vec(),
        Some(IpAddr::V6(address)) => address.octets().split_at(8).0.to_vec(),
    }
}
