//! Certificates of every kind, made by the `openssl` command in a directory of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What `openssl` made, and where.
pub(crate) struct Pki {
    pub(crate) dir: PathBuf,
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Pki {
    /// A root, two intermediates below each other, and a certificate of `www.example.test` below them:
    /// `root`, `upper`, `lower`, `leaf`, each with `.pem` and `.key`.
    pub(crate) fn new(name: &str) -> Pki {
        let dir = std::env::temp_dir().join(format!("lbnode-certificates-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let pki = Pki { dir };
        pki.key("root", "ec");
        pki.openssl("req -x509 -new -key root.key -subj /CN=Test\\ Root -days 3650 -addext basicConstraints=critical,CA:TRUE -out root.pem");
        pki.issue(
            "upper",
            "/CN=Upper CA",
            "root",
            "ec",
            3000,
            "basicConstraints=critical,CA:TRUE\nauthorityInfoAccess=caIssuers;URI:http://ca.test/root.crt\n",
        );
        pki.issue(
            "lower",
            "/CN=Lower CA",
            "upper",
            "ec",
            2000,
            "basicConstraints=critical,CA:TRUE\nauthorityInfoAccess=caIssuers;URI:http://ca.test/upper.crt\n",
        );
        pki.leaf("leaf", "lower", "ec", 400);
        pki
    }

    /// A certificate of `www.example.test` and `*.example.test`.
    pub(crate) fn leaf(&self, name: &str, ca: &str, kind: &str, days: i32) {
        let extensions = "subjectAltName=DNS:www.example.test,DNS:*.example.test,IP:192.0.2.7\n\
                          authorityInfoAccess=caIssuers;URI:http://ca.test/lower.crt\n";
        self.issue(name, "/CN=www.example.test", ca, kind, days, extensions);
    }

    /// A key: `ec`, `rsa:BITS`, `ed25519`, or a curve.
    pub(crate) fn key(&self, name: &str, kind: &str) {
        let how = match kind.split_once(':') {
            Some(("rsa", bits)) => format!("-algorithm RSA -pkeyopt rsa_keygen_bits:{bits}"),
            Some((_, curve)) => format!("-algorithm EC -pkeyopt ec_paramgen_curve:{curve}"),
            None if kind == "ec" => "-algorithm EC -pkeyopt ec_paramgen_curve:P-256".into(),
            None => format!("-algorithm {kind}"),
        };
        self.openssl(&format!("genpkey {how} -out {name}.key"));
    }

    /// A certificate below another one; `days` may lie in the past. Without extensions it is X.509 v1.
    pub(crate) fn issue(&self, name: &str, subject: &str, ca: &str, kind: &str, days: i32, extensions: &str) {
        self.key(name, kind);
        let subject = subject.replace(' ', "\\ ");
        self.openssl(&format!("req -new -key {name}.key -subj {subject} -out {name}.csr"));
        let mut how = format!("x509 -req -in {name}.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial -out {name}.pem");
        if !extensions.is_empty() {
            fs::write(self.dir.join("extensions"), extensions).unwrap();
            how += " -extfile extensions";
        }
        self.openssl(&format!("{how} -days {days}"));
    }

    /// Runs `openssl` with these words; a backslash keeps a space in a word.
    pub(crate) fn openssl(&self, words: &str) {
        let words = words.replace("\\ ", "\u{1}");
        let words: Vec<String> = words.split_whitespace().map(|word| word.replace('\u{1}', " ")).collect();
        let done = Command::new("openssl").args(&words).current_dir(&self.dir).output().unwrap();
        assert!(done.status.success(), "openssl {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Files one after the other as another file.
    pub(crate) fn join(&self, name: &str, files: &[&str]) {
        let all: Vec<Vec<u8>> = files.iter().map(|file| self.read(file)).collect();
        fs::write(self.dir.join(name), all.concat()).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.join(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.dir.join(name), bytes).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// The DER of a certificate.
    pub(crate) fn der(&self, name: &str) -> Vec<u8> {
        self.openssl(&format!("x509 -in {name}.pem -outform der -out {name}.der"));
        self.read(&format!("{name}.der"))
    }

    /// A message with this directory taken out of it.
    pub(crate) fn plain(&self, message: &str) -> String {
        message.replace(&format!("{}/", self.dir.display()), "")
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}
