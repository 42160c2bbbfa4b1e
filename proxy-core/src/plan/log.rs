//! Where and how a frontend's sessions and requests are logged.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The log of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Index into [`super::Plan::log_sinks`].
    pub sink: usize,
    /// What a line looks like.
    pub format: LogFormat,
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// HAProxy's `httplog`, a line a request.
    Http,
    /// HAProxy's `tcplog`, a line a session.
    Tcp,
    /// One JSON object a line, for either mode.
    Json,
}

/// Something that takes lines. Its descriptor comes from the agent, who alone can open it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSink {
    /// As the configuration names it: `syslog:127.0.0.1:514`, `syslog:/dev/log`, `stdout`, `file:/var/log/x.log`.
    pub target: String,
    /// The syslog facility's number (RFC 5424 §6.2.1); `None`: plain lines, without a syslog header.
    pub facility: Option<u8>,
}

/// The kernel has room for 108 bytes and a zero (unix(7)).
const MAX_SOCKET: usize = 107;

/// What a sink's `target` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// Datagrams to a syslog server.
    Udp(SocketAddr),
    /// Datagrams to the socket of a syslog daemon on this machine.
    Unix(&'a str),
    /// What the agent was started with.
    Stdout,
    /// Lines at the end of a file.
    File(&'a str),
}

impl LogSink {
    pub(super) fn validate(&self) -> Result<(), String> {
        match self.facility {
            Some(facility) if facility > 23 => Err(format!("{facility} is no facility")),
            _ => Ok(()),
        }
    }

    /// What the target names; `None`: nothing that there is.
    pub fn parsed(&self) -> Option<Target<'_>> {
        Target::parse(&self.target)
    }
}

impl Target<'_> {
    /// What the text names; `None`: nothing that there is.
    pub fn parse(text: &str) -> Option<Target<'_>> {
        let absolute = |path: &str| path.starts_with('/') && !path.contains('\0');
        match text.split_once(':') {
            None if text == "stdout" => Some(Target::Stdout),
            Some(("file", path)) if absolute(path) => Some(Target::File(path)),
            Some(("syslog", path)) if absolute(path) && path.len() <= MAX_SOCKET => Some(Target::Unix(path)),
            Some(("syslog", address)) => {
                address.parse().ok().filter(|address: &SocketAddr| address.port() != 0).map(Target::Udp)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_name_what_they_say() {
        let table = [
            ("syslog:127.0.0.1:514", Some(Target::Udp(SocketAddr::from(([127, 0, 0, 1], 514))))),
            ("syslog:[::1]:514", Some(Target::Udp("[::1]:514".parse().unwrap()))),
            ("syslog:/dev/log", Some(Target::Unix("/dev/log"))),
            ("stdout", Some(Target::Stdout)),
            ("file:/var/log/a:b.log", Some(Target::File("/var/log/a:b.log"))),
            ("", None),
            ("stdout:", None),
            ("file:", None),
            ("file:a.log", None),
            ("syslog:", None),
            ("syslog:127.0.0.1", None),
            ("syslog:127.0.0.1:0", None),
            ("syslog:127.0.0.1:65536", None),
            ("syslog:log.test:514", None),
            ("udp:127.0.0.1:514", None),
            ("file:/a\0b", None),
        ];
        for (text, target) in table {
            assert_eq!(Target::parse(text), target, "{text}");
        }
        let path = "/".repeat(MAX_SOCKET);
        assert_eq!(Target::parse(&format!("syslog:{path}")), Some(Target::Unix(&path)));
        assert_eq!(Target::parse(&format!("syslog:{path}/")), None);
    }
}
