//! A PostgreSQL server for tests, started from the programs that this machine has.
//!
//! Each test process gets a server of its own, on a socket in a temporary folder, which ends and is
//! removed with the process. Each test gets a database of its own, whose order of text is not the one
//! of bytes: what relies on that has to say so.

use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Set to `1`, a missing server is an error instead of a reason to skip tests.
pub const REQUIRED: &str = "XYLEM_POSTGRES_REQUIRED";
/// Where the programs are, if not in one of the usual places.
pub const PROGRAMS: &str = "XYLEM_POSTGRES_BIN";

/// Who owns the databases.
const OWNER: &str = "xylem";
const PROGRAM_NAMES: [&str; 4] = ["initdb", "postgres", "pg_isready", "psql"];

/// The port that the socket of a server has in its name, where nobody listens on a network.
const PORT: u16 = 5432;

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(10);

/// Ends the server and removes its folder when standard input closes: with the test process, however
/// that ends.
const GUARD: &str = r#"trap : TERM INT
folder=$1; shift; "$@" & server=$!; cat > /dev/null
kill -QUIT $server 2> /dev/null; wait; cd /; rm -rf "$folder""#;

/// Nothing that is written has to outlive the machine.
const SETTINGS: [&str; 5] = [
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "shared_buffers=16MB",
    "max_connections=100",
];

/// A running server. Dropping it ends the server; so does the death of this process.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    programs: PathBuf,
    guard: Child,
    port: u16,
    databases: AtomicU32,
}

impl Server {
    /// This process's server; new clusters are copied from one that is kept in `cache`. Where there
    /// are no programs, this says so and ends the process as if the test had passed.
    ///
    /// # Panics
    /// The server does not start; or there are no programs, and they are required.
    #[must_use]
    pub fn shared(cache: &str) -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| Self::start(cache, PORT, &[], |_| Ok(())))
    }

    /// A server with further settings, on a data folder that was prepared.
    ///
    /// # Panics
    /// As [`Server::shared`].
    #[must_use]
    #[allow(
        clippy::panic,
        clippy::print_stderr,
        reason = "a test cannot go on without its server"
    )]
    pub fn start(
        cache: &str,
        port: u16,
        settings: &[String],
        prepare: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Self {
        let Some(programs) = programs() else {
            skip();
        };
        match Self::try_start(programs, Path::new(cache), port, settings, prepare) {
            Ok(server) => server,
            Err(error) => panic!("PostgreSQL does not start: {error}"),
        }
    }

    fn try_start(
        programs: PathBuf,
        cache: &Path,
        port: u16,
        settings: &[String],
        prepare: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<Self> {
        let cluster = cluster(&programs, cache)?;
        let (folder, user) = new_folder()?;
        let data = folder.join("data");
        run(Command::new("cp").arg("-a").arg(cluster).arg(&data))?;
        prepare(&data)?;
        for entry in fs::read_dir(&data)? {
            give(&entry?.path(), user)?;
        }
        let mut guard = command("sh", user, &folder);
        guard.args(["-c", GUARD, "guard"]).arg(&folder);
        guard.arg(programs.join("postgres"));
        guard.arg("-D").arg(&data).arg("-k").arg(&folder);
        guard.arg("-p").arg(port.to_string());
        let settings = settings.iter().map(String::as_str);
        for setting in SETTINGS.into_iter().chain(settings) {
            guard.args(["-c", setting]);
        }
        let log = fs::File::create(folder.join("log"))?;
        let guard = guard.stdin(Stdio::piped()).stderr(log).spawn()?;
        let server = Self {
            folder,
            programs,
            guard,
            port,
            databases: AtomicU32::new(0),
        };
        server.wait()?;
        Ok(server)
    }

    fn wait(&self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while run(self.client("pg_isready").arg("-q")).is_err() {
            if Instant::now() > deadline {
                let log = fs::read_to_string(self.folder.join("log"))?;
                return Err(io::Error::other(log));
            }
            thread::sleep(AGAIN);
        }
        Ok(())
    }

    fn client(&self, program: &str) -> Command {
        let mut command = command(self.programs.join(program), None, &self.folder);
        command.arg("-h").arg(&self.folder).args(["-U", OWNER]);
        command.arg("-p").arg(self.port.to_string());
        command
    }

    /// The folder of its socket and its data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A new database's URL.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    #[allow(clippy::panic, reason = "a test cannot go on without its database")]
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let made = self.execute(&format!(
            "CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy
                LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'"
        ));
        match made {
            Ok(()) => self.url(&name),
            Err(error) => panic!("the database cannot be made: {error}"),
        }
    }

    /// The URL of a new database with all that is in another one, which nobody uses.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    #[allow(clippy::panic, reason = "a test cannot go on without its database")]
    pub fn copy(&self, url: &str) -> String {
        let of = url.split(['/', '?']).nth(3).unwrap_or_default();
        let name = format!("copy_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        match self.execute(&format!("CREATE DATABASE {name} TEMPLATE {of}")) {
            Ok(()) => self.url(&name),
            Err(error) => panic!("the database cannot be copied: {error}"),
        }
    }

    /// The URL of a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.display();
        let port = self.port;
        format!("postgres://{OWNER}@localhost:{port}/{database}?host={folder}")
    }

    /// Executes a statement as the owner of everything.
    ///
    /// # Errors
    /// What the server said.
    pub fn execute(&self, sql: &str) -> io::Result<()> {
        self.execute_in(&self.url("postgres"), sql)
    }

    /// Executes a statement in the database of a URL.
    ///
    /// # Errors
    /// What the server said.
    pub fn execute_in(&self, url: &str, sql: &str) -> io::Result<()> {
        let mut psql = self.client("psql");
        run(psql.args(["-X", "-q", "-d", url, "-c", sql]))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// Where PostgreSQL's programs are: named in the environment, Debian's newest, or on the path.
#[must_use]
pub fn programs() -> Option<PathBuf> {
    let debian = fs::read_dir("/usr/lib/postgresql");
    let mut debian: Vec<(u32, PathBuf)> = debian
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    debian.sort_by(|a, b| b.cmp(a));
    let path = env::var_os("PATH").unwrap_or_default();
    let named = env::var_os(PROGRAMS).map(PathBuf::from).into_iter();
    named
        .chain(debian.into_iter().map(|(_, folder)| folder))
        .chain(env::split_paths(&path))
        .find(|folder| {
            let mut programs = PROGRAM_NAMES.iter();
            programs.all(|program| folder.join(program).is_file())
        })
}

#[allow(
    clippy::panic,
    clippy::exit,
    reason = "a test that cannot run has no other way to say that it was skipped"
)]
fn skip() -> ! {
    let missing = "PostgreSQL's initdb, postgres, pg_isready and psql are neither in \
         XYLEM_POSTGRES_BIN nor in /usr/lib/postgresql/*/bin nor on PATH";
    assert!(
        env::var_os(REQUIRED).is_none_or(|value| value != "1"),
        "{missing}"
    );
    // Not captured, so that it is seen.
    let _ = writeln!(io::stderr(), "skipped: {missing}");
    std::process::exit(0)
}

