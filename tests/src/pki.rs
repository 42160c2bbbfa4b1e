//! Certificates of every kind, made by the `openssl` command: authorities, leaves, what is broken on purpose.
//!
//! A name stands for three files in its folder: `NAME.crt`, `NAME.key`, and `NAME.pem` with both.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Why something was not made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The command could not be run.
    #[error("run openssl (Debian: openssl)")]
    Run(#[source] io::Error),
    /// It failed.
    #[error("openssl {arguments}: {said}")]
    Failed {
        /// What it was asked.
        arguments: String,
        /// What it said.
        said: String,
    },
    /// A file could not be read or written.
    #[error("read or write {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// From the system.
        #[source]
        source: io::Error,
    },
}

/// A kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// ECDSA on P-256.
    Ec,
    /// RSA of this many bits.
    Rsa(u16),
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug)]
pub enum Use<'a> {
    /// It issues others.
    Authority,
    /// A server of these names; those that are addresses are written as such.
    Server(&'a [&'a str]),
    /// Somebody who proves who they are.
    Client,
    /// Whatever X.509 version 1 is good for: it has no extensions.
    VersionOne,
}

/// A certificate that is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What its files are called.
    pub name: &'a str,
    /// Who signs it: a name; `None`: itself.
    pub issuer: Option<&'a str>,
    /// Its key.
    pub key: Key,
    /// In the form `/O=Org/CN=name`.
    pub subject: &'a str,
    /// What it may be used for.
    pub usage: Use<'a>,
    /// When it is valid.
    pub validity: Validity,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// From now on, for so many days.
    Days(u32),
    /// It was, in 2020.
    Over,
}

