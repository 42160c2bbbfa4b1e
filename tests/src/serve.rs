//! `lbnode serve`: the proxy that all this is about.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::part::{Part, PartError, write};
use crate::place::Place;

/// How long it may take to be ready, or to apply another configuration.
const READY: Duration = Duration::from_secs(20);

/// A running `lbnode serve`.
#[derive(Debug)]
pub struct Serve {
    /// Its process; the proxy core is a child of it.
    pub part: Part,
    /// Where it answers `lbnode --control`.
    pub control: PathBuf,
    file: PathBuf,
}

impl Serve {
    /// Starts it with a cluster file and waits until it is ready. Threads: one.
    pub fn start(place: &Place, cluster: &str) -> Result<Serve, PartError> {
        Serve::start_with(place, cluster, &binary())
    }

    /// The same with a binary of another build.
    pub fn start_with(place: &Place, cluster: &str, binary: &Path) -> Result<Serve, PartError> {
        let file = write(place.path("cluster.toml"), cluster)?;
        let mut command = Command::new(binary);
        let control = place.path("control.sock");
        command.arg("serve").arg(&file).args(["--threads", "1", "--control"]).arg(&control);
        let mut part = Part::start("lbnode", command, place.folder())?;
        // The first of two signals lets clients leave; the second does not wait for them.
        part.end_with(Signal::SIGINT);
        part.wait_said("ready: ", 0, READY)?;
        Ok(Serve { part, control, file })
    }

    /// Has it take up another cluster file; an error when it refuses.
    pub fn apply(&mut self, cluster: &str) -> Result<(), PartError> {
        let before = self.reread(cluster)?;
        self.part.wait_said("applied: revision ", before, READY).map(drop)
    }

    /// Has it look at another cluster file that it must refuse; what it says of it.
    pub fn refuse(&mut self, cluster: &str) -> Result<String, PartError> {
        let before = self.reread(cluster)?;
        self.part.wait_said("not applied: ", before, READY)?;
        let said = std::fs::read(self.part.log()).unwrap_or_default();
        Ok(String::from_utf8_lossy(said.get(before..).unwrap_or_default()).into_owned())
    }

    /// How much it had said before it was told of the file.
    fn reread(&mut self, cluster: &str) -> Result<usize, PartError> {
        write(self.file.clone(), cluster)?;
        let before = self.part.said();
        self.part.process().signal(Signal::SIGHUP);
        Ok(before)
    }

    /// What `lbnode COMMAND…` answers about it.
    pub fn command(&self, arguments: &[&str]) -> std::io::Result<std::process::Output> {
        Command::new(binary()).arg("--control").arg(&self.control).args(arguments).output()
    }

    /// What `lbnode status --json` says of the first server of this name; `null`: nothing.
    pub fn server(&self, name: &str) -> Value {
        let said = self.command(&["status", "--json"]).map(|output| output.stdout).unwrap_or_default();
        let status: Value = serde_json::from_slice(&said).unwrap_or(Value::Null);
        let backends = status["backends"].as_array().into_iter().flatten();
        let mut servers = backends.flat_map(|backend| backend["servers"].as_array().into_iter().flatten());
        servers.find(|server| server["name"] == name).cloned().unwrap_or(Value::Null)
    }
}

/// `LBNODE_BIN`, or the `lbnode` in the target directory that the running program was built into.
pub fn binary() -> PathBuf {
    let beside = |program: PathBuf| {
        // target/PROFILE/program, or target/PROFILE/deps/test.
        program.ancestors().skip(1).take(2).map(|folder| folder.join("lbnode")).find(|lbnode| lbnode.exists())
    };
    std::env::var_os("LBNODE_BIN")
        .map(PathBuf::from)
        .or_else(|| beside(std::env::current_exe().ok()?))
        .unwrap_or_else(|| PathBuf::from("lbnode"))
}

/// A cluster file: one HTTP frontend, one backend, and what more is said of each.
#[derive(Clone, Debug)]
pub struct Site {
    /// Where clients arrive.
    pub bind: SocketAddr,
    /// The `[tls.NAME]` that they are met with there; none: in the clear.
    pub tls: Option<&'static str>,
    /// `http` or `tcp`.
    pub mode: &'static str,
    /// Names and addresses.
    pub servers: Vec<(String, SocketAddr)>,
    /// TOML lines of `[defaults]`.
    pub defaults: String,
    /// TOML lines of the frontend.
    pub frontend: String,
    /// TOML lines of the backend.
    pub backend: String,
    /// TOML tables after all that: rules, further frontends.
    pub more: String,
}

impl Site {
    /// A site with `http` and one server.
    pub fn new(bind: SocketAddr, server: SocketAddr) -> Site {
        let (defaults, frontend, backend, more) = Default::default();
        let servers = vec![("one".to_owned(), server)];
        Site { bind, tls: None, mode: "http", servers, defaults, frontend, backend, more }
    }

    /// The text of the file.
    pub fn toml(&self) -> String {
        let Site { mode, defaults, frontend, backend, more, .. } = self;
        let mut servers = String::new();
        for (name, address) in &self.servers {
            writeln!(servers, "  {{ name = \"{name}\", address = \"{address}\" }},").expect("a string grows");
        }
        let bind = match (self.bind, self.tls) {
            (bind, None) => format!("\"{bind}\""),
            (bind, Some(tls)) => format!("[{{ to = \"{bind}\", tls = \"{tls}\" }}]"),
        };
        format!(
            "[pair]\nname = \"site\"\n\n[defaults]\n{defaults}\n\n\
            [frontend.front]\nmode = \"{mode}\"\nbind = {bind}\ndefault_backend = \"back\"\n{frontend}\n\n\
            [backend.back]\nmode = \"{mode}\"\nservers = [\n{servers}]\n{backend}\n\n{more}\n"
        )
    }
}