/// Who runs a server: PostgreSQL refuses to run as root.
#[derive(Clone, Copy)]
struct User {
    id: u32,
    group: u32,
}

impl User {
    /// Somebody else where the tests run as root.
    fn for_folder(folder: &Path) -> io::Result<Option<Self>> {
        if fs::metadata(folder)?.uid() != 0 {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd")?;
        let find = |name: &str| {
            users.lines().find_map(|line| {
                let mut fields = line.split(':');
                let found = fields.next() == Some(name);
                let (id, group) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
                found.then_some(Self { id, group })
            })
        };
        let somebody = find("postgres").or_else(|| find("nobody"));
        let somebody = somebody.ok_or_else(|| io::Error::other("everybody here is root"))?;
        Ok(Some(somebody))
    }
}

fn new_folder() -> io::Result<(PathBuf, Option<User>)> {
    let folder = tempfile::Builder::new()
        .prefix("xylem-postgres-")
        .tempdir()?
        .keep();
    let user = User::for_folder(&folder)?;
    give(&folder, user)?;
    Ok((folder, user))
}

fn give(path: &Path, user: Option<User>) -> io::Result<()> {
    match user {
        Some(user) => std::os::unix::fs::chown(path, Some(user.id), Some(user.group)),
        None => Ok(()),
    }
}

/// A new cluster is made once and copied from then on.
fn cluster(programs: &Path, cache: &Path) -> io::Result<PathBuf> {
    let name = programs.to_string_lossy().replace('/', "_");
    let made = cache.join(format!("cluster{name}"));
    let turn = fs::File::create(made.with_extension("lock"))?;
    turn.lock()?;
    if made.exists() {
        return Ok(made);
    }
    let (folder, user) = new_folder()?;
    let mut initdb = command(programs.join("initdb"), user, &folder);
    initdb.arg("-D").arg(folder.join("data"));
    run(initdb.args([
        "-U",
        OWNER,
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
        "--wal-segsize=1",
    ]))?;
    let draft = made.with_extension("new");
    let _ = fs::remove_dir_all(&draft);
    run(Command::new("cp")
        .arg("-a")
        .arg(folder.join("data"))
        .arg(&draft))?;
    fs::rename(&draft, &made)?;
    fs::remove_dir_all(folder)?;
    Ok(made)
}

fn command(program: impl AsRef<std::ffi::OsStr>, user: Option<User>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if let Some(user) = user {
        command.uid(user.id).gid(user.group);
    }
    command
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?}: {said}")))
}
