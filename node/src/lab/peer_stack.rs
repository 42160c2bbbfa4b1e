//! keepalived and haproxy of this machine as a pair, configured as their manuals advise and as closely to ours as
//! they allow: VRRPv3, the same interval and priorities, no preemption, a check script every second (the least
//! that keepalived can) which sees a dead proxy by its pid and a hanging one by asking it.
//!
//! What systemd does for them on Debian (haproxy: Restart=always after 100 ms), the lab does here.

use std::fmt::Write;
use std::fs::Permissions;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use netns_lab::lan::{self, INTERFACE};
use netns_lab::pair::{NAMES, PairError, VRID};
use netns_lab::process::Process;
use netns_lab::site::{Host, SERVER_PORT, SERVICE_PORT, STREAM_PORT, STREAM_SERVER_PORT, Site, VIP};
use netns_lab::wait::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::scenario::Scenario;
use super::stack::{Stack, StackError, Standing};

/// systemd's RestartSec, if a unit does not say otherwise.
const RESTART_DELAY: Duration = Duration::from_millis(100);
/// Where haproxy answers the check script.
const HEALTH_PORT: u16 = 8404;
/// keepalived ends at once.
const STOP_LIMIT: Duration = Duration::from_secs(5);
const HEALTH_LIMIT: Duration = Duration::from_millis(200);
const PRIORITIES: [u8; 2] = [250, 240];

/// The other stack.
#[derive(Debug)]
pub(crate) struct PeerStack {
    nodes: [Node; 2],
    site: Site,
}

#[derive(Debug)]
struct Node {
    folder: PathBuf,
    keepalived: Process,
    haproxy: Process,
    /// When haproxy was seen to have ended.
    ended: Option<Instant>,
}

impl PeerStack {
    /// Starts both on both nodes.
    pub(crate) fn start(folder: &Path, advert_interval: Duration) -> Result<PeerStack, StackError> {
        let missing: Vec<_> =
            ["keepalived", "haproxy", "curl"].into_iter().filter(|program| find(program).is_none()).collect();
        if !missing.is_empty() {
            return Err(StackError::Missing(missing));
        }
        let site = Site::new().map_err(PairError::from)?;
        let node = |index: usize| -> Result<Node, StackError> {
            let folder = folder.join(["a", "b"][index]);
            std::fs::create_dir_all(&folder).map_err(|source| StackError::File { path: folder.clone(), source })?;
            write(&folder.join("haproxy.cfg"), &haproxy_config(&site))?;
            write(&folder.join("keepalived.conf"), &keepalived_config(&folder, index, advert_interval))?;
            write_script(&folder.join("check.sh"), &check_script(&folder))?;
            write_script(&folder.join("notify.sh"), &format!("#!/bin/sh\necho \"$3\" >{}/state\n", folder.display()))?;
            let haproxy = start_haproxy(&site, index, &folder)?;
            let keepalived = start_keepalived(&site, index, &folder)?;
            Ok(Node { folder, keepalived, haproxy, ended: None })
        };
        let nodes = [node(0)?, node(1)?];
        Ok(PeerStack { nodes, site })
    }
}

impl Stack for PeerStack {
    fn site(&self) -> &Site {
        &self.site
    }

    fn standing(&mut self, index: usize) -> Result<Standing, String> {
        let (host, node) = (&self.site.nodes[index], &mut self.nodes[index]);
        let addresses = lan::addresses(&host.netns).map_err(|error| error.to_string())?;
        let state = std::fs::read_to_string(node.folder.join("state")).unwrap_or_default().trim().to_owned();
        let speaks = node.keepalived.exited().is_none() && matches!(state.as_str(), "MASTER" | "BACKUP");
        let serves = host.netns.run(healthy);
        let active = addresses.contains(&VIP);
        let words = format!(
            "keepalived {}, haproxy {}, VIP {}",
            if speaks { state.as_str() } else { "down or in fault" },
            if serves { "answers" } else { "does not answer" },
            if active { "here" } else { "not here" }
        );
        Ok(Standing { active, fit: speaks && serves, words })
    }

    fn core(&mut self, index: usize) -> Result<Pid, StackError> {
        Ok(self.nodes[index].haproxy.pid())
    }

    fn hand_over(&mut self, index: usize) -> Result<(), StackError> {
        // `systemctl restart keepalived`, with a look in between whether the other node has it.
        let keepalived = &mut self.nodes[index].keepalived;
        keepalived.signal(Signal::SIGTERM);
        keepalived.wait(STOP_LIMIT)?;
        let other = &self.site.nodes[1 - index].netns;
        wait_until(&format!("{} to take over", NAMES[1 - index]), STOP_LIMIT, || match lan::addresses(other) {
            Ok(addresses) if addresses.contains(&VIP) => Ok(()),
            Ok(addresses) => Err(format!("it has {addresses:?}")),
            Err(error) => Err(error.to_string()),
        })?;
        self.start_agent(index)
    }

