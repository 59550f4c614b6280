//! Where a secret comes from: standard input, a prompt, a file or an environment variable. Never
//! an argument: those are visible to every user of the machine and stay in the shell's history.

use super::failure::{Exit, Failure};
use secrecy::SecretString;
use std::{
    env, fs,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The control plane takes no larger token.
const LARGEST: u64 = 64 * 1024;

/// Where a token comes from; a prompt without echo, on a terminal, where nothing is named.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(crate) struct TokenSource {
    /// Read the token from standard input
    #[arg(long)]
    token_stdin: bool,
    /// Read the token from this file; `-` is standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Read the token from the environment variable of this name
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
}

impl TokenSource {
    /// Whether anything was named.
    pub(crate) fn is_named(&self) -> bool {
        self.token_stdin || self.token_file.is_some() || self.token_env.is_some()
    }

    /// Reads the token.
    pub(crate) fn read(&self) -> Result<SecretString, Failure> {
        let text = match self {
            Self {
                token_file: Some(path),
                ..
            } if path != Path::new("-") => from_file(path)?,
            Self {
                token_env: Some(name),
                ..
            } => from_environment(name)?,
            _ if self.is_named() => from_reader(io::stdin().lock())?,
            _ if io::stdin().is_terminal() => from_prompt()?,
            _ => {
                return Err(Failure::usage("where is the token?").hint(
                    "name its source: --token-stdin, --token-file FILE or --token-env NAME",
                ));
            }
        };
        one_line(&text)
    }
}

/// Reads a secret from a file.
pub(crate) fn in_file(path: &Path) -> Result<SecretString, Failure> {
    one_line(&from_file(path)?)
}

fn from_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let file = fs::File::open(path).map_err(|error| {
        let what = format!("cannot read the token from {}: {error}", path.display());
        Failure::new(Exit::Failed, what)
    })?;
    from_reader(file)
}

fn from_environment(name: &str) -> Result<Zeroizing<String>, Failure> {
    // Somebody who passes the token itself meets this message: the name is not repeated.
    let value = env::var(name).map_err(|_| {
        Failure::usage("the environment variable that --token-env names is not set, or not text")
    })?;
    Ok(Zeroizing::new(value))
}

fn from_reader(reader: impl Read) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = reader.take(LARGEST + 1).read_to_string(&mut text);
    match read {
        Ok(length) if length as u64 > LARGEST => {
            Err(Failure::usage("the token is larger than 64 KiB"))
        }
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(Failure::usage("the token is not text"))
        }
        Err(error) => {
            let what = format!("cannot read the token: {error}");
            Err(Failure::new(Exit::Failed, what))
        }
    }
}

fn from_prompt() -> Result<Zeroizing<String>, Failure> {
    let text = rpassword::prompt_password("Token (not shown): ").map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot ask for the token: {error}"))
    })?;
    Ok(Zeroizing::new(text))
}

/// Takes off the line end that editors and `echo` leave; anything else that is no visible ASCII
/// cannot be sent in a header.
fn one_line(text: &str) -> Result<SecretString, Failure> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(Failure::usage("the token is empty"));
    }
    if !line.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage(
            "the token must be one line of visible ASCII characters without spaces",
        ));
    }
    Ok(SecretString::from(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn source() -> TokenSource {
        TokenSource {
            token_stdin: false,
            token_file: None,
            token_env: None,
        }
    }

    fn file(content: &[u8]) -> (tempfile::TempDir, TokenSource) {
        let guard = tempfile::tempdir().expect("a directory");
        let path = guard.path().join("token");
        fs::write(&path, content).expect("written");
        let source = TokenSource {
            token_file: Some(path),
            ..source()
        };
        (guard, source)
    }

    #[test]
    fn a_line_end_is_not_part_of_the_token() {
        for content in ["tok-canary-1", "tok-canary-1\n", "tok-canary-1\r\n"] {
            let (_guard, source) = file(content.as_bytes());
            let token = source.read().expect("a token");
            assert_eq!(token.expose_secret(), "tok-canary-1");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_quoted() {
        let large = vec![b'c'; 64 * 1024 + 1];
        for content in [
            b"".as_slice(),
            b"\n",
            b"canary two",
            b"canary\nlines\n",
            b"canary\xff",
            "canary\u{e9}".as_bytes(),
            &large,
        ] {
            let (_guard, source) = file(content);
            let failure = source.read().expect_err("refused");
            assert_eq!(failure.exit, Exit::Usage);
            assert!(!format!("{failure} {failure:?}").contains("canary"));
        }
    }

    #[test]
    fn a_variable_that_is_not_set_is_not_repeated() {
        let source = TokenSource {
            token_env: Some("canary-put-here-by-mistake".into()),
            ..source()
        };
        let failure = source.read().expect_err("not set");
        assert!(!failure.to_string().contains("canary"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let source = TokenSource {
            token_file: Some("/nowhere/token".into()),
            ..source()
        };
        let failure = source.read().expect_err("no file");
        assert_eq!(failure.exit, Exit::Failed);
        assert!(failure.to_string().contains("/nowhere/token"));
    }
}
