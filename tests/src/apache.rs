//! Apache as a server behind a proxy.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::part::{Part, PartError, path_with_sbin, write};
use crate::place::Place;

/// A parent and its children.
#[derive(Debug)]
pub struct Apache {
    /// The process.
    pub part: Part,
}

impl Apache {
    /// A server of the files below `place`'s folder `files` as `/files/`, which answers `/echo` with the request's body.
    pub fn server(place: &Place, name: &str, address: SocketAddr) -> Result<Apache, PartError> {
        Apache::site(place, name, address, "")
    }

    /// The same over TLS, for clients with a certificate from `clients` only; each answer says whose in `X-Client`.
    pub fn tls_server(
        place: &Place,
        name: &str,
        address: SocketAddr,
        certificate: &Path,
        clients: &Path,
    ) -> Result<Apache, PartError> {
        let (certificate, clients) = (certificate.display(), clients.display());
        let tls = format!(
            "LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so\nSSLEngine on\n\
            SSLCertificateFile {certificate}\nSSLCertificateKeyFile {certificate}\n\
            SSLCACertificateFile {clients}\nSSLVerifyClient require\nSSLVerifyDepth 3\n\
            Header always set X-Client \"%{{SSL_CLIENT_S_DN}}s\"\n"
        );
        Apache::site(place, name, address, &tls)
    }

    fn site(place: &Place, name: &str, address: SocketAddr, tls: &str) -> Result<Apache, PartError> {
        let files = place.path("files");
        std::fs::create_dir_all(&files).map_err(|source| PartError::File { path: files.clone(), source })?;
        let modules: String = ["mpm_event", "authz_core", "alias", "reflector", "headers", "mime", "reqtimeout"]
            .map(|module| format!("LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so\n"))
            .concat();
        // Apache refuses to serve as root: children of root become somebody without rights.
        let user = if nix::unistd::geteuid().is_root() { "User www-data\nGroup www-data\n" } else { "" };
        let config = format!(
            "{modules}{user}\
            ServerName parts.test\nServerRoot {folder}\nListen {address}\nPidFile {folder}/{name}.pid\n\
            ErrorLog /dev/stderr\nMutex file:{folder}\nTypesConfig /dev/null\n\
            StartServers 1\nServerLimit 2\nThreadsPerChild 64\nMaxRequestWorkers 128\n\
            KeepAlive On\nKeepAliveTimeout 600\nMaxKeepAliveRequests 0\n\
            Header always set X-Server {name}\n\
            Alias /files {files}\n<Directory {files}>\nRequire all granted\n</Directory>\n\
            <Location /echo>\nSetHandler reflector\nRequire all granted\n</Location>\n{tls}",
            folder = place.folder().display(),
            files = files.display(),
        );
        let file = write(place.path(&format!("{name}.conf")), &config)?;
        let mut command = Command::new("apache2");
        command.env("PATH", path_with_sbin()).arg("-DFOREGROUND").arg("-f").arg(file);
        let mut part = Part::start_at(place, name, command)?;
        part.wait_listening(address)?;
        Ok(Apache { part })
    }
}
