//! Certificates of a running node: renewed by an apply, refused when broken, and kept with the revision.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use netns_lab::pair::Pair;
use netns_lab::process::kill_all;
use serde_json::{Value, json};

use crate::fixture::{Folder, LIMIT, OrFail, cluster_file};

const PORT: u16 = 8443;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// A certificate that signs itself, and its key, in one file.
fn certify(path: &Path, name: &str) {
    let (key, certificate) = (path.with_extension("key"), path.with_extension("crt"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"])
        .args(["-subj", &format!("/CN={name}"), "-addext", "subjectAltName=DNS:a.test"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status();
    assert!(made.or_fail("run openssl").success());
    let both = fs::read_to_string(certificate).or_fail("read") + &fs::read_to_string(key).or_fail("read");
    fs::write(path, both).or_fail("write the bundle");
}

/// `openssl s_client` in the client's namespace.
fn client(pair: &Pair, options: &'static [&'static str]) -> Child {
    let mut service: SocketAddr = pair.site.service();
    service.set_port(PORT);
    pair.site.client.netns.run(move || {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &service.to_string()]).args(options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().or_fail("run openssl")
    })
}

/// Whom a new client meets.
fn shown(pair: &Pair) -> String {
    let output = client(pair, &[]).wait_with_output().or_fail("read what openssl says");
    let text = String::from_utf8_lossy(&output.stdout);
    let subject = text.lines().find_map(|line| line.strip_prefix("subject="));
    subject.unwrap_or(&text).replace(' ', "")
}

/// One connection that stays.
struct Held(Child, ChildStdin, ChildStdout);

impl Held {
    fn open(pair: &Pair) -> Held {
        let mut child = client(pair, &["-quiet", "-no_ign_eof"]);
        let (asks, hears) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Held(child, asks, hears)
    }

    fn ask(&mut self) {
        self.1.write_all(REQUEST).and_then(|()| self.1.flush()).or_fail("ask");
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\nin") {
            let mut byte = [0];
            self.2.read_exact(&mut byte).or_fail("hear the answer");
            heard.push(byte[0]);
        }
        assert!(heard.starts_with(b"HTTP/1.1 200 "), "{}", heard.escape_ascii());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_certificate_is_renewed_by_an_apply_without_a_cut_and_a_broken_one_changes_nothing() {
    let Some(folder) = Folder::new("tls") else { return };
    let bundle = folder.path().join("bundle.pem");
    certify(&bundle, "one");
    let mut pair = Pair::new(folder.settings()).or_fail("make the pair");
    let path = cluster_file(&pair, 0);
    let text = fs::read_to_string(&path).or_fail("read the cluster file")
        + &format!(
            "\n[certificate.c]\nfile = {bundle:?}\n[tls.t]\ncertificates = [\"c\"]\n\
             [frontend.secure]\nmode = \"http\"\nbind = [{{ to = \"web:{PORT}\", tls = \"t\" }}]\n\
             [[frontend.secure.rule]]\nreturn = {{ status = 200, body = \"in\" }}\n"
        );
    fs::write(&path, &text).or_fail("write");
    pair.start_agent(0).or_fail("start the agent");
    pair.node_until(0, "active", LIMIT, |status| status.active() && status.fit()).or_fail("serve");
    assert_eq!(shown(&pair), "CN=one");
    let mut held = Held::open(&pair);
    held.ask();

    let apply = |pair: &Pair| -> Value {
        let request = json!({"request": "config_apply", "file": "cluster.toml", "text": text, "dry_run": false});
        pair.nodes[0].call(&request).or_fail("apply")
    };
    assert_eq!(apply(&pair)["changed"], false, "nothing was renewed yet");
    certify(&bundle, "two");
    let answer = apply(&pair);
    assert_eq!((&answer["response"], &answer["changed"]), (&json!("applied"), &json!(true)), "{answer}");
    assert_eq!(shown(&pair), "CN=two");
    held.ask();

    fs::write(&bundle, "no certificate at all").or_fail("write");
    let answer = apply(&pair);
    assert_eq!(answer["response"], "invalid", "{answer}");
    assert!(answer.to_string().contains("bundle.pem"), "{answer}");
    assert_eq!(shown(&pair), "CN=two");
    held.ask();

    // What the file said when it was applied is the revision's.
    kill_all(&pair.site.nodes[0].netns).or_fail("kill agent, guard and core at once");
    pair.kill_agent(0);
    pair.start_agent(0).or_fail("start the agent again");
    pair.node_until(0, "active again", LIMIT, |status| status.active() && status.fit()).or_fail("serve again");
    assert_eq!(shown(&pair), "CN=two");
}
