//! Why a certificate cannot be used: which file, which certificate, and what to do about it.

/// Why a certificate cannot be used. The messages name the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Nothing in the file is a certificate.
    #[error("{path}: there is no certificate in it; {hint}")]
    NoCertificate {
        /// The file.
        path: String,
        /// What it seems to be, or what was expected.
        hint: String,
    },
    /// Nothing in the file is a key.
    #[error("{path}: there is no private key in it; add it to the file, or write `cert` and `key` for two files")]
    NoKey {
        /// The file.
        path: String,
    },
    /// Which is meant?
    #[error("{path}: there are {count} private keys in it; leave only the one of the certificate")]
    SeveralKeys {
        /// The file.
        path: String,
        /// How many.
        count: usize,
    },
    /// A key that needs a password.
    #[error(
        "{path}: its private key is encrypted, and nobody types a password here; decrypt it with \
             `openssl pkey -in {path} -out NEW.key`, chmod 600 that, and name it"
    )]
    EncryptedKey {
        /// The file.
        path: String,
    },
    /// A key that TLS cannot sign with.
    #[error(
        "{path}: its private key is damaged or of a kind that TLS has no use for; expected RSA of 2048 to 8192 bits, \
             EC on P-256, P-384 or P-521, or Ed25519"
    )]
    UnusableKey {
        /// The file.
        path: String,
    },
    /// Key and certificates are strangers.
    #[error("{key_path}: its private key belongs to no certificate of {path} ({}); take the key that the certificate was \
             requested with, or request one for this key", .subjects.join("; "))]
    KeyMismatch {
        /// The file with the certificates.
        path: String,
        /// The file with the key.
        key_path: String,
        /// Whose certificates these are.
        subjects: Vec<String>,
    },
    /// What is between `BEGIN` and `END` is nothing.
    #[error("{path}: this is no sound PEM: {problem}")]
    Pem {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// PEM is right, but what is in it is no certificate.
    #[error("{path}: certificate {number} in it is damaged: {problem}")]
    Damaged {
        /// The file.
        path: String,
        /// Counted from 1.
        number: usize,
        /// Where reading ended.
        problem: String,
    },
    /// X.509 v1.
    #[error(
        "{path}: the certificate of {subject} is X.509 v1, which clients and this version refuse; issue it again as v3: \
             `openssl x509 -req` makes v3 with `-extfile FILE`, where FILE has at least subjectAltName=DNS:NAME"
    )]
    Version1 {
        /// The file.
        path: String,
        /// Whose certificate.
        subject: String,
    },
    /// Too short a key, or an unknown one.
    #[error(
        "{path}: the certificate of {subject} has a key that cannot be used ({key}); expected RSA of 2048 to 8192 bits, EC \
             on P-256, P-384 or P-521, or Ed25519: make such a key and request a certificate for it"
    )]
    KeyKind {
        /// The file.
        path: String,
        /// Whose certificate.
        subject: String,
        /// What it has.
        key: String,
    },
    /// The MAC says so.
    #[error(
        "{path}: the password {from} is wrong (or the file is damaged: `openssl pkcs12 -info -noout -in {path}` tells)"
    )]
    WrongPassword {
        /// The file.
        path: String,
        /// Where the password is from.
        from: String,
    },
    /// No password was said, and the empty one is wrong.
    #[error("{path}: it needs a password; write it into the first line of a file and name that with `password_file`")]
    NoPassword {
        /// The file.
        path: String,
    },
    /// No MAC: nobody knows whether the file is as it was written, or the password right.
    #[error(
        "{path}: it has no MAC, so anybody may have changed it; export it again with one, as \
             `openssl pkcs12 -export` does, or take PEM"
    )]
    NoMac {
        /// The file.
        path: String,
    },
    /// Somebody means ill.
    #[error(
        "{path}: its MAC takes {iterations} iterations, and at most {most} are worked through; export it again, \
             `openssl pkcs12 -export` takes 2048"
    )]
    Iterations {
        /// The file.
        path: String,
        /// What it asks for.
        iterations: u64,
        /// What is given.
        most: u64,
    },
    /// Likewise.
    #[error(
        "{path}: to decrypt it takes longer than {seconds} s; export it again, `openssl pkcs12 -export` takes 2048 iterations"
    )]
    Slow {
        /// The file.
        path: String,
        /// How long it had.
        seconds: u64,
    },
    /// Not PKCS #12, or a corner of it that nobody reads.
    #[error(
        "{path}: as PFX it cannot be read ({problem}); `openssl pkcs12 -in {path} -nodes -out NEW.pem` (with `-legacy` for old \
             ciphers) makes PEM of what it can read: chmod 600 that, and name it with `file`"
    )]
    Pfx {
        /// The file.
        path: String,
        /// Where reading ended.
        problem: String,
    },
    /// Longer than any certificate.
    #[error("{path}: it is longer than {most} bytes; that is no {what}")]
    Long {
        /// The file.
        path: String,
        /// The limit.
        most: usize,
        /// What was expected.
        what: &'static str,
    },
    /// Not an answer that could be stapled.
    #[error(
        "{path}: this is no OCSP response to staple: {problem}; `openssl ocsp -issuer CA.pem -cert CERT.pem -url URL -respout FILE` \
             gets one"
    )]
    Ocsp {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}
