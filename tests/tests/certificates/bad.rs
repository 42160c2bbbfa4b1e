//! What cannot be used: which file, which certificate, and what to do.

use super::mistakes;
use super::pki::Pki;

/// The only mistake of a file with this `[certificate.c]`.
fn mistake(pki: &Pki, table: &str) -> String {
    let found = mistakes(pki, table);
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

#[test]
fn each_mistake_names_the_file_and_the_remedy() {
    let pki = Pki::new("bad");
    pki.leaf("other", "lower", "ec", 400);
    pki.openssl("pkey -in leaf.key -aes256 -passout pass:x -out encrypted.key");
    pki.openssl("ec -in leaf.key -aes256 -passout pass:x -out encrypted-old.key");
    pki.join("encrypted.pem", &["leaf.pem", "encrypted.key"]);
    pki.join("encrypted-old.pem", &["leaf.pem", "encrypted-old.key"]);
    pki.join("keyless.pem", &["leaf.pem", "lower.pem"]);
    pki.join("two-keys.pem", &["leaf.pem", "leaf.key", "other.key"]);
    pki.join("stranger.pem", &["leaf.pem", "lower.pem", "other.key"]);
    pki.join("key-alone.pem", &["leaf.key"]);
    pki.issue("v1", "/CN=old.test", "lower", "ec", 400, "");
    pki.join("v1.pem", &["v1.pem", "v1.key"]);
    pki.leaf("short", "lower", "rsa:1024", 400);
    pki.join("short.pem", &["short.pem", "short.key"]);
    pki.leaf("koblitz", "lower", "curve:secp256k1", 400);
    pki.join("koblitz.pem", &["koblitz.pem", "koblitz.key"]);
    pki.leaf("goldilocks", "lower", "ed448", 400);
    pki.join("goldilocks.pem", &["goldilocks.pem", "goldilocks.key"]);
    pki.write("empty.pem", "");
    pki.write("text.pem", "hello\n");
    pki.write("cut.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    pki.write("nonsense.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    pki.write("letters.pem", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n");
    pki.der("leaf");
    pki.openssl("crl2pkcs7 -nocrl -certfile leaf.pem -out seven.pem");
    pki.openssl("pkcs12 -export -in leaf.pem -inkey leaf.key -passout pass:right -out c.pfx");
    pki.openssl("pkcs12 -export -in leaf.pem -inkey leaf.key -passout pass:right -nomac -out nomac.pfx");
    pki.openssl("pkcs12 -export -in leaf.pem -inkey leaf.key -passout pass:right -iter 3000000 -out slow.pfx");
    pki.openssl("pkcs12 -export -nokeys -in leaf.pem -passout pass:right -out keyless.pfx");
    pki.openssl("pkcs12 -export -in leaf.pem -inkey leaf.key -passout pass:right -keypbe aes-128-cbc -certpbe PBE-SHA1-RC4-128 -legacy -out rc4.pfx");
    pki.write("cut.pfx", &pki.read("c.pfx")[..400]);
    pki.write("password", "wrong\n");
    pki.write("long.pem", vec![b'a'; (1 << 20) + 1]);
    let kinds = "expected RSA of 2048 to 8192 bits, EC on P-256, P-384 or P-521, or Ed25519";
    let decrypt = |file: &str| {
        format!(
            "{file}: its private key is encrypted, and nobody types a password here; decrypt it with \
             `openssl pkey -in {file} -out NEW.key`, chmod 600 that, and name it"
        )
    };
    let other_kind = |file: &str, subject: &str, key: &str| {
        format!(
            "{file}: the certificate of {subject} has a key that cannot be used ({key}); {kinds}: make such a key and \
             request a certificate for it"
        )
    };
    let pem = |file: &str| {
        format!("{file}: there is no certificate in it; expected PEM, with a line -----BEGIN CERTIFICATE-----")
    };
    let table: Vec<(&str, String)> = vec![
        ("file = \"DIR/gone.pem\"", "cannot read gone.pem: No such file or directory (os error 2)".into()),
        ("file = \"DIR\"", "cannot read DIR: it is no regular file".into()),
        ("file = \"DIR/long.pem\"", "cannot read long.pem: it is longer than 1048576 bytes".into()),
        ("file = \"DIR/empty.pem\"", "empty.pem: there is no certificate in it; it is empty".into()),
        ("file = \"DIR/text.pem\"", pem("text.pem")),
        ("file = \"DIR/key-alone.pem\"", pem("key-alone.pem")),
        ("file = \"DIR/leaf.csr\"", "leaf.csr: there is no certificate in it; it has a request: what the CA made of that is wanted".into()),
        ("file = \"DIR/leaf.der\"", "leaf.der: there is no certificate in it; it is one in DER, and PEM is wanted: `openssl x509 -inform der -in leaf.der -out NEW.pem`".into()),
        ("file = \"DIR/seven.pem\"", "seven.pem: there is no certificate in it; it is PKCS #7: `openssl pkcs7 -print_certs -in seven.pem -out NEW.pem` makes PEM of it".into()),
        ("file = \"DIR/c.pfx\"", "c.pfx: there is no certificate in it; it is a PFX: name it with `pfx` instead".into()),
        ("file = \"DIR/cut.pem\"", "cut.pem: this is no sound PEM: the line -----END CERTIFICATE----- is missing".into()),
        ("file = \"DIR/nonsense.pem\"", "nonsense.pem: certificate 1 in it is damaged: ".into()),
        ("file = \"DIR/letters.pem\"", "letters.pem: this is no sound PEM: what follows a -----BEGIN is not base64".into()),
        ("file = \"DIR/keyless.pem\"", "keyless.pem: there is no private key in it; add it to the file, or write `cert` and `key` for two files".into()),
        ("file = \"DIR/two-keys.pem\"", "two-keys.pem: there are 2 private keys in it; leave only the one of the certificate".into()),
        ("file = \"DIR/encrypted.pem\"", decrypt("encrypted.pem")),
        ("file = \"DIR/encrypted-old.pem\"", decrypt("encrypted-old.pem")),
        ("cert = \"DIR/leaf.pem\"\nkey = \"DIR/encrypted.key\"", decrypt("encrypted.key")),
        (
            "file = \"DIR/stranger.pem\"",
            "stranger.pem: its private key belongs to no certificate of stranger.pem (CN=www.example.test; CN=Lower CA); take \
             the key that the certificate was requested with, or request one for this key".into(),
        ),
        (
            "cert = \"DIR/leaf.pem\"\nkey = \"DIR/other.key\"",
            "other.key: its private key belongs to no certificate of leaf.pem (CN=www.example.test); take the key that the \
             certificate was requested with, or request one for this key".into(),
        ),
        ("cert = \"DIR/leaf.pem\"\nkey = \"DIR/lower.pem\"", "lower.pem: there is no private key in it; add it to the file, or write `cert` and `key` for two files".into()),
        (
            "file = \"DIR/v1.pem\"",
            "v1.pem: the certificate of CN=old.test is X.509 v1, which clients and this version refuse; issue it again as v3: \
             `openssl x509 -req` makes v3 with `-extfile FILE`, where FILE has at least subjectAltName=DNS:NAME".into(),
        ),
        ("file = \"DIR/short.pem\"", other_kind("short.pem", "CN=www.example.test", "RSA 1024 bits")),
        ("file = \"DIR/koblitz.pem\"", other_kind("koblitz.pem", "CN=www.example.test", "EC secp256k1")),
        ("file = \"DIR/goldilocks.pem\"", other_kind("goldilocks.pem", "CN=www.example.test", "Ed448")),
        (
            "pfx = \"DIR/c.pfx\"\npassword_file = \"DIR/password\"",
            "c.pfx: the password of password is wrong (or the file is damaged: `openssl pkcs12 -info -noout -in c.pfx` tells)".into(),
        ),
        (
            "pfx = \"DIR/c.pfx\"\npassword = \"wrong\"",
            "c.pfx: the password of `password` is wrong (or the file is damaged: `openssl pkcs12 -info -noout -in c.pfx` tells)".into(),
        ),
        ("pfx = \"DIR/c.pfx\"", "c.pfx: it needs a password; write it into the first line of a file and name that with `password_file`".into()),
        (
            "pfx = \"DIR/nomac.pfx\"\npassword = \"right\"",
            "nomac.pfx: it has no MAC, so anybody may have changed it; export it again with one, as `openssl pkcs12 -export` does, \
             or take PEM".into(),
        ),
        (
            "pfx = \"DIR/slow.pfx\"\npassword = \"right\"",
            "slow.pfx: its MAC takes 3000000 iterations, and at most 1000000 are worked through; export it again, \
             `openssl pkcs12 -export` takes 2048".into(),
        ),
        ("pfx = \"DIR/keyless.pfx\"\npassword = \"right\"", "keyless.pfx: there is no private key in it; ".into()),
        ("pfx = \"DIR/rc4.pfx\"\npassword = \"right\"", "rc4.pfx: as PFX it cannot be read (Unsupported encryption scheme); ".into()),
        ("pfx = \"DIR/cut.pfx\"\npassword = \"right\"", "cut.pfx: as PFX it cannot be read (it is no PKCS #12 in DER); ".into()),
        ("pfx = \"DIR/leaf.pem\"", "leaf.pem: as PFX it cannot be read (it is no PKCS #12 in DER); ".into()),
        ("file = \"DIR/leaf.pem\"\nkey = \"DIR/leaf.key\"", "`key` goes with `cert`; in `file` and `pfx` the key is inside".into()),
        ("cert = \"DIR/leaf.pem\"", "`cert` needs `key`: the file with its private key; for one file with both there is `file`".into()),
        ("imported = true", "nothing was imported as `c` on this node: `lbnode cert import c FILE` does it".into()),
        ("cert = \"DIR/leaf.pem\"\nkey = \"DIR/leaf.key\"\npassword = \"x\"", "`password` goes with `pfx`".into()),
        ("cert = \"DIR/leaf.pem\"\nkey = \"DIR/leaf.key\"\nchain = \"DIR/text.pem\"", pem("text.pem")),
        (
            "cert = \"DIR/leaf.pem\"\nkey = \"DIR/leaf.key\"\nocsp = \"DIR/text.pem\"",
            "text.pem: this is no OCSP response to staple: it is none in DER; ".into(),
        ),
    ];
    let mut wrong = String::new();
    for (table, expected) in &table {
        let found = pki.plain(&mistakes(&pki, table).join("\n")).replace(&pki.dir().display().to_string(), "DIR");
        let fits = if expected.ends_with(' ') { found.starts_with(expected.as_str()) } else { found == *expected };
        if !fits {
            wrong += &format!("--- {table}\nexpected {expected}\nfound    {found}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn an_ocsp_response_of_another_certificate_is_refused() {
    let pki = Pki::new("foreign");
    pki.leaf("other", "lower", "ec", 400);
    pki.openssl("ocsp -issuer lower.pem -cert other.pem -reqout request");
    pki.write("index", "");
    pki.openssl(
        "ocsp -index index -CA lower.pem -rsigner lower.pem -rkey lower.key -reqin request -respout response -ndays 7",
    );
    let found = mistake(&pki, "cert = \"DIR/leaf.pem\"\nkey = \"DIR/leaf.key\"\nocsp = \"DIR/response\"");
    assert!(
        found.starts_with("response: this is no OCSP response to staple: it is about the certificate with serial "),
        "{found}"
    );
}
