//! Opens the log sinks of a plan. The proxy core writes to them and may open nothing itself, so each start, each apply and
//! each SIGHUP brings it fresh descriptors: a file that was moved away is left behind.

use std::fs::OpenOptions;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;

use proxy_core::control::{DescriptorKey, Descriptors};
use proxy_core::plan::{LogSink, Target};

use crate::causes::chain;

/// A log file's rights: for its owner, who is the agent, and a group that may read it.
const MODE: u32 = 0o640;

/// A log sink that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the log `{target}`: {remedy}")]
pub struct OpenError {
    /// As the configuration has it.
    pub target: String,
    /// What to do about it.
    pub remedy: &'static str,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Every sink, for the core.
///
/// # Errors
/// The first that cannot be opened.
pub fn open(sinks: &[LogSink]) -> Result<Descriptors, OpenError> {
    (0..).zip(sinks).map(|(index, sink)| Ok((DescriptorKey::LogSink(index), Arc::new(open_one(sink)?)))).collect()
}

/// Every sink that can be opened: for lack of a log nobody goes unserved. The core counts the lines of the others as
/// dropped.
pub fn open_what_there_is(sinks: &[LogSink]) -> Descriptors {
    let mut opened = Descriptors::new();
    for (index, sink) in (0..).zip(sinks) {
        let fd = open_one(sink).or_else(|error| {
            tracing::error!("{}; what is logged there is lost until it can be opened", chain(&error));
            // The core finds a syslog daemon that comes later.
            if matches!(sink.parsed(), Some(Target::Unix(_))) {
                UnixDatagram::unbound().map(OwnedFd::from)
            } else {
                Err(error.source)
            }
        });
        opened.extend(fd.ok().map(|fd| (DescriptorKey::LogSink(index), Arc::new(fd))));
    }
    opened
}

fn open_one(sink: &LogSink) -> Result<OwnedFd, OpenError> {
    let opened = match sink.parsed() {
        Some(Target::Udp(address)) => udp(address),
        Some(Target::Unix(path)) => unix(path),
        Some(Target::Stdout) => stdout(),
        Some(Target::File(path)) => append(Path::new(path)),
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "the target is not one of those")),
    };
    opened.map_err(|source| OpenError { target: sink.target.clone(), remedy: remedy(sink, &source), source })
}

fn udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let any: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    Ok(socket.into())
}

fn unix(path: &str) -> io::Result<OwnedFd> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket.into())
}

/// Our standard output with a flag of its own that says not to wait; a socket has no second opening, and needs none.
fn stdout() -> io::Result<OwnedFd> {
    append(Path::new("/proc/self/fd/1")).or_else(|_| io::stdout().as_fd().try_clone_to_owned())
}

/// At the end of a file, or into a pipe or terminal without waiting.
fn append(path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().append(true).create(true).mode(MODE).custom_flags(flags).open(path)?;
    Ok(file.into())
}

fn remedy(sink: &LogSink, error: &io::Error) -> &'static str {
    match (sink.parsed(), error.kind()) {
        (None, _) => "use `syslog:IP:PORT`, `syslog:/PATH`, `stdout` or `file:/PATH`",
        (Some(Target::Unix(_)), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            "start the syslog daemon, or name the socket that it listens at"
        }
        (Some(Target::File(_)), io::ErrorKind::NotFound) => "create the directory, or name another file",
        (Some(Target::File(_)), io::ErrorKind::ReadOnlyFilesystem) => {
            "lbnode's unit lets it write below /var/log/lbnode only (`LogsDirectory`, `ReadWritePaths`)"
        }
        (Some(Target::File(_)), io::ErrorKind::PermissionDenied) => "let the user that lbnode runs as write there",
        (Some(Target::File(_)), _) if error.raw_os_error() == Some(libc::ENXIO) => "nobody reads that pipe",
        _ => "the kernel refuses it",
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    fn sink(target: impl Into<String>) -> LogSink {
        LogSink { target: target.into(), facility: None }
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("lbnode-logs-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_file_is_appended_to_and_a_moved_one_is_left_behind() {
        let folder = scratch("file");
        let (path, moved) = (folder.join("a.log"), folder.join("a.log.1"));
        std::fs::write(&path, "before\n").unwrap();
        let sinks = [sink(format!("file:{}", path.display()))];
        let write = |line: &str| {
            let opened = open(&sinks).unwrap();
            let fd = opened[&DescriptorKey::LogSink(0)].try_clone().unwrap();
            File::from(fd).write_all(line.as_bytes()).unwrap();
        };
        write("one\n");
        std::fs::rename(&path, &moved).unwrap();
        write("two\n");
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "before\none\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn datagrams_reach_whom_the_target_names() {
        let folder = scratch("datagrams");
        let path = folder.join("log");
        let (udp, unix) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UnixDatagram::bind(&path).unwrap());
        let sinks = [sink(format!("syslog:{}", udp.local_addr().unwrap())), sink(format!("syslog:{}", path.display()))];
        let opened = open(&sinks).unwrap();
        let send = |index, text: &str| {
            let fd = opened[&DescriptorKey::LogSink(index)].try_clone().unwrap();
            UnixDatagram::from(fd).send(text.as_bytes()).unwrap();
        };
        send(0, "over UDP");
        send(1, "over a unix socket");
        let mut bytes = [0; 64];
        let length = udp.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"over UDP");
        let length = unix.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"over a unix socket");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_cannot_be_opened_is_named_with_what_to_do_and_does_not_take_the_others_with_it() {
        let folder = scratch("bad");
        let table = [
            (format!("file:{}/no/a.log", folder.display()), "create the directory"),
            (format!("syslog:{}/no", folder.display()), "start the syslog daemon"),
            ("syslog:nowhere".to_owned(), "use `syslog:IP:PORT`"),
            (format!("file:{}", folder.display()), "the kernel refuses it"),
        ];
        for (target, remedy) in table {
            let error = open(&[sink("stdout"), sink(&target)]).unwrap_err().to_string();
            assert!(error.contains(&target) && error.contains(remedy), "{error}");
            let opened = open_what_there_is(&[sink(&target), sink("stdout")]);
            assert!(opened.contains_key(&DescriptorKey::LogSink(1)), "{target}");
            // The socket at which no daemon is yet goes along.
            let unix = target.contains("syslog:/");
            assert_eq!(opened.contains_key(&DescriptorKey::LogSink(0)), unix, "{target}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_pipe_as_standard_output_gets_an_opening_that_does_not_wait() {
        let (mut read, write) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&write));
        let again = append(Path::new(&path)).unwrap();
        let flags = |fd: &dyn Fn() -> OwnedFd| nix::fcntl::fcntl(fd(), nix::fcntl::FcntlArg::F_GETFL).unwrap();
        assert!(flags(&|| again.try_clone().unwrap()) & libc::O_NONBLOCK != 0);
        assert!(flags(&|| write.as_fd().try_clone_to_owned().unwrap()) & libc::O_NONBLOCK == 0);
        File::from(again).write_all(b"x").unwrap();
        let mut byte = [0];
        read.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}
