//! Staying signed in: what `xylem login` leaves on this machine, and getting the next access token.
//!
//! One file for each control plane, for its owner alone. It is locked while it is used, so that two
//! commands at once do not refresh twice.

use crate::{
    data::{self, DataError},
    trust::Trust,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::{
    env,
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use url::form_urlencoded;
use xylem_client::ConnectError;
use zeroize::Zeroizing;

/// An access token that ends this soon is not used any more.
const SOON: Duration = Duration::from_secs(60);
/// How long signing in may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long a refresh may take. Whoever lost the answer gets the same one again for ten seconds, and is taken
/// for a thief later: asked twice, both are within those.
const REFRESH_PATIENCE: Duration = Duration::from_secs(4);
/// Answers are far smaller.
const LARGEST: u64 = 64 * 1024;

/// Why nobody is signed in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignInError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Address(#[from] ConnectError),
    #[error("the control plane does not answer")]
    Unreachable(#[source] reqwest::Error),
    #[error("the control plane's answer cannot be understood")]
    Unintelligible,
    /// What the control plane says about it.
    #[error("{0}")]
    Refused(String),
    /// The name, the password, the code or the session.
    #[error("{0}")]
    NotValid(String),
}

/// What the file holds.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    /// Names this installation.
    client: String,
    /// Who is signed in, and makes this device known to whom.
    agent: String,
    device_token: Option<String>,
    refresh_token: Option<String>,
    access_token: Option<String>,
    /// In seconds since 1970.
    access_until: u64,
}

impl Drop for Kept {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.device_token.zeroize();
        self.refresh_token.zeroize();
        self.access_token.zeroize();
    }
}

/// The place of one control plane, locked until this is dropped.
pub(crate) struct Place {
    address: String,
    file: File,
    path: PathBuf,
    kept: Kept,
}

/// What `POST /token` answers with.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: u64,
    refresh_token: Option<String>,
    device_token: Option<String>,
    scope: Option<String>,
}

/// What it answers with otherwise.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    error_description: Option<String>,
}

impl Place {
    /// Whether somebody may be signed in at a control plane: whether there is a file.
    pub(crate) fn exists(address: &str) -> bool {
        path(address).is_ok_and(|path| path.exists())
    }

    /// Opens and locks the file; makes it where there is none.
    pub(crate) fn open(address: &str) -> Result<Self, SignInError> {
        let path = path(address)?;
        let opened = || {
            if let Some(folder) = path.parent() {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(folder)?;
            }
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            file.lock()?;
            let mut text = Zeroizing::new(String::new());
            (&mut file).take(LARGEST).read_to_string(&mut text)?;
            io::Result::Ok((file, text))
        };
        let opened = opened();
        let (file, text) = opened.map_err(|source| DataError::io("open", &path, source))?;
        if !data::is_private(&path).unwrap_or(false) {
            let what = "can be read by others: delete it and sign in again";
            return Err(DataError::Content { path, what }.into());
        }
        // A file that is damaged holds nobody: signing in writes it anew.
        let kept = serde_json::from_str(&text).unwrap_or_default();
        Ok(Self {
            address: address.to_owned(),
            file,
            path,
            kept,
        })
    }

    /// Signs in, and remembers it. Says whether nothing can be done before a second factor is enrolled.
    pub(crate) async fn sign_in(
        &mut self,
        trust: &Trust,
        name: &str,
        password: &SecretString,
        code: Option<&SecretString>,
    ) -> Result<bool, SignInError> {
        if self.kept.client.is_empty() {
            self.kept.client = format!("xylem-cli-{}", uuid::Uuid::new_v4().simple());
        }
        if self.kept.agent != name {
            self.kept.device_token = None;
        }
        name.clone_into(&mut self.kept.agent);
        let mut fields = vec![
            ("grant_type", "password"),
            ("client_id", &self.kept.client),
            ("username", name),
            ("password", password.expose_secret()),
        ];
        fields.extend(
            self.kept
                .device_token
                .as_deref()
                .map(|token| ("device_token", token)),
        );
        fields.extend(code.map(|code| ("otp", code.expose_secret())));
        let body = form(&fields);
        let answer = self.ask(trust, body, PATIENCE).await?;
        self.keep(&answer)?;
        Ok(answer.scope.as_deref() == Some("account"))
    }

    /// The access token, where one is kept whose time is not over.
    pub(crate) fn access(&self) -> Option<SecretString> {
        let until = UNIX_EPOCH + Duration::from_secs(self.kept.access_until);
        let token = self.kept.access_token.as_deref();
        let token = token.filter(|_| SystemTime::now() + SOON < until)?;
        Some(SecretString::from(token))
    }

    /// Gets another access token; none where nobody is signed in.
    pub(crate) async fn refresh(
        &mut self,
        trust: &Trust,
    ) -> Result<Option<SecretString>, SignInError> {
        let Some(refresh) = &self.kept.refresh_token else {
            return Ok(None);
        };
        let body = form(&[
            ("grant_type", "refresh_token"),
            ("client_id", &self.kept.client),
            ("refresh_token", refresh),
        ]);
        let answer = match self.ask(trust, body.clone(), REFRESH_PATIENCE).await {
            // The answer may have been lost: the same token gets the same one again, for a moment.
            Err(SignInError::Unreachable(_)) => self.ask(trust, body, REFRESH_PATIENCE).await?,
            other => other?,
        };
        self.keep(&answer)?;
        Ok(self.kept.access_token.as_deref().map(SecretString::from))
    }

    /// Ends the session there and forgets it here.
    pub(crate) async fn sign_out(&mut self, trust: &Trust) -> Result<bool, SignInError> {
        let Some(refresh) = self.kept.refresh_token.take() else {
            return Ok(false);
        };
        let body = form(&[("token", &refresh)]);
        self.kept.access_token = None;
        self.write()?;
        self.post(trust, "/revoke", body, PATIENCE).await?;
        Ok(true)
    }

