//! Who is calling: agents, and the API keys, passwords and access tokens they authenticate with.
//!
//! The rules live here; storage is declared as [`Storage`] and implemented in `store`. Everything
//! belongs to one Temporal namespace, and another one's is not found. What an agent and a key may do is
//! sealed, so that an edited row is noticed. Every change is one transaction with its audit entry.
//! Errors name the field and the rule and never quote what was put into it.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

mod access;
mod account;
mod agent;
mod error;
mod factor;
mod federated;
mod foreign;
mod guess;
mod guessable;
mod identity;
mod key;
mod password;
mod principal;
mod provider;
mod provider_keys;
mod second_factor;
mod secrets;
mod session;
mod sign_in;
mod signing;
mod standing;
mod storage;
mod tokens;

pub use access::ACCESS_LIFE;
pub use account::{Account, Registration};
pub use agent::{Agent, AgentChange, Datum, Fact, Federated, NewAgent, SYSTEM};
pub use error::{IdentityError, Invalid, Unauthenticated};
pub use factor::SecondFactor;
pub use guess::{Attempt, Counter, KNOWN_FOR, Lane};
pub use guessable::BlockList;
pub use identity::Identity;
pub use key::{ApiKey, IssuedKey, KEY_PREFIX, NewKey, PresentedKey};
pub use password::Password;
pub use principal::{Credential, Principal};
pub use provider::{Provider, ProviderName, ProviderSettings, Unmapped};
pub use provider_keys::{Documents, NotFetched, Published};
pub use second_factor::Enrolment;
pub use secrets::Secrets;
pub use session::{REFRESH_PREFIX, Session};
pub use sign_in::{FoundSession, SignIn, SignedIn};
pub use signing::{PublishedKey, SigningKeyRow};
pub use storage::{Confirmed, Storage, StorageError};
pub use tokens::{AccessToken, NextSigningKey, NoToken, RevokedToken};