/// A folder of certificates.
#[derive(Debug)]
pub struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// In a folder, which is made.
    pub fn new(folder: PathBuf) -> Result<Pki, PkiError> {
        match std::fs::create_dir_all(&folder) {
            Ok(()) => Ok(Pki { folder }),
            Err(source) => Err(PkiError::File { path: folder, source }),
        }
    }

    /// A file in its folder.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// The same as text, for command lines and configurations.
    pub fn file(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }

    /// Makes one, with a new key.
    pub fn issue(&self, wanted: Wanted<'_>) -> Result<(), PkiError> {
        let Wanted { name, issuer, key, subject, usage, validity } = wanted;
        let days = if let Validity::Days(days) = validity { days } else { 0 };
        let [key_file, request, certificate, extensions] =
            ["key", "csr", "crt", "ext"].map(|end| self.file(&format!("{name}.{end}")));
        let bits = if let Key::Rsa(bits) = key { format!("rsa:{bits}") } else { "ec".into() };
        let mut arguments = vec!["req", "-new", "-newkey", &bits, "-nodes", "-keyout", &key_file];
        if key == Key::Ec {
            arguments.extend(["-pkeyopt", "ec_paramgen_curve:P-256"]);
        }
        arguments.extend(["-subj", subject, "-out", &request]);
        self.openssl(&arguments)?;

        let issuer_files =
            issuer.map(|issuer| [self.file(&format!("{issuer}.crt")), self.file(&format!("{issuer}.key"))]);
        let (days_text, database) = (days.to_string(), self.file("ca.cnf"));
        let mut arguments = match validity {
            Validity::Days(_) => vec!["x509", "-req", "-days", &days_text],
            // x509 knows no dates in the past.
            Validity::Over => {
                self.write("ca.cnf", &database_lines(&self.folder))?;
                self.write("ca.index", "")?;
                let dates = ["-startdate", "20200101000000Z", "-enddate", "20210101000000Z"];
                [["ca", "-batch", "-notext", "-config", &database].as_slice(), &dates].concat()
            }
        };
        arguments.extend(["-in", &request, "-out", &certificate]);
        match (&issuer_files, validity) {
            (Some([certificate, key]), Validity::Over) => arguments.extend(["-cert", certificate, "-keyfile", key]),
            (Some([certificate, key]), _) => arguments.extend(["-CA", certificate, "-CAkey", key, "-CAcreateserial"]),
            (None, Validity::Over) => arguments.extend(["-selfsign", "-keyfile", &key_file]),
            (None, _) => arguments.extend(["-signkey", &key_file]),
        }
        if let Some(text) = extension_lines(usage) {
            self.write(&format!("{name}.ext"), &text)?;
            arguments.extend(["-extfile", &extensions]);
        }
        self.openssl(&arguments)?;
        self.bundle(&format!("{name}.pem"), &[&format!("{name}.crt"), &format!("{name}.key")])
    }

    /// A file that holds others, one after the other.
    pub fn bundle(&self, file: &str, parts: &[&str]) -> Result<(), PkiError> {
        let mut text = String::new();
        for part in parts {
            text += &self.read(part)?;
        }
        self.write(file, &text)
    }

    /// `NAME.pfx` with the key, the certificate and these further ones.
    pub fn pfx(&self, name: &str, chain: &[&str], password: &str, legacy: bool) -> Result<(), PkiError> {
        self.bundle(&format!("{name}.pfx.chain"), chain)?;
        let [key, certificate, chain, out] =
            ["key", "crt", "pfx.chain", "pfx"].map(|end| self.file(&format!("{name}.{end}")));
        let password = format!("pass:{password}");
        let mut arguments = vec!["pkcs12", "-export", "-inkey", &key, "-in", &certificate, "-certfile", &chain];
        arguments.extend(["-passout", &password, "-out", &out]);
        if legacy {
            arguments.push("-legacy");
        }
        self.openssl(&arguments).map(drop)
    }

    /// `NAME.ocsp`: the issuer says that the certificate is good, for this many days.
    pub fn staple(&self, name: &str, issuer: &str, days: u32) -> Result<(), PkiError> {
        let [certificate, index, out] = ["crt", "index", "ocsp"].map(|end| self.file(&format!("{name}.{end}")));
        let [issuer_certificate, issuer_key] = ["crt", "key"].map(|end| self.file(&format!("{issuer}.{end}")));
        let serial = self.openssl(&["x509", "-in", &certificate, "-noout", "-serial"])?;
        let serial = serial.trim().trim_start_matches("serial=");
        // One line of a CA's database (openssl-ca(1)): valid, until 2049.
        self.write(&format!("{name}.index"), &format!("V\t491231235959Z\t\t{serial}\tunknown\t/CN={name}\n"))?;
        let days = days.to_string();
        let mut arguments = vec!["ocsp", "-index", &index, "-CA", &issuer_certificate, "-rsigner", &issuer_certificate];
        arguments.extend(["-rkey", &issuer_key, "-issuer", &issuer_certificate, "-cert", &certificate]);
        arguments.extend(["-respout", &out, "-ndays", &days, "-noverify"]);
        self.openssl(&arguments).map(drop)
    }

    /// Runs openssl in the folder; what it wrote.
    pub fn openssl(&self, arguments: &[&str]) -> Result<String, PkiError> {
        let output = Command::new("openssl").args(arguments).current_dir(&self.folder).output();
        let Output { status, stdout, stderr } = output.map_err(PkiError::Run)?;
        if !status.success() {
            let said = String::from_utf8_lossy(&stderr).trim().to_owned();
            return Err(PkiError::Failed { arguments: arguments.join(" "), said });
        }
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// The text of a file.
    pub fn read(&self, file: &str) -> Result<String, PkiError> {
        let path = self.path(file);
        std::fs::read_to_string(&path).map_err(|source| PkiError::File { path, source })
    }

    /// Writes a file; in its place at once, for who reads it meanwhile.
    pub fn write(&self, file: &str, text: &str) -> Result<(), PkiError> {
        let path = self.path(file);
        let new = self.path(&format!("{file}.new"));
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path));
        written.map_err(|source| PkiError::File { path, source })
    }
}

/// What `openssl ca` has to be told (openssl-ca(1)).
fn database_lines(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "[ca]\ndefault_ca=it\n[it]\ndatabase={folder}/ca.index\nnew_certs_dir={folder}\nrand_serial=yes\n\
        default_md=sha256\npolicy=any\nunique_subject=no\n[any]\norganizationName=optional\ncommonName=supplied\n"
    )
}

/// openssl's words (x509v3_config(5)).
fn extension_lines(usage: Use<'_>) -> Option<String> {
    let mut lines = match usage {
        Use::VersionOne => return None,
        Use::Authority => "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign,digitalSignature\n",
        Use::Server(_) => "basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n",
        Use::Client => "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n",
    }
    .to_owned();
    if let Use::Server(names) = usage {
        let kind = |name: &str| if name.parse::<std::net::IpAddr>().is_ok() { "IP" } else { "DNS" };
        let names: Vec<String> = names.iter().map(|name| format!("{}:{name}", kind(name))).collect();
        writeln!(lines, "subjectAltName={}", names.join(",")).ok()?;
    }
    lines += "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";
    Some(lines)
}

/// Takes away folders `PREFIX-PID` beside `folder` whose process is gone: nobody tells a test binary that it ends.
pub fn sweep(folder: &Path, prefix: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_prefix('-')?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // What is left of it does no harm.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