    fn keep(&mut self, answer: &Answer) -> Result<(), SignInError> {
        let until = SystemTime::now() + Duration::from_secs(answer.expires_in);
        let until = until.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.kept.access_until = until.as_secs();
        self.kept.access_token = Some(answer.access_token.clone());
        if answer.refresh_token.is_some() {
            self.kept.refresh_token.clone_from(&answer.refresh_token);
        }
        if answer.device_token.is_some() {
            self.kept.device_token.clone_from(&answer.device_token);
        }
        self.write()
    }

    fn write(&mut self) -> Result<(), SignInError> {
        let text = serde_json::to_vec(&self.kept).map_err(|_| SignInError::Unintelligible)?;
        let text = Zeroizing::new(text);
        let mut written = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(&text)?;
            self.file.sync_all()
        };
        written().map_err(|source| DataError::io("write", &self.path, source).into())
    }

    async fn ask(
        &self,
        trust: &Trust,
        body: Zeroizing<String>,
        patience: Duration,
    ) -> Result<Answer, SignInError> {
        let answer = self.post(trust, "/token", body, patience).await?;
        serde_json::from_slice(&answer).map_err(|_| SignInError::Unintelligible)
    }

    async fn post(
        &self,
        trust: &Trust,
        route: &str,
        body: Zeroizing<String>,
        patience: Duration,
    ) -> Result<Zeroizing<Vec<u8>>, SignInError> {
        let kind = "application/x-www-form-urlencoded";
        post(trust, &self.address, route, kind, body, patience).await
    }
}

/// Sends a secret to a control plane, and nowhere else.
pub(crate) async fn post(
    trust: &Trust,
    address: &str,
    route: &str,
    kind: &str,
    body: Zeroizing<String>,
    patience: Duration,
) -> Result<Zeroizing<Vec<u8>>, SignInError> {
    xylem_client::check_address(address)?;
    let http = trust.http()?.redirect(reqwest::redirect::Policy::none());
    let http = http.timeout(patience).build();
    let http = http.map_err(SignInError::Unreachable)?;
    let url = format!("{}{route}", address.trim_end_matches('/'));
    let request = http.post(url).header("content-type", kind);
    let answer = request.body(body.as_bytes().to_vec()).send().await;
    let answer = answer.map_err(|error| SignInError::Unreachable(error.without_url()))?;
    let status = answer.status();
    let bytes = answer.bytes().await;
    let bytes = bytes.map_err(|error| SignInError::Unreachable(error.without_url()))?;
    if status.is_success() {
        return Ok(Zeroizing::new(bytes.to_vec()));
    }
    if let Ok(refusal) = serde_json::from_slice::<Refusal>(&bytes) {
        let said = refusal.error_description.unwrap_or(refusal.error.clone());
        return Err(match refusal.error.as_str() {
            "invalid_grant" => SignInError::NotValid(said),
            _ => SignInError::Refused(said),
        });
    }
    let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let said = said["message"].as_str().map(str::to_owned);
    Err(SignInError::Refused(
        said.ok_or(SignInError::Unintelligible)?,
    ))
}

fn form(fields: &[(&str, &str)]) -> Zeroizing<String> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    Zeroizing::new(form.extend_pairs(fields).finish())
}

/// Where the file of a control plane is.
fn path(address: &str) -> Result<PathBuf, SignInError> {
    let directory = |name| env::var_os(name).filter(|path| !path.is_empty());
    let state = directory("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| directory("HOME").map(|home| PathBuf::from(home).join(".local").join("state")));
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '.' {
            c
        } else {
            '_'
        }
    };
    let name: String = address.trim_end_matches('/').chars().map(plain).collect();
    let folder = state
        .ok_or(DataError::NoHome)?
        .join("xylem")
        .join("sessions");
    Ok(folder.join(format!("{name}.json")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::{TcpListener, TcpStream},
        thread,
        time::Instant,
    };

    /// Reads a request to its end.
    fn request(listener: &TcpListener) -> TcpStream {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut read, mut buffer) = (Vec::new(), [0; 1024]);
        while !read.ends_with(b"refresh_token=xyr_one") {
            let bytes = stream.read(&mut buffer).unwrap();
            assert!(bytes > 0, "the request ended before its body");
            read.extend_from_slice(&buffer[..bytes]);
        }
        stream
    }

    fn place(address: String) -> Place {
        let kept = Kept {
            client: "xylem-cli-1".to_owned(),
            agent: "ada".to_owned(),
            device_token: None,
            refresh_token: Some("xyr_one".to_owned()),
            access_token: None,
            access_until: 0,
        };
        Place {
            address,
            file: tempfile::tempfile().unwrap(),
            path: PathBuf::new(),
            kept,
        }
    }

    #[tokio::test]
    async fn a_refresh_whose_answer_is_lost_is_repeated_while_that_is_no_theft() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let serving = thread::spawn(move || {
            // Open until the end: nothing says that its answer does not come.
            let lost = request(&listener);
            let mut stream = request(&listener);
            let body = r#"{"access_token":"a2","expires_in":900,"refresh_token":"xyr_two"}"#;
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .unwrap();
            drop(lost);
        });
        let mut place = place(address);
        let began = Instant::now();
        let access = place.refresh(&Trust::default()).await.unwrap();
        assert_eq!(access.unwrap().expose_secret(), "a2");
        assert_eq!(place.kept.refresh_token.as_deref(), Some("xyr_two"));
        assert!(began.elapsed() < Duration::from_secs(10));
        serving.join().unwrap();
    }
}
