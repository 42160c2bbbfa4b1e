//! Mail servers: Dovecot for IMAP, Postfix for SMTP, each with a configuration and folders of its own. All of one place share
//! the mail: what a Postfix takes in for `ann@mail.test` or `bob@mail.test`, a Dovecot shows to `ann` or `bob`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Uid, User, chown, getegid, geteuid};

use crate::part::{Part, PartError, path_with_sbin, write};
use crate::pki::{Key, Pki, PkiError, Use, Validity, Wanted};
use crate::place::Place;
use crate::usage;

/// Whose mail it is: neither server delivers to root.
fn owner() -> (Uid, Gid) {
    match User::from_name("nobody") {
        Ok(Some(nobody)) if geteuid().is_root() => (nobody.uid, nobody.gid),
        _ => (geteuid(), getegid()),
    }
}

/// The folder with everybody's mail.
fn mail(place: &Place) -> Result<PathBuf, PartError> {
    let (path, (uid, gid)) = (place.path("mail"), owner());
    folder(&path)?;
    chown(&path, Some(uid), Some(gid)).map_err(|errno| PartError::File { path: path.clone(), source: errno.into() })?;
    Ok(path)
}

fn folder(path: &Path) -> Result<(), PartError> {
    std::fs::create_dir_all(path).map_err(|source| PartError::File { path: path.to_owned(), source })
}

/// Starts Dovecot, which greets on `address`. Any password is right; a client that waits is told nothing but news.
pub fn dovecot(place: &Place, address: SocketAddr) -> Result<Part, PartError> {
    let name = format!("dovecot-{}", address.port());
    let (folder, mail, (uid, gid)) = (place.folder().display(), mail(place)?, owner());
    // Whoever isn't root runs all of it as who they are; root has the package's users.
    let users = if geteuid().is_root() {
        String::new()
    } else {
        let user = std::env::var("USER").unwrap_or_else(|_| "nobody".into());
        format!("default_internal_user = {user}\ndefault_login_user = {user}\ndefault_internal_group =\n")
    };
    let config = format!(
        "base_dir = {folder}/{name}-run\nstate_dir = {folder}/{name}-state\nprotocols = imap\nssl = no\n\
        listen = {ip}\nlog_path = /dev/stderr\nmail_location = maildir:{mail}/%n\n{users}\
        disable_plaintext_auth = no\nimap_idle_notify_interval = 1 hour\nfirst_valid_uid = 1\n\
        passdb {{\n  driver = static\n  args = nopassword=y\n}}\n\
        userdb {{\n  driver = static\n  args = uid={uid} gid={gid} home={mail}/%n\n}}\n\
        service imap-login {{\n  chroot =\n  inet_listener imap {{\n    port = {port}\n  }}\n\
        inet_listener imaps {{\n    port = 0\n  }}\n}}\n\
        service anvil {{\n  chroot =\n}}\nservice stats {{\n  chroot =\n}}\n",
        mail = mail.display(),
        ip = address.ip(),
        port = address.port(),
    );
    let file = write(place.path(&format!("{name}.conf")), &config)?;
    let mut command = Command::new("dovecot");
    command.env("PATH", path_with_sbin()).arg("-F").arg("-c").arg(file);
    let mut part = Part::start_at(place, &name, command)?;
    part.wait_listening(address)?;
    Ok(part)
}

/// Makes the certificate that [`postfix`] shows, if it is there when that starts.
pub fn certificate(place: &Place) -> Result<(), PkiError> {
    let usage = Use::Server(&["mx.mail.test"]);
    let subject = "/O=Mail/CN=mx.mail.test";
    let wanted = Wanted { name: "mx", issuer: None, key: Key::Ec, subject, usage, validity: Validity::Days(30) };
    Pki::new(place.path("postfix-tls"))?.issue(wanted)
}

