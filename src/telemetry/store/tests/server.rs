//! The same on a server of `PostgreSQL`, which these tests start themselves: it must be installed (`apt-get install
//! postgresql`), running it need not.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::*;

/// Nobody may see it in a message.
const PASSWORD: &str = "s3cret";
/// Whom a server runs as where these tests run as root, which it refuses.
const NOBODY: u32 = 65_534;

/// A server with a folder of its own, until it is dropped.
struct Server {
    folder: TempDir,
    port: u16,
    process: Child,
}

/// Returns where the programs of a server are.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let folders = versions.map(|entry| entry.unwrap().path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = folders.chain(std::env::split_paths(&path).collect::<Vec<_>>());
    let found = all.find(|folder| folder.join("initdb").exists());
    found.expect("these tests start a server of PostgreSQL: apt-get install postgresql")
}

/// Returns a program's command, run by who may run a server.
fn command(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(programs().join(name));
    command.current_dir(folder).env_clear().env("LC_ALL", "C");
    if fs::metadata(folder).unwrap().uid() == NOBODY {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

impl Server {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/tls");
        let key = |name: &str| fs::read_to_string(format!("{keys}/{name}")).unwrap();
        let is_root = fs::metadata(folder.path()).unwrap().uid() == 0;
        let owned = |path: &Path| {
            if is_root {
                chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        };
        let files = [
            ("password", PASSWORD.to_owned()),
            ("server.pem", key("server.pem")),
            ("server.key", key("server.key")),
        ];
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            owned(&path);
        }
        owned(folder.path());
        let made = command("initdb", folder.path())
            .args(["--pgdata=data", "--username=ada", "--auth=scram-sha-256", "--no-sync"])
            .args(["--encoding=UTF8", "--pwfile=password"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // A port that was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Self::run(folder.path(), port);
        Self { folder, port, process }
    }

    fn run(folder: &Path, port: u16) -> Child {
        let mut process = command("postgres", folder)
            .args(["-D", "data", "-p", &port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "ssl=on"])
            .args(["-c", "ssl_cert_file=../server.pem", "-c", "ssl_key_file=../server.key"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let is_ready = log.any(|line| line.unwrap().contains("ready to accept connections"));
        assert!(is_ready, "the server does not start");
        // It would stop where nobody read what it says.
        thread::spawn(move || log.for_each(drop));
        process
    }

    fn stop(&mut self) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.process.wait().unwrap();
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://ada:{PASSWORD}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Makes a database.
    fn place(&self, database: &str) -> Place {
        let purpose = Purpose::Write { bytes_max: 0 };
        let address = Address::Postgres(self.url("postgres"));
        let mut main = database::open(&address, purpose).unwrap();
        main.run(&format!("CREATE DATABASE {database}")).unwrap();
        Place::new(Address::Postgres(self.url(database)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_server_keeps_what_every_store_must() {
    let server = Server::start();
    for (number, case) in cases::ALL.iter().enumerate() {
        case(&server.place(&format!("case_{number}")));
    }
}

#[test]
fn a_server_may_go_and_come_back() {
    let mut server = Server::start();
    let place = server.place("telemetry");
    let metrics = Metrics::default();
    let store = place.try_open(&metrics).unwrap();
    let tell = |id: &str| wait(store.record_events(vec![event(id, EventKind::Shown)]));
    let up = || sample(&metrics, &["lacuna_telemetry_store_up{", "postgres"]);
    assert_eq!(tell("before").unwrap().stored, 1);
    server.stop();
    assert_eq!(tell("meanwhile"), Err(StoreRefusal::Unavailable));
    store.record(completion("lost"));
    assert_eq!(up(), 0);
    // Another replica starts all the same, and both find the server again.
    let second = place.open();
    server.process = Server::run(server.folder.path(), server.port);
    let mut tries = 0;
    while tell("after").is_err() {
        tries += 1;
        assert!(tries < 1_000_000, "the store does not come back");
    }
    while wait(second.record_events(vec![event("second", EventKind::Shown)])).is_err() {}
    assert_eq!(up(), 1);
    wait(store.close());
    wait(second.close());
    assert_eq!(place.total(), [3, 0, 0]);
}

#[test]
fn what_no_server_takes_is_refused_without_a_word_of_the_password() {
    let server = Server::start();
    let port = server.port;
    let rows = [
        format!("postgres://ada:wr0ng@127.0.0.1:{port}/postgres?sslmode=disable"),
        format!("postgres://ada:{PASSWORD}@127.0.0.1:{port}/nowhere?sslmode=disable"),
        // Nobody has signed the server's certificate whom a system knows.
        format!("postgres://ada:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode=require"),
        format!("postgres://ada:{PASSWORD}@127.0.0.1:{port}/postgres"),
        format!("postgres://ada:{PASSWORD}@127.0.0.1:{port}/postgres?odd={PASSWORD}"),
        format!("postgres://ada:{PASSWORD}@/postgres"),
        format!("postgres://ada:{PASSWORD}@127.0.0.1:{PASSWORD}/postgres"),
    ];
    for url in rows {
        let address = Address::Postgres(url.clone());
        assert!(!format!("{address:?}").contains(PASSWORD));
        let fault = Place::new(address).try_open(&Metrics::default()).unwrap_err();
        assert!(matches!(fault, Fault::Unusable(_)), "{url}: {fault:?}");
        let message = format!("{fault} {fault:?}");
        assert!(!message.contains(PASSWORD) && !message.contains("wr0ng"), "{message}");
    }
}
