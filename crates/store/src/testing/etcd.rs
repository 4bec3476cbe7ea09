//! A real etcd for tests: members on an address of loopback of their own, that are killed, stopped, started again and, at the end,
//! removed.
//!
//! Needs the programs `etcd` (Debian: etcd-server) and `setpriv` (util-linux), which ends a member together with the thread that
//! started it, however that ends.

use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a member may take to answer after its start.
const START: Duration = Duration::from_secs(30);

/// Members of an etcd cluster. Dropped, they end, and their data goes.
pub struct EtcdCluster {
    members: Vec<Member>,
    host: Ipv4Addr,
    directory: PathBuf,
    options: Vec<String>,
    tls: Option<TlsFiles>,
}

/// What members with TLS use, in PEM. They want certificates of their clients that the same authority has signed.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Certificate of the authority.
    pub ca: PathBuf,
    /// Certificate for 127.0.0.1, as server and client.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

struct Member {
    client: u16,
    peer: u16,
    /// Where it says how it is, to anybody.
    health: u16,
    process: Option<Child>,
    stopped: bool,
}

impl EtcdCluster {
    /// Starts this many members and waits until they answer; `options` are etcd's.
    ///
    /// # Errors
    /// If etcd is not installed or does not start, with what to do.
    pub fn start(members: usize, options: &[&str]) -> Result<Self> {
        Self::start_as(unused_directory()?, members, options, None)
    }

    /// As [`EtcdCluster::start`], with its data in a new directory of this name, for a disk that is to be measured.
    ///
    /// # Errors
    /// As [`EtcdCluster::start`].
    pub fn start_in(directory: &Path, members: usize, options: &[&str]) -> Result<Self> {
        std::fs::create_dir(directory)?;
        Self::start_as(directory.to_owned(), members, options, None)
    }

    /// As [`EtcdCluster::start`], with TLS for clients.
    ///
    /// # Errors
    /// As [`EtcdCluster::start`].
    pub fn start_with_tls(members: usize, options: &[&str], tls: TlsFiles) -> Result<Self> {
        Self::start_as(unused_directory()?, members, options, Some(tls))
    }

    fn start_as(
        directory: PathBuf,
        members: usize,
        options: &[&str],
        tls: Option<TlsFiles>,
    ) -> Result<Self> {
        // Certificates are for one address.
        let host = match &tls {
            Some(_) => Ipv4Addr::LOCALHOST,
            None => own_address(),
        };
        // Bound together, so that they differ.
        let ports = (0..3 * members)
            .map(|_| TcpListener::bind((host, 0)))
            .collect::<Result<Vec<_>>>()?
            .iter()
            .map(|listener| Ok(listener.local_addr()?.port()))
            .collect::<Result<Vec<u16>>>()?;
        let members = ports
            .chunks_exact(3)
            .filter_map(|ports| match ports {
                [client, peer, health] => Some(Member {
                    client: *client,
                    peer: *peer,
                    health: *health,
                    process: None,
                    stopped: false,
                }),
                _ => None,
            })
            .collect();
        let mut cluster = Self {
            members,
            host,
            directory,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            tls,
        };
        for index in 0..cluster.members.len() {
            cluster.spawn(index)?;
        }
        for index in 0..cluster.members.len() {
            cluster.wait(index)?;
        }
        Ok(cluster)
    }