    fn leaves_out(&self, scenario: Scenario) -> Option<&'static str> {
        match scenario {
            Scenario::LanDeadSyncAlive | Scenario::AdvertsFiltered => {
                Some("keepalived's nodes have no second path to hear each other by")
            }
            _ => None,
        }
    }

    fn kill_agent(&mut self, index: usize) -> Result<(), StackError> {
        // The VRRP child first and its parent right after it: the child of a dead parent ends in good order, and
        // that of a living one is started again, and neither is what is asked here.
        let named = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "keepalived")
        };
        let parent = self.nodes[index].keepalived.pid();
        let all = self.site.nodes[index].netns.processes();
        for pid in all.into_iter().filter(named).map(Pid::from_raw).filter(|pid| *pid != parent) {
            // Gone since it was listed: fine.
            let _ = kill(pid, Signal::SIGKILL);
        }
        self.nodes[index].keepalived.kill();
        Ok(())
    }

    fn start_agent(&mut self, index: usize) -> Result<(), StackError> {
        let folder = self.nodes[index].folder.clone();
        self.nodes[index].keepalived = start_keepalived(&self.site, index, &folder)?;
        Ok(())
    }

    fn end_hang(&mut self, pid: Pid) {
        // Nobody else would. It may have been killed meanwhile; then there is nothing to continue.
        let _ = kill(pid, Signal::SIGCONT);
    }

    fn tend(&mut self) -> Result<(), StackError> {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if node.haproxy.exited().is_none() {
                continue;
            }
            let ended = *node.ended.get_or_insert_with(Instant::now);
            if ended.elapsed() >= RESTART_DELAY {
                node.haproxy = start_haproxy(&self.site, index, &node.folder)?;
                node.ended = None;
            }
        }
        Ok(())
    }

    fn describe(&mut self) -> String {
        let mut text = String::new();
        for node in &mut self.nodes {
            let _ = writeln!(text, "{}\n{}", node.keepalived.describe(), node.haproxy.describe());
        }
        text
    }
}

fn find(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
}

fn write(path: &Path, text: &str) -> Result<(), StackError> {
    std::fs::write(path, text).map_err(|source| StackError::File { path: path.into(), source })
}

fn write_script(path: &Path, text: &str) -> Result<(), StackError> {
    write(path, text)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
        .map_err(|source| StackError::File { path: path.into(), source })
}

fn start_haproxy(site: &Site, index: usize, folder: &Path) -> Result<Process, StackError> {
    let mut command = Command::new(find("haproxy").unwrap_or_else(|| "haproxy".into()));
    command.arg("-db").arg("-f").arg(folder.join("haproxy.cfg"));
    let started = Process::start(&site.nodes[index].netns, "haproxy", command, &folder.join("haproxy.log"))?;
    write(&folder.join("haproxy.pid"), &started.pid().to_string())?;
    Ok(started)
}

fn start_keepalived(site: &Site, index: usize, folder: &Path) -> Result<Process, StackError> {
    write(&folder.join("state"), "")?;
    for left in ["keepalived.pid", "vrrp.pid"] {
        // One that was killed leaves them, and a new one may take its zombie for a living keepalived.
        let _ = std::fs::remove_file(folder.join(left));
    }
    let mut command = Command::new(find("keepalived").unwrap_or_else(|| "keepalived".into()));
    command
        .args(["--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file"])
        .arg(folder.join("keepalived.conf"))
        .arg("--pid")
        .arg(folder.join("keepalived.pid"))
        .arg("--vrrp_pid")
        .arg(folder.join("vrrp.pid"));
    Ok(Process::start(&site.nodes[index].netns, NAMES[index], command, &folder.join("keepalived.log"))?)
}

/// Whether haproxy answers, as the check script would ask it.
fn healthy() -> bool {
    let ask = || -> std::io::Result<bool> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, HEALTH_PORT));
        let mut stream = TcpStream::connect_timeout(&address, HEALTH_LIMIT)?;
        stream.set_read_timeout(Some(HEALTH_LIMIT))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(answer.ends_with(b"200"))
    };
    ask().unwrap_or(false)
}

fn check_script(folder: &Path) -> String {
    format!(
        "#!/bin/sh\nkill -0 \"$(cat {}/haproxy.pid)\" && exec curl --fail --silent --max-time 0.5 --output /dev/null http://127.0.0.1:{HEALTH_PORT}/\n",
        folder.display()
    )
}

fn keepalived_config(folder: &Path, index: usize, advert_interval: Duration) -> String {
    format!(
        "global_defs {{
    router_id {name}
    vrrp_version 3
    script_user root
    enable_script_security
}}
vrrp_script proxy {{
    script \"{folder}/check.sh\"
    interval 1
    timeout 1
    rise 1
    fall 1
}}
vrrp_instance web {{
    state BACKUP
    nopreempt
    interface {INTERFACE}
    virtual_router_id {VRID}
    priority {priority}
    advert_int {interval:.2}
    virtual_ipaddress {{
        {VIP}/32 dev {INTERFACE}
    }}
    track_script {{
        proxy
    }}
    notify {folder}/notify.sh
}}
",
        name = NAMES[index],
        folder = folder.display(),
        priority = PRIORITIES[index],
        interval = advert_interval.as_secs_f64(),
    )
}

fn haproxy_config(site: &Site) -> String {
    let mut text = format!(
        "global
    maxconn 8000
defaults
    mode tcp
    timeout connect 10s
    timeout client 15m
    timeout server 15m
    option redispatch
    retries 3
frontend web
    bind *:{SERVICE_PORT}
    default_backend web
frontend stream
    bind *:{STREAM_PORT}
    default_backend stream
frontend health
    mode http
    bind 127.0.0.1:{HEALTH_PORT}
    timeout client 5s
    monitor-uri /
backend web
    balance roundrobin
    option httpchk GET /
"
    );
    let servers = |port: u16| {
        let line = |server: &Host| {
            let (name, address) = (server.netns.name(), server.address);
            format!("    server {name} {address}:{port} check inter 1s rise 1 fall 2\n")
        };
        site.servers.iter().map(line).collect::<String>()
    };
    text += &servers(SERVER_PORT);
    text += "backend stream\n    balance roundrobin\n";
    text += &servers(STREAM_SERVER_PORT);
    text
}
