//! Mail servers: Dovecot for IMAP, Postfix for SMTP, each with a configuration and folders of its own.

use std::net::SocketAddr;
use std::process::Command;

use nix::unistd::geteuid;

use crate::part::{Part, PartError, path_with_sbin, write};
use crate::place::Place;

/// Starts Dovecot, which greets on `address`.
pub fn dovecot(place: &Place, address: SocketAddr) -> Result<Part, PartError> {
    let folder = place.folder().display();
    // Whoever isn't root runs all of it as who they are; root has the package's users.
    let users = if geteuid().is_root() {
        String::new()
    } else {
        let user = std::env::var("USER").unwrap_or_else(|_| "nobody".into());
        format!("default_internal_user = {user}\ndefault_login_user = {user}\ndefault_internal_group =\n")
    };
    let config = format!(
        "base_dir = {folder}/dovecot-run\nstate_dir = {folder}/dovecot-state\nprotocols = imap\nssl = no\n\
        listen = {ip}\nlog_path = /dev/stderr\nmail_location = maildir:{folder}/mail\n{users}\
        passdb {{\n  driver = static\n  args = nopassword=y\n}}\n\
        service imap-login {{\n  chroot =\n  inet_listener imap {{\n    port = {port}\n  }}\n\
        inet_listener imaps {{\n    port = 0\n  }}\n}}\n\
        service anvil {{\n  chroot =\n}}\nservice stats {{\n  chroot =\n}}\n",
        ip = address.ip(),
        port = address.port(),
    );
    let file = write(place.path("dovecot.conf"), &config)?;
    let mut command = Command::new("dovecot");
    command.env("PATH", path_with_sbin()).arg("-F").arg("-c").arg(file);
    let mut part = Part::start_at(place, "dovecot", command)?;
    part.wait_listening(address)?;
    Ok(part)
}

/// Starts Postfix, which greets on `address` with this banner. It starts only as root.
pub fn postfix(place: &Place, address: SocketAddr, banner: &str) -> Result<Part, PartError> {
    let folder = place.folder().display();
    let failed = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| PartError::File { path, source }
    };
    for name in ["postfix", "postfix-spool", "postfix-data"] {
        let path = place.path(name);
        std::fs::create_dir_all(&path).map_err(failed(&path))?;
    }
    let data = place.path("postfix-data");
    if let Ok(Some(user)) = nix::unistd::User::from_name("postfix") {
        nix::unistd::chown(&data, Some(user.uid), None).map_err(|errno| failed(&data)(errno.into()))?;
    }
    write(
        place.path("postfix/main.cf"),
        &format!(
            "compatibility_level = 3.6\nqueue_directory = {folder}/postfix-spool\n\
            data_directory = {folder}/postfix-data\ncommand_directory = /usr/sbin\n\
            daemon_directory = /usr/lib/postfix/sbin\nmail_owner = postfix\nsetgid_group = postdrop\n\
            myhostname = mx.test\ninet_interfaces = loopback-only\ninet_protocols = ipv4\n\
            maillog_file = {folder}/postfix.mail.log\nmaillog_file_prefixes = {folder}\nalias_maps =\n\
            alias_database =\nlocal_recipient_maps =\nsmtpd_banner = {banner}\nsmtpd_peername_lookup = no\n"
        ),
    )?;
    write(
        place.path("postfix/master.cf"),
        &format!(
            "{address} inet n - n - - smtpd\nanvil unix - - n - 1 anvil\npostlog unix-dgram n - n - 1 postlogd\n\
            proxymap unix - - n - - proxymap\nrewrite unix - - n - - trivial-rewrite\n"
        ),
    )?;
    let mut command = Command::new("postfix");
    command.env("PATH", path_with_sbin()).arg("-c").arg(place.path("postfix")).arg("start-fg");
    let mut part = Part::start_at(place, "postfix", command)?;
    part.wait_listening(address)?;
    Ok(part)
}
