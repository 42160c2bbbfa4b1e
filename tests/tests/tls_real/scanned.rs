//! testssl.sh: what somebody finds who looks for weaknesses.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::nginx::Nginx;
use tests::part::Part;
use tests::place::Place;

use crate::long;
use crate::site::{Front, pki};

/// Findings by their id: how bad, and in words.
fn scan(place: &Place, front: &Front, checks: &[&str]) -> BTreeMap<String, (String, String)> {
    let report = place.path("testssl.json");
    let mut command = Command::new("testssl");
    command.args(["--quiet", "--color", "0", "--warnings", "off", "--openssl", "/usr/bin/openssl", "--jsonfile"]);
    command.arg(&report).args(["--add-ca", &pki().file("root.crt"), "--ip", &front.tls().ip().to_string()]);
    command.args(checks).arg(front.url("a.test", "/who"));
    let mut testssl = Part::start("testssl", command, place.folder()).unwrap();
    let status = testssl.process().wait(Duration::from_secs(900)).unwrap();
    let text = std::fs::read_to_string(&report).unwrap_or_else(|error| panic!("{error}: {}", testssl.tail()));
    let Value::Array(findings) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    assert!(
        findings.iter().any(|finding| finding["id"] == "scanTime"),
        "it did not end well ({status}): {}",
        testssl.tail()
    );
    findings.iter().map(|one| (word(one, "id"), (word(one, "severity"), word(one, "finding")))).collect()
}

/// Nothing is worse than a remark, but for what is said here by id; and these ids say that.
fn judge(found: &BTreeMap<String, (String, String)>, allowed: &[&str], expected: &[(&str, &str)]) {
    // About the program itself: its openssl has no engine; its time.
    let own = ["engine_problem", "scanTime"];
    let bad: Vec<_> = found
        .iter()
        .filter(|(id, (severity, _))| {
            !["OK", "INFO"].contains(&severity.as_str())
                && !own.contains(&id.as_str())
                && !allowed.contains(&id.as_str())
        })
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    for (id, words) in expected {
        let said = found.get(*id).unwrap_or_else(|| panic!("nothing of {id} in {found:#?}"));
        assert!(said.1.starts_with(words), "{id}: {said:?}, expected {words}");
    }
}

const PROTOCOLS: [(&str, &str); 8] = [
    ("SSLv2", "not offered"),
    ("SSLv3", "not offered"),
    ("TLS1", "not offered"),
    ("TLS1_1", "not offered"),
    ("TLS1_2", "offered"),
    ("TLS1_3", "offered"),
    ("cipherlist_AVERAGE", "not offered"),
    ("cipherlist_STRONG", "offered"),
];

#[test]
fn testssl_finds_no_weakness() {
    let place = Place::new("testssl").unwrap();
    let _nginx = Nginx::server(&place, "one", place.at(9001)).unwrap();
    let front = Front::start(&place, place.at(9001), |_| {});
    let found = scan(&place, &front, &["-p", "-s", "-H", "-I", "-T", "-BB"]);
    judge(&found, &[], &PROTOCOLS);
    let safe = ["heartbleed", "CCS", "ticketbleed", "ROBOT"];
    judge(&found, &[], &safe.map(|id| (id, "not vulnerable")));
}

#[test]
fn long_testssl_finds_nothing_at_all() {
    if !long("long_testssl_finds_nothing_at_all") {
        return;
    }
    let place = Place::new("testssl-all").unwrap();
    let _nginx = Nginx::server(&place, "one", place.at(9001)).unwrap();
    let front = Front::start(&place, place.at(9001), |_| {});
    let found = scan(&place, &front, &["-p", "-s", "-P", "-S", "-U", "-g"]);
    // A private CA has neither a list of what it revoked nor a place in anybody's DNS or logs.
    let private = [
        "cert_revocation",
        "cert_crlDistributionPoints",
        "cert_ocspURL",
        "OCSP_stapling",
        "DNS_CAArecord",
        "certificate_transparency",
    ];
    let of_each: Vec<String> =
        private.iter().flat_map(|id| [(*id).to_owned(), format!("{id} <cert#1>"), format!("{id} <cert#2>")]).collect();
    judge(&found, &of_each.iter().map(String::as_str).collect::<Vec<_>>(), &PROTOCOLS);
    let safe = [
        "heartbleed",
        "CCS",
        "ROBOT",
        "CRIME_TLS",
        "POODLE_SSL",
        "SWEET32",
        "FREAK",
        "DROWN",
        "LOGJAM",
        "BEAST",
        "LUCKY13",
        "RC4",
    ];
    judge(&found, &of_each.iter().map(String::as_str).collect::<Vec<_>>(), &safe.map(|id| (id, "not vulnerable")));
}
