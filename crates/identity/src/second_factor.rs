//! Second factors: enrolling one, showing it, and losing it.

use crate::{
    Account, Agent, Confirmed, Identity, IdentityError, Invalid, NoToken, Password, SecondFactor,
    factor::{RECOVERY_CODES, Secret, recovery_code, typed},
};
use secrecy::SecretString;
use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};
use xylem_audit::{Entry, Kind, SubjectKind};
use xylem_ids::{AgentId, Namespace};
use xylem_seal::{CryptoError, Fields, Mac, random_id};

/// How long the first code may take.
const PENDING: Duration = Duration::from_secs(15 * 60);

/// What a device needs to make codes. It is shown once.
#[derive(Debug)]
pub struct Enrolment {
    /// The secret in base32, for typing.
    pub secret: SecretString,
    /// The same as a URI, for scanning.
    pub uri: SecretString,
}

impl Identity {
    /// Begins to enrol a second factor, for whoever knows the password. It counts when the first code
    /// was shown, which may take a quarter of an hour.
    ///
    /// # Errors
    /// The password is wrong, or a second factor is enrolled already.
    pub async fn enrol_factor(
        &self,
        namespace: &Namespace,
        id: &AgentId,
        password: &SecretString,
        address: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Enrolment, IdentityError> {
        let account = self.prove(namespace, id, password, address, now).await?;
        if account.has_factor() {
            return Err(IdentityError::Exists {
                what: "a second factor of this agent",
            });
        }
        let secret = Secret::generate()?;
        let factor = self.secrets.seal_factor(SecondFactor {
            namespace: namespace.clone(),
            agent: id.clone(),
            sealed: secret.seal(&self.secrets.cipher, namespace, id)?,
            created_at: now,
            confirmed_at: None,
            seal: Mac([0; 32]),
        });
        self.storage.put_factor(&factor, None, &[]).await?;
        let text = secret.text();
        let uri = format!(
            "otpauth://totp/xylem:{id}?secret={}&issuer=xylem&algorithm=SHA1&digits=6&period=30",
            *text
        );
        Ok(Enrolment {
            secret: SecretString::from(text.as_str()),
            uri: SecretString::from(uri),
        })
    }

    /// Ends enrolling, with the first code. The answer are the recovery codes, each good once instead of
    /// a code; they are shown this once. Every session of before ends: none of them has shown a code.
    ///
    /// # Errors
    /// Nothing was begun, the code is wrong, or the password was replaced meanwhile.
    pub async fn confirm_factor(
        &self,
        namespace: &Namespace,
        id: &AgentId,
        code: &str,
        address: Option<IpAddr>,
        entry: Entry,
    ) -> Result<Vec<SecretString>, IdentityError> {
        let now = entry.at;
        let attempt = self.attempt(namespace, id.as_str(), address, None);
        self.admit(&attempt, now).await?;
        let account = self.account(namespace, id).await?;
        let pending = account.and_then(|account| account.factor.zip(account.password));
        let pending = pending.filter(|(factor, _)| {
            factor.confirmed_at.is_none() && now < factor.created_at + PENDING
        });
        let (mut factor, read) = pending.ok_or(IdentityError::NotFound {
            what: "second factor that is being enrolled",
        })?;
        let step = self.secret(&factor)?.step_of(&typed(code), now);
        let step = step.ok_or(IdentityError::CodeWrong)?;
        factor.confirmed_at = Some(now);
        let factor = self.secrets.seal_factor(factor);
        let (codes, hashes) = self.recovery_codes(namespace, id)?;
        let entry = entry.regarding(SubjectKind::Agent, id);
        let password = self.secrets.seal_password(Password {
            id: random_id()?.parse().map_err(|_| CryptoError)?,
            ..read.clone()
        });
        let confirmed = Confirmed {
            step,
            recovery: &hashes,
            read: &read,
            password: &password,
        };
        self.storage
            .put_factor(&factor, Some(confirmed), &[entry])
            .await?;
        Ok(codes)
    }

    /// Makes the recovery codes anew, for whoever knows the password and has the device: the ones before
    /// are good no more. A recovery code does not do, or one that was found would be good for ever.
    ///
    /// # Errors
    /// The password or the code is wrong, or there is no second factor.
    pub async fn renew_recovery_codes(
        &self,
        namespace: &Namespace,
        id: &AgentId,
        shown: (&SecretString, &str),
        address: Option<IpAddr>,
        entry: Entry,
    ) -> Result<Vec<SecretString>, IdentityError> {
        let (password, code) = shown;
        let now = entry.at;
        let account = self.prove(namespace, id, password, address, now).await?;
        let counts = account
            .factor
            .filter(|factor| factor.confirmed_at.is_some());
        let factor = counts.ok_or(IdentityError::NotFound {
            what: "second factor",
        })?;
        let step = self.secret(&factor)?.step_of(&typed(code), now);
        let step = step.ok_or(IdentityError::CodeWrong)?;
        let (codes, hashes) = self.recovery_codes(namespace, id)?;
        let entries = [entry.regarding(SubjectKind::Agent, id)];
        let renewed = self
            .storage
            .renew_recovery(namespace, id, step, &hashes, &entries);
        let fresh = renewed.await?;
        fresh.then_some(codes).ok_or(IdentityError::CodeWrong)
    }

    /// Fresh recovery codes, and what is kept of them.
    fn recovery_codes(
        &self,
        namespace: &Namespace,
        id: &AgentId,
    ) -> Result<(Vec<SecretString>, Vec<[u8; 32]>), IdentityError> {
        let codes = (0..RECOVERY_CODES).map(|_| {
            let code = recovery_code()?;
            let hash = self.recovery_hash(namespace, id, &code);
            Ok((SecretString::from(code.as_str()), hash))
        });
        let codes: Vec<_> = codes.collect::<Result<_, IdentityError>>()?;
        Ok(codes.into_iter().unzip())
    }

    /// Removes a second factor, for whoever shows it.
    ///
    /// # Errors
    /// There is none, the code is wrong, or the password is not long enough without it.
    pub async fn remove_factor(
        &self,
        namespace: &Namespace,
        id: &AgentId,
        code: &str,
        address: Option<IpAddr>,
        entry: Entry,
    ) -> Result<(), IdentityError> {
        let attempt = self.attempt(namespace, id.as_str(), address, None);
        self.admit(&attempt, entry.at).await?;
        let account = self.account(namespace, id).await?;
        let account = account.filter(Account::has_factor);
        let account = account.ok_or(IdentityError::NotFound {
            what: "second factor",
        })?;
        if account
            .password
            .as_ref()
            .is_some_and(|password| !password.long)
        {
            let rule = "at least 15 characters before the second factor can be removed";
            return Err(Invalid::new("password", rule).into());
        }
        if !self.show(&account, code, &entry).await? {
            return Err(IdentityError::CodeWrong);
        }
        self.drop_factor(namespace, id, false, entry).await
    }

    /// Takes a second factor from an agent that has lost it. Its sessions end, for its password is
    /// another one from then on: it has to be invited again.
    ///
    /// # Errors
    /// There is no such agent, or it has none.
    pub async fn reset_factor(
        &self,
        namespace: &Namespace,
        id: &AgentId,
        entry: Entry,
    ) -> Result<(), IdentityError> {
        let account = self.account(namespace, id).await?;
        let account = account.ok_or(IdentityError::NotFound { what: "agent" })?;
        if account.factor.is_none() {
            return Err(IdentityError::NotFound {
                what: "second factor",
            });
        }
        // Who lost the device may have lost the password with it.
        self.drop_factor(namespace, id, true, entry).await
    }

    async fn drop_factor(
        &self,
        namespace: &Namespace,
        id: &AgentId,
        with_password: bool,
        entry: Entry,
    ) -> Result<(), IdentityError> {
        let entries = [entry.regarding(SubjectKind::Agent, id)];
        let dropped = self
            .storage
            .drop_factor(namespace, id, with_password, &entries);
        Ok(dropped.await?)
    }

    /// Whether somebody who signs in showed the second factor; an error where it is enrolled and was
    /// not.
    pub(crate) async fn check_factor(
        &self,
        account: &Account,
        code: Option<&str>,
        entry: &Entry,
    ) -> Result<bool, NoToken> {
        if !account.has_factor() {
            // What is good enough beside a second factor is not without one, whatever became of that.
            let long = account.password.as_ref().is_some_and(|known| known.long);
            return long.then_some(false).ok_or(NoToken::Grant("factor_gone"));
        }
        let code = code.ok_or(NoToken::Grant("code_missing"))?;
        if self.show(account, code, entry).await? {
            Ok(true)
        } else {
            Err(NoToken::Grant("code_wrong"))
        }
    }

    /// Whether a code is good. It is used up, wherever it is shown next.
    async fn show(
        &self,
        account: &Account,
        code: &str,
        entry: &Entry,
    ) -> Result<bool, IdentityError> {
        let Some(factor) = &account.factor else {
            return Ok(false);
        };
        let (namespace, id) = (&factor.namespace, &factor.agent);
        if let Some(step) = self.secret(factor)?.step_of(&typed(code), entry.at) {
            return Ok(self.storage.use_step(namespace, id, step).await?);
        }
        let mut used = Entry::new(entry.at, Kind::RecoveryCodeUsed, entry.verdict).during(entry);
        used.namespace = Some(namespace.clone());
        used.agent = Some(id.clone());
        let used = [used.regarding(SubjectKind::Agent, id)];
        let hash = self.recovery_hash(namespace, id, code);
        let shown = self.storage.use_recovery(namespace, id, &hash, &used);
        Ok(shown.await?)
    }

    /// Whether this agent has to show a second factor for anything but enrolling one.
    pub(crate) fn needs_factor(&self, agent: &Agent) -> bool {
        !agent.roles.is_disjoint(&self.second_factor_for)
    }

    /// The account of whoever knows its password.
    pub(crate) async fn prove(
        &self,
        namespace: &Namespace,
        id: &AgentId,
        password: &SecretString,
        address: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Account, IdentityError> {
        let attempt = self.attempt(namespace, id.as_str(), address, None);
        self.admit(&attempt, now).await?;
        let account = self.account(namespace, id).await?;
        let account = account.ok_or(IdentityError::NotFound { what: "agent" })?;
        let known = account
            .password
            .as_ref()
            .map(|password| password.hash.clone());
        if !self.hasher.verify(password, known).await? {
            return Err(IdentityError::PasswordWrong);
        }
        Ok(account)
    }

    fn secret(&self, factor: &SecondFactor) -> Result<Secret, IdentityError> {
        let tampered = || IdentityError::tampered("second factor", &factor.agent);
        Secret::open(&self.secrets.cipher, factor)?.ok_or_else(tampered)
    }

    fn recovery_hash(&self, namespace: &Namespace, id: &AgentId, code: &str) -> [u8; 32] {
        let fields = Fields::new("recovery code")
            .text(namespace.as_str())
            .text(id.as_str())
            .text(&typed(code));
        self.secrets.account.seal(&fields).0
    }
}
