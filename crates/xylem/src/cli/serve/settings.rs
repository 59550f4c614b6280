//! The settings of `xylem server`: the options of the command, and of its file.
//!
//! The comment on each is its help, and stands above it in the file that `xylem server init` writes.

use super::TemporalArguments;
use crate::{
    cli::{agent, duration, failure::Failure},
    data::DataDir,
    server::{self, ArchiveConfig, BackupConfig, Database, ServerConfig, ServerError},
};
use ipnet::IpNet;
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use xylem_control::{Limits, Proxies, ProxyHeader, TlsFiles};
use xylem_ids::Origin;
use xylem_seal::EnvelopeKey;

/// How a control plane is run.
#[derive(Debug, clap::Args)]
pub(crate) struct Settings {
    #[command(flatten)]
    listening: Listening,
    /// Let anybody register, in the role user; without it by invitation only
    #[arg(long)]
    open_registration: bool,
    /// Whoever has this role, such as admin, and signs in without a second factor may only enrol one; can
    /// be repeated
    #[arg(long, value_enum, value_name = "ROLE")]
    second_factor_for: Vec<agent::Role>,
    /// A file with passwords that nobody may choose, one a line, besides what is tried first anyway
    #[arg(long, value_name = "FILE")]
    password_block_list: Option<PathBuf>,
    /// The file that the audit log's signed checkpoints are copied to; another volume than the
    /// database's is better [default: audit/checkpoints.jws in the data directory]
    #[arg(long, value_name = "FILE")]
    audit_checkpoints: Option<PathBuf>,
    /// A network of private addresses that OAuth 2.0 token endpoints, identity providers, or who receives
    /// alerts, may be at, such as 10.1.0.0/16; can be repeated
    #[arg(long = "private-network", value_name = "CIDR")]
    private_networks: Vec<IpNet>,
    /// Whose tokens are accepted besides those of this control plane, TOML; docs/identity.md has the fields
    #[arg(long, value_name = "FILE")]
    identity_providers: Option<PathBuf>,
    /// Files and commands that give the values of stored credentials, TOML, for its owner only;
    /// docs/credentials.md has the fields
    #[arg(long, value_name = "FILE")]
    credential_providers: Option<PathBuf>,
    /// What raises alerts and where they are sent, TOML; docs/alerts.md has the fields
    #[arg(long, value_name = "FILE")]
    alerts: Option<PathBuf>,
    /// Declare that one person operates this installation, who may approve their own tools and
    /// access requests; `xylem doctor` and the audit log say so
    #[arg(long, env = "XYLEM_SINGLE_OPERATOR")]
    single_operator: bool,
    #[command(flatten)]
    archive: ArchiveArguments,
    #[command(flatten)]
    backups: BackupArguments,
    #[command(flatten)]
    temporal: TemporalArguments,
}

/// Where old entries of the audit log go.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Audit archive")]
struct ArchiveArguments {
    /// The folder that old entries of the audit log are written to before they are dropped; without it
    /// all are kept. Several control planes share it, or one of them alone names it
    #[arg(long, value_name = "FOLDER")]
    audit_archive: Option<PathBuf>,
    /// How long entries are kept in the log, 7 days at least. A Temporal schedule, xylem-archive, looks
    /// every day
    #[arg(long, value_name = "DURATION", default_value = "400d", value_parser = audit_keep)]
    audit_keep: Duration,
}

impl ArchiveArguments {
    fn config(self) -> Option<ArchiveConfig> {
        Some(ArchiveConfig {
            folder: self.audit_archive?,
            keep: self.audit_keep,
        })
    }
}

/// Alerts are sent again for three days, out of the log.
fn audit_keep(text: &str) -> Result<Duration, String> {
    let keep = duration(text)?;
    if keep < Duration::from_secs(7 * 24 * 60 * 60) {
        return Err("expected 7d or more".to_owned());
    }
    Ok(keep)
}

/// Where backups go.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Backups")]
struct BackupArguments {
    /// The folder for backups of the database; none are made without it. Another disk is better
    #[arg(long, value_name = "FOLDER", requires = "backup_public_key")]
    backup_dir: Option<PathBuf>,
    /// The key that backups are sealed to: `xylem vault key` makes it
    #[arg(long, value_name = "KEY", requires = "backup_dir")]
    backup_public_key: Option<EnvelopeKey>,
    /// How often a backup is made. A Temporal schedule, xylem-backup, does it: once that is there, it
    /// is changed there
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    backup_every: Duration,
    /// How many backups are kept; older ones are deleted
    #[arg(long, value_name = "COUNT", default_value_t = 14, value_parser = clap::value_parser!(u16).range(1..))]
    backup_keep: u16,
}

impl BackupArguments {
    fn config(self) -> Option<BackupConfig> {
        Some(BackupConfig {
            folder: self.backup_dir?,
            key: self.backup_public_key?,
            every: self.backup_every,
            keep: self.backup_keep.into(),
        })
    }
}