/// A running Postfix.
#[derive(Debug)]
pub struct Postfix {
    /// The script that stands for it.
    pub part: Part,
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // The script passes no signal on, and waits for what it has started.
        for child in usage::descendants(self.part.pid()) {
            // Gone since it was looked at: fine.
            let _ = kill(child.pid, Signal::SIGTERM);
        }
    }
}

/// Starts Postfix, which greets on `address` with this banner, and takes mail of up to 64 MiB. It starts only
/// as root.
pub fn postfix(place: &Place, address: SocketAddr, banner: &str) -> Result<Postfix, PartError> {
    let name = format!("postfix-{}", address.port());
    let (mail, (uid, gid)) = (mail(place)?.display().to_string(), owner());
    let [etc, spool, data] = ["etc", "spool", "data"].map(|part| place.path(&format!("{name}-{part}")));
    for path in [&etc, &spool, &data] {
        folder(path)?;
    }
    if let Ok(Some(user)) = User::from_name("postfix") {
        chown(&data, Some(user.uid), None)
            .map_err(|errno| PartError::File { path: data.clone(), source: errno.into() })?;
    }
    let [certificate, key] = ["crt", "key"].map(|end| place.path(&format!("postfix-tls/mx.{end}")));
    let tls = match certificate.exists() {
        true => format!(
            "smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\nsmtpd_tls_security_level = may\n",
            certificate.display(),
            key.display()
        ),
        false => String::new(),
    };
    write(
        etc.join("main.cf"),
        &format!(
            "compatibility_level = 3.6\nqueue_directory = {spool}\ndata_directory = {data}\n\
            command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\nmail_owner = postfix\n\
            setgid_group = postdrop\nmyhostname = mx.test\ninet_interfaces = loopback-only\ninet_protocols = ipv4\n\
            maillog_file = {folder}/{name}.mail.log\nmaillog_file_prefixes = {folder}\nalias_maps =\nalias_database =\n\
            local_recipient_maps =\nsmtpd_banner = {banner}\nsmtpd_peername_lookup = no\nmydestination =\n\
            virtual_mailbox_domains = mail.test\nvirtual_mailbox_base = {mail}\n\
            virtual_mailbox_maps = inline:{{ann@mail.test=ann/, bob@mail.test=bob/}}\n\
            virtual_minimum_uid = 1\nvirtual_uid_maps = static:{uid}\nvirtual_gid_maps = static:{gid}\n\
            message_size_limit = 67108864\nvirtual_mailbox_limit = 0\n\
            queue_run_delay = 1s\nminimal_backoff_time = 1s\nmaximal_backoff_time = 1s\ntransport_retry_time = 1s\n{tls}",
            spool = spool.display(),
            data = data.display(),
            folder = place.folder().display(),
        ),
    )?;
    write(
        etc.join("master.cf"),
        &format!(
            "{address} inet n - n - - smtpd\nanvil unix - - n - 1 anvil\npostlog unix-dgram n - n - 1 postlogd\n\
            proxymap unix - - n - - proxymap\nrewrite unix - - n - - trivial-rewrite\n\
            cleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\nvirtual unix - n n - - virtual\n\
            bounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\n\
            tlsmgr unix - - n 1000? 1 tlsmgr\n"
        ),
    )?;
    let mut command = Command::new("postfix");
    command.env("PATH", path_with_sbin()).arg("-c").arg(etc).arg("start-fg");
    let mut part = Part::start_at(place, &name, command)?;
    part.wait_listening(address)?;
    Ok(Postfix { part })
}

/// Sends a mail with swaks to `to@mail.test` through `server`; what it said if it was not taken.
pub fn swaks(server: SocketAddr, to: &str, more: &[&str]) -> Result<String, String> {
    let mut command = Command::new("swaks");
    command.args(["--server", &server.ip().to_string(), "--port", &server.port().to_string(), "--timeout", "30"]);
    command.args(["--from", "bob@mail.test", "--to", &format!("{to}@mail.test"), "--helo", "client.test"]);
    let output = command.args(more).output().map_err(|error| format!("swaks (`.ci/setup test`): {error}"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() { Ok(said) } else { Err(said) }
}