    /// Addresses for clients, as the engine's settings want them.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| self.address(member))
            .collect()
    }

    fn address(&self, member: &Member) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, member.client)
    }

    /// Ends a member without warning.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.members.get_mut(index).and_then(|m| m.process.take()) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts a member that was killed and waits until it answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        self.spawn(index)?;
        self.wait(index)
    }

    /// Starts a member that was killed; it answers later.
    ///
    /// # Errors
    /// If the program can not be started.
    pub fn spawn(&mut self, index: usize) -> Result<()> {
        let initial: Vec<String> = self
            .members
            .iter()
            .enumerate()
            .map(|(n, member)| format!("m{n}=http://{}:{}", self.host, member.peer))
            .collect();
        let mut tls = Vec::new();
        if let Some(files) = &self.tls {
            tls.extend(["--client-cert-auth".into(), "--trusted-ca-file".into()]);
            tls.extend([files.ca.clone(), "--cert-file".into()]);
            tls.extend([files.certificate.clone(), "--key-file".into()]);
            tls.push(files.key.clone());
        }
        let client = self
            .members
            .get(index)
            .map(|member| self.address(member))
            .ok_or(ErrorKind::NotFound)?;
        let member = self.members.get_mut(index).ok_or(ErrorKind::NotFound)?;
        let health = format!("http://{}:{}", self.host, member.health);
        let peer = format!("http://{}:{}", self.host, member.peer);
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "etcd"])
            .args(["--name", &format!("m{index}"), "--data-dir"])
            .arg(self.directory.join(index.to_string()))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &initial.join(",")])
            .args(["--listen-metrics-urls", &health])
            .args(["--log-level", "error"])
            .args(tls)
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(
                self.directory.join(format!("{index}.log")),
            )?);
        member.process = Some(command.spawn().map_err(|error| {
            Error::other(format!(
                "setpriv, of the package util-linux, does not start: {error}"
            ))
        })?);
        member.stopped = false;
        Ok(())
    }

    /// Lets a member's process stand still, as a host that hangs does.
    pub fn stop(&mut self, index: usize) {
        self.signal(index, Signal::SIGSTOP, true);
        let process = self.members.get(index).and_then(|m| m.process.as_ref());
        if let Some(id) = process.map(Child::id) {
            // The kernel stops thread by thread; one that still runs could answer.
            let deadline = Instant::now() + START;
            while !stands_still(id) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Lets it go on.
    pub fn resume(&mut self, index: usize) {
        self.signal(index, Signal::SIGCONT, false);
    }

    fn signal(&mut self, index: usize, signal: Signal, stopped: bool) {
        if let Some(member) = self.members.get_mut(index)
            && let Some(process) = &member.process
            && let Ok(id) = i32::try_from(process.id())
        {
            let _ = kill(Pid::from_raw(id), signal);
            member.stopped = stopped;
        }
    }

    /// Runs `etcdctl` against all members that are meant to run.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn etcdctl(&self, arguments: &[&str]) -> Result<String> {
        let running: Vec<String> = self
            .members
            .iter()
            .filter(|member| member.process.is_some() && !member.stopped)
            .map(|member| format!("{}:{}", self.host, member.client))
            .collect();
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg("--endpoints")
            .arg(running.join(","))
            .args(arguments)
            .output()?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(Error::other(
                String::from_utf8_lossy(&output.stderr).into_owned(),
            ))
        }
    }

    /// Waits until a member answers that it is healthy.
    fn wait(&mut self, index: usize) -> Result<()> {
        let log = self.directory.join(format!("{index}.log"));
        let member = self.members.get_mut(index).ok_or(ErrorKind::NotFound)?;
        let process = member.process.as_mut().ok_or(ErrorKind::NotFound)?;
        let deadline = Instant::now() + START;
        loop {
            if healthy(self.host, member.health) {
                return Ok(());
            }
            let ended = process.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(Error::other(format!(
                    "etcd does not run ({ended:?}); if it is not installed, install it (Debian: etcd-server, which scripts/prepare \
                     does); it said: {said}"
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// An address of loopback that this cluster has to itself: whoever else wants any free port, or connects from one, gets none of its,
/// not before they are bound nor while a member is down.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [.., process_high, process_low] = std::process::id().to_be_bytes();
    let [.., number] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 128 | process_high, process_low, number)
}

/// True if all threads of a process are stopped (proc(5)).
fn stands_still(id: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{id}/task")) else {
        return true;
    };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The name before the state may hold anything, even parentheses.
        stat.rsplit(") ")
            .next()
            .is_none_or(|rest| rest.starts_with(['T', 't', 'Z']) || rest.is_empty())
    })
}

/// Asks etcd's `/health`, which answers once there is a leader.
fn healthy(host: Ipv4Addr, port: u16) -> bool {
    use std::io::{Read, Write};
    let ask = || -> Result<String> {
        let mut stream = std::net::TcpStream::connect((host, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("\"true\""))
}

/// In memory where the host allows: these members are to be quick, not durable.
fn unused_directory() -> Result<PathBuf> {
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    for n in 0..1000 {
        let directory = base.join(format!("gridkeep-etcd-{}-{n}", std::process::id()));
        match std::fs::create_dir(&directory) {
            Ok(()) => return Ok(directory),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
