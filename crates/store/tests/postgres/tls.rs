//! What goes over a network is encrypted, and the server is who it says it is.

use crate::database::CACHE;
use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};
use tempfile::tempdir;
use xylem_store::{OpenError, PostgresAddress, Store};
use xylem_testdb::Server;

const PASSWORD: &str = "correct-horse-battery-staple";

fn openssl(folder: &Path, arguments: &str) {
    let mut openssl = Command::new("openssl");
    openssl.args(arguments.split(' ')).current_dir(folder);
    let done = openssl.stderr(Stdio::piped()).output().expect("openssl");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{arguments}: {said}");
}

/// An authority, and a server's certificate for `localhost` of it.
fn certificates(folder: &Path) {
    fs::write(folder.join("names"), "subjectAltName=DNS:localhost").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for name in ["ca", "other"] {
        let of = format!("-keyout {name}.key -out {name}.pem -days 2 -subj /CN={name}");
        openssl(folder, &format!("req -x509 {key} {of}"));
    }
    openssl(
        folder,
        &format!("req {key} -keyout server.key -out server.csr -subj /CN=server"),
    );
    openssl(
        folder,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out server.crt \
         -extfile names",
    );
}

/// A server that listens on a network and asks for a password, and its port.
fn server(folder: &Path, tls: bool) -> (Server, u16) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let settings = [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("ssl={}", if tls { "on" } else { "off" }),
    ];
    let server = Server::start(CACHE, port, &settings, |data| {
        for file in ["server.crt", "server.key"] {
            fs::copy(folder.join(file), data.join(file))?;
        }
        fs::write(
            data.join("pg_hba.conf"),
            "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n",
        )
    });
    let password = format!("ALTER ROLE xylem PASSWORD '{PASSWORD}'");
    server.execute(&password).unwrap();
    server.execute("CREATE DATABASE xylem").unwrap();
    (server, port)
}

async fn open(url: &str, password: &str) -> Result<Store, OpenError> {
    let address: PostgresAddress = url.parse().expect("an address");
    Store::postgres(&address.with_password(password)).await
}

fn is_refused(opened: Result<Store, OpenError>, why: &str) {
    let error = opened.err().map(|error| format!("{error:?}"));
    let error = error.expect("refused");
    let said = error.to_lowercase();
    assert!(said.contains(why), "{error}");
    assert!(!error.contains(PASSWORD), "{error}");
}

#[tokio::test]
async fn only_the_server_that_was_named_gets_the_password() {
    let folder = tempdir().unwrap();
    certificates(folder.path());
    let (_server, port) = server(folder.path(), true);
    let pem = |name: &str| folder.path().join(name).display().to_string();
    let url =
        |host: &str, root: &str| format!("postgres://xylem@{host}:{port}/xylem?sslrootcert={root}");

    let store = open(&url("localhost", &pem("ca.pem")), PASSWORD).await;
    store.unwrap().ping().await.unwrap();

    let wrong = open(&url("localhost", &pem("ca.pem")), "wrong").await;
    is_refused(wrong, "password");
    let other = open(&url("localhost", &pem("other.pem")), PASSWORD).await;
    is_refused(other, "certificate");
    let public = format!("postgres://xylem@localhost:{port}/xylem");
    is_refused(open(&public, PASSWORD).await, "certificate");
    let name = open(&url("127.0.0.1", &pem("ca.pem")), PASSWORD).await;
    is_refused(name, "certificate");
}

#[tokio::test]
async fn a_server_without_tls_gets_nothing() {
    let folder = tempdir().unwrap();
    certificates(folder.path());
    let (_server, port) = server(folder.path(), false);
    let root = folder.path().join("ca.pem").display().to_string();
    let url = format!("postgres://xylem@localhost:{port}/xylem?sslrootcert={root}");
    is_refused(open(&url, PASSWORD).await, "tls");
}
