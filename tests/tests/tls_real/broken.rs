//! Certificates that are not what they should be: refused by name at a start and at an apply, whose old plan goes on; and every
//! kind of file that is as it should be.

use std::process::Command;

use tests::nginx::Nginx;
use tests::pki::{Key, Use, Validity, Wanted};
use tests::place::Place;
use tests::serve::{Serve, binary};

use crate::site::{Front, Said, ordinary, pki, run};

/// The configuration is wrong.
const EXIT_CONFIG: i32 = 64;

/// What is wrong, the TOML of `[certificate.bad]`, or of a whole table if it begins with a bracket, and words that are in what
/// is said of it, in small letters; `|` stands between words of which one is enough.
type Case = (&'static str, String, &'static [&'static str]);

fn cases(place: &Place) -> Vec<Case> {
    let pki = pki();
    let file = |name: &str| pki.file(name);
    let here = |name: &str, parts: &[&str]| {
        let text: String = parts.iter().map(|part| pki.read(part).unwrap()).collect();
        place.write(name, text).unwrap().display().to_string()
    };
    let issue = |name, key, usage, validity| {
        let subject = format!("/O=Corp/CN={name}.test");
        pki.issue(Wanted { name, issuer: Some("intermediate"), key, subject: &subject, usage, validity }).unwrap();
        file(&format!("{name}.pem"))
    };
    let year = Validity::Days(365);
    let small = issue("small", Key::Rsa(1024), Use::Server(&["small.test"]), year);
    let first = issue("first", Key::Ec, Use::VersionOne, year);
    let locked = place.path("locked.key").display().to_string();
    pki.openssl(&["pkcs8", "-topk8", "-in", &file("a.key"), "-passout", "pass:x", "-out", &locked]).unwrap();
    let old_locked = place.path("old-locked.key").display().to_string();
    pki.openssl(&[
        "rsa",
        "-aes128",
        "-traditional",
        "-in",
        &file("a-rsa.key"),
        "-passout",
        "pass:xxxx",
        "-out",
        &old_locked,
    ])
    .unwrap();
    pki.pfx("b", &["intermediate.crt"], "secret", false).unwrap();
    let unsigned = place.path("unsigned.pfx").display().to_string();
    let (key, crt) = (file("b.key"), file("b.crt"));
    pki.openssl(&[
        "pkcs12",
        "-export",
        "-nomac",
        "-inkey",
        &key,
        "-in",
        &crt,
        "-passout",
        "pass:secret",
        "-out",
        &unsigned,
    ])
    .unwrap();
    let cut = pki.read("a.pem").unwrap();
    let cut = place.write("cut.pem", &cut[..cut.len() / 5]).unwrap().display().to_string();
    let noise = place.write("noise.pem", [0xff_u8; 3000]).unwrap().display().to_string();
    let long = place.write("long.pem", vec![b'\n'; 5 << 20]).unwrap().display().to_string();
    let one = |path: &str| format!("file = \"{path}\"");
    vec![
        ("a file that is not there", one("/nonexistent/a.pem"), &["/nonexistent/a.pem"]),
        ("a folder", one(&place.folder().display().to_string()), &["directory|regular file"]),
        ("a key alone", one(&file("a.key")), &["a.key", "no certificate"]),
        ("a certificate alone", one(&file("a.crt")), &["a.crt", "no key|no private key|key"]),
        ("nothing at all", one("/dev/null"), &["/dev/null", "certificate|empty|file"]),
        ("half a file", one(&cut), &["cut.pem"]),
        ("noise", one(&noise), &["noise.pem"]),
        ("a file without an end", one(&long), &["long.pem", "long"]),
        ("another key", one(&here("other.pem", &["a.crt", "b.key"])), &["other.pem", "key", "match|belong|fit"]),
        ("two keys", one(&here("keys.pem", &["a.crt", "a.key", "b.key"])), &["keys.pem", "key"]),
        (
            "a locked key",
            format!("cert = \"{}\"\nkey = \"{locked}\"", file("a.crt")),
            &["locked.key", "encrypted", "openssl"],
        ),
        (
            "a key that is locked in the old way",
            format!("cert = \"{}\"\nkey = \"{old_locked}\"", file("a-rsa.crt")),
            &["old-locked.key", "encrypted", "openssl"],
        ),
        ("a wrong password", format!("pfx = \"{}\"\npassword = \"wrong\"", file("b.pfx")), &["b.pfx", "password"]),
        ("no password", format!("pfx = \"{}\"", file("b.pfx")), &["password"]),
        (
            "a PFX that nothing protects",
            format!("pfx = \"{unsigned}\"\npassword = \"secret\""),
            &["unsigned.pfx", "mac"],
        ),
        ("a PFX that is none", format!("pfx = \"{}\"\npassword = \"secret\"", file("a.pem")), &["a.pem", "pfx|pkcs"]),
        ("version 1", one(&first), &["first.pem", "version 1|v1", "cn=first.test"]),
        ("a key of 1024 bits", one(&small), &["small.pem", "1024", "2048"]),
        ("two sources", format!("{}\npfx = \"{}\"", one(&file("a.pem")), file("b.pfx")), &["pfx", "file"]),
        ("no source", String::new(), &["file", "pfx", "cert"]),
        ("an authority of nothing", "[ca.bad]\nfile = \"/dev/null\"".into(), &["/dev/null"]),
        ("an authority that is not there", "[ca.bad]\nfile = \"/nonexistent/ca.pem\"".into(), &["/nonexistent/ca.pem"]),
        ("a profile of a stranger", "[tls.bad]\ncertificates = [\"aa\"]".into(), &["aa", "certificate"]),
        ("a profile of nothing", "[tls.bad]\ncertificates = []".into(), &["certificates"]),
        ("an old version", "[tls.bad]\ncertificates = [\"a\"]\nmin_version = \"1.1\"".into(), &["1.1", "1.2"]),
        (
            "a suite of nobody",
            "[tls.bad]\ncertificates = [\"a\"]\ncipher_suites = [\"TLS_RSA_WITH_RC4_128_SHA\"]".into(),
            &["tls_rsa_with_rc4_128_sha", "tls13_aes_128_gcm_sha256"],
        ),
        (
            "clients of a stranger",
            "[tls.bad]\ncertificates = [\"a\"]\nclient_auth = { ca = \"none\", mode = \"required\" }".into(),
            &["none", "ca"],
        ),
    ]
}

fn broken(toml: &str, table: &str) -> String {
    let head = if table.starts_with('[') { "" } else { "[certificate.bad]\n" };
    format!("{toml}\n{head}{table}\n")
}

/// Why what was said does not say all of this.
fn misses(said: &str, words: &[&str]) -> Vec<String> {
    let said = said.to_lowercase();
    let held = |word: &&str| word.split('|').any(|word| said.contains(word));
    words.iter().filter(|word| !held(word)).map(|word| (*word).to_owned()).collect()
}

#[test]
fn a_certificate_that_is_broken_is_named_at_a_start_and_by_check() {
    let place = Place::new("broken-start").unwrap();
    let (site, _) = ordinary(&place, place.at(9001), |_| {});
    let mut wrong = String::new();
    for (what, table, words) in cases(&place) {
        let file = place.write("cluster.toml", broken(&site.toml(), &table)).unwrap();
        for command in [["check"].as_slice(), &["serve", "--threads", "1"]] {
            let output = Command::new("timeout").arg("20").arg(binary()).args(command).arg(&file).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
            let missing = misses(&said, words);
            if output.status.code() != Some(EXIT_CONFIG) || !missing.is_empty() {
                wrong +=
                    &format!("--- {what}: {command:?} ended with {}, without {missing:?}:\n{said}\n", output.status);
            }
            // A key's lines are nobody's to read.
            assert!(!said.contains("MIGHAgEAMBMGByqGSM49"), "{what}: {said}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn an_apply_with_a_broken_certificate_changes_nothing() {
    let place = Place::new("broken-apply").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let mut front = Front::start(&place, server, |_| {});
    let good = front.site.toml();
    let mut wrong = String::new();
    for (what, table, words) in cases(&place) {
        let said = front.serve.refuse(&broken(&good, &table)).unwrap_or_else(|error| format!("{what}: {error}"));
        let missing = misses(&said, words);
        if !missing.is_empty() {
            wrong += &format!("--- {what}: without {missing:?}:\n{said}\n");
        }
        assert_eq!(front.get("a.test", "/who", &["--http1.1"]), "one\n", "after {what}");
    }
    assert!(wrong.is_empty(), "{wrong}");
    front.apply();
    assert_eq!(front.get("b.test", "/who", &["--http2"]), "one\n");
}

#[test]
fn every_form_of_a_good_certificate_is_read() {
    let place = Place::new("good-forms").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let pki = pki();
    let here = |name: &str, parts: &[&str]| {
        let text: String = parts.iter().map(|part| pki.read(part).unwrap()).collect();
        place.write(name, text).unwrap().display().to_string()
    };
    let pfx = |legacy: bool| {
        pki.pfx("a-rsa", &["intermediate.crt"], "pässword", legacy).unwrap();
        let name = if legacy { "old.pfx" } else { "new.pfx" };
        std::fs::copy(pki.path("a-rsa.pfx"), place.path(name)).unwrap();
        place.path(name).display().to_string()
    };
    let (old, new) = (pfx(true), pfx(false));
    let password = place.write("password", "pässword\n").unwrap().display().to_string();
    let [crt, key, chain] = ["a.crt", "a.key", "intermediate.crt"].map(|name| pki.file(name));
    let forms = [
        ("a bundle", format!("file = \"{}\"", pki.file("a.pem"))),
        (
            "another order",
            format!("file = \"{}\"", here("order.pem", &["a.key", "root.crt", "intermediate.crt", "a.crt"])),
        ),
        ("three files", format!("cert = \"{crt}\"\nkey = \"{key}\"\nchain = \"{chain}\"")),
        (
            "a chain that comes later",
            format!("file = \"{}\"\nchain = \"{chain}\"", here("leaf.pem", &["a.crt", "a.key"])),
        ),
        ("an old PFX", format!("pfx = \"{old}\"\npassword = \"pässword\"")),
        ("a new PFX", format!("pfx = \"{new}\"\npassword_file = \"{password}\"")),
    ];
    let table = |form: &str| format!("[certificate.it]\n{form}\n[tls.front]\ncertificates = [\"it\"]\n");
    let mut front: Option<Front> = None;
    for (what, form) in &forms {
        if let Some(front) = &mut front {
            front.site.more = table(form);
            front.apply();
        } else {
            front = Some(Front::start(&place, server, |site| site.more = table(form)));
        }
        let front = front.as_ref().unwrap();
        assert_eq!(front.get("a.test", "/who", &[]), "one\n", "{what}\n{}", front.serve.part.tail());
    }
}

#[test]
fn what_is_doubtful_is_served_and_said() {
    let place = Place::new("doubtful").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let pki = pki();
    let leaf: String = ["a.crt", "a.key"].map(|part| pki.read(part).unwrap()).concat();
    let alone = place.write("alone.pem", leaf).unwrap().display().to_string();
    let over = pki.file("over.corp.pem");
    for (what, file, words) in [
        ("an incomplete chain", &alone, &["alone.pem|`it`|certificate it", "intermediate"][..]),
        ("an expired certificate", &over, &["over.corp", "expired"]),
    ] {
        let (site, _) = ordinary(&place, server, |site| {
            site.more = format!("[certificate.it]\nfile = \"{file}\"\n[tls.front]\ncertificates = [\"it\"]\n");
        });
        let checked = place.write("checked.toml", site.toml()).unwrap();
        let Said { code, text, complaint } = run(binary().to_str().unwrap(), &["check", checked.to_str().unwrap()], "");
        let missing = misses(&(text.clone() + &complaint), words);
        assert!(missing.is_empty() && code != EXIT_CONFIG, "{what}: {code}, without {missing:?}: {text}{complaint}");
        let serve = Serve::start(&place, &site.toml()).unwrap();
        let at = format!("https://{}/who", site.bind);
        assert_eq!(run("curl", &["-sSk", "-m", "20", &at], "").text, "one\n", "{what}");
        let status = serve.command(&["status"]).unwrap();
        let page = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(misses(&page, words).is_empty(), "{what}: {page}");
    }
}