/// How the control plane is reached.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Listener")]
struct Listening {
    /// Where to listen; beyond loopback only with a certificate
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7243")]
    listen: SocketAddr,
    /// The certificate and those between it and its CA, PEM; read again when it changes
    #[arg(long, value_name = "FILE", requires = "listen_key")]
    listen_cert: Option<PathBuf>,
    /// The key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "listen_cert")]
    listen_key: Option<PathBuf>,
    /// Refuse clients without a certificate of these CAs, PEM; an API key is required all the same
    #[arg(long, value_name = "FILE", requires = "listen_cert")]
    listen_client_ca: Option<PathBuf>,
    /// How clients reach it, where that is not the address it listens on; access tokens are issued
    /// under it, so that several control planes of one installation name the same
    #[arg(long, value_name = "URL")]
    public_url: Option<Origin>,
    /// A web page that may ask from within a browser, by its origin; can be repeated
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    cors_origins: Vec<Origin>,
    /// A network of proxies that are believed about where a request comes from, such as 10.0.0.0/24; can
    /// be repeated. Nobody else is believed
    #[arg(long = "trusted-proxy", value_name = "CIDR")]
    trusted_proxies: Vec<IpNet>,
    /// The header in which they say it; the other one is not looked at
    #[arg(long, value_enum, value_name = "HEADER", default_value_t)]
    proxy_header: Header,
    /// Requests a second that are taken from one address, or one /64 network with IPv6, and five
    /// seconds' worth of them at once; 0 is no limit
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().requests_per_address)]
    requests_per_address: u32,
    /// The same for one agent, over all its API keys and sessions; workers ask twice for each call of
    /// a tool
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().requests_per_agent)]
    requests_per_agent: u32,
    /// Connections at the same time; further ones wait
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().connections)]
    connections: usize,
    /// How many of them may come from one address that is no trusted proxy; further ones are refused
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().connections_per_address)]
    connections_per_address: usize,
}

/// The header in which proxies say where a request comes from.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Header {
    /// The one that nearly all proxies write
    #[default]
    XForwardedFor,
    /// That of RFC 7239
    Forwarded,
}

impl Listening {
    fn tls(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            certificate: self.listen_cert.clone()?,
            key: self.listen_key.clone()?,
            client_ca: self.listen_client_ca.clone(),
        })
    }

    fn proxies(&self) -> Proxies {
        Proxies {
            trusted: self.trusted_proxies.clone(),
            header: match self.proxy_header {
                Header::XForwardedFor => ProxyHeader::XForwardedFor,
                Header::Forwarded => ProxyHeader::Forwarded,
            },
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            requests_per_address: self.requests_per_address,
            requests_per_agent: self.requests_per_agent,
            connections: self.connections,
            connections_per_address: self.connections_per_address,
            ..Limits::default()
        }
    }
}

impl Settings {
    /// What they come to, with the files that they name.
    pub(super) fn config(self, data: DataDir) -> Result<ServerConfig, Failure> {
        let alerts = self.alerts.as_deref().map(server::alerts);
        let alerts = alerts.transpose().map_err(ServerError::from)?;
        let providers = self.identity_providers.as_deref();
        let providers = providers.map(server::identity_providers).transpose();
        let providers = providers.map_err(ServerError::from)?;
        let giving = self.credential_providers.as_deref();
        let giving = giving.map(server::credential_providers).transpose();
        let giving = giving.map_err(ServerError::from)?;
        let temporal = self.temporal.options()?;
        Ok(ServerConfig {
            database: Database::from_environment().map_err(ServerError::from)?,
            tls: self.listening.tls(),
            proxies: self.listening.proxies(),
            limits: self.listening.limits(),
            listen: vec![self.listening.listen],
            public_url: self.listening.public_url.map(|url| url.to_string()),
            cors_origins: self.listening.cors_origins,
            open_registration: self.open_registration,
            second_factor_for: self
                .second_factor_for
                .iter()
                .map(|role| role.id())
                .collect(),
            password_block_list: self.password_block_list,
            audit_checkpoints: self.audit_checkpoints,
            archive: self.archive.config(),
            backups: self.backups.config(),
            private_networks: self.private_networks,
            identity_providers: providers.unwrap_or_default(),
            credential_providers: giving.unwrap_or_default(),
            alerts: alerts.unwrap_or_default(),
            single_operator: self.single_operator,
            ..ServerConfig::new(data, temporal)
        })
    }

    /// The file that the audit log's checkpoints are copied to, and where Temporal is: what a restore has
    /// to know.
    pub(crate) fn for_restore(self) -> (Option<PathBuf>, TemporalArguments) {
        (self.audit_checkpoints, self.temporal)
    }

    /// Where Temporal is.
    pub(super) fn temporal(&self) -> &TemporalArguments {
        &self.temporal
    }
}
